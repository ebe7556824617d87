"""The cells of a comparison as tasks of a Ray cluster, whose machines share the folder of the comparison."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from typing import Any

from pyro_mmvae import runs
from pyro_mmvae.experiments.cell_progress import CellProgress
from pyro_mmvae.experiments.compare import Cell
from pyro_mmvae.experiments.failures import Failure, FailureBook
from pyro_mmvae.experiments.tasks import Task, append_log, attempt_locked, is_settled, open_log, record_failure
from pyro_mmvae.training import Interrupted

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_RETRIES = 3  # of a cell whose worker was killed
_POLL = 0.5  # seconds between two looks at the results
_GRACE = 60.0  # seconds in which cells that are cancelled may save


class WorkerInterrupted(Exception):  # noqa: N818  (an interruption is not an error)
    """The end of a worker that the cluster takes back, after the cell was saved; another worker goes on with it."""


def run_on_ray(
    task: Task,
    cells: Sequence[Cell],
    book: FailureBook,
    *,
    address: str | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> Iterator[tuple[Cell, Failure | None]]:
    """Do a task to cells on a Ray cluster, and yield each cell as it ends, with its failure or None.

    A cell whose worker is killed is tried again up to three times, and goes on from its last checkpoint. On leaving, as
    by Ctrl-C, cells that run are saved and end.

    Args:
        task: The task to do.
        cells: The cells of the comparison, in a folder that all machines see; settled ones are left out.
        book: The failures of the comparison.
        address: The address of the cluster; by default that of the environment variable ``RAY_ADDRESS``, or a new
            cluster on this machine.
        jobs: The largest number of cells at a time; by default as many as the cluster has room for.
        progress: If True (default), the progress of each cell is shown on standard error.

    Raises:
        ImportError: If the package ray is not installed.
        ConnectionError: If there is no cluster at the address.
    """
    display = CellProgress(sys.stderr, show=progress)
    book = FailureBook(book.folder.resolve())  # the workers are in other folders
    left = [replace(cell, path=cell.path.resolve()) for cell in cells if not is_settled(task, cell, book)]
    own = {cell.path.resolve(): cell for cell in cells}
    with _cluster(address) as ray:
        running: dict[Any, Cell] = {}
        try:
            while left or running:
                while left and (jobs is None or len(running) < jobs):
                    cell = left.pop(0)
                    running[_submit(ray, task, cell, book)] = cell
                # Ray's own waiting would lose which signal has interrupted it.
                for ended in ray.wait(list(running), num_returns=len(running), timeout=0)[0]:
                    cell = running.pop(ended)
                    failure = _result(ray, ended, task, cell, book)
                    display.clear()
                    yield own[cell.path], failure
                display.update(list(running.values()))
                if running:
                    time.sleep(_POLL)
        finally:
            display.close()
            _cancel(ray, list(running))


def _submit(ray: Any, task: Task, cell: Cell, book: FailureBook) -> Any:
    """Submit the task of one cell, and return the reference to its result."""
    threads, device = cell.config.train.threads, cell.config.train.device
    # Without a share of a GPU, Ray hides all of them from the worker.
    gpus = 1 if device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0
    remote = ray.remote(_attempt).options(
        name=cell.path.name, num_cpus=threads if isinstance(threads, int) else 1, num_gpus=gpus,
        max_retries=_RETRIES, retry_exceptions=[WorkerInterrupted],
    )  # fmt: skip
    settings = {name: value for name, value in os.environ.items() if name.startswith("PYRO_MMVAE_")}
    return remote.remote(task, cell, book, [path or os.getcwd() for path in sys.path], settings)


def _attempt(
    task: Task, cell: Cell, book: FailureBook, paths: Sequence[str], settings: Mapping[str, str]
) -> Failure | None:
    """Do a task to a cell in a worker of the cluster, with its output in the log of the cell."""
    sys.path += [path for path in paths if path not in sys.path]  # so that plugins are found
    os.environ.update({"PYRO_MMVAE_THREADS": "1", **settings})
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    with io.TextIOWrapper(open_log(cell), encoding="utf-8") as log, redirect_stderr(log), redirect_stdout(log):
        try:
            runs.import_plugins(cell.config.plugins)  # which the caller of the comparison has named and imported
            return attempt_locked(task, cell, book, progress=True)
        except (Interrupted, KeyboardInterrupt) as stop:
            raise WorkerInterrupted(str(stop) or "interrupted") from None


def _result(ray: Any, reference: Any, task: Task, cell: Cell, book: FailureBook) -> Failure | None:
    """Return the failure of a cell, None if its task was done; a worker that was lost for good is a failure."""
    try:
        failure: Failure | None = ray.get(reference)
    except ray.exceptions.RayError as error:
        append_log(cell, traceback.format_exc())
        lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else ""  # the lines before are a traceback, which the log has
        return record_failure(task, cell, book, f"{type(error).__name__} of Ray, after {_RETRIES} retries: {reason}")
    return failure


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or use the connection that there is, and yield the module ``ray``."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ImportError(f"--engine ray needs the package ray: pip install 'pyro-mmvae[ray]' ({error})") from None
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address, log_to_driver=False, include_dashboard=None if address else False, logging_level=logging.ERROR
    )
    signal.signal(signal.SIGTERM, before)  # Ray's own handler would end this process before the cells have saved
    try:
        yield ray
    finally:
        ray.shutdown()


def _cancel(ray: Any, references: Sequence[Any]) -> None:
    """Let the cells that run save and end, and take back those that wait for a worker."""
    for reference in references:
        with suppress(ray.exceptions.RayError):
            ray.cancel(reference)
    if references:
        ray.wait(list(references), num_returns=len(references), timeout=_GRACE)
