"""Labels of a user's own data: one class an item, or several attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.raw_arrays import Source

_MOST_CLASSES = 2**16


def read_labels(source: Source, count: int) -> tuple[NDArray[np.int64] | NDArray[np.bool_] | None, tuple[str, ...]]:
    """Check the labels of a source.

    Args:
        source: where they are, with the names of attributes in what is said of it.
        count: number of items.

    Returns:
        Classes, int64 `(item,)`, without names; or attributes, bool `(item, attribute)`, and their names: those that
        are given, else ``attribute 0``, ``attribute 1``, …; or None.

    Raises:
        ValueError: for another shape or type, values that are not allowed, or names that do not fit.
    """
    labels, names, where = source.labels, source.meta.label_names, source.files.get("labels", source.where)
    if labels is None:
        if names is not None:
            raise ValueError(f"{source.where}: found label_names, but no labels that they could be of")
        return None, ()
    if labels.ndim == 2:
        return _attributes(where, labels, count, names)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise ValueError(
            f"{where}: found {labels.shape} of {labels.dtype}, expected labels (item,) = ({count},) of integers, or "
            f"(item, attribute) = ({count}, …) of bool"
        )
    if names is not None:
        raise ValueError(
            f"{where}: found one class an item and {len(names)} label_names, which are of attributes: expected "
            f"(item, attribute) = ({count}, {len(names)}) of bool"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= _MOST_CLASSES))
    if len(bad):
        raise ValueError(f"{where}: item {bad[0]}: found label {labels[bad[0]]}, expected 0 to {_MOST_CLASSES - 1}")
    return np.asarray(labels, dtype=np.int64), ()


def _attributes(
    where: str, labels: NDArray[Any], count: int, names: tuple[str, ...] | None
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    attributes = labels.shape[1]
    if labels.dtype.kind not in "biu" or len(labels) != count or not attributes:
        raise ValueError(
            f"{where}: found {labels.shape} of {labels.dtype}, expected attributes (item, attribute) = ({count}, …) of "
            "bool, or of 0 and 1"
        )
    bad = np.argwhere((labels != 0) & (labels != 1))
    if len(bad):
        item, attribute = bad[0].tolist()
        raise ValueError(
            f"{where}: item {item}: found {labels[item, attribute]} as attribute {attribute}, expected 0 or 1"
        )
    if names is None:
        names = tuple(f"attribute {number}" for number in range(attributes))
    if len(names) != attributes:
        raise ValueError(f"{where}: found {attributes} attributes and {len(names)} label_names, expected as many")
    return np.array(labels, dtype=np.bool_), names
