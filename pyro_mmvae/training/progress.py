"""How far a training is: a bar in a terminal, lines in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tqdm import tqdm

_EVERY = 30.0  # seconds between lines of one epoch


def make_progress(title: str, total: int, done: int, file: TextIO, *, show: bool = True) -> tqdm[Any] | Lines:
    """The progress of one epoch: a bar where the file is a terminal, else a line at its end and every 30 seconds.

    Args:
        title: such as ``epoch 1/10``.
        total: items of the epoch.
        done: of these already.
        file: where to.
        show: whether to show anything.
    """
    if show and not file.isatty():
        return Lines(title, total, done, file)
    return tqdm(
        total=total, initial=done, unit="item", unit_scale=True, disable=not show, desc=title, file=file,
        dynamic_ncols=True,
    )  # fmt: skip


class Lines:
    """Whole lines, for files and logs; the first one after 30 seconds, and one at the end.

    Args:
        title: of the epoch.
        total: items of it.
        done: of these already.
        file: where to.
        clock: seconds of any origin.
    """

    def __init__(
        self, title: str, total: int, done: int, file: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self.total, self.done, self.file, self.clock = title, total, done, file, clock
        self.start = self.last = clock()
        self.figures: Mapping[str, str] = {}
        self.closed = False

    def update(self, items: int) -> None:
        """So many items more are done."""
        self.done += items
        if self.clock() - self.last >= _EVERY and self.done < self.total:
            self._write()

    def set_postfix(self, figures: Mapping[str, str], refresh: bool = True) -> None:
        """What to show beside, in the next line."""
        self.figures = dict(figures)

    def close(self) -> None:
        """Write the last line, once."""
        if not self.closed:
            self._write()
        self.closed = True

    def _write(self) -> None:
        self.last = self.clock()
        figures = "".join(f", {name}={value}" for name, value in self.figures.items())
        seconds = f"{self.last - self.start:.0f} s"
        self.file.write(f"{self.title}: {self.done}/{self.total} items, {seconds}{figures}\n")
        self.file.flush()
