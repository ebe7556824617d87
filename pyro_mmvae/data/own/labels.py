"""Checks of the labels of a user's data: one class per item, or several attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.raw_arrays import RawArrays

_MAX_CLASSES = 2**16


def read_labels(raw: RawArrays, count: int) -> tuple[NDArray[np.int64] | NDArray[np.bool_] | None, tuple[str, ...]]:
    """Check the labels of a data set.

    Args:
        raw: The arrays of the data set, with names of attributes in its description.
        count: Number of items in the data set.

    Returns:
        Classes, int64 `(item,)`, and no names; or attributes, bool `(item, attribute)`, and their names, by default
        ``attribute 0``, ``attribute 1``, …; or None and no names.

    Raises:
        ValueError: If the labels have another shape or type, a value is not allowed, or the names do not fit.
    """
    labels, names, where = raw.labels, raw.meta.label_names, raw.files.get("labels", raw.where)
    if labels is None:
        if names is not None:
            raise ValueError(f"{raw.where}: label_names must come with attributes as labels, got no labels")
        return None, ()
    if labels.ndim == 2:
        return _check_attributes(where, labels, count, names)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(
            f"{where}: labels must be (item,) = ({count},) of integers, or (item, attribute) = ({count}, …) of bool, "
            f"got {labels.shape} of {labels.dtype}"
        )
    if names is not None:
        raise ValueError(
            f"{where}: labels must be (item, attribute) = ({count}, {len(names)}) of bool, as there are {len(names)} "
            "label_names, got one class per item: remove label_names"
        )
    invalid = np.flatnonzero((labels < 0) | (labels >= _MAX_CLASSES))
    if len(invalid):
        raise ValueError(
            f"{where}: item {invalid[0]}: label must be from 0 to {_MAX_CLASSES - 1}, got {labels[invalid[0]]}"
        )
    return np.asarray(labels, dtype=np.int64), ()


def _check_attributes(
    where: str, labels: NDArray[Any], count: int, names: tuple[str, ...] | None
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Check attributes `(item, attribute)`, and return them as bool with their names."""
    attributes = labels.shape[1]
    if labels.dtype.kind not in "biu" or len(labels) != count or not attributes:
        raise ValueError(
            f"{where}: attributes must be (item, attribute) = ({count}, …) of bool, or of 0 and 1, got {labels.shape} "
            f"of {labels.dtype}"
        )
    invalid = np.argwhere((labels != 0) & (labels != 1))
    if len(invalid):
        item, attribute = invalid[0].tolist()
        raise ValueError(f"{where}: item {item}: attribute {attribute} must be 0 or 1, got {labels[item, attribute]}")
    if names is None:
        names = tuple(f"attribute {number}" for number in range(attributes))
    if len(names) != attributes:
        raise ValueError(f"{where}: label_names must be {attributes}, one per attribute, got {len(names)}")
    return np.array(labels, dtype=np.bool_), names
