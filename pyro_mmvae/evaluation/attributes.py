"""Average precision and chance-corrected agreement for labels that consist of several binary attributes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from pyro_mmvae._typing import Bool, Tensor


def average_precisions(scores: NDArray[Any], truth: NDArray[Any]) -> dict[int, float]:
    """Return the average precision of each attribute.

    An uninformative score has an expected average precision equal to the frequency of the attribute.

    Args:
        scores: Scores of shape `(item, attribute)`, higher where an attribute is likelier.
        truth: Binary labels of shape `(item, attribute)`: the attributes that each item has.

    Returns:
        A mapping from the index of an attribute to its average precision; attributes that no item has are left out.
    """
    columns = enumerate(zip(scores.T, truth.T, strict=True))
    return {k: float(average_precision_score(label, score)) for k, (score, label) in columns if label.any()}


def mean_average_precision(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the mean of :func:`average_precisions`, or NaN if no item has any attribute."""
    precisions = average_precisions(scores, truth)
    return float(np.mean(list(precisions.values()))) if precisions else math.nan


def agreement(predictions: Bool[Tensor, "rater item attribute"]) -> dict[int, float]:
    r"""Return Fleiss' kappa of several raters per attribute: 1 for full agreement, 0 for agreement by chance.

    .. math:: \kappa = \frac{\bar P - P_e}{1 - P_e}, \qquad P_e = p^2 + (1 - p)^2

    Here :math:`\bar P` is the share of pairs of raters that agree, averaged over items, and p is the share of positive
    ratings. The share of agreement alone would mislead: raters who never see a rare attribute agree on nearly every
    item.

    References:
        Fleiss, 1971. Measuring nominal scale agreement among many raters. Psychological Bulletin 76(5).

    Args:
        predictions: Ratings of shape `(rater, item, attribute)` from at least two raters.

    Returns:
        A mapping from the index of an attribute to kappa. An attribute is left out if all ratings of it are equal,
        since kappa is undefined there.
    """
    raters = len(predictions)
    yes = predictions.double().sum(0)
    no = raters - yes
    observed = ((yes * (yes - 1) + no * (no - 1)) / (raters * (raters - 1))).mean(0)
    share = yes.mean(0) / raters
    chance = share.square() + (1 - share).square()
    varies = ((share > 0) & (share < 1)).tolist()
    return {k: float((observed[k] - chance[k]) / (1 - chance[k])) for k, defined in enumerate(varies) if defined}
