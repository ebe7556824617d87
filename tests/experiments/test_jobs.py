"""Cells in processes of their own, which fail, are killed or end with the comparison."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.experiments import Cell, Evaluating, FailureBook, run_here, run_in_processes
from pyro_mmvae.experiments.jobs import CellProcess, worker_environment
from pyro_mmvae.runs import resolve
from pyro_mmvae.runs.checkpoint import read_weights
from pyro_mmvae.runs.config import Config, make_config

STUB = '''
import os, signal, time


class Acting:
    """A task that does what the name of the cell says."""

    name = "evaluation"

    def is_done(self, cell):
        return (cell.path / "done").exists()

    def settings(self, cell):
        return ""

    def run(self, cell, *, progress):
        cell.path.mkdir(parents=True)
        action = cell.path.name
        if action == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if action.startswith("long"):
            (cell.path / "pid").write_text(str(os.getpid()))
            try:
                time.sleep(300)
            except KeyboardInterrupt:
                (cell.path / "saved").touch()
                raise
        (cell.path / "done").touch()
'''


@pytest.fixture
def acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a task from a module that the processes of cells find by the path of this one."""
    (tmp_path / "acting_stub.py").write_text(STUB)
    monkeypatch.syspath_prepend(tmp_path)
    import acting_stub

    return acting_stub.Acting()


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until a condition holds, which takes as long as a busy machine needs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_run_in_processes_with_a_killed_process_runs_the_others(acting: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    book, cells = FailureBook(out), [Cell(out / name, Config()) for name in ("killed", "good")]
    ended = {cell.path.name: failure for cell, failure in run_in_processes(acting, cells, book, jobs=2, progress=False)}
    assert ended["good"] is None
    assert (out / "good" / "done").exists()
    reason = "the process of the cell was ended by SIGKILL, as by the system when memory runs out"
    assert [(f.cell, f.reason) for f in book.read()] == [("killed", reason)]
    assert list(run_in_processes(acting, cells, book, jobs=2, progress=False)) == []  # without a process


def test_run_in_processes_on_leaving_and_without_a_parent_saves(acting: Any, tmp_path: Path) -> None:
    book, (first, second) = FailureBook(tmp_path), (Cell(tmp_path / f"long{n}", Config()) for n in range(2))
    orphan = CellProcess(acting, second, book)
    wait_for((second.path / "pid").exists)
    orphan.close()  # as the end of the parent does
    running = run_in_processes(acting, [first], book, jobs=2, progress=False)

    def interrupt(_number: int, _frame: object) -> None:
        if (first.path / "pid").exists():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        with pytest.raises(KeyboardInterrupt):
            next(running)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_for(orphan.has_ended)
    for cell in (first, second):
        assert (cell.path / "saved").exists()
        assert not is_alive(int((cell.path / "pid").read_text()))
    assert book.read() == []


def test_weights_of_cells_in_processes_equal_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    generator = np.random.default_rng(0)
    for name in "ab":
        np.save(data / f"{name}.npy", generator.normal(size=(60, 3)).astype("float32"))
    monkeypatch.setenv("PYRO_MMVAE_THREADS", "1")
    settings = {"data.name": str(data), "model.latent_size": 2, "model.network.hidden": 8, "train.epochs": 2}
    settings |= {"recipe": "plain", "model.aggregation": "poe", "train.fit_prior": 0, "train.device": "cpu"}
    configs = [resolve(make_config(None, {**settings, "train.seed": seed})) for seed in range(2)]
    task = Evaluating(EvaluationOptions(likelihood_items=0, khat_items=0, quality=False, diagnostics=False))
    folders = tmp_path / "one", tmp_path / "several"
    one, several = ([Cell(folder / f"s{n}", config) for n, config in enumerate(configs)] for folder in folders)
    ended = [*run_here(task, one, FailureBook(folders[0]), progress=False)]
    ended += run_in_processes(task, several, FailureBook(folders[1]), jobs=2, progress=False)
    assert [failure for _, failure in ended] == [None] * 4
    for first, second in zip(one, several, strict=True):
        weights = read_weights(first.path / "checkpoint.safetensors")
        others = read_weights(second.path / "checkpoint.safetensors")
        assert {name: value.numpy().tobytes() for name, value in weights.items()} == {
            name: value.numpy().tobytes() for name, value in others.items()
        }
        assert task.is_done(second)
        assert "epoch 2/2" in second.path.with_name(f"{second.path.name}.log").read_text()


@pytest.mark.parametrize(("threads", "expected"), [(None, "1"), (2, "2")])
def test_worker_environment_has_one_thread_unless_set(threads: int | None, expected: str) -> None:
    cell = Cell(Path("a"), make_config(None, {"train.threads": threads}))
    environment = worker_environment(cell, {"HOME": "/home/me"})
    assert (environment["PYRO_MMVAE_THREADS"], environment["OMP_NUM_THREADS"]) == (expected, expected)
    assert worker_environment(cell, {"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"
