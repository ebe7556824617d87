"""The tasks that are done to the cells of a comparison, each of which fails alone."""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pyro_mmvae import runs
from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.experiments.compare import Cell, run_cell
from pyro_mmvae.experiments.failures import Failure, FailureBook
from pyro_mmvae.experiments.readings import is_read, read_cell, reading_options
from pyro_mmvae.locks import waiting
from pyro_mmvae.training import Interrupted, TrainingError

_EXPECTED = (ValueError, OSError, ImportError, TrainingError)  # whose messages say by themselves what was wrong


class Task(Protocol):
    """A task that is done to every cell of a comparison."""

    @property
    def name(self) -> str:
        """The name of the task, by which failures are kept."""

    def is_done(self, cell: Cell) -> bool:
        """Return True if the results of the task are there, and complete."""

    def run(self, cell: Cell, *, progress: bool) -> None:
        """Do the task, or go on with it."""

    def settings(self, cell: Cell) -> str:
        """Return everything that the result of the task depends on, as text."""


@dataclass(frozen=True)
class Evaluating:
    """The training and the evaluation of a cell.

    Args:
        options: The extent of the evaluation.
    """

    options: EvaluationOptions
    name: str = "evaluation"

    def is_done(self, cell: Cell) -> bool:
        """Return True if the cell was trained, and evaluated with these options."""
        return cell.is_finished(self.options)

    def run(self, cell: Cell, *, progress: bool) -> None:
        """Train the cell, or resume its training, and evaluate it."""
        run_cell(cell, self.options, progress=progress)

    def settings(self, cell: Cell) -> str:
        """Return the configuration of the cell and the options, as text."""
        return json.dumps([cell.config.model_dump(mode="json"), asdict(self.options)])


@dataclass(frozen=True)
class Reading:
    """The reading of a trained cell with other aggregations.

    Args:
        options: The extent of the evaluation of each cell, of which readings repeat a part.
        names: The names of the aggregations.
    """

    options: EvaluationOptions
    names: tuple[str, ...]
    name: str = "readings"

    def is_done(self, cell: Cell) -> bool:
        """Return True if the cell was read with all of the aggregations."""
        return is_read(cell, self.names, reading_options(self.options))

    def run(self, cell: Cell, *, progress: bool) -> None:  # noqa: ARG002  (readings show no bars)
        """Read the cell with all of the aggregations."""
        read_cell(cell, self.names, reading_options(self.options))

    def settings(self, cell: Cell) -> str:
        """Return the configuration of the cell, the options and the aggregations, as text."""
        return json.dumps([cell.config.model_dump(mode="json"), asdict(self.options), self.names])


def find_failure(task: Task, cell: Cell, book: FailureBook) -> Failure | None:
    """Return the recorded failure of a cell, None if there is none or it was one with other settings.

    Args:
        task: The task that may have failed.
        cell: The cell of the comparison.
        book: The failures of the comparison.
    """
    # What fails in the training fails with any extent of the evaluation.
    return book.find(cell.path.name, task.name, (_digest(task.settings(cell)), _digest(_training(cell))))


def is_settled(task: Task, cell: Cell, book: FailureBook) -> bool:
    """Return True if a task is done, or has failed before and is not to be tried again.

    Args:
        task: The task to do.
        cell: The cell of the comparison.
        book: The failures of the comparison.
    """
    return task.is_done(cell) or find_failure(task, cell, book) is not None


def lock_file(cell: Cell) -> Path:
    """Return the lock of a cell, which stays beside its run directory.

    Args:
        cell: The cell of the comparison.
    """
    return cell.path.with_name(f".{cell.path.name}.lock")


def log_file(cell: Cell) -> Path:
    """Return the log of a cell, which stays beside its run directory.

    Args:
        cell: The cell of the comparison.
    """
    return cell.path.with_name(f"{cell.path.name}.log")


