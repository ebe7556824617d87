"""A local classifier two-sample test (L-C2ST) of a guide: at which items are its draws those of the posterior?

References:
    Linhart, Gramfort and Rodrigues, 2023. L-C2ST: local diagnostics for posterior approximations in simulation-based
    inference. NeurIPS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.ppc import PredictiveCheck
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration

_ALPHA = 0.05
_RIDGE = 1.0  # the penalty of the classifier, for a kernel of amplitude 1
_EVALUATED = 20  # the largest number of draws per item at which the classifier is evaluated


@dataclass(frozen=True, eq=False)
class LocalTest:
    """The local classifier two-sample test of a guide at some items.

    Attributes:
        statistics: The mean squared output of the classifier over the guide's draws per item, of shape `(item,)`; 0
            means that truth and draws are not told apart there.
        p_values: The p-values of the items, of shape `(item,)`, not corrected for their number; NaN for items that are
            not judged.
        p_value: The p-value of all items together, of the mean of their statistics.
        simulations: The number of simulated data sets that the classifier was trained on.
        permutations: The number of random exchanges of truth and draw that make the null distribution.
        given: The modalities that the guide saw.
        protocol: A description of the test.
        seed: The seed of everything random.
    """

    statistics: NDArray[np.float64]
    p_values: NDArray[np.float64]
    p_value: float
    simulations: int
    permutations: int
    given: tuple[str, ...]
    protocol: str
    seed: int

    def metrics(self) -> list[Metric]:
        """Return the p-value of all items, and the share of items with a p-value of 0.05 at most, as figures."""
        judged = self.p_values[np.isfinite(self.p_values)]
        rows, items = (
            {"lc2st_p_value": self.p_value, "lc2st_rejected_share": float((judged <= _ALPHA).mean())},
            len(judged),
        )
        return [Metric(name, self.protocol, self.given, "", v, items, self.seed) for name, v in rows.items()]


def local_two_sample_test(
    sbc: SimulationCalibration, drawn: NDArray[np.floating], *, permutations: int = 499, seed: int = 0
) -> LocalTest:
    r"""Test at given items whether the guide's draws are those of the exact posterior.

    A classifier is trained to tell the true latents of simulated data sets from one draw of the guide each, given a
    summary of the data, the mean and log standard deviation of the guide's other draws. Where the guide is exact it
    cannot. The classifier is a kernel ridge regression on labels ±1, with the kernel

    .. math:: e^{-|r - r'|^2 / 2L}\,\tfrac12\left(1 + e^{-|s - s'|^2 / 4L}\right)

    of residuals r, latents in units of the guide's standard deviation from its mean, and standardised summaries s in L
    dimensions. All null classifiers have one kernel matrix, so that they cost a single solution of a linear system.
    Labels are exchanged within the pairs of truth and draw, so that the p-value of all items is exact.

    Args:
        sbc: A calibration by simulation, whose guide saw the modalities that it sees at the items.
        drawn: The guide's draws at the items, of shape `(draw, item, latent)`, at least 3.
        permutations: The number of random exchanges, 499 by default; the least p-value is 1 / (permutations + 1).
        seed: The seed of the exchanges, 0 by default.

    Returns:
        The statistics and p-values of the items.

    Raises:
        ValueError: If there are fewer than 3 draws, or the latents differ in size.
    """
    if len(drawn) < 3 or len(sbc.drawn) < 3 or drawn.shape[-1] != sbc.truth.shape[-1]:
        raise ValueError(
            "a local two-sample test needs at least 3 draws per item and per simulation of one latent size, got "
            f"{drawn.shape} at the items and {sbc.drawn.shape} in the simulations"
        )
    count, size = sbc.truth.shape
    loc, scale, summary = _summarise(sbc.drawn[1:])
    centre, spread = summary.mean(0), summary.std(0)
    unit = np.where(spread > 0, spread, 1.0)
    residuals = np.concatenate([(sbc.truth - loc) / scale, (sbc.drawn[0] - loc) / scale])
    summaries = np.tile((summary - centre) / unit, (2, 1))
    kernel = _kernel(residuals, summaries, residuals, summaries)
    signs = np.random.default_rng((seed, 4)).choice([-1.0, 1.0], (count, permutations))
    signs = np.concatenate([np.ones((count, 1)), signs], 1)  # the first column is the observed labels
    weights = linalg.solve(
        kernel + _RIDGE * np.eye(2 * count), np.concatenate([signs, -signs]), assume_a="pos", overwrite_a=True
    )
    evaluated = min(_EVALUATED, len(drawn) - 2)
    item_loc, item_scale, item_summary = _summarise(drawn[evaluated:])
    item_summary = (item_summary - centre) / unit
    scores = np.zeros((permutations + 1, drawn.shape[1]))
    for draw in drawn[:evaluated]:
        scores += (_kernel((draw - item_loc) / item_scale, item_summary, residuals, summaries) @ weights).T ** 2
    scores /= evaluated
    protocol = f"L-C2ST, kernel classifier of {count} simulations, {permutations} permutations, {len(drawn)} draws"
    return LocalTest(
        statistics=scores[0],
        p_values=_rank_first(scores),
        p_value=float(_rank_first(scores.mean(1, keepdims=True))[0]),
        simulations=count,
        permutations=permutations,
        given=sbc.given,
        protocol=protocol,
        seed=seed,
    )


def local_test_of_check(
    sbc: SimulationCalibration, check: PredictiveCheck, *, permutations: int = 499, seed: int = 0
) -> LocalTest | None:
    """Test at the items of a posterior predictive check, by its draws of the latents.

    Args:
        sbc: A calibration by simulation given the modalities of the check.
        check: The check, whose items that lack a given modality are not judged.
        permutations: The number of random exchanges, 499 by default.
        seed: The seed of the exchanges, 0 by default.

    Returns:
        The test, with NaN for items that are not judged, or None if there are no others.

    Raises:
        ValueError: If the calibration is given other modalities, or there are fewer than 3 draws.
    """
    if set(sbc.given) != set(check.given):
        raise ValueError(
            f"the calibration must be given what the check is given, {', '.join(check.given) or 'nothing'}, got "
            f"{', '.join(sbc.given) or 'nothing'}"
        )
    masks = [check.present[name] for name in check.given]
    kept = np.logical_and.reduce(masks) if masks else np.ones(len(check.ids), dtype=bool)
    if not kept.any():
        return None
    result = local_two_sample_test(sbc, check.z[:, kept], permutations=permutations, seed=seed)
    statistics, p_values = np.full((2, len(kept)), np.nan)
    statistics[kept], p_values[kept] = result.statistics, result.p_values
    return replace(result, statistics=statistics, p_values=p_values)


def _summarise(drawn: NDArray[np.floating]) -> tuple[NDArray[np.float64], ...]:
    """Return mean and standard deviation of draws `(draw, item, latent)`, and both side by side, one as logarithm."""
    loc, scale = drawn.mean(0, dtype=np.float64), drawn.std(0, dtype=np.float64)
    scale = np.maximum(scale, 1e-12)
    return loc, scale, np.concatenate([loc, np.log(scale)], -1)


def _kernel(
    residuals: NDArray[np.float64],
    summaries: NDArray[np.float64],
    other_residuals: NDArray[np.float64],
    other_summaries: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the kernel of two sets of latents and summaries, of shape `(row, other row)`."""
    size = residuals.shape[-1]
    local = np.exp(-_squared_distances(summaries, other_summaries) / (4 * size))
    return np.exp(-_squared_distances(residuals, other_residuals) / (2 * size)) * (1 + local) / 2


def _squared_distances(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared Euclidean distances, of shape `(left row, right row)`."""
    squares = (left**2).sum(-1)[:, None] + (right**2).sum(-1) - 2 * left @ right.T
    return np.maximum(squares, 0.0)


def _rank_first(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of rows at least as large as the first one, itself included, per column."""
    return (scores >= scores[0]).mean(0)
