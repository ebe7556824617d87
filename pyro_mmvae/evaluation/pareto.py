"""The generalised Pareto fit to the largest importance weights, and what its shape k̂ says about the number of draws."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_SMALLEST = float(np.log(np.finfo(np.float64).tiny))  # the log of the smallest weight relative to the largest
_FEW = 4  # the number of weights in the tail up to which nothing can be fitted


def pareto_shape(log_weights: NDArray[np.float64]) -> float:
    """Return k̂ of importance weights: the shape of a generalised Pareto distribution fitted to the largest ones.

    The tail is the min(S / 5, 3 √S) largest of S weights. The posterior mean of the shape under the prior of Zhang and
    Stephens is shrunk towards 1/2 with the weight of ten draws, as in ArviZ and in the R package loo.

    References:
        Zhang and Stephens, 2009. A new and efficient estimation method for the generalized Pareto distribution.
        Technometrics 51(3).
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024. Pareto smoothed importance sampling. JMLR 25(72), appendix C.

    Args:
        log_weights: The log weights of the draws for one item, of shape `(sample,)`, without NaN or infinity.

    Returns:
        The shape; infinite if fewer than five weights exceed the others.
    """
    relative = np.sort(log_weights - log_weights.max())
    length = math.ceil(min(len(relative) / 5, 3 * math.sqrt(len(relative))))
    cutoff = max(relative[-length - 1], _SMALLEST)
    excess = np.exp(relative[relative > cutoff]) - np.exp(cutoff)
    excess = excess[excess > 0]  # rounding may leave nothing of the smallest
    return _fitted_shape(excess) if len(excess) > _FEW else math.inf


def _fitted_shape(excess: NDArray[np.float64]) -> float:
    """Return the regularised posterior mean of the shape for sorted positive excesses over a threshold."""
    count = len(excess)
    points = 30 + int(math.sqrt(count))
    quartile = excess[int(count / 4 + 0.5) - 1]
    inverse_scales = 1 / excess[-1] + (1 - np.sqrt(points / (np.arange(points) + 0.5))) / (3 * quartile)
    shapes = np.log1p(-inverse_scales[:, None] * excess).mean(1)
    log_profile = count * (np.log(-inverse_scales / shapes) - shapes - 1)
    weights = np.exp(log_profile - log_profile.max())
    weights /= weights.sum()
    kept = weights >= 10 * np.finfo(np.float64).eps
    inverse_scale = (inverse_scales[kept] * weights[kept]).sum() / weights[kept].sum()
    shape = np.log1p(-inverse_scale * excess).mean()
    return float((count * shape + 5) / (count + 10))


def draws_needed(khat: float) -> float:
    r"""Return the number of draws that an importance-weighted average needs at a shape k̂.

    .. math:: S = 10^{1 / (1 - \max(\hat k, 0))}

    From k̂ = 1 on the weights do not have a mean, so that no number of draws suffices.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024. Pareto smoothed importance sampling. JMLR 25(72), section 3.2.

    Args:
        khat: The shape k̂ of the weights.

    Returns:
        The number of draws; infinite from k̂ = 1 on, or if it exceeds the largest float.
    """
    if not khat < 1:
        return math.inf
    exponent = 1 / (1 - max(khat, 0.0))
    return 10.0**exponent if exponent < np.finfo(np.float64).maxexp * math.log10(2) else math.inf
