"""The map of the latents of some items given each subset of their modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.exhibits import LatentMap
from pyro_mmvae.runs.sampling import class_strings


def item_names(data: MultimodalDataset, rows: Sequence[int]) -> NDArray[np.str_]:
    """Return the identifiers of items, or their row numbers if the data does not have identifiers.

    Args:
        data: The data set that holds the items.
        rows: The row number of each item.
    """
    if data.item_ids is None:
        return np.array([str(row) for row in rows], dtype=np.str_)
    return np.asarray(data.item_ids, dtype=np.str_)[np.asarray(rows)]


def make_map(
    data: MultimodalDataset,
    subsets: Sequence[tuple[int, ...]],
    means: Float[Tensor, "subset item latent"],
    present: Bool[Tensor, "item modality"],
    disagreement: NDArray[np.float64],
    ids: NDArray[np.str_],
) -> LatentMap:
    """Return the positions of items in the principal components of their means given all modalities.

    With one latent dimension or one item there is one component only, and the second coordinate is 0.

    Args:
        data: The items of the map.
        subsets: The subsets of the modalities, as indices; the last one is of all modalities.
        means: The posterior means given each subset.
        present: True where an item has a modality.
        disagreement: The mean distance between the experts of each item.
        ids: The identifier of each item.
    """
    values = means.double().cpu().numpy()
    points, explained = np.zeros((*values.shape[:2], 2)), np.zeros(2)
    if (values[-1] != values[-1][0]).any():  # otherwise there is no variance to explain
        pca = PCA(min(2, *values[-1].shape), svd_solver="full").fit(values[-1])
        for number, given in enumerate(values):
            points[number, :, : pca.n_components] = pca.transform(given)
        explained[: pca.n_components] = pca.explained_variance_ratio_
    seen = torch.stack([present[:, list(subset)].all(-1) for subset in subsets])
    labels, title = _map_labels(data)
    return LatentMap(
        subsets=tuple(subsets), points=points, seen=seen.cpu().numpy(), explained=explained, labels=labels,
        title=title, disagreement=disagreement, ids=ids,
    )  # fmt: skip


def _map_labels(data: MultimodalDataset) -> tuple[NDArray[Any] | None, str]:
    """Return the class of each item; of attributes that which is most evenly distributed, and its name."""
    if data.labels is None or not data.label_names:
        return class_strings(data), ""
    attribute = int((data.labels.double().mean(0) - 0.5).abs().argmin())
    has = data.labels[:, attribute].cpu().numpy()
    return np.where(has, "yes", "no").astype(np.str_), data.label_names[attribute]
