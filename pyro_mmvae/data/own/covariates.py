"""Checks of the categorical covariates of a user's data, and their conversion from what a Python user holds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.covariates import UNKNOWN
from pyro_mmvae.data.options import describe_item
from pyro_mmvae.data.own.columns import check_keys, has_index, is_missing
from pyro_mmvae.data.own.raw_arrays import RawArrays

_MAX_CATEGORIES = 4_096


def read_covariates(
    raw: RawArrays, count: int, ids: NDArray[np.str_] | None
) -> tuple[dict[str, NDArray[np.int64]], dict[str, tuple[str, ...]]]:
    """Check the covariates of a data set and number their categories.

    The categories are those of all items of the data, whatever their split, sorted as strings, unless the description
    of the data lists them.

    Args:
        raw: The arrays of the data set.
        count: Number of items in the data set.
        ids: Identifiers of the items for messages, or None.

    Returns:
        The code of each item's category, `(item,)`, -1 for an unknown one, and the names of the categories, both by
        covariate name.

    Raises:
        ValueError: If a covariate has another shape, a value is not a category, no item has one, or there are more than
            4,096; the message names the covariate.
    """
    codes, names = dict[str, NDArray[np.int64]](), dict[str, tuple[str, ...]]()
    listed = raw.meta.categories or {}
    unknown = [name for name in listed if name not in raw.covariates]
    if unknown and raw.covariates:  # without covariates, they were turned off by an option
        raise ValueError(
            f"{raw.where}: categories must be of a covariate of the data ({', '.join(raw.covariates)}), got "
            f"{unknown[0]!r}"
        )
    for name, values in raw.covariates.items():
        where = f"{raw.files.get(f'covariate_{name}', raw.where)}: covariate {name!r}"
        check_covariate_name(where, name)
        if np.shape(values) != (count,):
            raise ValueError(f"{where} must be one category per item, ({count},), got the shape {np.shape(values)}")
        texts = to_categories(where, values, ids)
        names[name] = _choose_categories(where, texts, listed.get(name))
        codes[name] = _number(where, texts, names[name], ids)
    return codes, names


def check_covariate_name(where: str, name: str) -> None:
    """Check that a covariate can have a name, which may become a part of a file name and of ``NAME=CATEGORY``.

    Args:
        where: Data and covariate, the beginning of the error message.
        name: The name to check.

    Raises:
        ValueError: If the name is empty, or has a slash, a backslash, an equals sign or characters that cannot be
            printed.
    """
    if not name or not name.isprintable() or any(character in name for character in "/\\="):
        raise ValueError(
            f"{where}: the name of a covariate must be printable characters without '/', '\\' and '=', got {name!r}: "
            "rename it"
        )


def to_categories(where: str, values: Any, ids: Sequence[Hashable] | NDArray[Any] | None = None) -> list[str]:
    """Return categories as strings, empty for those that are unknown: None, NaN or an empty string.

    Args:
        where: Data and covariate, the beginning of error messages.
        values: The categories `(item,)`: strings, integers, bool, or floats that are whole numbers.
        ids: Identifiers of the items for messages, or None (default).

    Raises:
        ValueError: If a value is not a category, such as 0.5; the message names the item.
    """
    result = []
    for row, value in enumerate(values.tolist() if hasattr(values, "tolist") else values):
        if is_missing(value):
            result.append("")
        elif isinstance(value, str):
            result.append(value)
        elif isinstance(value, (bool, int, np.bool_, np.integer)):
            result.append(str(value))
        elif isinstance(value, (float, np.floating)) and float(value).is_integer():
            result.append(str(int(value)))  # integers beside NaN are floats in NumPy and pandas
        else:
            raise ValueError(
                f"{where}: {describe_item(ids, row)} must have a category, a string or a whole number, got {value!r}: "
                "covariates are categorical, so divide numbers into ranges first"
            )
    return result


def _choose_categories(where: str, texts: list[str], listed: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the categories: those of the description, or else those that occur."""
    found = {text for text in texts if text}
    if not found and listed is None:
        raise ValueError(f"{where}: some item must have a category, got none: leave the covariate out")
    categories = tuple(sorted(found)) if listed is None else listed
    if len(categories) > _MAX_CATEGORIES:
        raise ValueError(
            f"{where} must have at most {_MAX_CATEGORIES} categories, got {len(categories)}, such as "
            f"{categories[0]!r}: a covariate names groups of items, such as donors"
        )
    return categories


def _number(
    where: str, texts: list[str], categories: tuple[str, ...], ids: NDArray[np.str_] | None
) -> NDArray[np.int64]:
    """Return the code of each item's category."""
    code = {"": UNKNOWN, **{category: number for number, category in enumerate(categories)}}
    for row, text in enumerate(texts):
        if text not in code:
            raise ValueError(
                f"{where}: {describe_item(ids, row)} must have one of the categories {', '.join(categories)}, got "
                f"{text!r}"
            )
    return np.array([code[text] for text in texts], dtype=np.int64)


def convert_covariates(
    where: str, covariates: Any, keys: Sequence[Hashable] | None = None
) -> dict[str, NDArray[np.str_]]:
    """Convert the covariates that a Python user holds to arrays of strings, empty where a category is unknown.

    Args:
        where: Name of the data, the beginning of error messages.
        covariates: A mapping or a table of pandas from covariate names to categories `(item,)`; or None.
        keys: The keys of the items, by which columns of pandas with an index are matched; None (default) to match by
            position.

    Raises:
        ValueError: If there is no mapping, an index does not name the items, or a value is not a category.
    """
    if covariates is None:
        return {}
    if not hasattr(covariates, "keys"):
        raise ValueError(
            f"{where}: covariates must be a mapping or a table from names to one category per item, as in "
            f"{{'donor': [...]}}, got {type(covariates).__name__}"
        )
    result = {}
    for name in covariates.keys():  # noqa: SIM118  (a table of pandas, too)
        column, place = covariates[name], f"{where}: covariate {name!r}"
        if isinstance(column, torch.Tensor):
            column = column.detach().cpu().numpy()
        if hasattr(column, "iloc"):
            column = _align(place, column, keys)
        if np.ndim(column) != 1:
            raise ValueError(f"{place} must be one category per item, (item,), got the shape {np.shape(column)}")
        result[str(name)] = np.array(to_categories(place, column, keys), dtype=np.str_)
    return result


def _align(where: str, column: Any, keys: Sequence[Hashable] | None) -> NDArray[Any]:
    """Return the values of a column of pandas, matched by its index if it and the items have one."""
    if keys is not None and has_index(column):
        check_keys(where, column.index.tolist())
        if not column.index.isin(list(keys)).any():
            raise ValueError(f"{where}: the index must name items such as {keys[0]!r}, got {column.index[0]!r}")
        column = column.reindex(list(keys))
    values: NDArray[Any] = column.to_numpy(dtype=object)
    return values


def column_names(covariates: Any) -> tuple[str, ...] | None:
    """Return the names of columns if covariates are given by such names, and None if they are given as values.

    Args:
        covariates: One name of a column, several names, or a mapping or table of values.
    """
    if isinstance(covariates, str):
        return (covariates,)
    if isinstance(covariates, (list, tuple)) and all(isinstance(name, str) for name in covariates):
        return tuple(covariates)
    return None
