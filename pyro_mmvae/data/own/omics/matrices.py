"""The choice of the matrices of an AnnData or MuData that become modalities."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pyro_mmvae.data.own.folder import as_value_error
from pyro_mmvae.data.storage.rows import MatrixRows, check_sparse, read_rows

FEATURE_TYPES = {"Gene Expression": "rna", "Antibody Capture": "protein"}
"""Names of modalities by the type that 10x Genomics gives their variables; other types are named by themselves."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix of observations and variables that becomes a modality.

    Attributes:
        name: Name of the modality.
        values: The matrix, in memory or in a file.
        obs_names: Names of its rows.
        columns: Indices of the columns to read, or None for all.
        features: Names of these columns, or None if they have none.
        var: Table of all columns, or None if there is none.
        layers: Names of the layers that could be read instead.
    """

    name: str
    values: Any
    obs_names: Any
    columns: NDArray[np.int64] | None
    features: tuple[str, ...] | None
    var: Any = None
    layers: tuple[str, ...] = ()

    def select(self, columns: NDArray[np.int64], name: str | None = None) -> Matrix:
        """Return the matrix with some of all its columns, and with another name if one is given."""
        features = None if self.features is None else tuple(str(label) for label in self.var.index[columns])
        return replace(self, name=name or self.name, columns=columns, features=features)

    def align(self, items: Any) -> tuple[NDArray[Any] | MatrixRows, NDArray[np.bool_]]:
        """Return the rows of all items, with zeros for those that the matrix lacks, and a mask of those that it has.

        Args:
            items: Names of the items, a pandas index.
        """
        row_of_item = np.asarray(self.obs_names.get_indexer(items), dtype=np.int64)
        present = row_of_item >= 0
        if scipy.sparse.issparse(self.values):
            return read_rows(self.values.astype(np.float32, copy=False), row_of_item, self.columns), present
        if not isinstance(self.values, np.ndarray) and type(self.values).__module__.startswith("h5py"):
            return read_rows(self.values, row_of_item, self.columns), present
        values = np.asarray(self.values, dtype=np.float32)
        values = values if self.columns is None else values[:, self.columns]
        dense = np.zeros((len(items), values.shape[1]), dtype=np.float32)
        dense[present] = values[row_of_item[present]]
        return dense, present


def choose_matrices(
    where: str,
    tree: Any,
    *,
    layer: str | Mapping[str, str] | None,
    obsm: str | Sequence[str] | Mapping[str, str] | None,
    modalities_by: str | None,
    highly_variable: bool,
) -> tuple[list[Matrix], list[str]]:
    """Return the matrices that become modalities, sorted by name, and notes about what is not read.

    Args:
        where: Path or name of the data, the beginning of error messages.
        tree: An AnnData or MuData, in memory or in a file.
        layer: Layer to read instead of ``X``, for all modalities or by name of the modality.
        obsm: Arrays of ``obsm`` that are modalities too: one key, several, or keys by name of the modality.
        modalities_by: Column of ``var`` whose values tell modalities apart that share a matrix.
        highly_variable: If True, only variables are read that the column ``highly_variable`` of ``var`` marks.

    Raises:
        ValueError: If a matrix, layer, array or column is missing, or two modalities have the same name.
    """
    parts: dict[str, Any] = dict(tree.mod) if hasattr(tree, "mod") else {"x": tree}
    matrices, notes = [], []
    for name, part in sorted(parts.items()):
        if not part.obs_names.is_unique:
            raise ValueError(f"{where}: modality {name!r}: names of observations must be unique, got duplicates")
        if part.var_names.is_unique:
            features: tuple[str, ...] | None = tuple(map(str, part.var_names))
        else:
            features = None
            notes.append(f"{name}: names of variables are not kept, as some occur twice; var_names_make_unique() helps")
        whole = Matrix(name, None, part.obs_names, None, features, part.var, _layer_names(part))
        chosen, unread = _split_by_type(whole, modalities_by, is_only=not hasattr(tree, "mod"))
        matrices += [_read_layer(where, matrix, part, layer) for matrix in chosen]
        notes += unread
    _check_layer_names(where, matrices, layer)
    if modalities_by is not None and not any(modalities_by in part.var for part in parts.values()):
        raise ValueError(
            f"{where}: modalities_by must be a column of var, {_list(c for p in parts.values() for c in p.var)}, got "
            f"{modalities_by!r}"
        )
    if highly_variable:
        matrices = _keep_highly_variable(where, matrices)
    read, extra = _read_obsm(where, tree, parts, obsm)
    notes += _describe_obsm(parts, read)
    matrices = sorted(matrices + extra, key=lambda matrix: matrix.name)
    for first, second in zip(matrices, matrices[1:], strict=False):
        if first.name == second.name:
            raise ValueError(
                f"{where}: names of modalities must be distinct, got {first.name!r} twice: rename one, as in "
                "--set 'data.obsm={NAME: KEY}'"
            )
    return matrices, notes


def _layer_names(part: Any) -> tuple[str, ...]:
    """Return the names of the layers, without the None under which anndata 0.13 lists ``X``."""
    return tuple(name for name in part.layers if name is not None)


def _list(names: Any) -> str:
    """Return names in one line."""
    return ", ".join(dict.fromkeys(map(str, names))) or "(none)"


def _split_by_type(whole: Matrix, modalities_by: str | None, *, is_only: bool) -> tuple[list[Matrix], list[str]]:
    """Return one matrix per value of a column of ``var``, and a note if types are not told apart."""
    types = whole.var["feature_types"].unique().tolist() if "feature_types" in whole.var else []
    if modalities_by is None or modalities_by not in whole.var:
        note = (
            f"{whole.name}: variables of all feature_types ({_list(types)}) are read as one modality; "
            "modalities_by: feature_types makes one of each"
        )
        return [whole], [note] if len(types) > 1 and modalities_by is None else []
    values = whole.var[modalities_by].map(str)  # also what is missing, which pandas 3 would leave missing
    distinct = sorted(values.unique().tolist())
    if len(distinct) == 1 and not is_only:  # a modality of MuData, which has a name
        return [whole], []
    names = [FEATURE_TYPES.get(value) or re.sub(r"\W+", "_", value.lower()).strip("_") or "x" for value in distinct]
    parts = zip(names, distinct, strict=True)
    return [whole.select(np.flatnonzero((values == value).to_numpy()), name) for name, value in parts], []


def _read_layer(where: str, matrix: Matrix, part: Any, layer: str | Mapping[str, str] | None) -> Matrix:
    """Return a matrix with the values of ``X`` or of a layer."""
    key = layer.get(matrix.name) if isinstance(layer, Mapping) else layer
    place = f"{where}: modality {matrix.name!r}"
    if key is None and part.X is None:
        raise ValueError(f"{place} must have a matrix X, got none: choose a layer by the option layer")
    if key is not None and key not in matrix.layers:
        raise ValueError(f"{place}: layer must be one of {_list(matrix.layers)}, got {key!r}")
    values = part.X if key is None else part.layers[key]
    with as_value_error(f"{place}: must be a valid sparse matrix", (ValueError,)):
        check_sparse(values)
    # The rows of a matrix in a file are looked up by their number.
    attributes, expected = getattr(values, "attrs", {}), (len(part.obs_names), len(part.var_names))
    shape = tuple(map(int, attributes.get("shape", getattr(values, "shape", ()))))
    if shape != expected:
        raise ValueError(f"{place}: {key or 'X'} must be {expected} as obs and var are, got {shape}")
    return replace(matrix, values=values)


def _check_layer_names(where: str, matrices: list[Matrix], layer: str | Mapping[str, str] | None) -> None:
    """Check that layers are given for modalities that exist."""
    names = [matrix.name for matrix in matrices]
    for name in layer if isinstance(layer, Mapping) else ():
        if name not in names:
            raise ValueError(f"{where}: layer must be given for one of {_list(names)}, got {name!r}")


def _keep_highly_variable(where: str, matrices: list[Matrix]) -> list[Matrix]:
    """Return the matrices with only the variables that are marked, and those unchanged that have none marked."""
    kept, found = [], False
    for matrix in matrices:
        columns = np.arange(len(matrix.var)) if matrix.columns is None else matrix.columns
        if "highly_variable" in matrix.var:
            marked = matrix.var["highly_variable"].fillna(False).to_numpy(dtype=bool)[columns]
            found = found or bool(marked.any())
            kept.append(matrix.select(columns[marked]) if marked.any() else matrix)
        else:
            kept.append(matrix)
    if not found:
        raise ValueError(
            f"{where}: highly_variable must mark some variable in a column of var, got none: "
            "scanpy.pp.highly_variable_genes makes this column"
        )
    return kept


def _read_obsm(
    where: str, tree: Any, parts: Mapping[str, Any], obsm: str | Sequence[str] | Mapping[str, str] | None
) -> tuple[set[tuple[str, str]], list[Matrix]]:
    """Return part and key of each array of ``obsm`` that is read, and the matrices that they become."""
    keys = (obsm,) if isinstance(obsm, str) else obsm or ()
    by_name = dict(obsm) if isinstance(obsm, Mapping) else {key.rpartition(":")[2]: key for key in keys}
    available = {(part, str(key)): value for part, table in parts.items() for key, value in table.obsm.items()}
    if hasattr(tree, "mod"):  # MuData keeps a mask of each modality's observations there too
        available |= {("", str(key)): value for key, value in tree.obsm.items() if key not in parts}
    read, matrices = set(), []
    for name, key in by_name.items():
        part_name, colon, bare = key.rpartition(":")
        places = [place for place in available if place[1] == (bare if colon else key)]
        places = [place for place in places if not colon or place[0] == part_name]
        if len(places) != 1:
            listed = _list(f"{part}:{key}" if part and hasattr(tree, "mod") else key for part, key in available)
            raise ValueError(f"{where}: obsm must be one of {listed}, got {key!r}")
        owner = parts.get(places[0][0], tree)
        matrices.append(_make_obsm_matrix(f"{where}: obsm {key!r}", name, available[places[0]], owner.obs_names))
        read.add(places[0])
    return read, matrices


def _make_obsm_matrix(where: str, name: str, values: Any, obs_names: Any) -> Matrix:
    """Return the matrix of an array of ``obsm``, with the names of its columns if it is a table."""
    columns = getattr(values, "columns", None)
    features = None if columns is None or not columns.is_unique else tuple(map(str, columns))
    array = values if scipy.sparse.issparse(values) else np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: must be numbers (item, feature), got {array.shape} of {array.dtype}")
    return Matrix(name, array, obs_names, None, features)


def _describe_obsm(parts: Mapping[str, Any], read: set[tuple[str, str]]) -> list[str]:
    """Return a note for each modality with arrays in ``obsm`` that look like data and are not read."""
    notes = []
    for name, part in parts.items():
        unread = [
            str(key)
            for key, value in part.obsm.items()
            if not str(key).startswith("X_") and np.ndim(value) == 2 and (name, str(key)) not in read
        ]
        if unread:
            notes.append(
                f"{name}: obsm is not read, which holds {', '.join(unread)}; obsm: [{', '.join(unread)}] makes a "
                "modality of each"
            )
    return notes
