"""The cells of a comparison, each claimed by one of the processes that work on it at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.experiments.compare import Cell
from pyro_mmvae.locks import take_lock, waiting


def claim_cells(
    cells: Sequence[Cell], options: EvaluationOptions, waits: Callable[[Cell], None] | None = None
) -> Iterator[Cell]:
    """Yield the cells that are to be run, each under a lock until the next one is asked for.

    Cells that another process runs are left for the end, and are yielded only if they are not finished by then, as
    after the process was killed.

    Args:
        cells: The cells of the comparison, finished ones are left out.
        options: The extent of the evaluation.
        waits: A function that is called before each cell that another process runs is waited for; none by default.
    """
    busy = []
    for cell in cells:
        cell.path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(_lock_file(cell))
        if lock is None:
            busy.append(cell)
            continue
        try:
            if not cell.is_finished(options):
                yield cell
        finally:
            lock.release(force=True)
    for cell in busy:
        if waits is not None:
            waits(cell)
        with waiting(_lock_file(cell)):
            if not cell.is_finished(options):
                yield cell


def _lock_file(cell: Cell) -> Path:
    """Return the lock of a cell, which stays beside its run directory."""
    return cell.path.with_name(f".{cell.path.name}.lock")
