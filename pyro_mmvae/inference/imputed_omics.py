"""Imputations as AnnData and MuData files: vectors in ``X`` and ``layers``, images in ``obsm``, texts in ``obs``."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pyro_mmvae.files import replacing
from pyro_mmvae.inference.imputed import Imputation
from pyro_mmvae.inference.tables import import_extra


def write_omics(
    imputation: Imputation, path: Path, feature_names: Mapping[str, tuple[str, ...]], *, force: bool = False
) -> tuple[str, ...]:
    """Write the imputed modalities to an ``.h5mu`` file, or the only one to an ``.h5ad`` file.

    For vectors, counts and binary features, ``X`` holds the means, with observed values copied, and ``layers`` the
    standard deviations and the quantiles. Other modalities do not have variables: every figure is in ``obsm`` with one
    row per item, which is flattened from the shape in ``uns["shape"]``; texts are in ``obs["text"]``.
    ``obs["imputed"]`` is True for the items that were imputed.

    Args:
        imputation: The imputation to write.
        path: The path of the file, with the suffix ``.h5mu`` or ``.h5ad``.
        feature_names: The names of the features by modality; others are numbered.
        force: If True, a file that exists is replaced; False by default.

    Returns:
        The names of the modalities that were written.

    Raises:
        ValueError: If several modalities are imputed and the file can hold one.
        FileExistsError: If the file exists and ``force`` is False.
        ImportError: If the extra ``omics`` is not installed.
    """
    imputed = {key.partition("/")[2] for key in imputation.arrays}
    names = tuple(name for name in imputation.names if name in imputed)
    if path.suffix == ".h5ad" and len(names) > 1:
        raise ValueError(
            f"{path}: must be of exactly one modality that is imputed, got {', '.join(names)}: choose it by targets "
            "(--targets), or write .h5mu or a folder"
        )
    anndata = import_extra("anndata", path)
    with warnings.catch_warnings(), ExitStack() as settings, replacing(path, force=force) as temporary:
        warnings.simplefilter("ignore")  # of anndata and mudata, about their own future
        if hasattr(anndata.settings, "allow_write_nullable_strings"):
            # Strings of pandas 3 are refused otherwise.
            settings.enter_context(anndata.settings.override(allow_write_nullable_strings=True))
        parts = {name: _matrix(anndata, imputation, name, feature_names.get(name)) for name in names}
        tree = parts[names[0]] if path.suffix == ".h5ad" else import_extra("mudata", path).MuData(parts)
        tree.write(temporary)
    return names


def _matrix(anndata: Any, imputation: Imputation, name: str, features: tuple[str, ...] | None) -> Any:
    """Return one modality as an AnnData object."""
    pandas = importlib.import_module("pandas")
    figures = {key.partition("/")[0]: a for key, a in imputation.arrays.items() if key.partition("/")[2] == name}
    imputed, ids = imputation.imputed[:, imputation.names.index(name)], pandas.Index(imputation.ids, dtype=object)
    obs = pandas.DataFrame({"imputed": imputed}, index=ids)
    if "text" in figures:
        obs["text"] = pandas.Series(figures.pop("text"), index=obs.index, dtype=object)
    first = next(iter(figures.values()))
    if "mean" in figures and first.ndim == 2:
        columns = features or tuple(f"{name}_{number}" for number in range(first.shape[1]))
        return anndata.AnnData(figures.pop("mean"), obs=obs, var=pandas.DataFrame(index=list(columns)), layers=figures)
    rows = {figure: array.reshape(len(array), -1) for figure, array in figures.items()}
    return anndata.AnnData(obs=obs, obsm=rows, uns={"shape": np.array(first.shape[1:])})
