"""The descriptions of the modalities of a data set, completed from its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.modality_spec import ModalitySpec, infer_data_type

_MEDIAN_ITEMS = 10_000  # items that the median total of counts is taken of, at most
_BLOCK = 1_000  # items read at once


def infer_specs(data: MultimodalDataset) -> dict[str, ModalitySpec]:
    """Return the description of each modality of a data set, with its data type and whether it holds pixels.

    Args:
        data: The data set; data types that its descriptions leave open follow from type and shape of the values.

    Raises:
        ValueError: If a data type cannot be inferred; the message names the modality.
    """
    result = {}
    for name, values in data.modalities.items():
        spec = data.modality_specs.get(name, ModalitySpec())
        data_type, is_byte = spec.implied_data_type, values.dtype == torch.uint8
        if data_type is None:
            letter = "f" if values.dtype.is_floating_point else "b" if values.dtype == torch.bool else "i"
            where = f"{data.name}: modality {name!r}"
            data_type = infer_data_type(where, letter, is_byte, tuple(values.shape[1:]))
        pixels = is_byte if spec.pixels is None and data_type == "image" else spec.pixels
        result[name] = replace(spec, data_type=data_type, pixels=pixels)
    return result


def complete_specs(train: MultimodalDataset, specs: Mapping[str, ModalitySpec]) -> dict[str, ModalitySpec]:
    """Return descriptions with the number of classes of tokens and the reference total of counts.

    Args:
        train: The training split, from which they are taken if a description leaves them open.
        specs: Modality name to description.
    """
    result = dict(specs)
    for name, spec in specs.items():
        if spec.data_type == "tokens" and spec.classes is None:
            largest = max((int(part.max()) for part in _present_values(train, name)), default=0)
            result[name] = replace(spec, classes=max(2, 1 + largest))
        if spec.data_type == "counts" and spec.reference_total is None:
            result[name] = replace(spec, reference_total=_median_total(train, name))
    return result


def _median_total(train: MultimodalDataset, name: str) -> float:
    """Return the median total of some thousands of evenly spaced items; 1 if all of them are zero."""
    totals = [part.reshape(len(part), -1).sum(-1) for part in _present_values(train, name, most=_MEDIAN_ITEMS)]
    positive = torch.cat([total[total > 0] for total in totals]) if totals else torch.zeros(0)
    return float(positive.median()) if len(positive) else 1.0


def _present_values(train: MultimodalDataset, name: str, most: int | None = None) -> Iterator[Tensor]:
    """Yield blocks of the items that have a modality, or of about ``most`` of them, evenly spaced."""
    rows = train.present[:, train.names.index(name)].nonzero()[:, 0]
    step = 1 if most is None else max(len(rows) // most, 1)
    for index in rows[::step].split(_BLOCK):
        if len(index):
            yield train.modalities[name][index]
