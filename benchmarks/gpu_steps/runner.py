"""A runner of steps, each in a process with a time limit, within a limit for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps.plan import ROOT, read_figures

GRACE = 3.0
"""Seconds that a step has to end by itself once its time is up, and that are kept for writing at the very end."""

LEAST = 4.0
"""Seconds under which no step is started."""


@dataclass(frozen=True)
class Step:
    """A step of the benchmark.

    Attributes:
        name: The name of its module and files.
        title: The title in the report.
        limit: The time limit in seconds; infinite for all the time that is left.
    """

    name: str
    title: str
    limit: float


@dataclass
class Outcome:
    """The outcome of a step.

    Attributes:
        name: The name of the step.
        title: The title of the step.
        state: ``running``, ``done``, ``failed``, ``stopped`` at its limit, ``skipped`` or ``not run``.
        note: The reason why it did not succeed; empty if it did.
        seconds: The time that it took.
        limit: The time limit that it had, in seconds.
        figures: The figures that it wrote before it ended.
    """

    name: str
    title: str
    state: str = "not run"
    note: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Return the outcome with values that JSON can represent."""
        return asdict(self)


def run_all(
    steps: Sequence[Step],
    command: Callable[[Step, float], Sequence[str]],
    work: Path,
    log: Path,
    total: float,
    report: Callable[[list[Outcome]], None],
) -> list[Outcome]:
    """Run steps in order; a step that fails or exceeds its limit does not stop the others.

    Args:
        steps: The steps to run, in order.
        command: A function from a step and its limit in seconds to the arguments of its command.
        work: The folder in which step NAME writes its figures as ``NAME.json``.
        log: The file to which the output of all steps is appended.
        total: The time limit for all steps together, in seconds.
        report: A function called with all outcomes so far whenever one changes.

    Returns:
        One outcome for each step.
    """
    started, outcomes = time.monotonic(), [Outcome(step.name, step.title) for step in steps]
    report(outcomes)
    for step, outcome in zip(steps, outcomes, strict=True):
        limit = min(step.limit, total - (time.monotonic() - started) - 2 * GRACE)
        if limit < LEAST:
            outcome.note = "no time was left"
            continue
        outcome.state, outcome.limit = "running", round(limit, 1)
        file = work / f"{step.name}.json"

        def look(outcome: Outcome = outcome, file: Path = file) -> None:
            found = read_figures(file)
            if found != outcome.figures:
                outcome.figures = found
                report(outcomes)

        began = time.monotonic()
        outcome.state, outcome.note = run_limited(command(step, limit), limit, log, look)
        outcome.seconds = round(time.monotonic() - began, 1)
        outcome.figures = read_figures(file)
        if outcome.state == "done" and "skipped" in outcome.figures:
            outcome.state, outcome.note = "skipped", outcome.figures["skipped"]
        report(outcomes)
    report(outcomes)
    return outcomes


def run_limited(
    command: Sequence[str],
    limit: float,
    log: Path,
    look: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """Run a command, and end it with all processes that it started when its time is up.

    Args:
        command: The arguments of the command.
        limit: The time limit in seconds, after which it is asked to end, and killed 3 seconds later.
        log: The file to which its output is appended.
        look: A function called every two seconds while it runs; none by default.
        environment: The environment of the command; by default that of this process.

    Returns:
        The state, ``done``, ``failed`` or ``stopped``, and a note on the reason with the last line of its output, empty
        if it is done.
    """
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(command)}\n".encode())
        file.flush()
        at = file.tell()
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
        )
    with ending(process):
        done = _wait(process, limit, look)
        if not done:
            _signal(process, signal.SIGTERM)
            _wait(process, GRACE, lambda: None)
    if not done:
        return "stopped", f"its {limit:.0f} s were over"
    if process.returncode == 0:
        return "done", ""
    with log.open("rb") as file:
        file.seek(at)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return "failed", f"exit status {process.returncode}: {lines[-1][:300] if lines else 'no output'}"


def _wait(process: subprocess.Popen[bytes], seconds: float, look: Callable[[], None]) -> bool:
    """Return True if a process ends within a number of seconds."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(left, 2.0))
            return True
        look()
    return process.poll() is not None


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process and all processes that it started when the context is left for any reason."""
    try:
        yield
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process that leads a group, and to the whole group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
