"""``pyro-mmvae report`` from end to end, on toy data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pyro_mmvae.cli import main
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import train

SMALL = ("--quiet", "--threads", "1", "--device", "cpu", "--items", "3", "--points", "8")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(main, ["report", *words], catch_exceptions=False)


def data_of(file: Path) -> dict[str, Any]:
    page = file.read_text(encoding="utf-8")
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    result: dict[str, Any] = json.loads(text)
    return result


@pytest.fixture
def run(toy_config: Callable[..., Config], elsewhere: Path) -> Path:
    return train(toy_config(train__epochs=1, model__aggregation="mwb"), elsewhere / "run", progress=False).path


def test_report_shows_items_and_findings_without_an_evaluation(run: Path) -> None:
    result = invoke(str(run), *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{run / 'report.html'}: ")
    data = data_of(run / "report.html")
    assert len(data["items"]["ids"]) == 3
    assert len(data["items"]["subsets"]) == 7
    assert len(data["map"]["ids"]) == 8
    assert data["items"]["labels"] == ["0", "1", "2"]  # one item of each class first
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "training was short" in page.lower()
    assert f"pyro-mmvae evaluate {run}" in page


def test_report_evaluate_computes_what_is_missing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for module, name in (("evaluate", "evaluate"), ("check", "ppc")):
        command: Any = getattr(__import__(f"pyro_mmvae.cli.{module}", fromlist=[name]), name)

        def callback(*, run: Path, name: str = name, **options: Any) -> None:
            assert options["threads"] == 1
            assert options["device"] == "cpu"
            called.append(f"{name} {run.name}")

        monkeypatch.setattr(command, "callback", callback)
    assert invoke(str(run), *SMALL, "--evaluate").exit_code == 0
    assert called == ["evaluate run", "ppc run"]


def test_report_of_a_run_without_its_data_names_files_only(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(*_: object, **__: object) -> None:
        raise FileNotFoundError("data: no such folder")

    monkeypatch.setattr("pyro_mmvae.runs.run.Run.data", vanished)
    result = invoke(str(run), *SMALL)
    assert result.exit_code == 2
    assert result.stderr == "error: data: no such folder; --files-only makes the report without its items\n"
    assert not (run / "report.html").exists()
    assert invoke(str(run), "--files-only").exit_code == 0
    assert data_of(run / "report.html")["items"] is None


def test_report_of_several_runs_is_a_comparison(run: Path, toy_config: Callable[..., Config], elsewhere: Path) -> None:
    config = toy_config(train__epochs=1, model__aggregation="poe", train__seed=1)
    other = train(config, elsewhere / "other", progress=False).path
    result = invoke(str(run), str(other))
    assert result.stdout.startswith("report.html: ")
    data = data_of(elsewhere / "report.html")
    assert [series["name"] for series in data["training"][0]["series"]] == ["run", "other"]
    again = invoke(str(run), str(other))
    assert again.exit_code == 2
    assert "report.html must not exist, got an existing path" in again.stderr
    bad = invoke(str(run), str(other), "--data", "x")
    assert bad.stderr == "error: --data must come with one run, whose report shows its items, got 2 runs\n"


def test_report_of_other_items_is_in_their_folder_and_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Any]] = []
    for module, name in (("evaluate", "evaluate"), ("check", "ppc")):
        command: Any = getattr(__import__(f"pyro_mmvae.cli.{module}", fromlist=[name]), name)

        def callback(*, run: Path, name: str = name, **options: Any) -> None:
            called.append((name, options["split"]))

        monkeypatch.setattr(command, "callback", callback)
    result = invoke(str(run), *SMALL, "--split", "train", "--evaluate")
    assert result.exit_code == 0, result.output
    [file] = run.glob("on-*/report.html")
    assert result.stdout.startswith(f"{file}: ")
    assert called == [("evaluate", "train"), ("ppc", "train")]
    page = file.read_text(encoding="utf-8")
    assert "those of other items than the test items of the run: <code>--split train</code>" in page
    assert f"pyro-mmvae evaluate {run} --split train" in page
    assert "other items" not in (invoke(str(run), *SMALL), (run / "report.html").read_text(encoding="utf-8"))[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--split", "val", "--files-only"), "error: --split must be left out with --files-only"),
        (("run", "--data", "x"), "error: unknown data set 'x'"),
        (("run", "--set", "model.beta=2"), "error: --set must override an option of the data"),
        (("nothing",), "error: nothing: must be a run directory or a folder of runs, got no such folder"),
        (("run", "--baseline", "poe"), "error: --baseline must come with several runs, got one"),
        (("run", "--items", "nowhere.txt"), "error: --items must be a number, rows A:B, or a file of identifiers"),
    ],
)
def test_report_bad_input_is_one_line(run: Path, words: tuple[str, ...], message: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_report_link_in_place_of_the_file_is_refused(run: Path, elsewhere: Path) -> None:
    (run / "report.html").symlink_to(elsewhere / "outside.html")
    result = invoke(str(run), "--files-only")
    assert result.exit_code == 2
    assert "must be a file or folder of its own in the run directory, got a symbolic link" in result.stderr
    assert not (elsewhere / "outside.html").exists()
