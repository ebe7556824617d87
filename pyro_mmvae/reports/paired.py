"""Differences of the rows of a comparison from a baseline, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from pyro_mmvae.reports.comparison_rows import Cell, Key, row_name, standard_error

LEVEL = 0.05
"""The significance level, and one minus the coverage of the intervals."""

_NOT_COMPARED = {"train_seconds", "log_likelihood_samples", "ess"}  # the last one depends on the samples

_ROUNDING = 1e-12  # the standard error, relative to the values, below which differences vary by rounding alone


class Difference(NamedTuple):
    """The difference of a row from the baseline.

    Attributes:
        pairs: The number of seeds that both rows have.
        mean: The mean of row minus baseline over these seeds.
        se: The standard error of the mean; NaN for one pair.
        t: The t statistic, the mean divided by its standard error; NaN if the differences do not vary.
        p: The two-sided p-value of the paired t-test, with ``pairs - 1`` degrees of freedom; NaN without ``t``.
        p_holm: The p-value after Holm's correction over the numbers of modalities given.
    """

    pairs: int
    mean: float
    se: float
    t: float
    p: float
    p_holm: float = math.nan

    @property
    def is_significant(self) -> bool:
        """True if the corrected p-value is below 5 %."""
        return self.p_holm < LEVEL

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval of Student's t distribution, not corrected; NaN for one pair."""
        return self.se * float(stats.t.ppf(1 - LEVEL / 2, self.pairs - 1)) if self.pairs > 1 else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Holm, 1979).

    The i-th smallest of m values is multiplied by m - i + 1; a corrected value is at least that of any smaller one and
    at most 1. The values below a level are the tests that the method rejects at this family-wise error rate, whatever
    their dependence.

    Args:
        p_values: The p-values of one family. NaN, a test that could not be made, counts as a member and stays NaN.

    Returns:
        The corrected values in the order of the arguments.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [math.nan] * len(p_values), 0.0
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, (len(p_values) - rank) * p)
        corrected[index] = min(largest, 1.0)
    return corrected


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return the mean difference of a row from a baseline, with a paired t-test.

    Args:
        values: The figures of the row by seed.
        baseline: The figures of the baseline by seed.

    Returns:
        The difference without a corrected p-value, or None if no seed is in both.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    differences = [values[seed] - baseline[seed] for seed in seeds]
    mean, se = float(np.mean(differences)), standard_error(differences)
    size = max(abs(figures[seed]) for figures in (values, baseline) for seed in seeds)
    if math.isnan(se) or se <= _ROUNDING * size:
        return Difference(len(seeds), mean, se, math.nan, math.nan)
    t = mean / se
    return Difference(len(seeds), mean, se, t, float(2 * stats.t.sf(abs(t), len(seeds) - 1)))


def differences_from(values: Mapping[Key, Mapping[int, float]], baseline: str) -> dict[Key, Difference]:
    """Return the differences of all rows from the baseline, for every metric that both have.

    The p-values of a row, metric and protocol are one family for Holm's correction, with one member per number of
    modalities given. Training times are left out, since they depend on what else the machine does; effective sample
    sizes, which depend on a number of samples that grows until an estimate stands; and log likelihoods of which one
    does not stand, since bounds of different tightness do not rank models.

    Args:
        values: The figures by position and seed.
        baseline: The name of the row that the others are compared with.
    """
    baseline_key = {key[2:]: key for key in values if key.label == baseline}
    reference = {position: values[key] for position, key in baseline_key.items()}
    families: dict[tuple[str, str, str, str], dict[Key, Difference]] = {}
    for key, figures in values.items():
        if key.label == baseline or key.metric in _NOT_COMPARED or key.metric.endswith(("_se", "_stands")):
            continue
        if not (_all_stand(values, key) and _all_stand(values, baseline_key.get(key[2:], key))):
            continue
        difference = paired_difference(figures, reference.get(key[2:], {}))
        if difference is not None:
            families.setdefault(key[:4], {})[key] = difference
    corrected = {}
    for family in families.values():
        p_values = holm([difference.p for difference in family.values()])
        for (key, difference), p in zip(family.items(), p_values, strict=True):
            corrected[key] = difference._replace(p_holm=p)
    return corrected


def _all_stand(values: Mapping[Key, Mapping[int, float]], key: Key) -> bool:
    """Return True unless the figures of some seed are bounds that do not stand; other metrics always do."""
    standing = values.get(key._replace(metric=f"{key.metric}_stands"), {})
    return all(share == 1 for share in standing.values())


def other_data(cells: Sequence[Cell], baseline: str) -> list[str]:
    """Return the names of the rows whose runs were trained on other data than those of the baseline of that seed.

    Args:
        cells: The evaluations of the runs.
        baseline: The name of the row that the others are compared with.
    """
    names = [row_name(cell["aggregation"], cell.get("variant", "")) for cell in cells]
    data = {cell["train_seed"]: cell["data"] for cell, name in zip(cells, names, strict=True) if name == baseline}
    others = [
        name
        for cell, name in zip(cells, names, strict=True)
        if cell["train_seed"] in data and cell["data"] != data[cell["train_seed"]]
    ]
    return list(dict.fromkeys(others))


def pairs_phrase(differences: Mapping[Key, Difference]) -> str:
    """Return the number of pairs of seeds in words, such as ``"5 pairs of seeds"`` or ``"2 to 5 pairs of seeds"``.

    Args:
        differences: The differences from the baseline, at least one.
    """
    counts = sorted({difference.pairs for difference in differences.values()})
    if counts == [1]:
        return "one pair of seeds"
    return f"{counts[0]} pairs of seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} pairs of seeds"
