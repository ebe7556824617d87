"""Modalities taken away from items, at random and by label, whatever the source of the data."""

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
"""One share of items for every modality, or one a modality; modalities that are not named lose nothing."""

RateByLabel: TypeAlias = dict[int, float] | dict[str, dict[int, float]] | None
"""Label to share of its items, or modality to label to share."""


@dataclass(frozen=True)
class Missing:
    """Which modalities of which items are taken away, on top of those that are absent already.

    Each number is drawn from the seed, the split, the modality's name and the item's place in the split, and compared
    with a rate: so a higher rate takes away what a lower one does and more, and neither batches nor other modalities
    matter. Of an item that would lose everything, one modality is kept, each that it has as likely as any other (one
    whose rate is 1 only if it has no other); with ``allow_empty`` none.

    Args:
        missing_rate: share of items that lose a modality, completely at random.
        missing_by_label: shares that stand in place of ``missing_rate`` for items of some labels.
        missing_seed: of what is taken away.
        missing_splits: where. What is not named stays as it is; by default that is ``test``, so that a run is judged
            on complete items, and given whichever subset of them is asked for.
        allow_empty: whether an item may be left with nothing.

    Raises:
        ValueError: for a rate that is not in [0, 1].
    """

    missing_rate: Rate = 0.0
    missing_by_label: RateByLabel = None
    missing_seed: int = 0
    missing_splits: tuple[str, ...] = ("train", "val")
    allow_empty: bool = False

    def __post_init__(self) -> None:
        """Check."""
        rates = self.missing_rate.items() if isinstance(self.missing_rate, Mapping) else [("", self.missing_rate)]
        for name, rate in rates:
            _check_rate(f"missing_rate{f' of {name!r}' if name else ''}", rate)
        for key, value in (self.missing_by_label or {}).items():
            for label, rate in value.items() if isinstance(value, Mapping) else [(key, value)]:
                _check_rate(f"missing_by_label of {label!r}", rate)
        if self.missing_seed < 0:
            raise ValueError(f"missing_seed: found {self.missing_seed}, expected a whole number of at least 0")

    @property
    def active(self) -> bool:
        """Whether anything may be taken away."""
        given = self.missing_rate
        some = any(given.values()) if isinstance(given, Mapping) else given > 0
        return bool(some or self.missing_by_label)

    def apply(self, data: MultimodalDataset, splits: Sequence[str] = ("train", "val", "test")) -> MultimodalDataset:
        """The same data with less of it present; values are left where they are and never looked at again.

        Args:
            data: one split.
            splits: that there are.

        Raises:
            ValueError: for an unknown modality or split, labels where there are none, or an item that cannot keep
                anything.
        """
        for split in self.missing_splits:
            if split not in splits and split not in Missing.missing_splits:
                raise ValueError(f"missing_splits: unknown split {split!r}, expected some of: {', '.join(splits)}")
        if not self.active or data.split not in self.missing_splits:
            return data
        present = data.present.cpu().numpy()
        drawn = self._drawn(data)
        rates = self._rates(data)
        kept = present & (drawn >= rates)
        if not self.allow_empty:
            kept |= _one_of_each(present, present & ~kept, drawn, rates, data)
        about = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(data, present=torch.from_numpy(kept), provenance={**data.provenance, "missing": about})

    def _drawn(self, data: MultimodalDataset) -> NDArray[np.float64]:
        columns = []
        for name in data.names:
            key = (zlib.crc32(data.split.encode()), zlib.crc32(name.encode()))
            sequence = np.random.SeedSequence(self.missing_seed, spawn_key=key)
            columns.append(np.random.default_rng(sequence).random(len(data)))
        return np.stack(columns, -1)

    def _rates(self, data: MultimodalDataset) -> NDArray[np.float64]:
        """The rate of each item and modality."""
        given = self.missing_rate
        of = dict(given) if isinstance(given, Mapping) else dict.fromkeys(data.names, float(given))
        _check_names("missing_rate", of, data)
        rates = np.tile([of.get(name, 0.0) for name in data.names], (len(data), 1))
        by_label: dict[Any, Any] = dict(self.missing_by_label or {})
        if not by_label:
            return rates
        if data.labels is None:
            raise ValueError(f"missing_by_label: data {data.name!r} has no labels")
        if data.label_names:
            raise ValueError(f"missing_by_label: data {data.name!r} has attributes, expected one class an item")
        labels = data.labels.cpu().numpy()
        nested = isinstance(next(iter(by_label.values())), Mapping)
        if nested:
            _check_names("missing_by_label", by_label, data)
        for column, name in enumerate(data.names):
            for label, rate in (by_label.get(name, {}) if nested else by_label).items():
                rates[labels == label, column] = rate
        return rates


def _one_of_each(
    present: NDArray[np.bool_],
    taken: NDArray[np.bool_],
    drawn: NDArray[np.float64],
    rates: NDArray[np.float64],
    data: MultimodalDataset,
) -> NDArray[np.bool_]:
    """For each item that would lose everything one modality to keep, each as likely as any other."""
    back = np.zeros_like(present)
    for row in np.flatnonzero(present.any(-1) & (taken == present).all(-1)):
        can = present[row] & (rates[row] < 1)
        if not can.any():
            raise ValueError(
                f"item {row} of {data.split!r} would be left without any modality: the rate of all it has is 1 "
                "(allow_empty: true lets it)"
            )
        # What was taken has drawn < rate, so drawn / rate is uniform whatever the rate.
        back[row, np.argmax(np.where(can, drawn[row] / np.where(can, rates[row], 1.0), -math.inf))] = True
    return back


def _check_rate(what: str, rate: float) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise ValueError(f"{what}: found {rate!r}, expected a share from 0 to 1")


def _check_names(what: str, given: Mapping[str, Any], data: MultimodalDataset) -> None:
    for name in given:
        if name not in data.names:
            raise ValueError(f"{what}: unknown modality {name!r}, the data has {', '.join(data.names)}")
