"""AnnData and MuData files: single-cell modalities, each a matrix of observations and variables."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.options import Problems
from pyro_mmvae.data.own.assemble import SPLITS, assemble
from pyro_mmvae.data.own.folder import as_value_error, make_raw_arrays
from pyro_mmvae.data.own.meta import make_meta
from pyro_mmvae.data.registry import register_format

_ANY_ERROR = (Exception,)  # anndata and mudata do not document what they raise on a damaged file
_READERS = {".h5mu": ("mudata", "read_h5mu"), ".h5ad": ("anndata", "read_h5ad")}


@register_format("omics", detect=lambda path: path.is_file() and path.suffix in _READERS, loads_all=True)
def load_omics(
    path: Path,
    split: str | None,
    *,
    cache: bool = True,
    labels: str | tuple[str, ...] | None = None,
    split_by: str | None = None,
    layer: str | None = None,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    missing_zero: bool = False,
    split_seed: int = 0,
) -> MultimodalDataset:
    """Load one split of an ``.h5mu`` file with its modalities, or of an ``.h5ad`` file as one modality ``x``.

    The whole file is read, and sparse matrices are made dense at once, as float32: 4 bytes per observation and
    variable. A modality of an ``.h5mu`` file is absent from the observations that it does not hold. Modalities are in
    alphabetical order. Names of observations are the identifiers of the items, and names of variables those of the
    features.

    Args:
        path: Path of the file.
        split: Name of the split: ``train``, ``val`` or ``test``; None for all items, in the order of the file.
        cache: Accepted for the common interface and ignored, since nothing is built.
        labels: Column of ``obs`` whose categories, in their order, are the classes; in an ``.h5mu`` file also a column
            of a modality, ``MODALITY:COLUMN``. Several columns, each of bool or of 0 and 1, are attributes with the
            columns' names. No labels by default.
        split_by: Column of ``obs`` that holds ``train``, ``val`` and ``test``; by default the split is random.
        layer: Name of a layer to read instead of ``X``, such as ``counts``; ``X`` by default.
        kinds: Kind of the data by modality name. Modalities of integers need one, ``counts`` or ``vector``, since raw
            counts are often stored as floats.
        missing_nan: If True, an item with a NaN in a modality lacks that modality; by default a NaN is an error.
        allow_constant: If True, a modality may have a single value everywhere; by default that is an error.
        missing_zero: If True, an observation with zeros only in a modality lacks that modality, since tools pad with
            zeros; False by default, and the provenance counts them.
        split_seed: Seed of the random split into 80, 10 and 10 percent; 0 by default.

    Raises:
        ValueError: If the file cannot be read, a column or layer is missing, or a value is not allowed.
        ImportError: If the extra ``omics`` is not installed.
    """
    package, function = _READERS[path.suffix]
    read = getattr(_import(package, path), function)
    with as_value_error(f"{path}: must be a readable {path.suffix} file", _ANY_ERROR):
        tree = read(path)
        parts: dict[str, Any] = dict(sorted(tree.mod.items())) if package == "mudata" else {"x": tree}
    for name, part in parts.items():
        _check_modality(f"{path}: modality {name!r}", part, layer)
    _check_axis(str(path), tree)
    with as_value_error(f"{path}: must be a readable {path.suffix} file", _ANY_ERROR):
        arrays = _densify(tree.obs_names, parts, layer)
    notes = _describe_unread(parts)
    problems = Problems()
    for number, (name, part) in enumerate(parts.items()):
        padded = arrays["present"][:, number] & ~arrays[name].any(-1)
        if missing_zero:
            arrays["present"][padded, number] = False
        elif padded.any():
            notes.append(f"{name}: {padded.sum()} observations hold zeros only; missing_zero: true makes them absent")
        with problems.collect():
            _check_kind(f"{path}[{name}]", name, arrays[name], (kinds or {}).get(name), tuple(part.layers))
    problems.check()
    attributes = () if labels is None or isinstance(labels, str) else tuple(labels)
    content: dict[str, Any] = {"label_names": list(attributes)} if attributes else {}
    if isinstance(labels, str):
        arrays["labels"], content["class_names"] = _read_classes(path, _read_column(path, tree, labels))
    elif attributes:
        arrays["labels"] = np.stack([_read_flags(path, _read_column(path, tree, name)) for name in attributes], -1)
    meta = make_meta(str(path), content).with_options(str(path), kinds, missing_nan, allow_constant)
    if split_by is not None:
        # One character more than the longest name, so that no longer value is truncated to one of them.
        names = f"U{max(map(len, SPLITS)) + 1}"
        arrays["split"] = np.asarray(_read_column(path, tree, split_by).astype(str), dtype=names)
    stat = path.stat()
    about = {
        path.name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns},
        "columns": {"labels": labels, "split_by": split_by, "layer": layer},
    }
    if missing_zero:
        about["missing_zero"] = True
    files = {name: f"{path}[{name}]" for name in arrays}
    feature_names = _read_feature_names(parts, notes)
    raw = make_raw_arrays(path, files, arrays, meta, about)
    raw = replace(raw, ids=np.array(tree.obs_names.astype(str), dtype=np.str_), feature_names=feature_names)
    if notes:
        raw.provenance["notes"] = notes
    return assemble(raw, split, split_seed=split_seed)


def is_omics_object(values: Any) -> bool:
    """Return True for an AnnData or a MuData object, without importing their packages."""
    return any(kind.__module__.partition(".")[0] in {"anndata", "mudata"} for kind in type(values).__mro__)


def split_omics_object(tree: Any, labels: Any, name: str) -> tuple[dict[str, Any], Any, tuple[Hashable, ...]]:
    """Split a MuData object into its modalities, and read labels from its columns.

    Args:
        tree: The object; an AnnData object is one modality ``x``.
        labels: Name of a column of ``obs`` whose categories are the classes, also ``MODALITY:COLUMN``; other labels
            are returned as they are.
        name: Name of the data, the beginning of error messages.

    Returns:
        The AnnData objects by modality name in alphabetical order, the labels, and the names of the observations in
        the order of ``tree``.

    Raises:
        ValueError: If the axis is not 0 or there is no such column.
    """
    _check_axis(name, tree)
    parts = dict(sorted(tree.mod.items())) if hasattr(tree, "mod") else {"x": tree}
    return parts, _read_column(name, tree, labels) if isinstance(labels, str) else labels, tuple(tree.obs_names)


def _check_axis(where: str, tree: Any) -> None:
    """Check that the modalities of an object describe the same observations with unique names."""
    if getattr(tree, "axis", 0) != 0:
        raise ValueError(
            f"{where}: axis must be 0, so that modalities describe the same observations, got {tree.axis}: transpose "
            "the modalities, or concatenate them"
        )
    if not tree.obs_names.is_unique:
        raise ValueError(f"{where}: names of observations must be unique, got duplicates")


def _import(package: str, path: Path) -> Any:
    """Import the package that reads a file, without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{path}: the package {package} must be installed to read this file, got: {error}: "
            "pip install 'pyro-mmvae[omics]'",
            name=package,
        ) from error


