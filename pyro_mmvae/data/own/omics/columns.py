"""Columns of ``obs`` that are labels or covariates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.options import describe_item


def read_column(where: str, tree: Any, name: str) -> Any:
    """Return a column of ``obs``, of all observations or of those of one modality.

    Args:
        where: Path or name of the data, the beginning of error messages.
        tree: An AnnData or MuData.
        name: Name of the column, or ``MODALITY:COLUMN``.

    Raises:
        ValueError: If there is no such column.
    """
    if name in tree.obs:
        return tree.obs[name]
    modality, colon, column = name.partition(":")
    parts = getattr(tree, "mod", {})
    if colon and modality in parts and column in parts[modality].obs:
        return parts[modality].obs[column].reindex(tree.obs_names)
    raise ValueError(f"{where}: column must be one of obs, {', '.join(map(str, tree.obs)) or '(none)'}, got {name!r}")


def read_covariates(where: str, tree: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return columns of ``obs`` that are covariates, by the name of the column without its modality.

    Args:
        where: Path or name of the data, the beginning of error messages.
        tree: An AnnData or MuData.
        names: Names of the columns, or ``MODALITY:COLUMN``.

    Raises:
        ValueError: If there is no such column, or two columns have one name.
    """
    columns: dict[str, Any] = {}
    for name in names:
        short = name.rpartition(":")[2]
        if short in columns:
            raise ValueError(f"{where}: names of covariates must be distinct, got {short!r} twice")
        try:
            columns[short] = read_column(where, tree, name)
        except ValueError as error:
            raise ValueError(
                f"{error}: add it, or choose the covariates by the option covariates, which is [] for data without any"
            ) from None
    return columns


def read_classes(where: str, column: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Return the position of each item's category among those that occur, NaN for none, and the categories' names.

    Args:
        where: Path or name of the data, the beginning of error messages.
        column: The column of ``obs``.

    Raises:
        ValueError: If no item has a category.
    """
    categories = column.astype("category").cat.remove_unused_categories()
    codes = np.asarray(categories.cat.codes, dtype=np.float64)
    if (codes < 0).all():
        raise ValueError(f"{where}: some item must have a label in column {column.name!r}, got none")
    return np.where(codes < 0, np.nan, codes), [str(name) for name in categories.cat.categories]


def read_flags(where: str, column: Any) -> NDArray[np.bool_]:
    """Return an attribute as bool, from a column of bool or of 0 and 1.

    Args:
        where: Path or name of the data, the beginning of error messages.
        column: The column of ``obs``.

    Raises:
        ValueError: If a value is another one.
    """
    values = column.to_numpy(dtype=object)
    invalid = np.flatnonzero([value not in {0, 1} for value in values.tolist()])  # True and False equal 1 and 0
    if len(invalid):
        raise ValueError(
            f"{where}: {describe_item(column.index, invalid[0])}: column {column.name!r} must hold 0 or 1, as several "
            f"columns are attributes, got {values[invalid[0]]!s}"
        )
    return values.astype(bool)
