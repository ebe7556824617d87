"""The process of a command: signals that end it, and streams that its messages go to."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro_mmvae.streams import SurvivingStream


class Terminated(KeyboardInterrupt):
    """A request to end the process by SIGTERM or SIGHUP, which is raised where Ctrl-C would be.

    Args:
        number: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise :class:`Terminated`, so that temporary files are removed.

    SIGHUP stays ignored where it is ignored, as under ``nohup``. Outside the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: Any) -> None:
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    caught = [number for number in numbers if before[number] == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


@contextmanager
def streams_survive() -> Iterator[SurvivingStream]:
    """Let standard output and standard error drop text once they fail, and restore both on leaving.

    Yields:
        The stream that replaces standard output.
    """
    before = sys.stdout, sys.stderr
    out, err = SurvivingStream(before[0]), SurvivingStream(before[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def describe_stop(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Return a line on an interruption, and the exit status of the process.

    Args:
        stop: The exception of Ctrl-C or of another signal.
    """
    number = int(getattr(stop, "number", signal.SIGINT))
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    return f"interrupted{by}", 128 + number
