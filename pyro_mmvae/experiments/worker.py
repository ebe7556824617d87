"""The process of one cell, which :mod:`pyro_mmvae.experiments.jobs` starts."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any

from pyro_mmvae.experiments.messages import decode_message
from pyro_mmvae.experiments.tasks import attempt_locked
from pyro_mmvae.training import Interrupted


def main() -> None:
    """Do the task that standard input names, and write the failure or null to standard output as JSON.

    Everything else that is printed goes to standard error, the log of the cell. If standard input ends, so does the
    process, after saving.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task, cell, book = decode_message(_read_line())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        failure = attempt_locked(task, cell, book, progress=True)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(str(stop) or "interrupted", file=sys.stderr)  # noqa: T201  (the log of the cell)
        sys.exit(128 + signal.SIGTERM)
    out.write(json.dumps(None if failure is None else asdict(failure)))
    out.close()


def _read_line() -> str:
    """Read the first line of standard input; not by sys.stdin, which would read on and keep what follows."""
    line = bytearray()
    while part := os.read(0, 1 << 16):
        line += part
        if part.endswith(b"\n"):
            break
    return line.decode()


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Interrupt this process when the other end of standard input is closed, as by the end of the comparison."""
    # Not by sys.stdin, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
