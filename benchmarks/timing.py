"""Contestants timed in turn, so that a machine that drifts slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was compared.
        ratio: the figure, a median over rounds of a ratio within the round.
        spread: the least and the greatest of those ratios.
        detail: medians of the contestants in milliseconds, and sizes.
    """

    name: str
    ratio: float
    spread: tuple[float, float]
    detail: str


def in_turn(contestants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, A B C A B C …, after some rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warmup + rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(name: str, seconds: Mapping[str, list[float]], other: str, ours: str, note: str = "") -> Row:
    """How many times as long another contestant takes as ours."""
    ratios = [a / b for a, b in zip(seconds[other], seconds[ours], strict=True)]
    medians = ", ".join(f"{key} {1e3 * statistics.median(values):.3g} ms" for key, values in seconds.items())
    detail = f"{medians}; {note}" if note else medians
    return Row(name, statistics.median(ratios), (min(ratios), max(ratios)), detail)
