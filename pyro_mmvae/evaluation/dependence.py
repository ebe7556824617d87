"""Items that depend on each other because they share observations, and subsets of items that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor

_FEATURES = 10  # the smallest number of real values that are not equal by coincidence


def repeated_observations(values: Mapping[str, Tensor]) -> dict[str, NDArray[np.int64]]:
    """Return codes of equal observations of those modalities whose observations are not equal by coincidence.

    Images count, and arrays of at least 10 values that are not all integers; classes, texts, counts and short vectors
    do not. An observation of a single value, such as a blank image, counts as different from all others.

    Args:
        values: A mapping from modality to observations of shape `(item, *event)`.

    Returns:
        A mapping from modality to codes of shape `(item,)`, equal just for items with equal observations. Modalities
        without repetition are left out.
    """
    codes = {}
    for name, tensor in values.items():
        rows = tensor.detach().cpu().reshape(len(tensor), -1)
        if rows.shape[1] < _FEATURES or (tensor.dim() != 4 and not _has_fractions(rows)):
            continue
        varied = (rows != rows[:, :1]).any(1)
        seen: dict[bytes, int] = {}
        array = np.ascontiguousarray(rows.numpy())
        found = [seen.setdefault(row.tobytes(), i) if varied[i] else i for i, row in enumerate(array)]
        if len(set(found)) < len(found):
            codes[name] = np.array(found)
    return codes


def independent_items(codes: Sequence[NDArray[np.int64]], num_items: int) -> NDArray[np.bool_]:
    """Return a mask of items of which no two share an observation.

    Items that share with few others are taken first. No item can be added to the subset, which need not be the largest
    there is. The choice depends on the codes alone, so that tests on the subset keep their level.

    Args:
        codes: Codes of the observations of each item, one array `(item,)` per modality; equal codes mean that an
            observation is shared. Empty if nothing is shared.
        num_items: The number of items.

    Returns:
        The mask of shape `(item,)`, True for the items of the subset.
    """
    if not codes:
        return np.ones(num_items, dtype=bool)
    groups = [np.unique(code, return_inverse=True)[1].ravel() for code in codes]
    partners = sum(np.bincount(group)[group] - 1 for group in groups)
    taken = [np.zeros(group.max() + 1, dtype=bool) for group in groups]
    mask = np.zeros(num_items, dtype=bool)
    for item in np.argsort(partners, kind="stable"):
        if not any(used[group[item]] for used, group in zip(taken, groups, strict=True)):
            mask[item] = True
            for used, group in zip(taken, groups, strict=True):
                used[group[item]] = True
    return mask


def effective_items(codes: Sequence[NDArray[np.int64]], num_items: int) -> float:
    r"""Return the number of independent items whose mean has at least the variance of the mean over these items.

    .. math:: n / (1 + \bar d), \quad \bar d = \sum_m \left(\sum_g n_{mg}^2 / n - 1\right)

    :math:`n_{mg}` is the number of items with observation g of modality m, and :math:`\bar d` bounds the mean number of
    items that an item shares an observation with. The correlation of two such items is at most 1, that of others is 0.

    Args:
        codes: Codes of the observations of each item, one array `(item,)` per modality, as for
            :func:`independent_items`.
        num_items: The number of items.

    Returns:
        The effective number, at most ``num_items`` and at least 1.
    """
    sizes = [np.unique(code, return_counts=True)[1] for code in codes]
    shared = sum(float((size**2).sum()) / num_items - 1 for size in sizes)
    return max(num_items / (1 + shared), 1.0)


def _has_fractions(rows: Tensor) -> bool:
    """Return True if values are real numbers and not only integers."""
    return rows.is_floating_point() and bool((rows != torch.round(rows)).any())
