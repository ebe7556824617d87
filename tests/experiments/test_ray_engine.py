"""Cells as tasks of a local Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mmvae.experiments import Cell, FailureBook, run_on_ray
from pyro_mmvae.runs.config import Config

STUB = '''
import os, signal


class Acting:
    """A task that does what the name of the cell says, and counts its attempts."""

    name = "evaluation"

    def is_done(self, cell):
        return (cell.path / "done").exists()

    def settings(self, cell):
        return ""

    def run(self, cell, *, progress):
        cell.path.mkdir(parents=True, exist_ok=True)
        number = len(list(cell.path.glob("attempt*")))
        (cell.path / f"attempt{number}").write_text(os.environ["PYRO_MMVAE_THREADS"])
        if cell.path.name == "killed" and number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.path.name == "bad":
            raise ValueError("it diverged")
        (cell.path / "done").touch()
'''


def test_run_on_ray_without_the_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    task: Any = None
    with pytest.raises(ImportError, match=r"--engine ray needs the package ray: pip install 'pyro-mmvae\[ray\]'"):
        next(run_on_ray(task, [], FailureBook(tmp_path)))


@pytest.fixture
def acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a task from a module that the workers find by the path of this process."""
    pytest.importorskip("ray")
    (tmp_path / "ray_stub.py").write_text(STUB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))  # which the workers inherit
    monkeypatch.setenv("RAY_worker_niceness", "0")  # the workers would starve on a busy machine,
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # and be killed on one that is short of memory
    import ray_stub

    yield ray_stub.Acting()
    del sys.modules["ray_stub"]


@pytest.mark.filterwarnings("default")  # of the package and of the sockets of its cluster
def test_run_on_ray_retries_a_killed_worker_and_skips_finished_cells(acting: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cells = [Cell(out / name, Config()) for name in ("finished", "killed", "bad")]
    (out / "finished").mkdir(parents=True)
    (out / "finished" / "done").touch()
    book = FailureBook(out)
    ended = {cell.path.name: failure for cell, failure in run_on_ray(acting, cells, book, jobs=1, progress=False)}
    assert set(ended) == {"killed", "bad"}
    assert ended["killed"] is None
    attempts = {cell.path.name: sorted(file.name for file in cell.path.glob("attempt*")) for cell in cells}
    assert attempts == {"finished": [], "killed": ["attempt0", "attempt1"], "bad": ["attempt0"]}
    assert (out / "killed" / "attempt1").read_text() == "1"
    assert [(failure.cell, failure.reason) for failure in book.read()] == [("bad", "it diverged")]
    assert "ValueError: it diverged" in (out / "bad.log").read_text()
