"""The agreement of imputed values with the observed ones that were held out, with standard errors over items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.tokenizer import padding_token
from pyro_mmvae.modality_spec import ModalitySpec

ROOTS = frozenset({"rmse", "nrmse", "rmse_log1p"})
"""The metrics that are the root of a mean over items; the others are means."""


@dataclass(frozen=True, eq=False)
class Imputed:
    """The imputed values of one modality.

    Args:
        values: Means, or the most probable tokens, `(item, *shape)`.
        intervals: Lower and upper ends of predictive intervals, each `(item, *shape)`, by nominal coverage in percent;
            none by default.
    """

    values: NDArray[Any]
    intervals: Mapping[int, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)

    def select(self, rows: NDArray[np.bool_]) -> Imputed:
        """Return the selected items.

        Args:
            rows: True for each item to keep, `(item,)`.
        """
        ends = {level: (lower[rows], upper[rows]) for level, (lower, upper) in self.intervals.items()}
        return Imputed(self.values[rows], ends)


@dataclass(frozen=True, eq=False)
class ModalityScale:
    """The description of a modality by which errors are measured.

    Args:
        data_type: Data type of the modality, such as ``"image"``.
        spread: Standard deviation of each value over training items, `(*shape)`; where it is 0, errors are divided by
            1. Tokens do not use it.
        padding: Token that fills up shorter texts, whose positions are not counted; None if there is none.
    """

    data_type: str
    spread: NDArray[np.float64]
    padding: int | None = None

    @classmethod
    def fit(cls, values: NDArray[Any], spec: ModalitySpec) -> ModalityScale:
        """Return the scale of a modality.

        Args:
            values: Values of training items, `(item, *shape)`.
            spec: Description of the modality.
        """
        spread = values.astype(np.float64).std(0)
        return cls(str(spec.data_type), np.where(spread > 0, spread, 1.0), padding_token(spec))


def score_items(truth: NDArray[Any], imputed: Imputed, scale: ModalityScale) -> dict[str, NDArray[np.float64]]:
    """Score each item by every metric that its data type has.

    Args:
        truth: Held-out values, `(item, *shape)`.
        imputed: Imputed values of these items.
        scale: Description of the modality.

    Returns:
        One number per item, `(item,)`, by metric. Those of a metric in ``ROOTS`` are mean squares over the values of
        the item. A text of padding alone has the accuracy NaN, which is left out of means.
    """
    if scale.data_type == "tokens":
        return _score_tokens(truth, imputed.values, scale.padding)
    if scale.data_type == "binary":
        return {"accuracy": _per_item((imputed.values > 0.5) == (truth > 0.5))}
    error = imputed.values.astype(np.float64) - truth
    scores = {"rmse": _per_item(error**2), "nrmse": _per_item((error / scale.spread) ** 2)}
    if scale.data_type == "counts":
        scores["rmse_log1p"] = _per_item((np.log1p(imputed.values.astype(np.float64)) - np.log1p(truth)) ** 2)
    for level, (lower, upper) in imputed.intervals.items():
        scores[f"coverage_{level}"] = _per_item((lower <= truth) & (truth <= upper))
        scores[f"width_{level}"] = _per_item(upper.astype(np.float64) - lower)
    return scores


def _score_tokens(truth: NDArray[Any], tokens: NDArray[Any], padding: int | None) -> dict[str, NDArray[np.float64]]:
    """Return the share of positions and the whole items that are right."""
    right, is_counted = tokens == truth, truth != padding if padding is not None else np.ones(truth.shape, dtype=bool)
    axes = tuple(range(1, truth.ndim))
    counted = is_counted.sum(axes)
    shares = np.where(counted > 0, (right & is_counted).sum(axes) / np.maximum(counted, 1), np.nan)
    return {"accuracy": shares, "exact_match": right.all(axes).astype(np.float64)}


def _per_item(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over the values of each item."""
    means: NDArray[np.float64] = values.reshape(len(values), -1).mean(1, dtype=np.float64)
    return means


def summarise_scores(metric: str, scores: NDArray[np.float64]) -> tuple[float, float, int]:
    r"""Return the value of a metric, its standard error over items, and the number of items.

    The standard error of a root mean square :math:`\sqrt{m}` follows from that of m by the delta method:

    .. math:: \mathrm{se}(\sqrt{m}) \approx \frac{\mathrm{se}(m)}{2 \sqrt{m}}

    Args:
        metric: Name of the metric.
        scores: One number per item, `(item,)`; NaN is left out.

    Returns:
        The value, its standard error, which assumes independent items and is NaN for a single one, and the number of
        items.
    """
    kept = scores[~np.isnan(scores)]
    count = len(kept)
    if not count:
        return math.nan, math.nan, 0
    mean = float(kept.mean())
    error = float(kept.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    if metric not in ROOTS:
        return mean, error, count
    root = math.sqrt(mean)
    return root, error / (2 * root) if root > 0 else error, count
