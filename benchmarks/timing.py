"""The timing of contestants in turn, so that a drift of the machine slows all of them, and the bars of figures."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Bar:
    """A bound that a figure should meet.

    Attributes:
        value: The value of the bound.
        at_most: If True, the bound is an upper one, or else a lower one.
    """

    value: float
    at_most: bool

    def met(self, figure: float) -> bool:
        """Return True if a figure meets the bound."""
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:g}"


def at_most(value: float) -> Bar:
    """Return an upper bound."""
    return Bar(value, True)


def at_least(value: float) -> Bar:
    """Return a lower bound."""
    return Bar(value, False)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: A description of the comparison.
        figure: The median over rounds, usually of the ratio of two times within a round.
        extremes: The smallest and the largest value over rounds.
        detail: The medians of the contestants in milliseconds, and sizes.
        bar: The bound that the figure should meet; None if it is only reported.
    """

    name: str
    figure: float
    extremes: tuple[float, float]
    detail: str
    bar: Bar | None = None

    @property
    def verdict(self) -> str:
        """The word ``met``, ``MISSED`` or ``reported``."""
        if self.bar is None:
            return "reported"
        return "met" if self.bar.met(self.figure) else "MISSED"

    def divided(self, by: float) -> Row:
        """Return the row with its figure and extremes divided by a number."""
        return replace(self, figure=self.figure / by, extremes=(self.extremes[0] / by, self.extremes[1] / by))


def cpu_seconds() -> float:
    """Return the CPU seconds that this process and its finished children have used on all cores."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Clock:
    """The clock of all contestants: wall time, or CPU time with ``--cpu-time``."""

    seconds: Callable[[], float] = staticmethod(time.perf_counter)


class Seconds(float):
    """The result of a contestant that measures its own time, in another process."""


def in_turn(contestants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each contestant in each round, run in the order A B C A B C ….

    Args:
        contestants: Functions to time by their names.
        rounds: The number of rounds.
        warmup: The number of rounds before them that are not counted; 1 by default.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warmup + rounds):
        for name, run in contestants.items():
            started = Clock.seconds()
            result = run()
            taken = result if isinstance(result, Seconds) else Clock.seconds() - started
            if number >= warmup:
                seconds[name].append(taken)
    return seconds


def compare(
    name: str, seconds: Mapping[str, list[float]], one: str, other: str, note: str = "", bar: Bar | None = None
) -> Row:
    """Return a row with the ratio of the times of two contestants.

    Args:
        name: A description of the comparison.
        seconds: The seconds of each contestant in each round.
        one: The contestant in the numerator.
        other: The contestant in the denominator.
        note: Further details for the row; none by default.
        bar: The bound that the ratio should meet; None by default.
    """
    ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
    medians = ", ".join(f"{key} {1e3 * statistics.median(seconds[key]):.3g} ms" for key in (one, other))
    detail = f"{medians}; {note}" if note else medians
    return Row(name, statistics.median(ratios), (min(ratios), max(ratios)), detail, bar)


def report(name: str, figures: list[float], detail: str, bar: Bar | None = None) -> Row:
    """Return a row with a figure that is not a ratio of times.

    Args:
        name: A description of the figure.
        figures: The values of the rounds.
        detail: Further details for the row.
        bar: The bound that the figure should meet; None by default.
    """
    return Row(name, statistics.median(figures), (min(figures), max(figures)), detail, bar)
