"""The cells of a comparison, each claimed by one of the processes that work on it at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pyro_mmvae.experiments.compare import Cell
from pyro_mmvae.experiments.failures import Failure, FailureBook
from pyro_mmvae.experiments.tasks import Task, attempt, is_settled, lock_file
from pyro_mmvae.locks import take_lock, waiting


def claim_cells(
    cells: Sequence[Cell], is_settled: Callable[[Cell], bool], waits: Callable[[Cell], None] | None = None
) -> Iterator[Cell]:
    """Yield the cells that are to be run, each under a lock until the next one is asked for.

    Cells that another process runs are left for the end, and are yielded only if they are not settled by then, as
    after the process was killed.

    Args:
        cells: The cells of the comparison, settled ones are left out.
        is_settled: A function that returns True if nothing is to be done to a cell, since it is finished or has failed.
        waits: A function that is called before each cell that another process runs is waited for; none by default.
    """
    busy = []
    for cell in cells:
        cell.path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(lock_file(cell))
        if lock is None:
            busy.append(cell)
            continue
        try:
            if not is_settled(cell):
                yield cell
        finally:
            lock.release(force=True)
    for cell in busy:
        if waits is not None:
            waits(cell)
        with waiting(lock_file(cell)):
            if not is_settled(cell):
                yield cell


def run_here(
    task: Task,
    cells: Sequence[Cell],
    book: FailureBook,
    *,
    progress: bool = True,
    waits: Callable[[Cell], None] | None = None,
) -> Iterator[tuple[Cell, Failure | None]]:
    """Do a task to cells in this process, one after the other, and yield each cell with its failure or None.

    Args:
        task: The task to do.
        cells: The cells of the comparison; settled ones are left out.
        book: The failures of the comparison.
        progress: If True (default), progress bars are shown on standard error.
        waits: A function that is called before each cell that another process runs is waited for; none by default.

    Raises:
        Interrupted: If a signal interrupts the training, which is saved.
    """
    for cell in claim_cells(cells, lambda cell: is_settled(task, cell, book), waits):
        yield cell, attempt(task, cell, book, progress=progress)
