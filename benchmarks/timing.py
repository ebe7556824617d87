"""Contestants timed in turn, so that a machine that drifts slows all of them, and what is asked of each figure."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Bar:
    """What a figure should reach.

    Attributes:
        value: the bound.
        at_most: whether it is an upper one.
    """

    value: float
    at_most: bool

    def met(self, figure: float) -> bool:
        """Whether a figure reaches it."""
        return figure <= self.value if self.at_most else figure >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.value:g}"


def at_most(value: float) -> Bar:
    """A bar for what should be small."""
    return Bar(value, True)


def at_least(value: float) -> Bar:
    """A bar for what should be large."""
    return Bar(value, False)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was compared.
        figure: a median over rounds, of a ratio within the round as a rule.
        spread: the least and the greatest of them.
        detail: medians of the contestants in milliseconds, and sizes.
        bar: what is asked of the figure; None where it is reported only.
    """

    name: str
    figure: float
    spread: tuple[float, float]
    detail: str
    bar: Bar | None = None

    @property
    def verdict(self) -> str:
        """Whether the bar was met, in a word."""
        if self.bar is None:
            return "reported"
        return "met" if self.bar.met(self.figure) else "MISSED"

    def divided(self, by: float) -> Row:
        """The same row in another unit."""
        return replace(self, figure=self.figure / by, spread=(self.spread[0] / by, self.spread[1] / by))


def cpu_seconds() -> float:
    """What this process and its finished children have used of all cores."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Clock:
    """What all contestants are timed by: the wall's time, or with ``--cpu-time`` that of the processor."""

    seconds: Callable[[], float] = staticmethod(time.perf_counter)


class Seconds(float):
    """What a contestant gives that has taken its own time, in another process."""


def in_turn(contestants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, A B C A B C …, after some rounds that do not count."""
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
    """How many times as long one contestant takes as another."""
    ratios = [a / b for a, b in zip(seconds[one], seconds[other], strict=True)]
    medians = ", ".join(f"{key} {1e3 * statistics.median(seconds[key]):.3g} ms" for key in (one, other))
    detail = f"{medians}; {note}" if note else medians
    return Row(name, statistics.median(ratios), (min(ratios), max(ratios)), detail, bar)


def report(name: str, figures: list[float], detail: str, bar: Bar | None = None) -> Row:
    """A figure that is no ratio of times."""
    return Row(name, statistics.median(figures), (min(figures), max(figures)), detail, bar)
