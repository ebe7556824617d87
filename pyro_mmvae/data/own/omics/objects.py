"""AnnData and MuData objects that a user has in memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from pyro_mmvae.data.own.covariates import column_names
from pyro_mmvae.data.own.omics.columns import read_column, read_covariates


def is_omics_object(values: Any) -> bool:
    """Return True for an AnnData or a MuData object, without importing their packages."""
    return any(kind.__module__.partition(".")[0] in {"anndata", "mudata"} for kind in type(values).__mro__)


def split_omics_object(
    tree: Any, labels: Any, name: str, covariates: Any = None
) -> tuple[dict[str, Any], Any, Any, tuple[Hashable, ...]]:
    """Split a MuData object into its modalities, and read labels and covariates from its columns.

    Args:
        tree: The object; an AnnData object is one modality ``x``.
        labels: Name of a column of ``obs`` whose categories are the classes, also ``MODALITY:COLUMN``; other labels
            are returned as they are.
        name: Name of the data, the beginning of error messages.
        covariates: Name or names of columns of ``obs`` that are covariates, also ``MODALITY:COLUMN``; other covariates
            are returned as they are. None by default.

    Returns:
        The AnnData objects by modality name in alphabetical order, the labels, the covariates, and the names of the
        observations in the order of ``tree``.

    Raises:
        ValueError: If the axis is not 0 or there is no such column.
    """
    check_axis(name, tree)
    parts = dict(sorted(tree.mod.items())) if hasattr(tree, "mod") else {"x": tree}
    columns = column_names(covariates)
    return (
        parts,
        read_column(name, tree, labels) if isinstance(labels, str) else labels,
        covariates if columns is None else read_covariates(name, tree, columns),
        tuple(tree.obs_names),
    )


def find_columns(tree: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of ``obs`` that have some names, also of modalities, as ``MODALITY:COLUMN``.

    Args:
        tree: An AnnData or MuData.
        names: Names of columns without modalities; those that there are not are left out.
    """
    parts: dict[str, Any] = dict(getattr(tree, "mod", {}))
    found = []
    for name in names:
        places = [name] if name in tree.obs else [f"{part}:{name}" for part in parts if name in parts[part].obs]
        found += places[:1]
    return tuple(found)


def check_axis(where: str, tree: Any) -> None:
    """Check that the modalities of an object describe the same observations with unique names.

    Args:
        where: Path or name of the data, the beginning of error messages.
        tree: An AnnData or MuData.

    Raises:
        ValueError: If they do not.
    """
    if getattr(tree, "axis", 0) != 0:
        raise ValueError(
            f"{where}: axis must be 0, so that modalities describe the same observations, got {tree.axis}: transpose "
            "the modalities, or concatenate them"
        )
    if not tree.obs_names.is_unique:
        raise ValueError(f"{where}: names of observations must be unique, got duplicates")
