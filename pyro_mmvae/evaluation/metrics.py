"""The tidy row in which every figure is reported, and the choice of the subsets of modalities to evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pyro_mmvae.run_files import join_names


@dataclass(frozen=True)
class Metric:
    """A figure, with the protocol, the number of items and the seed behind it.

    Attributes:
        metric: The name of the metric, such as ``probe``, ``coherence`` or ``joint_coherence``.
        protocol: How the figure was computed, in words.
        given: The modalities conditioned on, in data order; empty for the prior.
        target: The modality (or label) that the figure is about, or ``""``.
        value: The value of the figure.
        n: The number of items or draws that the figure is a mean over.
        seed: The seed of everything random in the figure.
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
        """The number of modalities conditioned on."""
        return len(self.given)

    def as_row(self) -> dict[str, str | int | float]:
        """Return the figure as a row of the tidy table, keyed by column."""
        return {
            "metric": self.metric,
            "protocol": self.protocol,
            "given": join_names(self.given),
            "target": self.target,
            "views": self.views,
            "value": self.value,
            "n": self.n,
            "seed": self.seed,
        }


def choose_subsets(
    num_modalities: int, *, limit: int = 31, seed: int = 0, largest: int | None = None
) -> list[tuple[int, ...]]:
    """Return all non-empty subsets of modalities or, if there are more than ``limit``, equally many of each size.

    Args:
        num_modalities: The number of modalities.
        limit: The largest number of subsets, 31 by default; at least one subset per size is kept.
        seed: The seed of the random choice, 0 by default.
        largest: The largest size of a subset; by default all sizes are included. With 0 there are no subsets.

    Returns:
        Subsets as tuples of indices, ordered by size and then lexicographically.
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
        sampled: set[tuple[int, ...]] = set()
        while len(sampled) < each:
            sampled.add(tuple(sorted(int(m) for m in generator.choice(num_modalities, size, replace=False))))
        chosen += sorted(sampled)
    return chosen


def choose_items(count: int, limit: int | None, seed: int) -> list[int]:
    """Return the indices of randomly chosen items in ascending order.

    Args:
        count: The number of items to choose from.
        limit: The largest number of indices; None for all of them.
        seed: The seed of the choice.
    """
    chosen = np.random.default_rng(seed).choice(count, count if limit is None else min(limit, count), replace=False)
    return sorted(int(i) for i in chosen)


def mean_by_views(
    rows: Iterable[Metric], metric: str, protocol: str | None = None, target: str | None = None
) -> dict[int, float]:
    """Return the mean of a metric over subsets and targets, by the number of modalities conditioned on.

    Args:
        rows: Figures of any metrics.
        metric: The name of the metric to average.
        protocol: The protocol to average; required if the metric was computed by several.
        target: The target to average; by default all targets are included.

    Returns:
        A mapping from the number of modalities conditioned on to the mean.

    Raises:
        ValueError: If the selected rows come from several protocols, whose figures have no common mean.
    """
    chosen = [
        row
        for row in rows
        if row.metric == metric and protocol in {None, row.protocol} and target in {None, row.target}
    ]
    protocols = sorted({row.protocol for row in chosen})
    if len(protocols) > 1:
        raise ValueError(
            f"metric {metric!r} was computed by several protocols; pass protocol= as one of {'; '.join(protocols)}"
        )
    values: dict[int, list[float]] = {}
    for row in chosen:
        values.setdefault(row.views, []).append(row.value)
    return {views: float(np.mean(values[views])) for views in sorted(values)}
