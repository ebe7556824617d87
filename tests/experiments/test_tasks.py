"""Tasks of cells, which fail alone, and cells that only look finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.experiments import Cell, Evaluating, FailureBook, Reading, find_failure, is_settled, tasks
from pyro_mmvae.experiments.claims import run_here
from pyro_mmvae.runs import DataChangedError
from pyro_mmvae.runs.config import Config, dump_config
from pyro_mmvae.training import Interrupted, TrainingError

OPTIONS = EvaluationOptions(likelihood_items=0)
SUMMARY: dict[str, Any] = {
    "aggregation": "wb", "train_seed": 0, "prior": None, "options": asdict(OPTIONS), "classifier_accuracy": {},
    "means_by_views": {"probe": {"mean": {"1": 0.5}}},
}  # fmt: skip


@dataclass
class StubTask:
    """A task that raises an error in the cells that are named."""

    errors: dict[str, Exception]
    name: str = "evaluation"

    def is_done(self, cell: Cell) -> bool:
        return (cell.path / "done").exists()

    def run(self, cell: Cell, *, progress: bool) -> None:
        if cell.path.name in self.errors:
            raise self.errors[cell.path.name]
        cell.path.mkdir(parents=True)
        (cell.path / "done").touch()

    def settings(self, cell: Cell) -> str:
        return str(cell.config.train.seed)


def cells(folder: Path, names: str) -> list[Cell]:
    return [Cell(folder / name, Config()) for name in names]


def test_run_here_with_a_failing_cell_runs_the_others_and_records_it(tmp_path: Path) -> None:
    book, task = FailureBook(tmp_path / "out"), StubTask({"b": RuntimeError("out of\nmemory")})
    ended = list(run_here(task, cells(tmp_path / "out", "abc"), book))
    assert [(cell.path.name, failure and failure.reason) for cell, failure in ended] == [
        ("a", None), ("b", "RuntimeError: out of memory"), ("c", None),
    ]  # fmt: skip
    assert [(failure.cell, failure.log) for failure in book.read()] == [("b", "b.log")]
    assert "Traceback" in (tmp_path / "out" / "b.log").read_text()
    assert list(run_here(StubTask({}), cells(tmp_path / "out", "abc"), book)) == []
    book.forget("evaluation", ["b"])
    assert [cell.path.name for cell, _ in run_here(StubTask({}), cells(tmp_path / "out", "abc"), book)] == ["b"]


def test_attempt_that_succeeds_forgets_the_failure(tmp_path: Path) -> None:
    book, (cell,) = FailureBook(tmp_path), cells(tmp_path, "a")
    tasks.record_failure(StubTask({}), cell, book, "killed")
    assert tasks.attempt(StubTask({}), cell, book, progress=False) is None
    assert not book.file.exists()


@pytest.mark.parametrize("stop", [Interrupted(Path("a"), 0), KeyboardInterrupt()])
def test_attempt_that_is_interrupted_is_not_a_failure(stop: Any, tmp_path: Path) -> None:
    book, (cell,) = FailureBook(tmp_path), cells(tmp_path, "a")
    with pytest.raises(type(stop)):
        tasks.attempt(StubTask({"a": stop}), cell, book, progress=False)
    assert book.read() == []


def test_attempt_with_debug_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_MMVAE_DEBUG", "1")
    (cell,) = cells(tmp_path, "a")
    with pytest.raises(KeyError):
        tasks.attempt(StubTask({"a": KeyError("x")}), cell, FailureBook(tmp_path), progress=False)


def test_append_log_does_not_follow_a_link(tmp_path: Path) -> None:
    (cell,), target = cells(tmp_path, "a"), tmp_path / "target"
    tasks.append_log(cell, "one\n")
    tasks.append_log(cell, "two\n")
    assert tasks.log_file(cell).read_text() == "one\ntwo\n"
    tasks.log_file(cell).unlink()
    target.write_text("mine")
    tasks.log_file(cell).symlink_to(target)
    tasks.append_log(cell, "three\n")
    assert target.read_text() == "mine"


def test_attempt_where_nothing_can_be_written_returns_the_failure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (cell,) = cells(file, "a")
    failure = tasks.attempt(StubTask({"a": ValueError("no")}), cell, FailureBook(file), progress=False)
    assert failure is not None
    assert failure.reason == "no"


def test_find_failure_of_a_divergence_holds_for_other_options_but_not_other_settings(tmp_path: Path) -> None:
    book, (cell,) = FailureBook(tmp_path), cells(tmp_path, "a")
    tasks.record_failure(Evaluating(OPTIONS), cell, book, "diverged", is_training=True)
    other = replace(OPTIONS, samples=8)
    assert find_failure(Evaluating(other), cell, book) is not None
    train = cell.config.train.model_copy(update={"lr": 0.5})
    changed = replace(cell, config=cell.config.model_copy(update={"train": train}))
    assert find_failure(Evaluating(OPTIONS), changed, book) is None
    tasks.record_failure(Evaluating(OPTIONS), cell, book, "no memory")
    assert find_failure(Evaluating(OPTIONS), cell, book) is not None
    assert find_failure(Evaluating(other), cell, book) is None
    assert not is_settled(Reading(OPTIONS, ("wb",)), cell, book)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TrainingError("step 1: not finite"), "step 1: not finite"),
        (KeyError("train_seed"), "KeyError: 'train_seed'"),
        (ValueError(), "ValueError"),
        (
            DataChangedError(Path("c/a"), ("split 'train': the labels differ",)),
            "c/a: the data have changed since the run used them: split 'train': the labels differ: restore them, or "
            "choose another --out",
        ),
    ],
)
def test_describe_returns_one_line(error: Exception, text: str) -> None:
    assert tasks.describe(error) == text


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[Any], Cell]:
    """Return a function that writes a cell with a summary as JSON."""

    def write(summary: Any) -> Cell:
        path = tmp_path / "wb-seed0"
        (path / "evaluation").mkdir(parents=True)
        (path / "config.yaml").write_text(dump_config(Config()), encoding="utf-8")
        (path / "evaluation" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        return Cell(path, Config())

    return write


def test_is_finished_of_a_complete_evaluation_is_true(finished: Callable[[Any], Cell]) -> None:
    assert finished(SUMMARY).is_finished(OPTIONS)


@pytest.mark.parametrize(
    "change",
    [
        {"aggregation": "poe"}, {"train_seed": 1}, {"train_seed": None}, {"variant": "warm"}, {"options": {}},
        {"means_by_views": None}, {"means_by_views": {"probe": 3}}, {"means_by_views": {"probe": {"mean": {"1": "x"}}}},
        {"means_by_views": {"probe": {"mean": {"x": 1}}}}, {"classifier_accuracy": {"a": "b"}},
        {"variant_settings": [1]},
    ],
)  # fmt: skip
def test_is_finished_of_a_foreign_summary_is_false(change: dict[str, Any], finished: Callable[[Any], Cell]) -> None:
    assert not finished(SUMMARY | change).is_finished(OPTIONS)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_is_finished_of_an_emptied_summary_is_false(text: str, finished: Callable[[Any], Cell]) -> None:
    cell = finished(SUMMARY)
    (cell.path / "evaluation" / "summary.json").write_text(text)
    assert not cell.is_finished(OPTIONS)


def test_is_finished_of_a_cell_whose_configuration_is_damaged_is_false(finished: Callable[[Any], Cell]) -> None:
    cell = finished(SUMMARY)
    (cell.path / "config.yaml").write_text("model: [")
    assert not cell.is_finished(OPTIONS)


@pytest.mark.parametrize("readings", [None, 3, {"wb": 3}, {"wb": {}}, {"wb": {"means_by_views": {"probe": 1}}}, {}])
def test_reading_is_done_of_foreign_readings_is_false(readings: Any, finished: Callable[[Any], Cell]) -> None:
    cell, task = finished(SUMMARY), Reading(OPTIONS, ("wb",))
    options = asdict(tasks.reading_options(OPTIONS))
    file = cell.path / "evaluation" / "readings.json"
    good = {"wb": {"means_by_views": {"probe": {"mean": {"1": 0.5}}}}}
    for found, expected in ((good, True), (readings, False)):
        file.write_text(json.dumps({**SUMMARY, "options": options, "readings": found}))
        assert task.is_done(cell) is expected
