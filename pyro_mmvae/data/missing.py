"""Modalities removed from items at random, at rates that may depend on the label, for data of any source."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset

Rate: TypeAlias = float | dict[str, float]
"""One rate for every modality, or one rate per modality; modalities left out lose nothing."""

RateByLabel: TypeAlias = dict[int, float] | dict[str, dict[int, float]] | None
"""Rates by label, or by modality and label."""


@dataclass(frozen=True)
class Missing:
    """A random choice of the modalities to remove from items, in addition to those that are absent already.

    A modality of an item is removed if a uniform number is below its rate. The number depends on the seed, the split,
    the modality's name and the item's position in the split only: a higher rate therefore removes everything that a
    lower one does, and neither batches nor other modalities matter. An item that would lose everything keeps one
    modality, chosen uniformly among those it has (one whose rate is 1 only if it has no other), unless ``allow_empty``
    is True.

    Args:
        missing_rate: Probability that an item loses a modality, completely at random; one number or one per modality,
            0 by default.
        missing_by_label: Probabilities that replace ``missing_rate`` for items of some labels, by label or by modality
            and label; none by default.
        missing_seed: Seed of the random choice, 0 by default.
        missing_splits: Names of the splits to change. By default ``test`` is not changed, so that a run is evaluated
            on complete items, conditioned on any subset of their modalities.
        allow_empty: If True, an item may lose all its modalities; False by default.

    Raises:
        ValueError: If a rate is not in [0, 1] or the seed is negative.
    """

    missing_rate: Rate = 0.0
    missing_by_label: RateByLabel = None
    missing_seed: int = 0
    missing_splits: tuple[str, ...] = ("train", "val")
    allow_empty: bool = False

    def __post_init__(self) -> None:
        """Check the rates and the seed."""
        rates = self.missing_rate.items() if isinstance(self.missing_rate, Mapping) else [("", self.missing_rate)]
        for name, rate in rates:
            _check_rate(f"missing_rate of {name!r}" if name else "missing_rate", rate)
        for key, value in (self.missing_by_label or {}).items():
            for label, rate in value.items() if isinstance(value, Mapping) else [(key, value)]:
                _check_rate(f"missing_by_label of {label!r}", rate)
        if self.missing_seed < 0:
            raise ValueError(f"missing_seed must be an integer of at least 0, got {self.missing_seed}")

    @property
    def active(self) -> bool:
        """True if any modality may be removed."""
        rate = self.missing_rate
        positive = any(rate.values()) if isinstance(rate, Mapping) else rate > 0
        return bool(positive or self.missing_by_label)

    def apply(self, data: MultimodalDataset, splits: Sequence[str] = ("train", "val", "test")) -> MultimodalDataset:
        """Return the data with modalities marked as absent; the values themselves are kept but never used.

        Args:
            data: One split of a data set.
            splits: Names of the splits that the data set has.

        Raises:
            ValueError: If a modality or split is unknown, rates by label are given for data without classes, or an
                item cannot keep any modality.
        """
        for split in self.missing_splits:
            # The defaults may name splits that a data set lacks.
            if split not in splits and split not in Missing.missing_splits:
                raise ValueError(f"missing_splits must be some of {', '.join(splits)}, got {split!r}")
        if not self.active or data.split not in self.missing_splits:
            return data
        present = data.present.cpu().numpy()
        uniform = self._draw_uniform(data)
        rates = self._compute_rates(data)
        kept = present & (uniform >= rates)
        if not self.allow_empty:
            kept |= _choose_one_modality(present, present & ~kept, uniform, rates, data)
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(data, present=torch.from_numpy(kept), provenance={**data.provenance, "missing": settings})

    def _draw_uniform(self, data: MultimodalDataset) -> NDArray[np.float64]:
        """Draw one uniform number per item and modality, `(item, modality)`, from a generator per modality."""
        columns = []
        for name in data.names:
            key = (zlib.crc32(data.split.encode()), zlib.crc32(name.encode()))
            sequence = np.random.SeedSequence(self.missing_seed, spawn_key=key)
            columns.append(np.random.default_rng(sequence).random(len(data)))
        return np.stack(columns, -1)

    def _compute_rates(self, data: MultimodalDataset) -> NDArray[np.float64]:
        """Return the rate of each item and modality, `(item, modality)`."""
        rate = self.missing_rate
        by_name = dict(rate) if isinstance(rate, Mapping) else dict.fromkeys(data.names, float(rate))
        _check_names("missing_rate", by_name, data)
        rates = np.tile([by_name.get(name, 0.0) for name in data.names], (len(data), 1))
        by_label: dict[Any, Any] = dict(self.missing_by_label or {})
        if not by_label:
            return rates
        if data.labels is None:
            raise ValueError(f"missing_by_label: data {data.name!r} must have one class per item, got no labels")
        if data.label_names:
            raise ValueError(f"missing_by_label: data {data.name!r} must have one class per item, got attributes")
        labels = data.labels.cpu().numpy()
        nested = isinstance(next(iter(by_label.values())), Mapping)
        if nested:
            _check_names("missing_by_label", by_label, data)
        for column, name in enumerate(data.names):
            for label, label_rate in (by_label.get(name, {}) if nested else by_label).items():
                rates[labels == label, column] = label_rate
        return rates


def _choose_one_modality(
    present: NDArray[np.bool_],
    removed: NDArray[np.bool_],
    uniform: NDArray[np.float64],
    rates: NDArray[np.float64],
    data: MultimodalDataset,
) -> NDArray[np.bool_]:
    """Choose the modality to keep of each item that would lose everything, uniformly among those it may keep.

    Args:
        present: True where a modality is present before removal, `(item, modality)`.
        removed: True where a modality is about to be removed, `(item, modality)`.
        uniform: The uniform numbers that decided the removal, `(item, modality)`.
        rates: The rates that they were compared with, `(item, modality)`.
        data: The split, for messages.

    Returns:
        True for the chosen modality of each such item, `(item, modality)`.

    Raises:
        ValueError: If all modalities of an item have rate 1.
    """
    chosen = np.zeros_like(present)
    for row in np.flatnonzero(present.any(-1) & (removed == present).all(-1)):
        candidates = present[row] & (rates[row] < 1)
        if not candidates.any():
            raise ValueError(
                f"item {row} of {data.split!r} must keep at least one modality, got rate 1 for all that it has: lower "
                "one of the rates, or set allow_empty to true"
            )
        # A modality was removed because uniform < rate, so uniform / rate is uniform on [0, 1) whatever the rate.
        scores = np.where(candidates, uniform[row] / np.where(candidates, rates[row], 1.0), -math.inf)
        chosen[row, np.argmax(scores)] = True
    return chosen


def _check_rate(what: str, rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise ValueError(f"{what} must be a number from 0 to 1, got {rate!r}")


def _check_names(what: str, rates: Mapping[str, Any], data: MultimodalDataset) -> None:
    for name in rates:
        if name not in data.names:
            raise ValueError(f"{what}: modality must be one of {', '.join(data.names)}, got {name!r}")
