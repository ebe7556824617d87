"""What a data set says of its modalities, and what its values say where nothing else does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.modality_spec import Traits, infer_kind, kind_of_likelihood

_SIZES_OF = 10_000  # items that the median total of counts is taken of
_AT_ONCE = 1_000


def infer_traits(data: MultimodalDataset) -> dict[str, Traits]:
    """What a data set says of each modality, with kinds by type and shape where it says none.

    Raises:
        ValueError: if a kind cannot be told; the message names the modality.
    """
    result = {}
    for name, values in data.modalities.items():
        known = data.traits.get(name, Traits())
        kind = known.kind or kind_of_likelihood(known.likelihood)
        if kind is None:
            letter = "f" if values.dtype.is_floating_point else "b" if values.dtype == torch.bool else "i"
            where = f"{data.name}: modality {name!r}"
            kind = infer_kind(where, letter, values.dtype == torch.uint8, tuple(values.shape[1:]))
        result[name] = replace(known, kind=kind, pixels=kind == "image" and values.dtype == torch.uint8)
    return result


def complete_traits(train: MultimodalDataset, traits: Mapping[str, Traits]) -> dict[str, Traits]:
    """With the number of classes of tokens, and the size of counts, from training items where nothing was said.

    Args:
        train: the training split.
        traits: modality name to what is known of it.
    """
    result = dict(traits)
    for name, known in traits.items():
        if known.kind == "tokens" and known.classes is None:
            largest = max((int(part.max()) for part in _parts(train, name)), default=0)
            result[name] = replace(known, classes=max(2, 1 + largest))
        if known.kind == "counts" and known.size is None:
            result[name] = replace(known, size=_median_total(train, name))
    return result


def _median_total(train: MultimodalDataset, name: str) -> float:
    """The median total of items, of some thousands of them evenly spaced; 1 where there is none that is not zero."""
    totals = [part.reshape(len(part), -1).sum(-1) for part in _parts(train, name, most=_SIZES_OF)]
    positive = torch.cat([total[total > 0] for total in totals]) if totals else torch.zeros(0)
    return float(positive.median()) if len(positive) else 1.0


def _parts(train: MultimodalDataset, name: str, most: int | None = None) -> Iterator[Tensor]:
    """The items that have a modality, or so many of them evenly spaced."""
    there = train.present[:, train.names.index(name)].nonzero()[:, 0]
    step = 1 if most is None else max(len(there) // most, 1)
    for index in there[::step].split(_AT_ONCE):
        if len(index):
            yield train.modalities[name][index]
