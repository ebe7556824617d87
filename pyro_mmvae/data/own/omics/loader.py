"""The loader of AnnData and MuData files, and its part that reads objects in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.options import Problems
from pyro_mmvae.data.own.assemble import SPLITS, assemble
from pyro_mmvae.data.own.covariates import column_names
from pyro_mmvae.data.own.folder import as_value_error
from pyro_mmvae.data.own.meta import make_meta
from pyro_mmvae.data.own.omics.columns import read_classes, read_column, read_covariates, read_flags
from pyro_mmvae.data.own.omics.files import ANY_ERROR, SUFFIXES, damage_explained, open_omics
from pyro_mmvae.data.own.omics.kinds import check_kind
from pyro_mmvae.data.own.omics.matrices import Matrix, choose_matrices
from pyro_mmvae.data.own.omics.objects import check_axis
from pyro_mmvae.data.own.raw_arrays import RawArrays
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.storage.mapped import LARGE
from pyro_mmvae.data.storage.rows import MatrixRows


@register_format("omics", detect=lambda path: path.is_file() and path.suffix in SUFFIXES, loads_all=True)
def load_omics(
    path: Path,
    split: str | None,
    *,
    cache: bool = True,
    labels: str | tuple[str, ...] | None = None,
    covariates: str | tuple[str, ...] | None = None,
    split_by: str | None = None,
    layer: str | Mapping[str, str] | None = None,
    obsm: str | tuple[str, ...] | Mapping[str, str] | None = None,
    modalities_by: str | None = None,
    highly_variable: bool = False,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    missing_zero: bool = False,
    split_seed: int = 0,
    backed: bool | None = None,
) -> MultimodalDataset:
    """Load one split of an ``.h5mu`` file with its modalities, or of an ``.h5ad`` file as one modality ``x``.

    Sparse matrices whose dense form is larger than 64 MiB remain sparse, and only the items of a batch are made dense,
    as float32. A modality of an ``.h5mu`` file is absent from the observations that it does not hold. Modalities are in
    alphabetical order. Names of observations and variables become ``item_ids`` and ``feature_names``.

    Args:
        path: Path of the file.
        split: Name of the split: ``train``, ``val`` or ``test``; None for all items, in the order of the file.
        cache: Accepted for the common interface and ignored, since nothing is built.
        labels: Column of ``obs`` whose categories, in their order, are the classes; in an ``.h5mu`` file also a column
            of a modality, ``MODALITY:COLUMN``. Several columns, each of bool or of 0 and 1, are attributes with the
            columns' names. No labels by default.
        covariates: Columns of ``obs`` whose categories condition encoders of vectors and counts and all decoders, such
            as the donor or the plate, also ``MODALITY:COLUMN``, which is then called COLUMN. None by default.
        split_by: Column of ``obs`` that holds ``train``, ``val`` and ``test``; by default the split is random.
        layer: Name of a layer to read instead of ``X``, such as ``counts``, for all modalities, or names of layers by
            modality name; ``X`` by default.
        obsm: Key or keys of ``obsm`` that are modalities too, such as ``protein_expression``, or keys by modality name.
            ``MODALITY:KEY`` is a key of one modality of an ``.h5mu`` file. None by default.
        modalities_by: Column of ``var`` that tells modalities apart which share a matrix, such as ``feature_types`` of
            10x Genomics: ``Gene Expression`` is named ``rna``, ``Antibody Capture`` ``protein``, and another value by
            itself, in lower case. By default a matrix is one modality.
        highly_variable: If True, only the variables are read that the column ``highly_variable`` of ``var`` marks;
            modalities without a marked variable are read completely. False by default.
        kinds: Kind of the data by modality name. Modalities of integers need one, ``counts`` or ``vector``, since raw
            counts are often stored as floats.
        missing_nan: If True, an item with a NaN in a modality lacks that modality; by default a NaN is an error.
        allow_constant: If True, a modality may have a single value everywhere; by default that is an error.
        missing_zero: If True, an observation with zeros only in a modality lacks that modality, since tools pad with
            zeros; False by default, and the provenance counts them.
        split_seed: Seed of the random split into 80, 10 and 10 percent; 0 by default.
        backed: If True, dense matrices and those in CSR format stay in the file, and only the items of a batch are read
            and checked; by default those of files of a gibibyte or more.

    Raises:
        ValueError: If the file cannot be read, a column or layer is missing, or a value is not allowed.
        ImportError: If the extra ``omics`` is not installed.
    """
    stat = path.stat()
    tree = open_omics(path, backed=stat.st_size >= LARGE if backed is None else backed)
    options: dict[str, Any] = {
        "layer": layer, "obsm": obsm, "modalities_by": modalities_by, "highly_variable": highly_variable,
        "missing_zero": missing_zero, "covariates": covariates,
    }  # fmt: skip
    raw = read_omics(
        tree, str(path), path.name, labels=labels, split_by=split_by, kinds=kinds, missing_nan=missing_nan,
        allow_constant=allow_constant, **options,
    )  # fmt: skip
    raw.provenance["files"] = {
        path.name: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns},
        "columns": {"labels": labels, "split_by": split_by, "layer": layer},
        # Only options that were set, so that results cached by older versions are found.
        **{name: value for name, value in options.items() if value and name != "layer"},
    }
    return assemble(raw, split, split_seed=split_seed)


def read_omics(
    tree: Any,
    where: str,
    name: str,
    *,
    labels: str | tuple[str, ...] | None = None,
    covariates: str | tuple[str, ...] | None = None,
    split_by: str | None = None,
    layer: str | Mapping[str, str] | None = None,
    obsm: str | tuple[str, ...] | Mapping[str, str] | None = None,
    modalities_by: str | None = None,
    highly_variable: bool = False,
    kinds: Mapping[str, str] | None = None,
    missing_nan: bool | None = None,
    allow_constant: bool | None = None,
    missing_zero: bool = False,
) -> RawArrays:
    """Return the arrays of an AnnData or MuData, with the options of :func:`load_omics`.

    Args:
        tree: An ``AnnData`` or ``MuData``, or an open file with the attributes of one.
        where: Path or name of the data, the beginning of error messages.
        name: Name of the data set.
        labels: Column of ``obs``, or several columns of bool.
        covariates: Columns of ``obs`` that are categorical covariates.
        split_by: Column of ``obs`` with the names of the splits.
        layer: Name of a layer, or names by modality name.
        obsm: Keys of ``obsm`` that are modalities, or keys by modality name.
        modalities_by: Column of ``var`` that tells modalities apart.
        highly_variable: If True, only marked variables are read.
        kinds: Kind of the data by modality name.
        missing_nan: If True, an item with a NaN in a modality lacks it.
        allow_constant: If True, a modality may have a single value.
        missing_zero: If True, an item with zeros only in a modality lacks it.

    Raises:
        ValueError: If a matrix, column or layer is missing, or a value is not allowed.
    """
    with damage_explained(where):
        return _read(
            tree, where, name, labels=labels, covariates=covariates, split_by=split_by, layer=layer, obsm=obsm,
            modalities_by=modalities_by, highly_variable=highly_variable, kinds=kinds, missing_nan=missing_nan,
            allow_constant=allow_constant, missing_zero=missing_zero,
        )  # fmt: skip


def _read(
    tree: Any,
    where: str,
    name: str,
    *,
    labels: str | tuple[str, ...] | None,
    covariates: str | tuple[str, ...] | None,
    split_by: str | None,
    layer: str | Mapping[str, str] | None,
    obsm: str | tuple[str, ...] | Mapping[str, str] | None,
    modalities_by: str | None,
    highly_variable: bool,
    kinds: Mapping[str, str] | None,
    missing_nan: bool | None,
    allow_constant: bool | None,
    missing_zero: bool,
) -> RawArrays:
    """Return the arrays of an AnnData or MuData, see :func:`read_omics`."""
    matrices, notes = choose_matrices(
        where, tree, layer=layer, obsm=obsm, modalities_by=modalities_by, highly_variable=highly_variable
    )
    check_axis(where, tree)
    problems, modalities, masks = Problems(), dict[str, NDArray[Any] | MatrixRows](), []
    for matrix in matrices:
        with as_value_error(f"{where}: must be a readable {Path(where).suffix} file", ANY_ERROR):
            values, present = matrix.align(tree.obs_names)
        with problems.collect():
            kind, place = (kinds or {}).get(matrix.name), f"{where}[{matrix.name}]"
            check_kind(place, matrix.name, values, kind, matrix.layers, tree.obs_names)
        notes += _find_padding(matrix, values, present, missing_zero)
        modalities[matrix.name] = values
        masks.append(present)
    problems.check()
    content: dict[str, Any] = {}
    codes: NDArray[Any] | None = None
    if isinstance(labels, str):
        codes, content["class_names"] = read_classes(where, read_column(where, tree, labels))
    elif labels:
        content["label_names"] = list(labels)
        codes = np.stack([read_flags(where, read_column(where, tree, column)) for column in labels], -1)
    columns = read_covariates(where, tree, column_names(covariates) or ())
    meta = make_meta(where, content).with_options(where, kinds, missing_nan, allow_constant)
    return RawArrays(
        where=where,
        files={name: f"{where}[{name}]" for name in (*modalities, "labels", "present", "split")},
        modalities=modalities,
        labels=codes,
        present=np.stack(masks, -1),
        split=None if split_by is None else _read_split(read_column(where, tree, split_by)),
        meta=meta,
        name=name,
        provenance={"meta": meta.model_dump(exclude_defaults=True), **({"notes": notes} if notes else {})},
        ids=np.asarray(tree.obs_names.astype(str), dtype=np.str_),
        feature_names={m.name: np.array(m.features, dtype=np.str_) for m in matrices if m.features is not None},
        covariates={column: values.to_numpy(dtype=object) for column, values in columns.items()},
    )


def _find_padding(
    matrix: Matrix, values: NDArray[Any] | MatrixRows, present: NDArray[np.bool_], missing_zero: bool
) -> list[str]:
    """Make items absent that hold zeros only if ``missing_zero`` is True, and otherwise return a note about them."""
    if isinstance(values, MatrixRows):
        if not missing_zero and values.stored_values() is None:
            return []  # since the whole file would have to be read for a note
        padded = present & ~values.nonzero_items()
    else:
        padded = present & ~values.any(-1)
    if missing_zero:
        present &= ~padded
    elif padded.any():
        return [f"{matrix.name}: {padded.sum()} observations hold zeros only; missing_zero: true makes them absent"]
    return []


def _read_split(column: Any) -> NDArray[np.str_]:
    """Return the names of the splits of the items."""
    # One character more than the longest name, so that no longer value is truncated to one of them.
    return np.asarray(column.astype(str), dtype=f"U{max(map(len, SPLITS)) + 1}")
