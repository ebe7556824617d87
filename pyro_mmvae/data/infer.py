"""The descriptions of the modalities of a data set, completed from its values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.likelihoods import LIKELIHOODS, moments
from pyro_mmvae.modality_spec import ModalitySpec, infer_data_type

_MEDIAN_ITEMS = 10_000  # items that the median total of counts is taken of, at most
_MEAN_ITEMS = 10_000  # items that means of features are taken of, at most
_RANGE_ITEMS = 2_000  # items whose range of values is looked at, at most
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
    """Return descriptions with the number of classes of tokens, the reference total of counts, and ``standardize``.

    Args:
        train: The training split, from which classes and totals are taken if a description leaves them open.
        specs: Modality name to description, with the likelihood. Vectors are standardized if their likelihood can be
            and a description leaves it open.
    """
    result = dict(specs)
    for name, spec in specs.items():
        if spec.data_type == "tokens" and spec.classes is None:
            largest = max((int(part.max()) for part in _present_values(train, name)), default=0)
            result[name] = replace(spec, classes=max(2, 1 + largest))
        if spec.data_type == "counts" and spec.reference_total is None:
            result[name] = replace(spec, reference_total=_median_total(train, name))
        if spec.data_type == "vector" and spec.standardize is None and spec.likelihood is not None:
            fits = "standardize" in LIKELIHOODS.lookup(spec.likelihood).options and spec.output != "sigmoid"
            result[name] = replace(spec, standardize=fits)
    return result


def find_moments(train: MultimodalDataset, specs: Mapping[str, ModalitySpec]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return center and spread of the modalities that are standardized, see :func:`~pyro_mmvae.likelihoods.moments`.

    Args:
        train: The training split; only the items that have a modality count. It is read in blocks.
        specs: Modality name to completed description.

    Raises:
        ValueError: If no training item has such a modality, or a value is not finite; the message names the modality.
    """
    result = {}
    for name, spec in specs.items():
        if spec.standardize:
            stored = None if train.shards is None else train.shards.moments.get(name)
            if stored is not None and stored.items == int(train.present[:, train.names.index(name)].sum()):
                result[name] = (stored.center, stored.spread)
                continue
            try:
                result[name] = moments(_present_values(train, name))
            except ValueError as error:
                raise ValueError(f"{train.name}: modality {name!r}: {error}") from None
    return result


def sample_means(train: MultimodalDataset, name: str) -> Tensor:
    """Return the mean of each feature of a modality over some thousands of evenly spaced items that have it.

    Args:
        train: The training split to read from.
        name: Name of the modality.

    Returns:
        The means `(*shape)`, in float64; zeros if no item has the modality.
    """
    total, count = torch.zeros(train.modalities[name].shape[1:], dtype=torch.float64), 0
    for part in _present_values(train, name, most=_MEAN_ITEMS):
        total, count = total + part.double().sum(0).cpu(), count + len(part)
    return total / max(count, 1)


def range_problems(data: MultimodalDataset) -> Iterator[str]:
    """Yield a line for each modality of float images with values outside [0, 1], among some thousands of items.

    Args:
        data: One split of a data set.
    """
    for name, values in data.modalities.items():
        spec = data.modality_specs.get(name, ModalitySpec())
        is_image = spec.implied_data_type == "image" or (spec.implied_data_type is None and values.dim() == 4)
        if not is_image or not values.dtype.is_floating_point:
            continue
        parts = [(float(part.min()), float(part.max())) for part in _present_values(data, name, most=_RANGE_ITEMS)]
        least, most = min((low for low, _ in parts), default=0.0), max((high for _, high in parts), default=0.0)
        is_finite = math.isfinite(least) and math.isfinite(most)  # others are reported where they are read
        if is_finite and (least < 0 or most > 1):
            yield (
                f"modality {name!r}: images of floats must have values in [0, 1], got values from {least:g} to "
                f"{most:g}: pictures show them cut off, and ssim has no meaning; rescale them to [0, 1], or store "
                "values from 0 to 255 as uint8"
            )


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
