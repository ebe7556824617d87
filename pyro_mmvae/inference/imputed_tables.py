"""Imputations as tables of items: one column per feature or text, and one per modality that says what was imputed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae.inference.imputed import Imputation
from pyro_mmvae.inference.tables import ItemTable

TABLE_SUFFIXES = (".csv", ".parquet")
"""The suffixes of tables that an imputation can be written to."""


def imputation_table(
    imputation: Imputation, feature_names: Mapping[str, tuple[str, ...]]
) -> tuple[ItemTable, tuple[str, ...]]:
    """Return the imputed modalities as a table, which has the columns of a table of items.

    A feature is a column of means, with observed values copied, beside ``sd_FEATURE`` and ``quantile-LEVEL_FEATURE``; a
    text is a column of the most probable characters, and other tokens are columns of the most probable classes.
    ``imputed_NAME`` is True for the items whose modality NAME was imputed. A feature whose name occurs in several
    modalities is called ``NAME_FEATURE``.

    Args:
        imputation: The imputation to put into a table.
        feature_names: The names of the features by modality; others are numbered, ``NAME_0``, ``NAME_1``, ….

    Returns:
        The table, and the names of the imputed modalities that it leaves out: those with more than one axis per item,
        such as images.

    Raises:
        ValueError: If it leaves out all of them.
    """
    imputed = {key.partition("/")[2] for key in imputation.arrays}
    names = [name for name in imputation.names if name in imputed]
    parts = {name: _main_array(imputation, name) for name in names}
    left_out = tuple(name for name in names if parts[name].ndim > 2)
    kept = [name for name in names if name not in left_out]
    if not kept:
        raise ValueError(
            f"a table must have a vector, counts or a text that was imputed, got {', '.join(names)}: write a folder"
        )
    columns = {name: _columns(name, parts[name], feature_names.get(name)) for name in kept if parts[name].ndim == 2}
    counts = Counter([*(name for name in kept if name not in columns), *(f for part in columns.values() for f in part)])
    arrays: dict[str, NDArray[Any]] = {}
    headers: dict[str, tuple[str, ...]] = {}
    for name in kept:
        arrays[name] = parts[name]
        if name in columns:
            unique = tuple(f if counts[f] == 1 else f"{name}_{f}" for f in columns[name])
            headers[name] = unique
            for figure in _uncertainties(imputation, name):
                arrays[f"{figure}/{name}"] = imputation.arrays[f"{figure}/{name}"]
                headers[f"{figure}/{name}"] = tuple(f"{figure}_{f}" for f in unique)
    for name in kept:
        arrays[f"imputed_{name}"] = imputation.imputed[:, imputation.names.index(name)]
    return ItemTable(imputation.ids, arrays, headers, dict(imputation.summary)), left_out


def _main_array(imputation: Imputation, name: str) -> NDArray[Any]:
    """Return the figure of a modality that stands in for its values."""
    key = next(f"{figure}/{name}" for figure in ("text", "mode", "mean") if f"{figure}/{name}" in imputation.arrays)
    return imputation.arrays[key]


def _columns(name: str, values: NDArray[Any], features: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the features of a modality."""
    return features or tuple(f"{name}_{number}" for number in range(values.shape[1]))


def _uncertainties(imputation: Imputation, name: str) -> list[str]:
    """Return the figures of a modality that say how uncertain its means are."""
    figures = [key.partition("/")[0] for key in imputation.arrays if key.partition("/")[2] == name]
    return [figure for figure in figures if figure == "sd" or figure.startswith("quantile-")]
