"""Labels as a Python user holds them, converted to an array with names."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.own.columns import check_keys, has_index, is_missing


@dataclass(frozen=True, eq=False)
class GivenLabels:
    """Labels that are not yet checked.

    Attributes:
        values: Classes, integers, floats with NaN, or strings `(item,)`; or attributes `(item, attribute)`; or None.
        label_names: Names of the attributes, or None if there are none.
        class_names: Names of the classes in the order of their numbers; empty if the values are not categories.
    """

    values: NDArray[Any] | None = None
    label_names: list[str] | None = None
    class_names: tuple[str, ...] = ()


def convert_labels(where: str, labels: Any, keys: Sequence[Hashable] | None, count: int) -> GivenLabels:
    """Convert labels to an array.

    Args:
        where: Data and labels, the beginning of error messages.
        labels: Integers, floats, bool or strings `(item,)`, with None or NaN for items without a label, categories of
            pandas, or attributes `(item, attribute)`; or None.
        keys: The keys of the items by which labels with an index are matched, or None.
        count: The number of items.

    Raises:
        ValueError: If the number of labels is wrong, or labels with an index lack an item that has one elsewhere.
    """
    if labels is None:
        return GivenLabels()
    if hasattr(labels, "iloc"):
        return _convert_table(where, labels, keys, count)
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else labels
    if isinstance(array, (list, tuple)) and not any(isinstance(value, (list, tuple, np.ndarray)) for value in array):
        array = np.array(array, dtype=object)  # NumPy would make strings of numbers beside strings
    array = np.asarray(array)
    if array.ndim < 1 or len(array) != count:
        raise ValueError(f"{where} must be {count}, one per item, got {len(array) if array.ndim else repr(labels)}")
    return GivenLabels(_plain_classes(where, array) if array.ndim == 1 else array)


def _convert_table(where: str, labels: Any, keys: Sequence[Hashable] | None, count: int) -> GivenLabels:
    """Convert a table or a column of pandas, matched by its index if it and the items have one."""
    if keys is not None and has_index(labels):
        check_keys(where, labels.index.tolist())
        if not labels.index.isin(list(keys)).any():
            raise ValueError(f"{where}: the index must name items such as {keys[0]!r}, got {labels.index[0]!r}")
        if labels.ndim == 2 and not set(keys) <= set(labels.index):
            lacking = next(key for key in keys if key not in labels.index)
            raise ValueError(f"{where}: item {lacking!r} must have attributes as the others have, got none")
        labels = labels.reindex(list(keys))
    if len(labels) != count:
        raise ValueError(f"{where} must be {count}, one per item, got {len(labels)}")
    if labels.ndim == 2:
        return GivenLabels(labels.to_numpy(), [str(name) for name in labels.columns])
    if type(labels.dtype).__name__ == "CategoricalDtype":
        categories = labels.cat.remove_unused_categories()
        codes = np.asarray(categories.cat.codes, dtype=np.float64)
        return GivenLabels(np.where(codes < 0, np.nan, codes), None, tuple(map(str, categories.cat.categories)))
    return GivenLabels(_plain_classes(where, labels.to_numpy(dtype=object)))


def _plain_classes(where: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return classes as integers, as floats with NaN, or as strings, which are empty where there is none."""
    if array.dtype.kind == "b":
        return array.astype(np.int64)
    if array.dtype.kind not in "OT":
        return array
    values = [None if is_missing(value) else value for value in array.tolist()]
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, str) for value in known):
        return np.array([value or "" for value in values], dtype=np.str_)
    if all(isinstance(value, (bool, int, float, np.integer, np.floating, np.bool_)) for value in known):
        return np.array([np.nan if value is None else float(value) for value in values])
    raise ValueError(f"{where} must be all strings or all numbers, got both or other objects, such as {known[-1]!r}")
