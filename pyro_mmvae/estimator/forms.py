"""The forms of the input of an estimator, and how results are returned in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.estimator.columns import Positions

FORMS = ("array", "table", "modalities")
"""The forms of input: an array `(item, feature)`, a table of pandas, or values of each modality."""


def form_of(values: Any) -> str:
    """Return the form of the input of an estimator.

    Args:
        values: The input: an array or nested list, a table, a mapping, a data set, or an AnnData or MuData object.
    """
    is_mapping = isinstance(values, Mapping) and not issparse(values)  # a dok_array is a mapping, too
    if is_mapping or isinstance(values, MultimodalDataset) or hasattr(values, "obs_names"):
        return "modalities"
    return "table" if isinstance(values, pd.DataFrame) else "array"


@dataclass(frozen=True, eq=False)
class FlatForm:
    """An array or a table whose columns are divided among the modalities.

    Attributes:
        positions: The positions of the columns of each modality by its name.
        names: The names of the columns, or None for columns without names.
        is_table: If True, results are tables of pandas; if False, arrays.
        tokens: The modalities whose columns are tokens, which must be integers; none by default.
    """

    positions: Positions
    names: NDArray[Any] | None
    is_table: bool
    tokens: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """The number of columns."""
        return sum(map(len, self.positions.values()))

    def split(self, values: Any) -> dict[str, Any]:
        """Return the columns of each modality, with items by position and without an index.

        Args:
            values: The array or table.
        """
        if not isinstance(values, pd.DataFrame):
            values = pd.DataFrame(values, columns=self.names, copy=False)
        table = values.reset_index(drop=True)
        parts = {name: table.iloc[:, found] for name, found in self.positions.items()}
        if self.names is None:  # positions would become the names of features
            parts = {name: part.set_axis(range(part.shape[1]), axis=1) for name, part in parts.items()}
        return {
            name: _as_tokens(name, part) if name in self.tokens else _as_floats(part) for name, part in parts.items()
        }

    def join(self, parts: Mapping[str, NDArray[Any]], index: Any = None) -> Any:
        """Return an array or table of the columns of all modalities.

        Args:
            parts: The values of each modality, `(item, feature)`, or strings `(item,)`.
            index: The index of the table; positions by default.
        """
        parts = {name: part.reshape(len(part), -1) for name, part in parts.items()}
        if not self.is_table:
            rows = len(next(iter(parts.values())))
            result = np.empty((rows, self.count), dtype=np.result_type(*parts.values()))
            for name, part in parts.items():
                result[:, self.positions[name]] = part
            return result
        columns = {
            position: part[:, column]
            for name, part in parts.items()
            for column, position in enumerate(self.positions[name].tolist())
        }
        table = pd.DataFrame({position: columns[position] for position in range(self.count)}, index=index)
        return table if self.names is None else table.set_axis(list(self.names), axis=1)

    def fill(self, values: Any, parts: Mapping[str, NDArray[Any]], absent: Mapping[str, NDArray[np.bool_]]) -> Any:
        """Return a copy of an array or table whose absent modalities are filled in.

        Args:
            values: The array or table.
            parts: The values of each modality that some item lacks, for all items.
            absent: True for the items that lack the modality, `(item,)`, by name of the modality.
        """
        result = values.copy()
        for name, part in parts.items():
            flat, rows = part.reshape(len(part), -1), np.flatnonzero(absent[name])
            for column, position in enumerate(self.positions[name].tolist()):
                if isinstance(result, pd.DataFrame):
                    result.isetitem(position, _filled_column(result.iloc[:, position], rows, flat[rows, column]))
                else:
                    result[rows, position] = flat[rows, column]
        return result


def _as_floats(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of integers as floats, as an array is converted, and any other table as it is."""
    kinds = {getattr(dtype, "kind", "O") for dtype in table.dtypes}
    return table.astype(np.float64) if kinds <= {"i", "u", "f"} else table


def _as_tokens(name: str, table: pd.DataFrame) -> list[NDArray[np.int64] | None]:
    """Return the tokens of each item, or None for an item of NaN only.

    Raises:
        ValueError: If a value is not a whole number.
    """
    values = table.to_numpy(dtype=np.float64, na_value=np.nan)
    absent = np.isnan(values).all(-1)
    wrong = np.argwhere((values != np.floor(values)) & ~absent[:, None])
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(f"modality {name!r}: item {row}: tokens must be whole numbers, got {values[row, column]:g}")
    return [None if is_absent else row.astype(np.int64) for row, is_absent in zip(values, absent, strict=True)]


def _filled_column(column: pd.Series, rows: NDArray[np.int64], values: NDArray[Any]) -> pd.Series:
    if values.dtype.kind == "f" and getattr(column.dtype, "kind", "O") != "f":
        column = column.astype(np.float64)  # means of integers are not integers
    array = column.to_numpy(dtype=object if values.dtype.kind in "OU" else None, copy=True)
    array[rows] = values
    return pd.Series(array, index=column.index, dtype=column.dtype)


def fill_modality(given: Any, filled: NDArray[Any], absent: NDArray[np.bool_], ids: NDArray[Any] | None) -> Any:
    """Return a copy of the values of one modality with its absent items filled in, or None if items do not correspond.

    Args:
        given: The values as they were passed: an array, a list, or a table of pandas.
        filled: The values of the model for all items, `(item, …)`.
        absent: True for the items to fill in, `(item,)`.
        ids: The identifiers of the items, or None for positions.
    """
    rows = np.flatnonzero(absent)
    if isinstance(given, pd.DataFrame) and len(given) == len(absent):
        if ids is not None and list(map(str, given.index)) != ids.tolist():
            return None
        flat, table = filled.reshape(len(filled), -1), given.copy()
        for column in range(given.shape[1]):
            table.isetitem(column, _filled_column(given.iloc[:, column], rows, flat[rows, column]))
        return table
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        array = given.copy()
        array[rows] = _as_shaped(filled[rows], given.shape[1:])
        return array
    if isinstance(given, (list, tuple)) and not absent.all():
        shape = np.shape(given[int(np.flatnonzero(~absent)[0])])
        values = _as_shaped(filled, shape)
        return [value if is_absent else old for value, is_absent, old in zip(values, absent, given, strict=True)]
    return None


def original_keys(given: Mapping[str, Any], ids: NDArray[Any] | None) -> list[Any] | None:
    """Return the keys of items as the indices of tables have them, which may be numbers.

    Args:
        given: The values of each modality as they were passed.
        ids: The identifiers of the items, which are strings, or None for positions.
    """
    if ids is None:
        return None
    tables = [part for part in given.values() if isinstance(part, (pd.DataFrame, pd.Series))]
    keys = {str(key): key for table in tables for key in table.index}
    return [keys.get(name, name) for name in ids.tolist()]


def _as_shaped(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return items in the shape that they were passed in, which has the channels of images last or first."""
    if values.ndim == 4 and values.shape[1:] != shape:
        values = np.moveaxis(values, 1, -1)
    return values.reshape(len(values), *shape)
