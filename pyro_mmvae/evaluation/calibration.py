"""Bayesian p-values, probability integral transforms and the coverage of predictive intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.ppc import PredictiveCheck

LEVELS = (0.5, 0.8, 0.9, 0.95)
IN_SAMPLE = "in-sample: conservative by construction, not judged"
_ALPHA = 0.01


@dataclass(frozen=True)
class Coverage:
    """Of central predictive intervals of one level.

    Attributes:
        level: nominal.
        value: the share of items inside.
        error: its binomial standard error if the nominal level held, √(level (1 − level) / items).
    """

    level: float
    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """One statistic of one modality, against its posterior predictive distribution.

    Attributes:
        statistic: its key, ``"m0.contrast"``.
        in_sample: whether the guide saw the modality; then nothing is judged.
        p_value: two-sided Bayesian p-value of the statistic's mean over items, see :func:`bayesian_p_value`.
        pit: `(item,)`, NaN where the item lacks the modality.
        coverage: at several levels.
        ks: Kolmogorov–Smirnov distance of the PIT values from uniform.
        ks_p_value: of that distance; None where it is not judged.
        verdict: in words.
        n: number of items.
        samples: draws an item.
        given: the modalities the guide saw.
        bound: see :class:`~pyro_mmvae.evaluation.ppc.PredictiveCheck`.
        protocol: how the draws came about.
        seed: of the draws and of the ties.
    """

    statistic: str
    in_sample: bool
    p_value: float
    pit: NDArray[np.float64]
    coverage: tuple[Coverage, ...]
    ks: float
    ks_p_value: float | None
    verdict: str
    n: int
    samples: int
    given: tuple[str, ...]
    bound: str
    protocol: str
    seed: int

    @property
    def modality(self) -> str:
        """That the statistic is of."""
        return self.statistic.split(".", maxsplit=1)[0]

    def metrics(self) -> list[Metric]:
        """As rows of figures."""
        how = f"{self.protocol}, {'in-sample' if self.in_sample else 'not given'}"
        values = {"ppc_p_value": self.p_value, "ppc_ks": self.ks}
        if self.ks_p_value is not None:
            values["ppc_ks_p_value"] = self.ks_p_value
        values |= {f"ppc_coverage_{round(100 * c.level)}": c.value for c in self.coverage}
        return [Metric(name, how, self.given, self.statistic, v, self.n, self.seed) for name, v in values.items()]


def bayesian_p_value(replicated: NDArray[Any], observed: float) -> float:
    r"""Two-sided: :math:`2 \min(p, 1 - p)`, where p is the mid-p-value of the upper tail.

    .. math:: p = P(T^{rep} > T^{obs}) + \tfrac12 P(T^{rep} = T^{obs})

    Small means that the model rarely replicates what was observed; 1 that the observation is the replicates' median.
    Ties count half (mid-p), so that statistics with few values are no special case.

    References:
        Gelman, Meng and Stern, 1996. Posterior predictive assessment of model fitness via realized discrepancies.
        Statistica Sinica 6. The mid-p-value: Lancaster, 1961. Significance tests in discrete distributions. JASA 56.

    Args:
        replicated: `(sample,)`.
        observed: one number.

    Returns:
        Between 0 and 1.
    """
    upper = float(np.mean(replicated > observed) + 0.5 * np.mean(replicated == observed))
    return 2 * min(upper, 1 - upper)


def pit_values(replicated: NDArray[Any], observed: NDArray[Any], *, seed: int = 0) -> NDArray[np.float64]:
    r"""Randomised probability integral transforms, exactly uniform where observation and replicates are exchangeable.

    .. math:: u = \frac{\#\{T^{rep} < T^{obs}\} + v\,(\#\{T^{rep} = T^{obs}\} + 1)}{S + 1}, \quad v \sim U(0, 1)

    v breaks the ties of discrete statistics, and smooths the steps of a finite number of draws.

    References:
        Czado, Gneiting and Held, 2009. Predictive model assessment for count data. Biometrics 65.

    Args:
        replicated: `(sample, item)`.
        observed: `(item,)`; NaN stays NaN.
        seed: of v.

    Returns:
        `(item,)`, in [0, 1].
    """
    v = np.random.default_rng((seed, 1)).random(observed.shape)  # a stream of its own
    less, equal = (replicated < observed).sum(0), (replicated == observed).sum(0)
    return np.where(np.isnan(observed), np.nan, (less + v * (equal + 1)) / (len(replicated) + 1))


def interval_coverage(pit: NDArray[Any], levels: Sequence[float] = LEVELS) -> tuple[Coverage, ...]:
    """The share of items inside their central predictive interval: those whose PIT lies in it.

    Args:
        pit: `(item,)`, without NaN.
        levels: of the intervals, each between 0 and 1.

    Returns:
        One a level.
    """
    rows = []
    for level in levels:
        inside = np.abs(pit - 0.5) <= level / 2
        rows.append(Coverage(level, float(inside.mean()), math.sqrt(level * (1 - level) / len(pit))))
    return tuple(rows)


def nominal_scores(replicated: NDArray[Any], observed: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Classes without an order as numbers with one: how frequent is a class in its item?

    All are counted in one pool, so that observation and replicates stay exchangeable if they were.

    Args:
        replicated: classes `(sample, item)`.
        observed: classes `(item,)`.

    Returns:
        The share of the pool that has a replicate's class, `(sample, item)`, and that has the observed class,
        `(item,)`; NaN stays NaN.
    """
    pool = np.concatenate([replicated, observed[None]])
    scores = np.stack([(pool == row).mean(0) for row in pool])
    scores = np.where(np.isnan(pool), np.nan, scores)
    return scores[:-1], scores[-1]


def calibrate(
    check: PredictiveCheck, *, levels: Sequence[float] = LEVELS, alpha: float = _ALPHA, seed: int | None = None
) -> list[Calibration]:
    """p-value, PIT and coverage of every statistic.

    The p-value is of the mean over items within a draw, PIT and coverage are of single items. Only a modality that was
    not given is judged, by a Kolmogorov–Smirnov test of its PIT values; items must be independent for that. Of one
    that was given the PIT values crowd around 1/2 even under the exact posterior, since the observation was used twice.
    Values without an order are scored first, see :func:`nominal_scores`.

    Args:
        check: draws and observations.
        levels: of the intervals.
        alpha: the p-value of the test below which calibration is rejected, one statistic at a time.
        seed: of the ties; that of the draws by default.

    Returns:
        One a statistic, those that no item has left out.
    """
    rows = []
    seed = check.seed if seed is None else seed
    for number, (key, observed) in enumerate(check.observed.items()):
        replicated = check.replicated[key]
        if key in check.nominal:
            replicated, observed = nominal_scores(replicated, observed)  # noqa: PLW2901
        kept = ~np.isnan(observed)
        if not kept.any():
            continue
        pit = pit_values(replicated, observed, seed=int(np.random.SeedSequence((seed, number)).generate_state(1)[0]))
        test = stats.kstest(pit[kept], "uniform")
        inside = check.in_sample(key)
        rows.append(
            Calibration(
                statistic=key,
                in_sample=inside,
                p_value=bayesian_p_value(replicated[:, kept].mean(1), float(observed[kept].mean())),
                pit=pit,
                coverage=interval_coverage(pit[kept], levels),
                ks=float(test.statistic),
                ks_p_value=None if inside else float(test.pvalue),
                verdict=_verdict(inside, float(test.pvalue), alpha),
                n=int(kept.sum()),
                samples=check.samples,
                given=check.given,
                bound=check.bound,
                protocol=check.protocol,
                seed=seed,
            )
        )
    return rows


def _verdict(in_sample: bool, p_value: float, alpha: float) -> str:
    if in_sample:
        return IN_SAMPLE
    word = "miscalibrated" if p_value < alpha else "no departure from uniform"
    return f"{word}: KS p = {p_value:.2g}, threshold {alpha:g}"
