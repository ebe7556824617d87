"""The result of every command in its JSON object."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from pyro_mmvae.cli import main
from tests.data.samples import mnist_arrays, write_mnist, write_photographs

SMALL = ("--quiet", "--threads", "1", "--device", "cpu")
QUICK = (
    "--likelihood-items", "0", "--khat-items", "0", "--no-quality", "--no-diagnostics", "--subsets", "1",
    "--probe-points", "20",
)  # fmt: skip
TINY = (
    "--data", "own", "--epochs", "1", "--quiet", "--set", "recipe=plain", "--set", "model.latent_size=2", "--set",
    "train.threads=1", "--set", "train.device=cpu",
)  # fmt: skip
CALLS: dict[str, tuple[str, ...]] = {
    "train": ("--out", "run", *TINY),  # which the others read
    "encode": ("run", "--out", "z.csv", *SMALL),
    "impute": ("run", "--given", "a", "--out", "imputed", *SMALL),
    "predict": ("run", "--out", "p.csv", *SMALL),
    "score": ("run", "--out", "s.csv", *SMALL),
    "sample": ("run", "--out", "samples.npz", "-n", "2", "--device", "cpu"),
    "fit-prior": ("run", "--components", "1", *SMALL[1:]),
    "evaluate": ("run", *QUICK, *SMALL),
    "ppc": ("run", "--num-samples", "4", "--items", "4", "--given", "none", "--statistics", "mean", *SMALL),
    "calibrate": ("run", "--out", "calibrated", "--epochs", "0", "--draws", "2", *SMALL),
    "compare": ("--agg", "wb", "--seeds", "1", "--likelihood-items", "0", "--no-quality", "--out", "grid", *TINY),
    "report": ("run", "--files-only"),
    "push": ("run", "ada/tiny"),
    "pull": ("ada/tiny", "--out", "run"),
    "data info": ("own",),
    "data check": ("own",),
    "data cache": (),
    "data export": ("own", "--out", "shards"),
    "data build polymnist": (
        "--mnist", "mnist", "--photographs", "photographs", "--train-size", "20", "--test-size", "10",
        "--modalities", "2", "--out", "built",
    ),
    "aggregations": (),
}  # fmt: skip
OWN_FORM = {"settings", "explore"}  # a list in place of the object, and no flag


def names(group: click.Group, *path: str) -> Iterator[str]:
    """Return the names of all commands of a group and of the groups inside of it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from names(command, *path, name)
        else:
            yield " ".join((*path, name))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return a folder with data, a run that ``train`` has made of them, and MNIST; and the result of ``train``."""
    place = tmp_path_factory.mktemp("json")
    (place / "own").mkdir()
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    np.save(place / "own" / "labels.npy", labels)
    for name in ("a", "b"):
        np.save(place / "own" / f"{name}.npy", (labels[:, None] + generator.normal(size=(60, 2))).astype(np.float32))
    write_mnist(place / "mnist", mnist_arrays())
    write_photographs(place / "photographs", (0, 200))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result = result_of("train")
    return place, result


@pytest.fixture
def place(template: tuple[Path, Any], elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, a copy of the folder, beside a stand-in for the Hub."""
    shutil.copytree(template[0], elsewhere, dirs_exist_ok=True)
    monkeypatch.setattr("pyro_mmvae.hub.push", lambda *_, **__: "https://hub/ada/tiny")
    monkeypatch.setattr("pyro_mmvae.hub.pull", lambda _, out, **__: out)
    return elsewhere


def result_of(command: str) -> Any:
    done = CliRunner().invoke(main, [*command.split(), *CALLS[command], "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert (done.exit_code, found["exit_code"], found["command"]) == (0, 0, command), found
    return found["result"]


def test_the_calls_are_of_all_commands() -> None:
    assert set(CALLS) | OWN_FORM == set(names(main))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", CALLS)
def test_result_of_every_command_is_not_empty_and_its_files_exist(command: str, template: tuple[Path, Any]) -> None:
    result = template[1] if command == "train" else result_of(command)
    assert isinstance(result, dict)
    assert result
    for key in ("file", "folder", "run", "out"):
        assert Path(result.get(key, ".")).exists(), (key, result[key])
    assert all(Path(file).exists() for file in result.get("files", ()))


def test_result_of_a_training_counts_epochs_from_one_and_its_metrics_from_zero(template: tuple[Path, Any]) -> None:
    assert (template[1]["epoch"], template[1]["metrics"]["epoch"]) == (1, 0)


@pytest.mark.usefixtures("place")
def test_result_of_a_report_is_its_file_and_size() -> None:
    result = result_of("report")
    size = Path("run/report.html").stat().st_size
    assert result == {"file": "run/report.html", "bytes": size, "runs": ["run"]}


@pytest.mark.usefixtures("place")
def test_result_of_an_export_is_its_folder_and_shards() -> None:
    result = result_of("data export")
    assert (result["folder"], result["shards"]) == ("shards", 3)
    assert {Path("shards", name).exists() for name in result["items"]} == {True}
    assert list(result["items"]) == ["train-000000.tar", "val-000000.tar", "test-000000.tar"]


@pytest.mark.usefixtures("place")
def test_result_of_a_build_is_its_folder_and_sizes() -> None:
    result = result_of("data build polymnist")
    assert (result["folder"], result["sizes"]) == ("built", {"train": 18, "val": 2, "test": 10})
    assert [photograph["file"] for photograph in result["photographs"]] == ["a.png", "b.bmp"]
