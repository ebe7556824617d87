"""The cells of a comparison in several processes of this machine, one process per cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

from pyro_mmvae.experiments.cell_progress import CellProgress
from pyro_mmvae.experiments.compare import Cell
from pyro_mmvae.experiments.failures import Failure, FailureBook
from pyro_mmvae.experiments.messages import encode_message
from pyro_mmvae.experiments.tasks import Task, is_settled, lock_file, open_log, record_failure
from pyro_mmvae.locks import take_lock

_POLL = 0.2  # seconds between two looks at the processes
_LOOK_AT_BUSY = 1.0  # seconds between two looks at the cells of other processes
_GRACE = 60.0  # seconds in which a process that is to end may save
_OPENMP = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class CellProcess:
    """A process that does one task to one cell, and ends with this process, after saving.

    The process is in a session of its own, so that Ctrl-C in a terminal reaches it once, through this process.

    Args:
        task: The task to do.
        cell: The cell of the comparison; standard error of the process is appended to its log.
        book: The failures of the comparison.
    """

    def __init__(self, task: Task, cell: Cell, book: FailureBook) -> None:
        self.task, self.cell, self.book = task, cell, book
        with open_log(cell) as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pyro_mmvae.experiments.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, env=worker_environment(cell, os.environ), start_new_session=True,
            )  # fmt: skip
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended already, which its status says
            # The pipe stays open: its end tells the process that this one has ended.
            self.process.stdin.write(f"{encode_message(task, cell, book)}\n".encode())
            self.process.stdin.flush()

    def has_ended(self) -> bool:
        """Return True if the process has ended in any way."""
        return self.process.poll() is not None

    def result(self) -> Failure | None:
        """Return the failure of the cell after the end of the process, None if the task was done.

        A process that did not come to its end is a failure, which is recorded here.
        """
        assert self.process.stdout is not None
        text = self.process.stdout.read()
        self.close()
        try:
            outcome = json.loads(text)
        except ValueError:
            return record_failure(self.task, self.cell, self.book, self._describe_end())
        return None if outcome is None else Failure(**outcome)

    def stop(self) -> None:
        """Ask the process to save and end."""
        with suppress(OSError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once."""
        with suppress(OSError):
            self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Close the pipes to the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _describe_end(self) -> str:
        status = self.process.returncode
        if status == 128 + signal.SIGTERM:
            return "the process of the cell was interrupted; everything is saved"
        if status >= 0:
            return f"the process of the cell ended with status {status} before it was done"
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        hint = ", as by the system when memory runs out" if name == "SIGKILL" else ""
        return f"the process of the cell was ended by {name}{hint}"


def worker_environment(cell: Cell, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that runs a cell beside others: one thread unless the cell sets a number.

    Args:
        cell: The cell of the comparison.
        environment: The environment of this process, whose own settings of threads stay.
    """
    count = cell.config.train.threads
    number = str(count) if isinstance(count, int) else "1"
    numbers = {} if count == "auto" else dict.fromkeys(_OPENMP, number)
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # so that plugins are found as here
    return {"PYRO_MMVAE_THREADS": number, **numbers, **environment, "PYTHONPATH": paths}


def run_in_processes(
    task: Task,
    cells: Sequence[Cell],
    book: FailureBook,
    *,
    jobs: int,
    progress: bool = True,
    waits: Callable[[Cell], None] | None = None,
) -> Iterator[tuple[Cell, Failure | None]]:
    """Do a task to cells in several processes, and yield each cell as it ends, with its failure or None.

    On leaving, as by Ctrl-C, all processes are asked to save and end, and are ended after a minute.

    Args:
        task: The task to do.
        cells: The cells of the comparison; settled ones are left out, those of other processes waited for.
        book: The failures of the comparison.
        jobs: The largest number of processes at a time.
        progress: If True (default), the progress of each cell is shown on standard error.
        waits: A function that is called for each cell that another process runs once there is nothing else to do; none
            by default.
    """
    left, running, told = list(cells), list[CellProcess](), set[str]()
    display = CellProgress(sys.stderr, show=progress)
    looked = -_LOOK_AT_BUSY
    try:
        while left or running:
            if len(running) < jobs and time.monotonic() - looked >= _LOOK_AT_BUSY:
                _start(task, left, running, book, jobs)
                looked = time.monotonic()
            for ended in [process for process in running if process.has_ended()]:
                running.remove(ended)
                looked = -_LOOK_AT_BUSY  # there is room for the next one at once
                display.clear()
                yield ended.cell, ended.result()
            if not running and waits is not None:
                for cell in left:
                    if cell.path.name not in told:
                        waits(cell)
                    told.add(cell.path.name)
            display.update([process.cell for process in running])
            if left or running:
                time.sleep(_POLL)
    finally:
        display.close()
        _end(running)


def _start(task: Task, left: list[Cell], running: list[CellProcess], book: FailureBook, jobs: int) -> None:
    """Start processes for cells that nobody runs while there is room, and leave out cells that are settled."""
    for cell in list(left):
        if len(running) >= jobs:
            return
        cell.path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(lock_file(cell))
        if lock is None:
            continue
        lock.release(force=True)  # the process of the cell takes it, and looks once more at what there is to do
        left.remove(cell)
        if not is_settled(task, cell, book):
            running.append(CellProcess(task, cell, book))


def _end(running: Sequence[CellProcess]) -> None:
    """Let processes save and end; end them after a minute, or if this wait is interrupted."""
    for process in running:
        process.stop()
    deadline = time.monotonic() + _GRACE
    try:
        while time.monotonic() < deadline and not all(process.has_ended() for process in running):
            time.sleep(_POLL)
    finally:
        for process in running:
            process.kill()
