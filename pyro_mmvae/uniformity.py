"""Tests of uniform values: exact simultaneous bands of their ECDF, and Cauchy combinations of pointwise p-values.

References:
    Säilynoja, Bürkner and Vehtari, 2022. Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison. Statistics and Computing 32. The probability that an empirical
    distribution stays in a band, by a Poisson process given its total: Moscovich and Nadler, 2017. Fast calculation of
    boundary crossing probabilities for Poisson processes. Statistics and Probability Letters 123.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

POINTS = 100
"""The number of equal cells at whose edges the ECDF of continuous values is judged."""

_SMALLEST = 1e-10  # probabilities below it are lost to rounding in 1 - coverage


@dataclass(frozen=True, eq=False)
class EcdfBand:
    """A band that holds the whole ECDF of independent uniform values with a given probability.

    Attributes:
        points: The points at which the ECDF is judged, increasing, of shape `(point,)`.
        lower: The smallest values of the ECDF inside the band, of shape `(point,)`.
        upper: The largest values of the ECDF inside the band, of shape `(point,)`.
        coverage: The probability that the ECDF of uniform values is inside at all points, at least the nominal level.
        pointwise: The pointwise two-sided p-value at or below which a point is outside.
    """

    points: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    coverage: float
    pointwise: float


def equal_points(cells: int = POINTS) -> NDArray[np.float64]:
    """Return the inner edges of equal cells of [0, 1].

    Args:
        cells: The number of cells, at least 2; 100 by default. Ranks among L draws have L + 1 cells.

    Returns:
        The edges 1 / cells, …, (cells − 1) / cells, of shape `(cells - 1,)`.
    """
    return np.arange(1, cells) / cells


def ecdf_band(num_values: int, cells: int = POINTS, level: float = 0.95) -> EcdfBand:
    """Return the simultaneous band for the ECDF of independent uniform values.

    All points have the same pointwise level, which is the largest for which the probability that the ECDF leaves the
    band anywhere is at most 1 − ``level``. The probability is computed, not simulated. ECDFs are discrete, so that the
    coverage is a little above the level.

    Args:
        num_values: The number of independent values, at least 1.
        cells: The number of equal cells of [0, 1] at whose inner edges the ECDF is judged; 100 by default.
        level: The nominal coverage, between 0 and 1; 0.95 by default.

    Returns:
        The band.

    Raises:
        ValueError: If there is no value, there are fewer than two cells, or the level is not between 0 and 1.
    """
    if num_values < 1 or cells < 2 or not 0 < level < 1:
        raise ValueError(
            "an ECDF band must have at least 1 value, 2 cells and a level between 0 and 1, got "
            f"{num_values} values, {cells} cells and the level {level}"
        )
    return _cached_band(num_values, cells, level)


def ecdf_p_value(values: NDArray[np.float64], cells: int = POINTS) -> float:
    """Return the p-value of the test that rejects uniformity if the ECDF leaves its simultaneous band.

    It is at most α just if the ECDF leaves the band of the level 1 − α, and exact: under independent uniform values
    it is at most α with a probability of at most α. Dependent values need :func:`piet_c`, or a subset without
    dependence.

    Args:
        values: The values to test, in [0, 1], of shape `(value,)`.
        cells: The number of equal cells of [0, 1] at whose inner edges the ECDF is judged; 100 by default.

    Returns:
        The p-value, between 0 and 1.

    Raises:
        ValueError: If there is no value, or one is outside [0, 1] or NaN.
    """
    values = _check_unit_interval(values)
    return _counts_p_value(np.searchsorted(np.sort(values), equal_points(cells), side="right"), len(values), cells)


def rank_p_value(ranks: NDArray[np.int64], draws: int) -> float:
    """Return the p-value of :func:`ecdf_p_value` for ranks, which are uniform on 0, …, ``draws``.

    Args:
        ranks: The ranks of independent simulations, of shape `(simulation,)`.
        draws: The number of draws among which the ranks were taken.

    Returns:
        The p-value, between 0 and 1.

    Raises:
        ValueError: If there is no rank, or one is not from 0 to ``draws``.
    """
    if not len(ranks) or ranks.min() < 0 or ranks.max() > draws:
        raise ValueError(f"ranks must be at least one integer from 0 to {draws}, got {_range(ranks)}")
    counts = np.bincount(ranks, minlength=draws + 1).cumsum()[:-1]
    return _counts_p_value(counts, len(ranks), draws + 1)


def cauchy_combination(p_values: NDArray[np.float64], *, truncated: bool = False) -> float:
    r"""Return the p-value of the Cauchy combination of several p-values.

    .. math:: 1 - F\left(\frac1n \sum_i \tan((\tfrac12 - p_i)\,\pi)\right), \quad F \text{ the standard Cauchy CDF}

    Small combined p-values are accurate whatever the dependence of the p-values, if each of them is uniform under the
    hypothesis; those near 1/2 are not.

    References:
        Liu and Xie, 2020. Cauchy combination test: a powerful test with analytic p-value calculation under arbitrary
        dependency structures. JASA 115. The truncated form: Chen, Xu and Gao, 2025. arXiv 2506.12489.

    Args:
        p_values: The p-values to combine, of shape `(test,)`.
        truncated: If True, only p-values below 1/2 are averaged; False by default.

    Returns:
        The combined p-value, between 0 and 1; 1 if truncation leaves none.
    """
    kept = p_values[p_values < 0.5] if truncated else p_values
    if not len(kept):
        return 1.0
    return float(stats.cauchy.sf(np.mean(1 / np.tan(np.pi * np.clip(kept, 1e-300, 1 - 1e-15)))))


def piet_c(values: NDArray[np.float64]) -> float:
    """Return the p-value of PIET-C, the Cauchy combination of two-sided p-values of single values.

    The p-value 2 min(u, 1 − u) of each value is uniform under the hypothesis whatever the dependence, so that the test
    holds for dependent values. It sees values that are too close to 0 or 1, as those of intervals that are too narrow,
    and nothing else.

    References:
        Tesso and Vehtari, 2026. LOO-PIT predictive model checking. arXiv 2603.02928.

    Args:
        values: The values to test, in [0, 1], of shape `(value,)`; they may depend on each other.

    Returns:
        The p-value, between 0 and 1.
    """
    values = _check_unit_interval(values)
    return cauchy_combination(2 * np.minimum(values, 1 - values))


def pot_c(values: NDArray[np.float64], *, truncated: bool = True) -> float:
    """Return the p-value of POT-C, the truncated Cauchy combination of p-values of the order statistics.

    The i-th of n ordered values is compared with its distribution Beta(i, n − i + 1) under *independent* values. The
    test was proposed for leave-one-out values, whose dependence makes usual tests conservative. Values that repeat make
    it reject far too often, as ``docs/calibration-tests.md`` shows; for those use :func:`piet_c` or a subset without
    repetition.

    References:
        Tesso and Vehtari, 2026. LOO-PIT predictive model checking. arXiv 2603.02928.

    Args:
        values: The values to test, in [0, 1], of shape `(value,)`.
        truncated: If True, only p-values below 1/2 are combined, as proposed; True by default.

    Returns:
        The p-value, between 0 and 1.
    """
    values = np.sort(_check_unit_interval(values))
    order = np.arange(1, len(values) + 1)
    cdf = special.betainc(order, len(values) + 1 - order, values)
    return cauchy_combination(2 * np.minimum(cdf, 1 - cdf), truncated=truncated)


def prit_c(values: NDArray[np.float64], *, truncated: bool = True) -> float:
    """Return the p-value of PRIT-C, the truncated Cauchy combination of binomial p-values of the ECDF at each value.

    It is the variant of :func:`pot_c` for values with ties, such as ranks, and has its limits.

    References:
        Tesso and Vehtari, 2026. LOO-PIT predictive model checking. arXiv 2603.02928.

    Args:
        values: The values to test, in [0, 1], of shape `(value,)`.
        truncated: If True, only p-values below 1/2 are combined, as proposed; True by default.

    Returns:
        The p-value, between 0 and 1.
    """
    values = np.sort(_check_unit_interval(values))
    counts = np.searchsorted(values, values, side="right")
    low, high = stats.binom.cdf(counts, len(values), values), stats.binom.sf(counts - 1, len(values), values)
    return cauchy_combination(np.minimum(2 * np.minimum(low, high), 1.0), truncated=truncated)


@lru_cache(maxsize=256)
def _cached_band(num_values: int, cells: int, level: float) -> EcdfBand:
    """Search for the largest pointwise level whose band has the coverage, on a logarithmic scale."""
    points = equal_points(cells)
    # By Bonferroni's inequality the smaller bound has the coverage; the larger one is that of a single point.
    inside, outside = (1 - level) / len(points), 1 - level
    for _ in range(20):
        middle = float(np.sqrt(inside * outside))
        if _coverage(middle, num_values, points) >= level:
            inside = middle
        else:
            outside = middle
    lower, upper = _limits(inside, num_values, points)
    return EcdfBand(
        points, lower / num_values, upper / num_values, _coverage(inside, num_values, points), pointwise=inside
    )


def _counts_p_value(counts: NDArray[np.int64], num_values: int, cells: int) -> float:
    """Return the probability that uniform values have a point as unlikely as the least likely of the counts."""
    points = equal_points(cells)
    low, high = stats.binom.cdf(counts, num_values, points), stats.binom.sf(counts - 1, num_values, points)
    least = float(2 * np.minimum(low, high).min())
    p_value = 1 - _coverage(least, num_values, points)
    return float(np.clip(len(points) * least if p_value < _SMALLEST else p_value, 0, 1))


def _limits(pointwise: float, num_values: int, points: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
    """Return the least and the largest counts `(point,)` whose two-sided binomial p-value is above a bound."""
    tail = pointwise / 2
    lower = stats.binom.ppf(tail, num_values, points).astype(np.int64)
    upper = stats.binom.isf(tail, num_values, points).astype(np.int64)
    # Quantile functions round: the comparison must be that of the observed p-values, bit by bit.
    lower = np.maximum(lower - 1, 0)
    upper = np.minimum(upper + 1, num_values)
    for _ in range(3):
        lower += stats.binom.cdf(lower, num_values, points) <= tail
        upper -= stats.binom.sf(upper - 1, num_values, points) <= tail
    return lower, upper


def _coverage(pointwise: float, num_values: int, points: NDArray[np.float64]) -> float:
    """Return the probability that no point has a two-sided binomial p-value at or below a bound.

    Counts of uniform values are a Poisson process given its total, and the increments of that process are independent:
    one convolution per point.
    """
    lower, upper = _limits(pointwise, num_values, points)
    if (lower > upper).any():
        return 0.0
    lower = np.maximum.accumulate(lower)
    steps = np.diff(points, prepend=0.0, append=1.0) * num_values
    log_factorial = special.gammaln(np.arange(num_values + 2) + 1.0)
    state, first = np.ones(1), 0
    for mean, low, high in zip(steps, [*lower, num_values], [*upper, num_values], strict=True):
        counts = np.arange(high - first + 1)
        increments = np.exp(counts * np.log(mean) - mean - log_factorial[: len(counts)])
        state = np.convolve(state, increments)[low - first : high - first + 1]
        first = low
    total = np.exp(num_values * np.log(num_values) - num_values - log_factorial[num_values])
    return float(min(state[0] / total, 1.0))


def _check_unit_interval(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values as an array of floats, after checking that they are in [0, 1]."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"values must be one axis of at least one number in [0, 1], got {_range(array)}")
    return array


def _range(array: NDArray[np.generic]) -> str:
    """Return the shape and the range of an array in words."""
    return f"{array.shape} from {array.min()} to {array.max()}" if array.size else "none"