def _check_modality(where: str, part: Any, layer: str | None) -> None:
    """Check that a modality has the matrix to read and unique names of observations."""
    if layer is not None and layer not in part.layers:
        raise ValueError(f"{where}: layer must be one of {', '.join(part.layers) or '(none)'}, got {layer!r}")
    if layer is None and part.X is None:
        raise ValueError(f"{where} must have a matrix X, got none: choose a layer by the option layer")
    if not part.obs_names.is_unique:
        raise ValueError(f"{where}: names of observations must be unique, got duplicates")


def _describe_unread(parts: Mapping[str, Any]) -> list[str]:
    """Return a line for everything in a file that looks like data of a modality and is not read as one."""
    notes = []
    for name, part in parts.items():
        unread = [key for key, value in part.obsm.items() if not str(key).startswith("X_") and np.ndim(value) == 2]
        if unread:
            notes.append(
                f"{name}: obsm is not read, which holds {', '.join(unread)}; an .h5mu file can hold it as a modality"
            )
        types = part.var["feature_types"].unique().tolist() if "feature_types" in part.var else []
        if len(types) > 1:
            notes.append(
                f"{name}: variables of all feature_types ({', '.join(map(str, types))}) are read as one modality; an "
                ".h5mu file can hold them as several"
            )
    return notes


