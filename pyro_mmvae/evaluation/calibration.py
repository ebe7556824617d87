"""Bayesian p-values, probability integral transforms and the coverage of predictive intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.evaluation.dependence import effective_items, independent_items
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.ppc import PredictiveCheck
from pyro_mmvae.run_files import split_key
from pyro_mmvae.uniformity import ecdf_p_value, piet_c

LEVELS = (0.5, 0.8, 0.9, 0.95)
IN_SAMPLE = "in-sample: conservative by construction, not judged"
DETERMINED = "determined by what the draws are conditioned on, such as a size factor, not judged"
_ALPHA = 0.01


@dataclass(frozen=True)
class Coverage:
    """The coverage of central predictive intervals of one nominal level.

    Attributes:
        level: The nominal level, between 0 and 1.
        value: The share of items whose observation lies inside its interval.
        error: The standard error of the share if the nominal level held, √(level (1 − level) / items), where items that
            share observations count as fewer.
    """

    level: float
    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """The calibration of one statistic of one modality against its posterior predictive distribution.

    Attributes:
        statistic: The key of the statistic, such as ``"m0.contrast"``.
        modality: The modality that the statistic describes.
        in_sample: If True, the guide saw the modality, so that nothing is judged.
        p_value: The two-sided Bayesian p-value of the statistic's mean over items, see :func:`bayesian_p_value`.
        pit: Probability integral transforms of shape `(item,)`, NaN where the item lacks the modality.
        coverage: The coverage of predictive intervals, one per level.
        independent: A mask of shape `(item,)` of items that have the modality and of which no two share an observation.
        pit_p_value: The p-value of the test of uniform PIT values of those items, or None if the statistic is not
            judged; see :func:`~pyro_mmvae.uniformity.ecdf_p_value`.
        piet_c_p_value: The p-value of :func:`~pyro_mmvae.uniformity.piet_c` for all items, which holds for any
            dependence and sees tails alone, or None if the statistic is not judged.
        verdict: The conclusion in words.
        n: The number of items.
        samples: The number of draws per item.
        given: The modalities that the guide saw.
        density: The density that z was drawn from, see :class:`~pyro_mmvae.evaluation.ppc.PredictiveCheck`.
        protocol: A description of how the draws were made.
        seed: The seed of the draws and of the random breaking of ties.
    """

    statistic: str
    modality: str
    in_sample: bool
    p_value: float
    pit: NDArray[np.float64]
    coverage: tuple[Coverage, ...]
    independent: NDArray[np.bool_]
    pit_p_value: float | None
    piet_c_p_value: float | None
    verdict: str
    n: int
    samples: int
    given: tuple[str, ...]
    density: str
    protocol: str
    seed: int

    def metrics(self) -> list[Metric]:
        """Return the calibration as rows of figures."""
        protocol = f"{self.protocol}, {'in-sample' if self.in_sample else 'not given'}"
        values = {"ppc_p_value": self.p_value, "ppc_piet_c_p_value": self.piet_c_p_value}
        values |= {f"ppc_coverage_{round(100 * c.level)}": c.value for c in self.coverage}
        rows = [(name, value, self.n) for name, value in values.items()]
        rows.insert(1, ("ppc_pit_p_value", self.pit_p_value, int(self.independent.sum())))
        return [
            Metric(name, protocol, self.given, self.statistic, value, n, self.seed)
            for name, value, n in rows
            if value is not None
        ]


def bayesian_p_value(replicated: NDArray[Any], observed: float) -> float:
    r"""Return the two-sided Bayesian p-value :math:`2 \min(p, 1 - p)`, where p is the mid-p-value of the upper tail.

    .. math:: p = P(T^{rep} > T^{obs}) + \tfrac12 P(T^{rep} = T^{obs})

    A small value means that the model rarely replicates what was observed; 1 means that the observation is the median
    of the replicates. Ties count half (mid-p), so that statistics with few values need no special treatment.

    References:
        Gelman, Meng and Stern, 1996. Posterior predictive assessment of model fitness via realized discrepancies.
        Statistica Sinica 6. The mid-p-value: Lancaster, 1961. Significance tests in discrete distributions. JASA 56.

    Args:
        replicated: Values of the statistic for the replicates, of shape `(sample,)`.
        observed: The value of the statistic for the observation.

    Returns:
        The p-value, between 0 and 1.
    """
    upper = float(np.mean(replicated > observed) + 0.5 * np.mean(replicated == observed))
    return 2 * min(upper, 1 - upper)


def pit_values(replicated: NDArray[Any], observed: NDArray[Any], *, seed: int = 0) -> NDArray[np.float64]:
    r"""Return randomised probability integral transforms (PIT), uniform if observation and replicates are exchangeable.

    .. math:: u = \frac{\#\{T^{rep} < T^{obs}\} + v\,(\#\{T^{rep} = T^{obs}\} + 1)}{S + 1}, \quad v \sim U(0, 1)

    v breaks the ties of discrete statistics and smooths the steps of a finite number of draws.

    References:
        Czado, Gneiting and Held, 2009. Predictive model assessment for count data. Biometrics 65.

    Args:
        replicated: Values of the statistic for the replicates, of shape `(sample, item)`.
        observed: Values of the statistic for the observations, of shape `(item,)`; NaN stays NaN.
        seed: The seed of v, 0 by default.

    Returns:
        Values in [0, 1] of shape `(item,)`.
    """
    v = np.random.default_rng((seed, 1)).random(observed.shape)  # (seed, 1) is a stream independent of the draws'
    less, equal = (replicated < observed).sum(0), (replicated == observed).sum(0)
    return np.where(np.isnan(observed), np.nan, (less + v * (equal + 1)) / (len(replicated) + 1))


def interval_coverage(
    pit: NDArray[Any], levels: Sequence[float] = LEVELS, *, effective: float | None = None
) -> tuple[Coverage, ...]:
    """Return the share of items whose PIT lies in each central predictive interval.

    Args:
        pit: Probability integral transforms of shape `(item,)`, without NaN.
        levels: The nominal levels of the intervals, each between 0 and 1; by default 0.5, 0.8, 0.9 and 0.95.
        effective: The effective number of independent items, for the standard errors; by default the number of items.

    Returns:
        The coverage, one entry per level.
    """
    rows = []
    for level in levels:
        inside = np.abs(pit - 0.5) <= level / 2
        rows.append(Coverage(level, float(inside.mean()), math.sqrt(level * (1 - level) / (effective or len(pit)))))
    return tuple(rows)


def nominal_scores(replicated: NDArray[Any], observed: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Replace classes without an order by their frequencies within each item, which have one.

    Replicates and observation are counted in one pool, so that they stay exchangeable if they were.

    Args:
        replicated: Classes of the replicates, of shape `(sample, item)`.
        observed: Classes of the observations, of shape `(item,)`; NaN stays NaN.

    Returns:
        The share of the pool that has a replicate's class, of shape `(sample, item)`, and the share that has the
        observed class, of shape `(item,)`.
    """
    pool = np.concatenate([replicated, observed[None]])
    scores = np.stack([(pool == row).mean(0) for row in pool])
    scores = np.where(np.isnan(pool), np.nan, scores)
    return scores[:-1], scores[-1]


def calibrate(
    check: PredictiveCheck, *, levels: Sequence[float] = LEVELS, alpha: float = _ALPHA, seed: int | None = None
) -> list[Calibration]:
    """Compute the p-value, PIT values and coverage of every statistic.

    The p-value refers to the mean over items within a draw, PIT values and coverage to single items. Only a modality
    that was not given is judged, by a test of its PIT values that is exact for independent items, see
    :func:`~pyro_mmvae.uniformity.ecdf_p_value`. Items that share an observation of the modality or of one given are
    not independent, so that the test takes a subset of items of which no two share one, see
    :func:`~pyro_mmvae.evaluation.dependence.independent_items`. The PIT values of a modality that was given crowd
    around 1/2 even under the exact posterior, since the observation is used twice. A statistic that follows from what
    the draws are conditioned on is not judged either: one that equals the observation in every replicate, and the mean
    of counts whose size factors were drawn from observed totals. Values without an order are replaced by scores, see
    :func:`nominal_scores`.

    Args:
        check: The draws and the observations.
        levels: The nominal levels of the intervals; by default 0.5, 0.8, 0.9 and 0.95.
        alpha: The p-value of the test below which calibration is rejected, 0.01 by default, without correction for
            several statistics.
        seed: The seed of the random breaking of ties; by default that of the draws.

    Returns:
        One entry per statistic that some item has.
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
        codes = [code[kept] for code in check.dependence(key)]
        independent = kept.copy()
        independent[kept] = independent_items(codes, int(kept.sum()))
        p_value = ecdf_p_value(pit[independent])
        in_sample, determined = check.in_sample(key), check.is_determined(key)
        judged = not (in_sample or determined)
        effective = effective_items(codes, int(kept.sum()))
        rows.append(
            Calibration(
                statistic=key,
                modality=split_key(key, check.present)[0],
                in_sample=in_sample,
                p_value=bayesian_p_value(replicated[:, kept].mean(1), float(observed[kept].mean())),
                pit=pit,
                coverage=interval_coverage(pit[kept], levels, effective=effective),
                independent=independent,
                pit_p_value=p_value if judged else None,
                piet_c_p_value=piet_c(pit[kept]) if judged else None,
                verdict=_verdict(in_sample, determined, p_value, alpha),
                n=int(kept.sum()),
                samples=check.samples,
                given=check.given,
                density=check.density,
                protocol=check.protocol,
                seed=seed,
            )
        )
    return rows


def _verdict(in_sample: bool, determined: bool, p_value: float, alpha: float) -> str:
    """Return the conclusion of the test in words."""
    if in_sample or determined:
        return IN_SAMPLE if in_sample else DETERMINED
    conclusion = "miscalibrated" if p_value < alpha else "no departure from uniform"
    return f"{conclusion}: PIT p = {p_value:.2g}, threshold {alpha:g}"
