"""The forms of the input of an estimator, and how results are returned in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.estimator.columns import Positions

FORMS = ("array", "table", "modalities")
"""The forms of input: an array `(item, feature)`, a table of pandas, or values of each modality."""


def form_of(values: Any) -> str:
    """Return the form of the input of an estimator.

    Args:
        values: The input: an array or nested list, a table, a mapping, a data set, or an AnnData or MuData object.
    """
    if isinstance(values, (Mapping, MultimodalDataset)) or hasattr(values, "obs_names"):
        return "modalities"
    return "table" if isinstance(values, pd.DataFrame) else "array"


@dataclass(frozen=True, eq=False)
class FlatForm:
    """An array or a table whose columns are divided among the modalities.

    Attributes:
        positions: The positions of the columns of each modality by its name.
        names: The names of the columns, or None for columns without names.
        is_table: If True, results are tables of pandas; if False, arrays.
    """

    positions: Positions
    names: NDArray[Any] | None
    is_table: bool

    @property
    def count(self) -> int:
        """The number of columns."""
        return sum(map(len, self.positions.values()))

    def split(self, values: Any) -> dict[str, Any]:
        """Return the columns of each modality, with items by position and without an index.

        Args:
            values: The array or table.
        """
        if isinstance(values, pd.DataFrame):
            table = values.reset_index(drop=True)
            return {name: table.iloc[:, found] for name, found in self.positions.items()}
        if self.names is None:
            return {name: values[:, found] for name, found in self.positions.items()}
        return {
            name: pd.DataFrame(values[:, found], columns=self.names[found]) for name, found in self.positions.items()
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


def _filled_column(column: pd.Series, rows: NDArray[np.int64], values: NDArray[Any]) -> pd.Series:
    array = column.to_numpy(dtype=object if values.dtype.kind in "OU" else None, copy=True)
    array[rows] = values
    return pd.Series(array, index=column.index, dtype=column.dtype)