def _read_feature_names(parts: Mapping[str, Any], notes: list[str]) -> dict[str, NDArray[np.str_]]:
    """Return the names of the variables by modality, and add a note for each modality in which two share a name."""
    names = {}
    for name, part in parts.items():
        if part.var_names.is_unique:
            names[name] = np.array(part.var_names.astype(str), dtype=np.str_)
        else:
            notes.append(f"{name}: names of variables are not kept, as some occur twice; var_names_make_unique() helps")
    return names


def _check_kind(where: str, name: str, values: NDArray[Any], kind: str | None, layers: tuple[str, ...]) -> None:
    """Check that the kind of a modality of integers was set, and that counts are whole numbers."""
    whole = (values == np.floor(values)) | np.isnan(values)
    if kind is None and whole.all() and not (values < 0).any():
        raise ValueError(
            f"{where}: modality {name!r} must have a kind, as it holds integers only and may be counts, got none: set "
            f"it to counts or vector by the option kinds, as in --set 'data.kinds={{{name}: counts}}'"
        )
    if kind == "counts" and not whole.all():
        item, variable = np.argwhere(~whole)[0].tolist()
        others = f"choose another matrix by the option layer ({', '.join(layers)}), " if layers else ""
        raise ValueError(
            f"{where}: modality {name!r}: item {item}: value at ({variable},) must be a whole number, as a count is, "
            f"got {values[item, variable]}: {others}round the values, or set the kind to vector"
        )


def _densify(items: Any, parts: Mapping[str, Any], layer: str | None) -> dict[str, NDArray[Any]]:
    """Return dense matrices `(item, variable)`, with zeros for absent items, and the mask ``present``."""
    arrays: dict[str, NDArray[Any]] = {}
    present = np.zeros((len(items), len(parts)), dtype=bool)
    for number, (name, part) in enumerate(parts.items()):
        rows = items.get_indexer(part.obs_names)
        matrix = part.X if layer is None else part.layers[layer]
        arrays[name] = np.zeros((len(items), part.n_vars), dtype=np.float32)
        arrays[name][rows] = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
        present[rows, number] = True
    return {**arrays, "present": present}


def _read_column(path: Path | str, tree: Any, name: str) -> Any:
    """Return a column of ``obs``, of the whole file or of one modality."""
    if name in tree.obs:
        return tree.obs[name]
    modality, colon, column = name.partition(":")
    parts = getattr(tree, "mod", {})
    if colon and modality in parts and column in parts[modality].obs:
        return parts[modality].obs[column].reindex(tree.obs_names)
    raise ValueError(f"{path}: column must be one of obs, {', '.join(map(str, tree.obs)) or '(none)'}, got {name!r}")


def _read_classes(path: Path, column: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Return the position of each item's category among those that occur, NaN for none, and the categories' names."""
    categories = column.astype("category").cat.remove_unused_categories()
    codes = np.asarray(categories.cat.codes, dtype=np.float64)
    if (codes < 0).all():
        raise ValueError(f"{path}: some item must have a label in column {column.name!r}, got none")
    return np.where(codes < 0, np.nan, codes), [str(name) for name in categories.cat.categories]


def _read_flags(path: Path, column: Any) -> NDArray[np.bool_]:
    """Return an attribute as bool, from a column of bool or of 0 and 1."""
    values = column.to_numpy(dtype=object)
    invalid = np.flatnonzero([value not in {0, 1} for value in values.tolist()])  # True and False equal 1 and 0
    if len(invalid):
        raise ValueError(
            f"{path}: item {invalid[0]}: column {column.name!r} must hold 0 or 1, as several columns are attributes, "
            f"got {values[invalid[0]]!s}"
        )
    return values.astype(bool)
