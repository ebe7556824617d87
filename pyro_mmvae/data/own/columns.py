"""One modality as a Python user holds it, converted to an array with a mask of the items that are present."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse

from pyro_mmvae.data.options import describe_item
from pyro_mmvae.data.storage.rows import MatrixRows, SparseSource, read_rows


@dataclass(frozen=True, eq=False)
class GivenColumn:
    """The values of one modality, not yet checked against its data type.

    Attributes:
        values: Values `(item, …)`, numbers or strings, 0 or empty where an item is absent; the rows of a large sparse
            matrix, which are made dense as they are read; None if all are absent and nothing is known of their shape.
        present: True for the items that are present, bool, `(item,)`.
        ids: Keys of the items in the index of a table, or None for values without an index.
        features: Names of the columns of a table, or None for values without such names.
        may_be_counts: If True, the values come from an object that often holds raw counts, an AnnData object or a
            sparse matrix, so that whole numbers need a data type; False by default.
    """

    values: NDArray[Any] | MatrixRows | None
    present: NDArray[np.bool_]
    ids: tuple[Hashable, ...] | None = None
    features: tuple[str, ...] | None = None
    may_be_counts: bool = False

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.present)


def convert_column(where: str, given: Any) -> GivenColumn:
    """Convert what a user passed for one modality.

    Args:
        where: Data and modality, the beginning of error messages.
        given: An array, a tensor, a sparse matrix, a list of strings, arrays or images, a table or a column of pandas,
            or an AnnData object. None, NaN and rows of NaN only are absent.

    Raises:
        ValueError: If items differ in shape, or a column of a table does not hold numbers; the message names the item
            or the column.
    """
    if hasattr(given, "obs_names") and hasattr(given, "var_names"):
        if given.X is None:
            raise ValueError(f"{where}: must have a matrix X, got none: set X to one of its layers")
        features = tuple(map(str, given.var_names))
        column = replace(convert_column(where, given.X), ids=tuple(given.obs_names), may_be_counts=True)
        return replace(column, features=features if len(set(features)) == len(features) else None)
    if hasattr(given, "iloc"):
        return _convert_table(where, given)
    if isinstance(given, (list, tuple)):
        return _convert_list(where, given, None)
    if issparse(given) and given.ndim == 2:
        rows = read_rows(given)
        found = _find_absent_rows(rows) if isinstance(rows, MatrixRows) else _find_absent(rows)
        return replace(found, may_be_counts=True)
    if hasattr(given, "toarray"):
        return replace(_find_absent(given.toarray()), may_be_counts=True)
    array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asanyarray(given)
    if array.ndim < 1:
        raise ValueError(
            f"{where}: must be an array (item, …), a list, a table of pandas or a sparse matrix, got "
            f"{type(given).__name__}"
        )
    return _convert_list(where, list(array), None) if array.dtype.kind in "OT" else _find_absent(array)


def align_columns(
    where: str, columns: dict[str, GivenColumn], order: Sequence[Hashable] | None = None
) -> tuple[dict[str, GivenColumn], tuple[Hashable, ...] | None]:
    """Bring columns to the same items: by their keys if they have an index, otherwise by position.

    Args:
        where: Name of the data, the beginning of error messages.
        columns: Modality name to column, at least one.
        order: All keys in the order of the result; by default keys are in the order in which they first occur.

    Returns:
        Columns of equal length, absent where a column lacks a key, and the keys of the items; None without an index.

    Raises:
        ValueError: If a key occurs twice in a column, or columns without an index do not fit those with one.
    """
    indexed = {name: column for name, column in columns.items() if column.ids is not None}
    for name, column in indexed.items():
        check_keys(f"{where}: modality {name!r}", column.ids or ())
    if not indexed:
        return columns, None
    keys = tuple(order) if order is not None else tuple(dict.fromkeys(chain(*(c.ids or () for c in indexed.values()))))
    if all(column.ids == keys for column in indexed.values()):
        return columns, keys
    for name, column in columns.items():
        if column.ids is None:
            raise ValueError(
                f"{where}: modality {name!r} must have an index, as the indices of {', '.join(indexed)} differ: pass a "
                "table of pandas, or tables with the same index in the same order"
            )
    position = {key: row for row, key in enumerate(keys)}
    return {name: _reindex(column, position) for name, column in columns.items()}, keys


def check_keys(where: str, keys: Sequence[Hashable]) -> None:
    """Check that no key of an index occurs twice.

    Args:
        where: Data and modality, the beginning of the error message.
        keys: The keys of the index, in order.

    Raises:
        ValueError: If one does; the message names it.
    """
    seen = set[Hashable]()
    for key in keys:
        if key in seen:
            raise ValueError(f"{where}: the index must name each item once, got {key!r} twice")
        seen.add(key)


def has_index(table: Any) -> bool:
    """Return True if a table or column of pandas has an index other than the positions 0, 1, …."""
    return not _is_default(table.index)


def is_missing(value: Any) -> bool:
    """Return True for None, NaN and the missing values of pandas."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def _is_default(index: Any) -> bool:
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1 and index.name is None


