"""Items of a data set as rows of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.tokenizer import decode_tokens
from pyro_mmvae.modality_spec import ModalitySpec

_LARGEST_RATIO = 100.0  # of the magnitudes of the features of a vector that one axis can show


def contact_sheet(data: MultimodalDataset, count: int = 20) -> list[tuple[str, NDArray[Any] | None]]:
    """Return the values of some items, as rows for :func:`pyro_mmvae.reports.image_grid`.

    Args:
        data: One split of a data set.
        count: Number of items, 20 by default. With classes, the first items of all classes are taken, then the second
            ones, …, and sorted by class; without classes, the first items of the split.

    Returns:
        For each modality of images, its name and uint8 pixels `(item, channel, height, width)`; for each modality of
        text, its name and strings `(item,)`, both masked where the modality is absent; for every other modality, its
        name and numbers `(item, …)`, NaN where it is absent. Features of vectors whose magnitudes differ by more than
        a factor of 100 are in standard deviations from their means over the items shown, and the name ends in
        ``(s.d.)``.
    """
    rows = _choose_items(data, count)
    sheet: list[tuple[str, NDArray[Any] | None]] = []
    for column, (name, tensor) in enumerate(data.modalities.items()):
        spec = data.modality_specs.get(name, ModalitySpec())
        present = data.present[rows, column].numpy()
        if spec.is_text and tensor.dim() == 2:
            texts = np.array(decode_tokens(tensor[rows], spec), dtype=np.str_)
            sheet.append((name, _mask(texts, present)))
        elif tensor.dim() == 4 and tensor.shape[1] in {1, 3}:
            images = tensor[rows]
            if images.dtype != torch.uint8:
                images = (images.double().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
            sheet.append((name, _mask(images.numpy(), present)))
        else:
            numbers = tensor[rows].double().numpy()
            numbers[~present] = np.nan
            is_mixed = (
                spec.data_type in {None, "vector"} and tensor.dtype.is_floating_point and _has_mixed_units(numbers)
            )
            sheet.append((f"{name} (s.d.)", _standardize(numbers)) if is_mixed else (name, numbers))
    return sheet


def _mask(values: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values, masked where items are absent."""
    if present.all():
        return values
    absent = np.broadcast_to(~present.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
    return np.ma.masked_array(values, absent)


def _has_mixed_units(numbers: NDArray[np.float64]) -> bool:
    """Return True if the features of vectors differ too much in magnitude to be seen on one axis."""
    if numbers.ndim != 2:
        return False
    magnitudes = np.abs(np.nan_to_num(numbers)).max(0, initial=0)
    magnitudes = magnitudes[magnitudes > 0]
    return len(magnitudes) > 1 and bool(magnitudes.max() > _LARGEST_RATIO * magnitudes.min())


def _standardize(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return vectors in standard deviations of each feature from its mean; a constant feature is zero."""
    observed = numbers[~np.isnan(numbers).all(1)]
    center, spread = observed.mean(0), observed.std(0)
    is_constant = spread <= 1e-6 * np.abs(center)
    return np.asarray((numbers - center) * ~is_constant / np.where(is_constant, 1.0, spread))


def _choose_items(data: MultimodalDataset, count: int) -> Tensor:
    """Return the indices of the items to show, sorted by class if there are classes."""
    if data.labels is None or data.label_names:
        return torch.arange(min(count, len(data)))
    labels = data.labels.numpy()
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    rank = np.arange(len(labels)) - starts  # 0 for the first item of a class, 1 for its second, …
    chosen = order[np.lexsort((labels[order], rank))][:count]
    return torch.from_numpy(chosen[np.argsort(labels[chosen], kind="stable")])
