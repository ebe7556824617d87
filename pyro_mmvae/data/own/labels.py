"""Checks of the labels of a user's data: one class per item, or several attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.raw_arrays import RawArrays

_MAX_CLASSES = 2**16


UNLABELLED = -1
"""The class of an item without a label, which probe and coherence leave out."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The checked labels of a data set.

    Attributes:
        values: Classes, int64 `(item,)`, ``UNLABELLED`` where there is none; or attributes, bool
            `(item, attribute)`; or None.
        label_names: Names of the attributes; empty for classes.
        class_names: Names of the classes, if labels are strings; otherwise empty.
    """

    values: NDArray[np.int64] | NDArray[np.bool_] | None = None
    label_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


def read_labels(raw: RawArrays, count: int) -> Labels:
    """Check the labels of a data set.

    Strings are encoded as classes in alphabetical order; NaN and an empty string mean that an item has no label.

    Args:
        raw: The arrays of the data set, with names of attributes in its description.
        count: Number of items in the data set.

    Returns:
        The labels; names of attributes are by default ``attribute 0``, ``attribute 1``, ….

    Raises:
        ValueError: If the labels have another shape or type, a value is not allowed, or the names do not fit.
    """
    labels: Any
    labels, names, where = raw.labels, raw.meta.label_names, raw.files.get("labels", raw.where)
    if labels is None:
        if names is not None:
            raise ValueError(f"{raw.where}: label_names must come with attributes as labels, got no labels")
        return Labels()
    if labels.ndim == 2:
        return Labels(*_check_attributes(where, labels, count, names))
    class_names, unlabelled = raw.meta.class_names or (), np.zeros(len(labels), dtype=bool)
    if labels.dtype.kind == "U" and labels.shape == (count,):
        class_names = tuple(np.unique(labels[labels != ""]).tolist())
        labels = np.where(labels == "", UNLABELLED, np.searchsorted(np.array(class_names), labels))
        unlabelled = labels == UNLABELLED
    if labels.dtype.kind == "f" and labels.shape == (count,):
        labels, unlabelled = _check_floats(where, labels)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(
            f"{where}: labels must be (item,) = ({count},) of integers or strings, or (item, attribute) = ({count}, …) "
            f"of bool, got {labels.shape} of {labels.dtype}"
        )
    if names is not None:
        raise ValueError(
            f"{where}: labels must be (item, attribute) = ({count}, {len(names)}) of bool, as there are {len(names)} "
            "label_names, got one class per item: remove label_names"
        )
    invalid = np.flatnonzero(~unlabelled & ((labels < 0) | (labels >= _MAX_CLASSES)))
    if len(invalid):
        raise ValueError(
            f"{where}: item {invalid[0]}: label must be from 0 to {_MAX_CLASSES - 1}, got {labels[invalid[0]]}"
        )
    if unlabelled.all():
        raise ValueError(f"{where}: some item must have a label, got none: leave the labels out")
    if class_names and int(labels.max()) >= len(class_names):
        raise ValueError(
            f"{where}: label must be below {len(class_names)}, the number of class_names, got {labels.max()}"
        )
    return Labels(np.asarray(labels, dtype=np.int64), (), class_names)


def _check_floats(where: str, labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return whole floats as integers, ``UNLABELLED`` for NaN, and a mask of the NaN."""
    unlabelled = np.isnan(labels)
    invalid = np.flatnonzero(~unlabelled & (labels != np.floor(labels)))
    if len(invalid):
        raise ValueError(
            f"{where}: item {invalid[0]}: label must be a whole number, or NaN for an item without a label, got "
            f"{labels[invalid[0]]}"
        )
    return np.where(unlabelled, UNLABELLED, labels).astype(np.int64), unlabelled


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
