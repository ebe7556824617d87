"""The progress of cells that run in other processes, read from their run directories."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

from pyro_mmvae.experiments.compare import Cell
from pyro_mmvae.run_files import read_metrics
from pyro_mmvae.streams import SurvivingStream

_SECONDS_PER_BAR, _SECONDS_PER_LINE = 1.0, 30.0


class CellProgress:
    """A display of running cells with one line per cell: bars in a terminal, otherwise lines every 30 seconds.

    Args:
        file: The file to write to, such as ``sys.stderr``; once it cannot be written, nothing is displayed any more.
        show: If True, the progress is displayed.
        clock: A function that returns the time in seconds; ``time.monotonic`` by default.
    """

    def __init__(self, file: TextIO | None, *, show: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.show, self.clock = SurvivingStream(file), show, clock
        self.has_bars = self.stream.isatty()
        self.last = -_SECONDS_PER_LINE
        self.bars: dict[str, tqdm[Any]] = {}
        self.lines: dict[str, str] = {}

    def update(self, running: Sequence[Cell]) -> None:
        """Display the cells that are running, unless they were just before.

        Args:
            running: The cells that run now.
        """
        if not self.show:
            return
        self._close(set(self.bars) - {cell.path.name for cell in running})
        wait = _SECONDS_PER_BAR if self.has_bars else _SECONDS_PER_LINE
        if self.clock() - self.last < wait:
            return
        self.last = self.clock()
        for cell in running:
            done, total = count_epochs(cell), cell.config.train.epochs
            if self.has_bars:
                self._draw(cell.path.name, done, total)
            else:
                self._write(cell.path.name, "evaluation" if done >= total else f"epoch {done}/{total}")

    def clear(self) -> None:
        """Remove the bars until the next update, so that a message can be printed."""
        for bar in self.bars.values():
            bar.clear()

    def close(self) -> None:
        """Remove the bars."""
        self._close(set(self.bars))

    def _draw(self, name: str, done: int, total: int) -> None:
        if name not in self.bars:
            taken = {bar.pos for bar in self.bars.values()}
            place = next(place for place in range(len(taken) + 1) if -place not in taken)
            self.bars[name] = tqdm(
                total=total, desc=name, unit="epoch", position=place, leave=False, dynamic_ncols=True,
                file=self.stream,
            )  # fmt: skip
        bar = self.bars[name]
        bar.n = done
        bar.set_postfix_str("evaluation" if done >= total else "", refresh=True)

    def _write(self, name: str, text: str) -> None:
        if self.lines.get(name) != text:
            self.stream.write(f"{name}: {text}\n")
            self.stream.flush()
        self.lines[name] = text

    def _close(self, names: set[str]) -> None:
        for name in names:
            self.bars.pop(name).close()


def count_epochs(cell: Cell) -> int:
    """Return the number of epochs that a cell has been trained for, 0 where that cannot be read.

    Args:
        cell: The cell, which another process may be training.
    """
    with suppress(OSError, ValueError):
        return len(read_metrics(cell.path))
    return 0
