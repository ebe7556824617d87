"""The row every figure is, and which subsets of modalities are looked at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        metric: what it is: ``probe``, ``coherence``, ``joint_coherence``, ….
        protocol: how it was computed.
        given: the modalities conditioned on, in data order; none for the prior.
        target: the modality it is about, or ``""``.
        value: the figure.
        n: how many items or draws it is a mean over.
        seed: of everything random in it.
    """

    metric: str
    protocol: str
    given: tuple[str, ...]
    target: str
    value: float
    n: int
    seed: int

    @property
    def views(self) -> int:
        """How many modalities were given."""
        return len(self.given)

    def as_row(self) -> dict[str, str | int | float]:
        """The row of the tidy table."""
        return {
            "metric": self.metric,
            "protocol": self.protocol,
            "given": "+".join(self.given),
            "target": self.target,
            "views": self.views,
            "value": self.value,
            "n": self.n,
            "seed": self.seed,
        }


def choose_subsets(
    num_modalities: int, *, limit: int = 31, seed: int = 0, largest: int | None = None
) -> list[tuple[int, ...]]:
    """All non-empty subsets of modalities or, if there are too many, as many of each size as fit.

    Args:
        num_modalities: how many there are.
        limit: how many subsets at the most; at least one a size is kept.
        seed: of the choice.
        largest: the largest size; all by default, none for 0.

    Returns:
        Index tuples, by size, then in order.
    """
    sizes = range(1, (num_modalities if largest is None else min(largest, num_modalities)) + 1)
    if sum(math.comb(num_modalities, size) for size in sizes) <= limit:
        return [subset for size in sizes for subset in combinations(range(num_modalities), size)]
    generator = np.random.default_rng(seed)
    each = max(limit // len(sizes), 1)
    chosen: list[tuple[int, ...]] = []
    for size in sizes:
        if math.comb(num_modalities, size) <= each:
            chosen += combinations(range(num_modalities), size)
            continue
        some: set[tuple[int, ...]] = set()
        while len(some) < each:
            some.add(tuple(sorted(int(m) for m in generator.choice(num_modalities, size, replace=False))))
        chosen += sorted(some)
    return chosen


def mean_by_views(
    rows: Iterable[Metric], metric: str, protocol: str | None = None, target: str | None = None
) -> dict[int, float]:
    """The mean of a metric over subsets and targets, by the number of modalities given.

    Args:
        rows: of any metrics.
        metric: which one.
        protocol: which one; needed where the metric was computed by several.
        target: which one; all by default.

    Returns:
        Number of views to mean.

    Raises:
        ValueError: if the rows are of several protocols: their figures have no common mean.
    """
    chosen = [
        row
        for row in rows
        if row.metric == metric and protocol in {None, row.protocol} and target in {None, row.target}
    ]
    protocols = sorted({row.protocol for row in chosen})
    if len(protocols) > 1:
        raise ValueError(f"metric {metric!r} was computed by several protocols: choose one of {'; '.join(protocols)}")
    values: dict[int, list[float]] = {}
    for row in chosen:
        values.setdefault(row.views, []).append(row.value)
    return {views: float(np.mean(values[views])) for views in sorted(values)}


def names_of(subset: Sequence[int], names: Sequence[str]) -> tuple[str, ...]:
    """The names of a subset, in data order."""
    return tuple(names[m] for m in sorted(subset))
