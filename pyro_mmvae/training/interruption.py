"""The interruption of a training by a signal, between two steps: Ctrl-C, SIGTERM, or the end of its terminal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(Exception):  # noqa: N818  (an interruption is not an error)
    """Training that was interrupted and saved.

    Args:
        path: The path of the run directory.
        epoch: The number of the epoch that was running, counted from 0.
        number: The number of the signal, that of Ctrl-C by default.
        finished: If True, all epochs were done, and only the samples and the prior after them are missing. False by
            default.
    """

    def __init__(self, path: Path, epoch: int, number: int = signal.SIGINT, finished: bool = False) -> None:
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        when = "after the last epoch" if finished else f"in epoch {epoch + 1}"
        super().__init__(f"interrupted{by} {when}; everything is saved in {path}")
        self.path, self.epoch, self.number = path, epoch, int(number)


class Interruption(threading.Event):
    """An event that a signal sets.

    Attributes:
        number: The number of the signal, that of Ctrl-C until one has come.
    """

    number: int = signal.SIGINT


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into an event that is checked between steps; a second one interrupts.

    SIGHUP stays ignored where it is ignored, as under ``nohup``.

    Yields:
        The event. Outside the main thread, which alone receives signals, it is never set.
    """
    event = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, _frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.number = number
        event.set()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    hangup = getattr(signal, "SIGHUP", None)
    caught = [number for number in _SIGNALS if number != hangup or before[number] != signal.SIG_IGN]
    for number in caught:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        for number in caught:
            signal.signal(number, before[number])


def signal_of(stop: KeyboardInterrupt) -> int:
    """Return the number of the signal that an interruption comes from, which the command line notes in it.

    Args:
        stop: The exception; one of Python itself comes from Ctrl-C.
    """
    return int(getattr(stop, "number", signal.SIGINT))
