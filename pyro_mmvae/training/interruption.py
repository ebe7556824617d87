"""The interruption of a training by Ctrl-C, between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Interrupted(Exception):  # noqa: N818  (an interruption is not an error)
    """Training that was interrupted and saved.

    Args:
        path: The path of the run directory.
        epoch: The number of the epoch that was running, counted from 0.
    """

    def __init__(self, path: Path, epoch: int) -> None:
        super().__init__(f"interrupted in epoch {epoch + 1}; everything is saved in {path}")
        self.path, self.epoch = path, epoch


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that is checked between steps; the second one interrupts as usual.

    Yields:
        The event. Outside the main thread, which alone receives signals, it is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(_signal: int, _frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
