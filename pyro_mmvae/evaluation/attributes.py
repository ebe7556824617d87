"""Labels that are several yes-or-no attributes of one item: how scores and predictions of them are judged."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from pyro_mmvae._typing import Bool, Tensor


def average_precisions(scores: NDArray[Any], truth: NDArray[Any]) -> dict[int, float]:
    """The average precision of each attribute; a score without any knowledge gets the attribute's frequency.

    Args:
        scores: `(item, attribute)`, higher where an attribute is likelier.
        truth: which attributes an item has, `(item, attribute)`.

    Returns:
        Number of the attribute to its figure; those that no item has are left out.
    """
    columns = enumerate(zip(scores.T, truth.T, strict=True))
    return {k: float(average_precision_score(there, score)) for k, (score, there) in columns if there.any()}


def mean_average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """The mean of :func:`average_precisions`, NaN where there is none."""
    found = average_precisions(scores, truth)
    return float(np.mean(list(found.values()))) if found else math.nan


def agreement(predictions: Bool[Tensor, "rater item attribute"]) -> dict[int, float]:
    r"""Fleiss' kappa of several raters on each attribute: 1 for agreement on every item, 0 for what chance would give.

    .. math:: \kappa = \frac{\bar P - P_e}{1 - P_e}, \qquad P_e = p^2 + (1 - p)^2

    with :math:`\bar P` the share of pairs of raters that agree, mean over items, and p the share of yes. The share
    of agreement itself says little here: raters who always say no agree on every rare attribute.

    References:
        Fleiss, 1971. Measuring nominal scale agreement among many raters. Psychological Bulletin 76(5).

    Args:
        predictions: two raters at least.

    Returns:
        Number of the attribute to kappa; those of which all raters say the same of all items are left out.
    """
    raters = len(predictions)
    yes = predictions.double().sum(0)
    no = raters - yes
    observed = ((yes * (yes - 1) + no * (no - 1)) / (raters * (raters - 1))).mean(0)
    share = yes.mean(0) / raters
    chance = share.square() + (1 - share).square()
    varies = ((share > 0) & (share < 1)).tolist()
    return {k: float((observed[k] - chance[k]) / (1 - chance[k])) for k, there in enumerate(varies) if there}
