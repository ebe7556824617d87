"""AnnData and MuData files: single-cell modalities, each a matrix of observations and variables."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.assemble import SPLITS, assemble
from pyro_mmvae.data.own.folder import make_source, plain_errors
from pyro_mmvae.data.own.meta import make_meta
from pyro_mmvae.data.registry import register_format

_ANYTHING = (Exception,)  # what other people's readers raise on a damaged file is not known
_READERS = {".h5mu": ("mudata", "read_h5mu"), ".h5ad": ("anndata", "read_h5ad")}


@register_format("omics", detect=lambda path: path.is_file() and path.suffix in _READERS)
def load_omics(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    labels: str | tuple[str, ...] | None = None,
    split_by: str | None = None,
    layer: str | None = None,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    split_seed: int = 0,
) -> MultimodalDataset:
    """Load one split of an ``.h5mu`` file, whose modalities are its own, or of an ``.h5ad`` file of one modality ``x``.

    The whole file is read, and sparse matrices are made dense at once: float32, 4 bytes an observation and variable. An
    observation that a modality of an ``.h5mu`` does not hold is absent there. Modalities are in alphabetical order.

    Args:
        path: of the file.
        split: ``train``, ``val`` or ``test``.
        cache: taken, and not needed.
        labels: column of ``obs`` whose categories, in their order, are the classes; of an ``.h5mu`` also that of a
            modality, ``MODALITY:COLUMN``. Several columns, each of bool or of 0 and 1, are attributes of their names.
        split_by: column of ``obs`` that holds ``train``, ``val`` and ``test``; by default a split at random.
        layer: a layer instead of ``X``, such as ``counts``.
        kinds: modality name to kind; raw counts must be said to be ``counts``, since they are often held as floats.
        missing_nan: see :func:`~pyro_mmvae.data.load_folder`.
        allow_constant: likewise.
        split_seed: likewise.

    Raises:
        ValueError: for a file that cannot be read, a column or layer that is not there, and whatever does not fit.
        ImportError: without the extra ``omics``.
    """
    package, function = _READERS[path.suffix]
    read = getattr(_import(package, path), function)
    with plain_errors(f"{path}: no readable {path.suffix} file", _ANYTHING):
        tree = read(path)
        parts: dict[str, Any] = dict(sorted(tree.mod.items())) if package == "mudata" else {"x": tree}
    for name, part in parts.items():
        _check(f"{path}: modality {name!r}", part, layer)
    if not tree.obs_names.is_unique:
        raise ValueError(f"{path}: names of observations are not unique")
    with plain_errors(f"{path}: no readable {path.suffix} file", _ANYTHING):
        arrays = _arrays(tree.obs_names, parts, layer)
    for name in parts:
        if name not in (kinds or {}) and (arrays[name] >= 0).all() and (arrays[name] == np.floor(arrays[name])).all():
            raise ValueError(
                f"{path}[{name}]: modality {name!r} has whole numbers only, perhaps counts: set its kind, counts or "
                "vector, by the option kinds"
            )
    several = () if labels is None or isinstance(labels, str) else tuple(labels)
    said = {"label_names": list(several)} if several else {}
    meta = make_meta(str(path), said).with_options(str(path), kinds, missing_nan, allow_constant)
    if isinstance(labels, str):
        arrays["labels"] = _codes(path, _column(path, tree, labels))
    elif several:
        arrays["labels"] = np.stack([_flags(path, _column(path, tree, name)) for name in several], -1)
    if split_by is not None:
        arrays["split"] = np.asarray(_column(path, tree, split_by).astype(str), dtype=f"U{max(map(len, SPLITS)) + 1}")
    stat = path.stat()
    about = {
        path.name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns},
        "columns": {"labels": labels, "split_by": split_by, "layer": layer},
    }
    files = {name: f"{path}[{name}]" for name in arrays}
    return assemble(make_source(path, files, arrays, meta, about), split, split_seed=split_seed)


def _import(package: str, path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{path} is read by the package {package}, which cannot be imported: pip install 'pyro-mmvae[omics]'",
            name=package,
        ) from error


def _check(where: str, part: Any, layer: str | None) -> None:
    if layer is not None and layer not in part.layers:
        raise ValueError(f"{where} has no layer {layer!r}, expected one of: {', '.join(part.layers) or 'none'}")
    if layer is None and part.X is None:
        raise ValueError(f"{where} has no X: name a layer")
    if not part.obs_names.is_unique:
        raise ValueError(f"{where}: names of observations are not unique")


def _arrays(items: Any, parts: Mapping[str, Any], layer: str | None) -> dict[str, NDArray[Any]]:
    """Dense matrices `(item, variable)`, 0 where a modality does not hold an item, and ``present``."""
    arrays: dict[str, NDArray[Any]] = {}
    present = np.zeros((len(items), len(parts)), dtype=bool)
    for number, (name, part) in enumerate(parts.items()):
        rows = items.get_indexer(part.obs_names)
        matrix = part.X if layer is None else part.layers[layer]
        arrays[name] = np.zeros((len(items), part.n_vars), dtype=np.float32)
        arrays[name][rows] = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
        present[rows, number] = True
    return {**arrays, "present": present}


def _column(path: Path, tree: Any, name: str) -> Any:
    """A column of ``obs``, of the whole or of a modality."""
    if name in tree.obs:
        return tree.obs[name]
    modality, colon, column = name.partition(":")
    parts = getattr(tree, "mod", {})
    if colon and modality in parts and column in parts[modality].obs:
        return parts[modality].obs[column].reindex(tree.obs_names)
    raise ValueError(f"{path}: obs has no column {name!r}, expected one of: {', '.join(map(str, tree.obs)) or 'none'}")


def _codes(path: Path, column: Any) -> NDArray[np.int64]:
    """Numbers of the categories of a column."""
    codes = np.asarray(column.astype("category").cat.codes, dtype=np.int64)
    lacking = np.flatnonzero(codes < 0)
    if len(lacking):
        raise ValueError(f"{path}: item {lacking[0]} has no value in column {column.name!r}, expected a label of each")
    return codes


def _flags(path: Path, column: Any) -> NDArray[np.bool_]:
    """Which items have an attribute, of a column of bool or of 0 and 1."""
    values = column.to_numpy(dtype=object)
    bad = np.flatnonzero([value not in {0, 1} for value in values.tolist()])  # True and False are 1 and 0
    if len(bad):
        raise ValueError(
            f"{path}: item {bad[0]}: found {values[bad[0]]!s} in column {column.name!r}, expected 0 or 1, as several "
            "columns are attributes"
        )
    return values.astype(bool)
