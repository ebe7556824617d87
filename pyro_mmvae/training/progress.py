"""The progress of a training: a bar in a terminal, lines in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from tqdm import tqdm

from pyro_mmvae.streams import SurvivingStream
from pyro_mmvae.training.elbo import MeanTerms

_SECONDS_PER_LINE = 30.0


def make_progress(
    title: str, total: int, done: int, file: TextIO | None, *, show: bool = True
) -> tqdm[Any] | LineProgress:
    """Make the progress display of one epoch: a bar in a terminal, otherwise lines.

    Args:
        title: The title of the epoch, such as ``epoch 1/10``.
        total: The number of items in the epoch.
        done: The number of items completed before, when a training is resumed.
        file: The file to write to, such as ``sys.stderr``; once it cannot be written, nothing is displayed any more.
            None for nothing.
        show: If True (default), display the progress; otherwise write nothing.

    Returns:
        A display with the methods ``update``, ``set_postfix`` and ``close`` of ``tqdm``.
    """
    stream: Any = SurvivingStream(file)
    if show and not stream.isatty():
        return LineProgress(title, total, done, stream)
    return tqdm(
        total=total, initial=done, unit="item", unit_scale=True, disable=not show, desc=title, file=stream,
        dynamic_ncols=True,
    )  # fmt: skip


def summarize(means: MeanTerms) -> dict[str, str]:
    """Return the values that the progress display shows: the loss, the negative log likelihood and the KL term.

    Args:
        means: The means over the items trained on so far.
    """
    reconstruction = sum(means.log_likelihood.values())
    return {"loss": f"{means.loss:.1f}", "rec": f"{-reconstruction:.1f}", "kl": f"{means.kl:.2f}"}


class TimeLeft:
    """An estimate of the time that a whole training will still take, from its pace so far.

    Args:
        total: The number of steps of the whole training.
        done: The number of steps completed before, when a training is resumed.
        clock: A function that returns the time in seconds; ``time.monotonic`` by default.
    """

    def __init__(self, total: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.first, self.clock = total, done, clock
        self.start = clock()

    def __call__(self, done: int) -> str:
        """Return the time left as hours, minutes and seconds, including that of the validations.

        Args:
            done: The number of steps completed, at least one more than at the start.
        """
        pace = (self.clock() - self.start) / max(done - self.first, 1)
        return tqdm.format_interval(pace * (self.total - done))


class LineProgress:
    """A progress display for files and logs, which writes a line every 30 seconds and one at the end.

    Args:
        title: The title of the epoch, such as ``epoch 1/10``.
        total: The number of items in the epoch.
        done: The number of items completed before, when a training is resumed.
        file: The file to write to, such as ``sys.stderr``.
        clock: A function that returns the time in seconds; ``time.monotonic`` by default.
    """

    def __init__(
        self, title: str, total: int, done: int, file: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self.total, self.done, self.file, self.clock = title, total, done, file, clock
        self.start = self.last = clock()
        self.postfix: Mapping[str, str] = {}
        self.closed = False

    def update(self, items: int) -> None:
        """Add to the number of completed items.

        Args:
            items: The number of items completed since the last call.
        """
        self.done += items
        if self.clock() - self.last >= _SECONDS_PER_LINE and self.done < self.total:
            self._write()

    def set_postfix(self, postfix: Mapping[str, str], refresh: bool = True) -> None:
        """Set the values that the next line shows after the number of items.

        Args:
            postfix: The formatted values, by name.
            refresh: An argument of ``tqdm``, which has no effect here.
        """
        self.postfix = dict(postfix)

    def close(self) -> None:
        """Write the last line, once."""
        if not self.closed:
            self._write()
        self.closed = True

    def _write(self) -> None:
        self.last = self.clock()
        postfix = "".join(f", {name}={value}" for name, value in self.postfix.items())
        seconds = f"{self.last - self.start:.0f} s"
        self.file.write(f"{self.title}: {self.done}/{self.total} items, {seconds}{postfix}\n")
        self.file.flush()