def attempt(task: Task, cell: Cell, book: FailureBook, *, progress: bool) -> Failure | None:
    """Do a task to a cell; a failure is recorded, with its traceback in the log of the cell.

    With ``PYRO_MMVAE_DEBUG=1`` errors raise.

    Args:
        task: The task to do.
        cell: The cell of the comparison, whose lock the caller holds.
        book: The failures of the comparison.
        progress: If True, progress bars are shown on standard error.

    Returns:
        The failure, None if the task was done.

    Raises:
        Interrupted: If a signal interrupts the training, which is saved.
        KeyboardInterrupt: If a signal interrupts anything else.
    """
    try:
        task.run(cell, progress=progress)
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001  (whatever happens in one cell must not stop the others)
        if os.environ.get("PYRO_MMVAE_DEBUG"):
            raise
        append_log(cell, traceback.format_exc())
        is_training = isinstance(error, TrainingError)
        return record_failure(task, cell, book, describe(error), is_training=is_training)
    with suppress(OSError):
        book.forget(task.name, [cell.path.name])
    return None


def attempt_locked(task: Task, cell: Cell, book: FailureBook, *, progress: bool) -> Failure | None:
    """Do a task to a cell under its lock, unless it is done or has failed once the lock is there.

    Args:
        task: The task to do.
        cell: The cell of the comparison.
        book: The failures of the comparison.
        progress: If True, progress bars are shown on standard error.

    Returns:
        The failure, None if the task is done.
    """
    with waiting(lock_file(cell)):
        if task.is_done(cell):
            return None
        return find_failure(task, cell, book) or attempt(task, cell, book, progress=progress)


def record_failure(task: Task, cell: Cell, book: FailureBook, reason: str, *, is_training: bool = False) -> Failure:
    """Record the failure of a cell, and return it; where nothing can be written, it is only returned.

    Args:
        task: The task that has failed.
        cell: The cell of the comparison.
        book: The failures of the comparison.
        reason: The reason in one line.
        is_training: If True, the training has failed, which other options of the evaluation do not change. False by
            default.
    """
    signature = _digest(_training(cell) if is_training else task.settings(cell))
    failure = Failure(cell.path.name, task.name, reason, log_file(cell).name, signature)
    with suppress(OSError):
        book.record(failure)
    return failure


def open_log(cell: Cell) -> BinaryIO:
    """Open the log of a cell to append to it, or a file that drops everything where it cannot be written.

    Args:
        cell: The cell of the comparison.
    """
    # A link or a FIFO of that name, in a folder that someone else has made, is not followed.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.fdopen(os.open(log_file(cell), flags, 0o666), "ab")
    except OSError:
        return open(os.devnull, "ab")


def append_log(cell: Cell, text: str) -> None:
    """Append a text to the log of a cell; a log that cannot be written is left out.

    Args:
        cell: The cell of the comparison.
        text: The text, which ends with a line break.
    """
    with suppress(OSError), open_log(cell) as file:
        file.write(text.encode(errors="backslashreplace"))


def describe(error: Exception) -> str:
    """Return an error in one line, with its type unless its message says what was wrong.

    Args:
        error: The error that a cell has ended with.
    """
    if isinstance(error, runs.DataChangedError):  # cells that were trained on other data cannot be compared
        error = runs.DataChangedError(error.path, error.changes, "restore them, or choose another --out")
    text = " ".join(str(error).split("Trace Shapes:")[0].split())  # which Pyro appends to errors inside of models
    named = text if isinstance(error, _EXPECTED) else f"{type(error).__name__}: {text}"
    return named or type(error).__name__


def names_of(cells: Sequence[Cell]) -> list[str]:
    """Return the names of the run directories of cells.

    Args:
        cells: The cells of the comparison.
    """
    return [cell.path.name for cell in cells]


def _training(cell: Cell) -> str:
    return json.dumps(cell.config.model_dump(mode="json"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