def _convert_table(where: str, given: Any) -> GivenColumn:
    """Convert a table or a column of pandas; its index becomes the keys, its columns the names of the features."""
    table = given.to_frame() if given.ndim == 1 else given
    ids = tuple(table.index.tolist()) if has_index(table) else None
    kinds = [getattr(dtype, "kind", "O") for dtype in table.dtypes]
    if len(kinds) == 1 and kinds[0] not in "biuf":
        return _convert_list(where, table.iloc[:, 0].tolist(), ids)
    for name, dtype, kind in zip(table.columns, table.dtypes, kinds, strict=True):
        if kind not in "biuf":
            raise ValueError(
                f"{where}: column {name!r} must hold numbers, got {dtype}: encode it, or pass it as a modality of its "
                "own if it is text"
            )
    may_lack = any(kind == "f" for kind in kinds) or bool(table.isna().any(axis=None))
    array = table.to_numpy(dtype=np.float64, na_value=np.nan) if may_lack else table.to_numpy()
    if array.dtype.hasobject:  # extension types of pandas without missing values, or bool beside numbers
        array = table.to_numpy(dtype=np.int64)
    unnamed = _is_default(table.columns) or (given.ndim == 1 and given.name is None)
    return replace(_find_absent(array), ids=ids, features=None if unnamed else tuple(map(str, table.columns)))


def _convert_list(where: str, values: Sequence[Any], ids: tuple[Hashable, ...] | None) -> GivenColumn:
    """Convert a list of strings, or of arrays or images of one shape, with None for an absent item."""
    present = np.array([not is_missing(value) for value in values], dtype=bool)
    rows: list[int] = np.flatnonzero(present).tolist()
    if not rows:
        return GivenColumn(None, present, ids)
    texts = [isinstance(values[row], str) for row in rows]
    if any(texts):
        if not all(texts):
            row = rows[texts.index(False)]
            raise ValueError(
                f"{where}: {describe_item(ids, row)} must be a string as others are, or None, got {values[row]!r}"
            )
        return GivenColumn(np.array([v if p else "" for v, p in zip(values, present, strict=True)]), present, ids)
    arrays = {row: _to_array(where, ids, row, values[row]) for row in rows}
    first = arrays[rows[0]]
    for row, array in arrays.items():
        if array.shape != first.shape:
            raise ValueError(
                f"{where}: {describe_item(ids, row)} must have the shape {first.shape} of "
                f"{describe_item(ids, rows[0])}, got {array.shape}"
            )
    stacked = np.zeros((len(values), *first.shape), dtype=np.result_type(*{array.dtype for array in arrays.values()}))
    stacked[rows] = list(arrays.values())
    found = _find_absent(stacked)
    return replace(found, present=found.present & present, ids=ids)


def _to_array(where: str, ids: tuple[Hashable, ...] | None, row: int, value: Any) -> NDArray[Any]:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: {describe_item(ids, row)} must be an array of numbers, an image or a string, got "
            f"{type(value).__name__}"
        )
    return array


def _find_absent(array: NDArray[Any]) -> GivenColumn:
    """Return a column whose items of NaN only are absent."""
    if array.dtype.kind != "f" or not array.size:
        return GivenColumn(array, np.ones(len(array), dtype=bool))
    absent = np.isnan(array).reshape(len(array), -1).all(-1)
    if absent.any():
        array = np.array(array)
        array[absent] = 0
    return GivenColumn(array, ~absent)


def _find_absent_rows(values: MatrixRows) -> GivenColumn:
    """Return a column whose items of NaN only are absent, without making the sparse matrix dense."""
    absent = np.bincount(nan_places(values)[0], minlength=len(values)) == values.shape[1]
    rows = np.where(absent, -1, values.rows) if values.shape[1] else values.rows
    return GivenColumn(MatrixRows(values.source, rows, values.columns), rows >= 0)


def nan_places(values: MatrixRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return item and feature of each NaN of a sparse matrix in memory, in the order of the items.

    Args:
        values: Rows of a sparse matrix in memory, with all its columns.
    """
    stored = values.stored_values()
    if stored is None or stored.dtype.kind != "f" or not np.isnan(stored).any():
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    items = np.flatnonzero(values.rows >= 0)
    part = cast("SparseSource", values.source).matrix[values.rows[items]].tocoo()
    missing = np.isnan(part.data)
    return items[part.row[missing]], np.asarray(part.col[missing], dtype=np.int64)


def _reindex(column: GivenColumn, position: dict[Hashable, int]) -> GivenColumn:
    """Return a column with the items of ``position``, absent where the column lacks them."""
    rows = np.array([position[key] for key in column.ids or ()], dtype=np.int64)
    present = np.zeros(len(position), dtype=bool)
    present[rows] = column.present
    values: NDArray[Any] | MatrixRows | None = None
    if isinstance(column.values, MatrixRows):
        places = np.full(len(position), -1)
        places[rows] = column.values.rows
        values = MatrixRows(column.values.source, places, column.values.columns)
    elif column.values is not None:
        values = np.zeros((len(position), *column.values.shape[1:]), dtype=column.values.dtype)
        values[rows] = column.values
    return replace(column, values=values, present=present, ids=tuple(position))
