"""The random division of values into splits, and its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data import MultimodalDataset, describe_data, match_data, select_items, to_dataset
from pyro_mmvae.data.own.omics import is_omics_object

DIVISION_KEY = "division"
"""The key of the provenance of training items that holds their :class:`Division`."""


@dataclass(frozen=True)
class Division:
    """The random division of values into splits.

    Attributes:
        validation: Fraction of the items for validation; None if other data were passed for it.
        test: Fraction of the items for the test, 0 for none; None if other data were passed for it.
        seed: Seed of the division.
    """

    validation: float | None
    test: float | None
    seed: int


def split_data(
    data: MultimodalDataset, validation: Any, test: Any, seed: int, covariates: Sequence[str] | None = None
) -> dict[str, MultimodalDataset]:
    """Divide a data set into splits, or complete it by other data.

    Args:
        data: The whole data set. Items without identifiers get their positions as such.
        validation: Fraction of the items for validation, or other data.
        test: Fraction of the items for the test, 0 for none, or other data.
        seed: Seed of the random division.
        covariates: Names of the columns of other AnnData and MuData objects that are covariates; none by default.

    Returns:
        The splits ``train``, ``val`` and, unless there is none, ``test``, with items in the order of ``data``. The
        provenance of ``train`` holds the division.

    Raises:
        ValueError: If a fraction is not allowed or a split would be empty.
    """
    others = {"val": validation, "test": test}
    fractions = {split: _fraction(split, value) for split, value in others.items()}
    if data.item_ids is None and any(share is not None for share in fractions.values()):
        data = replace(data, item_ids=np.arange(len(data)).astype(np.str_))
    rows = _divide(data.name, len(data), fractions, seed)
    division = asdict(Division(fractions["val"], fractions["test"], seed))
    train = select_items(data, rows["train"])
    splits = {"train": replace(train, split="train", provenance={**data.provenance, DIVISION_KEY: division})}
    about = describe_data(splits["train"])
    for split, value in others.items():
        if split in rows:
            splits[split] = replace(select_items(data, rows[split]), split=split)
        elif fractions[split] is None:
            values, labels = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
            columns = covariates if is_omics_object(values) else None
            other = to_dataset(
                values, labels=labels, covariates=columns, specs=data.modality_specs, name=data.name, split=split
            )
            splits[split] = replace(match_data(other, about, surplus_modalities="error").data, split=split)
    return splits


def training_rows(count: int, validation: Any, test: Any, seed: int) -> NDArray[np.int64]:
    """Return the indices of the items that :func:`split_data` uses for training, in order.

    Args:
        count: Number of items in total.
        validation: Fraction of the items for validation, or other data.
        test: Fraction of the items for the test, 0 for none, or other data.
        seed: Seed of the random division.

    Raises:
        ValueError: If a fraction is not allowed or no item would be left.
    """
    fractions = {"val": _fraction("val", validation), "test": _fraction("test", test)}
    return _divide("values", count, fractions, seed)["train"]


def _divide(name: str, count: int, fractions: Mapping[str, float | None], seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the indices of the items of each split that is a fraction, and those that are left for training."""
    order, taken = np.random.default_rng(seed).permutation(count), 0
    rows: dict[str, NDArray[np.int64]] = {}
    for split, share in fractions.items():
        if share:
            part = max(round(share * count), 1)
            rows[split] = np.sort(order[taken : taken + part])
            taken += part
    if taken >= count:
        raise ValueError(f"{name}: must have more than {taken} items, some of them for training, got {count}")
    return {**rows, "train": np.sort(order[taken:])}


def _fraction(split: str, value: Any) -> float | None:
    """Return the fraction of the items of a split, or None if the split is other data."""
    name = {"val": "validation", "test": "test"}[split]
    if value is None or isinstance(value, (bool, int, float)):
        is_none = split == "test" and (value is None or value == 0)
        if not is_none and (value is None or isinstance(value, bool) or not 0 < value < 1):
            raise ValueError(f"{name} must be a fraction above 0 and below 1, or data, got {value!r}")
        return float(value or 0)
    return None
