"""Imputations as AnnData and MuData files, with a matrix per figure in ``layers``."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyro_mmvae.files import replacing
from pyro_mmvae.inference.imputed import Imputation
from pyro_mmvae.inference.tables import import_extra


def write_omics(
    imputation: Imputation, path: Path, feature_names: Mapping[str, tuple[str, ...]], *, force: bool = False
) -> tuple[str, ...]:
    """Write imputed modalities whose items are vectors to an ``.h5mu`` file, or the only one to an ``.h5ad`` file.

    ``X`` holds the means, with observed values copied, ``layers`` the standard deviations and the quantiles, and
    ``obs["imputed"]`` what was imputed.

    Args:
        imputation: The imputation to write.
        path: The path of the file, with the suffix ``.h5mu`` or ``.h5ad``.
        feature_names: The names of the features by modality; others are numbered.
        force: If True, a file that exists is replaced; False by default.

    Returns:
        The names of the modalities that were written.

    Raises:
        ValueError: If no imputed modality is a vector, or several are and the file can hold one.
        FileExistsError: If the file exists and ``force`` is False.
        ImportError: If the extra ``omics`` is not installed.
    """
    names = tuple(name for name, mean in imputation.mean.items() if mean.ndim == 2)
    if not names or (path.suffix == ".h5ad" and len(names) > 1):
        expected = "exactly one modality" if path.suffix == ".h5ad" else "a modality"
        raise ValueError(
            f"{path}: must be of {expected} of vectors that is imputed, got {', '.join(names) or 'none'}: choose it by "
            "targets (--targets), or write .h5mu or a folder"
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
    mean = figures.pop("mean")
    imputed = imputation.imputed[:, imputation.names.index(name)]
    columns = features or tuple(f"{name}_{number}" for number in range(mean.shape[1]))
    obs, var = pandas.DataFrame({"imputed": imputed}, index=imputation.ids), pandas.DataFrame(index=list(columns))
    return anndata.AnnData(mean, obs=obs, var=var, layers=figures)
