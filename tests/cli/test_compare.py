"""``pyro-mmvae compare`` with cells that fail, on toy data."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pyro_mmvae.cli import main
from pyro_mmvae.experiments import Cell, tasks
from pyro_mmvae.experiments.compare import run_cell
from pyro_mmvae.runs import DataChangedError
from pyro_mmvae.runs.config import Config, dump_config
from pyro_mmvae.training import Interrupted, TrainingError


@pytest.fixture
def words(toy_config: Callable[..., Config], elsewhere: Path) -> list[str]:
    config = toy_config(train__epochs=1, train__fit_prior=0, data__modalities=2)
    (elsewhere / "toy.yaml").write_text(dump_config(config), encoding="utf-8")
    words = ["compare", "--agg", "wb,poe", "--seeds", "1", "--config", "toy.yaml", "--likelihood-items", "0"]
    return [*words, "--no-quality", "--out", "grid", "--quiet"]


def fail_in(monkeypatch: pytest.MonkeyPatch, errors: dict[str, BaseException]) -> list[str]:
    """Let cells end with errors, and return the list of all cells that are run, which grows."""
    seen = []

    def run(cell: Cell, *args: Any, **kwargs: Any) -> None:
        seen.append(cell.path.name)
        if cell.path.name in errors:
            raise errors[cell.path.name]
        run_cell(cell, *args, **kwargs)

    monkeypatch.setattr(tasks, "run_cell", run)
    return seen


def test_compare_with_a_failed_cell_draws_the_others_and_retries_when_asked(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = fail_in(monkeypatch, {"wb-seed0": TrainingError("step 3 (epoch 1): not finite")})
    first = CliRunner().invoke(main, [*words, "--baseline", "wb"], catch_exceptions=False)
    assert (first.exit_code, seen) == (1, ["wb-seed0", "poe-seed0"])
    tail = [
        "no run of the baseline 'wb' is finished: the tables have no differences from it",
        "1 cell failed:",
        "  wb-seed0: step 3 (epoch 1): not finite (log: grid/wb-seed0.log)",
        "grid/failures.json lists them; --retry-failed tries them again",
    ]
    assert first.stderr.splitlines()[-4:] == tail
    assert first.stdout.splitlines()[-1] == "next: pyro-mmvae report grid"
    assert CliRunner().invoke(main, ["report", "grid"], catch_exceptions=False).exit_code == 0
    assert "- wb-seed0: step 3 (epoch 1): not finite" in Path("grid/comparison.md").read_text(encoding="utf-8")
    assert "% missing: wb-seed0: step 3" in Path("grid/comparison.tex").read_text(encoding="utf-8")
    with Path("grid/comparison.csv").open(newline="") as file:
        assert {row["aggregation"] for row in csv.DictReader(file)} == {"poe"}
    (entry,) = json.loads(Path("grid/failures.json").read_text())["failures"]
    assert (entry["cell"], entry["log"]) == ("wb-seed0", "wb-seed0.log")
    assert "TrainingError: step 3" in Path("grid/wb-seed0.log").read_text(encoding="utf-8")

    again = CliRunner().invoke(main, words, catch_exceptions=False)
    assert (again.exit_code, len(seen)) == (1, 2)
    assert "2 cells, 1 already finished, 1 failed before: grid" in again.stderr
    assert again.stderr.splitlines()[-1] == (
        "grid/failures.json lists them; those that failed before were not tried again; --retry-failed tries them again"
    )

    seen = fail_in(monkeypatch, {})
    retried = CliRunner().invoke(main, [*words, "--retry-failed"], catch_exceptions=False)
    assert (retried.exit_code, seen) == (0, ["wb-seed0"])
    assert not Path("grid/failures.json").exists()
    assert "Missing" not in Path("grid/comparison.md").read_text(encoding="utf-8")


def test_compare_whose_cells_all_fail_lists_one_reason_once(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ("split 'train': the labels differ",)
    errors = {name: DataChangedError(Path("grid", name), changes) for name in ("wb-seed0", "poe-seed0")}
    fail_in(monkeypatch, dict(errors))
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-3:-1] == [
        "2 cells failed:",
        "  wb-seed0 and 1 more: grid/wb-seed0: the data have changed since the run used them: split 'train': the "
        "labels differ: restore them, or choose another --out (log: grid/wb-seed0.log)",
    ]
    assert not Path("grid/comparison.md").exists()


@pytest.mark.parametrize(
    ("stop", "status"), [(Interrupted(Path("grid/wb-seed0"), 0, signal.SIGTERM), 143), (KeyboardInterrupt(), 130)]
)
def test_compare_that_is_interrupted_is_not_a_failure(
    stop: BaseException, status: int, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = fail_in(monkeypatch, {"wb-seed0": stop})
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert (result.exit_code, seen) == (status, ["wb-seed0"])
    assert result.stderr.splitlines()[-1] == "repeat the command to continue"
    assert not Path("grid/failures.json").exists()


def test_compare_with_a_damaged_cell_and_failed_readings_goes_on(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_cell(cell: Cell, *_: object) -> None:
        raise ValueError(f"{cell.path}: cannot be read")

    monkeypatch.setattr(tasks, "read_cell", read_cell)
    Path("grid/wb-seed0").mkdir(parents=True)
    Path("grid/wb-seed0/config.yaml").write_text("model: [", encoding="utf-8")
    Path("grid/wb-seed0/checkpoint.safetensors").write_bytes(b"x")
    result = CliRunner().invoke(main, [*words, "--read-with", "moe"], catch_exceptions=False)
    assert result.exit_code == 1
    assert "2 cells failed:\n  wb-seed0: grid/wb-seed0/config.yaml" in result.stderr
    assert "  poe-seed0: grid/poe-seed0: cannot be read (log" in result.stderr
    assert Path("grid/comparison.md").exists()
    assert not Path("grid/matrix.md").exists()


def test_compare_into_a_run_directory_is_refused(words: list[str]) -> None:
    run = ["train", "--config", "toy.yaml", "--agg", "poe", "--out", "grid", "--quiet"]
    assert CliRunner().invoke(main, run, catch_exceptions=False).exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in Path("grid").rglob("*")}
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        2,
        "error: grid is a run directory: choose another folder for the comparison (--out)",
    )
    assert before == {file: file.stat().st_mtime_ns for file in Path("grid").rglob("*")}


def test_compare_ray_address_without_ray_is_refused(words: list[str]) -> None:
    result = CliRunner().invoke(main, [*words, "--ray-address", "localhost:6379"])
    assert result.exit_code == 2
    assert "--ray-address must come with --engine ray, got it without: leave it out" in result.stderr
