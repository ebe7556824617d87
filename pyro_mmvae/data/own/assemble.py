"""Assembly of one split of a data set from arrays in memory or on disk, shared by all formats of a user's data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset, Values
from pyro_mmvae.data.options import Problems, check_split
from pyro_mmvae.data.own.covariates import read_covariates
from pyro_mmvae.data.own.identity import read_feature_names, read_ids
from pyro_mmvae.data.own.labels import read_labels
from pyro_mmvae.data.own.raw_arrays import RawArrays
from pyro_mmvae.data.own.strings import encode_strings
from pyro_mmvae.data.storage import mapped
from pyro_mmvae.data.storage.image_files import is_image_files
from pyro_mmvae.data.storage.mapped import Column, MappedTensor, channels_first
from pyro_mmvae.data.storage.rows import MatrixRows
from pyro_mmvae.modality_spec import ModalitySpec, check_modality_name, infer_data_type, resolve_modality

SPLITS = ("train", "val", "test")

SHARES = (0.8, 0.1, 0.1)
"""The fractions of the items in the splits of a random split."""


def assemble(
    raw: RawArrays, split: str | None, *, split_seed: int = 0, memory_map: bool | None = None
) -> MultimodalDataset:
    """Check arrays and make one split of them.

    Args:
        raw: The arrays as they were read.
        split: ``train``, ``val`` or ``test``; None for all items, in a split named ``train``.
        split_seed: Seed of the random split into 80, 10 and 10 percent, used if the data does not give the split of
            each item; 0 by default.
        memory_map: If True, mapped arrays stay on disk and are checked as they are read; if False, they are read into
            memory; by default those of ``LARGE`` bytes or more stay on disk.

    Returns:
        The split, with items in the order of the arrays.

    Raises:
        ValueError: If the arrays do not fit together or a value is not allowed; the message names file, modality, item
            and what was expected. Several modalities with a problem are one :class:`DataError`.
    """
    raw = encode_strings(raw, None if split is None else lambda count: _training_rows(raw, count, split_seed))
    count = _count_items(raw)
    raw.meta.check_names(raw.where, list(raw.modalities))
    present = _read_present(raw, count)
    problems = Problems()
    with problems.collect():
        labels = read_labels(raw, count)
    ids, feature_names = None, dict[str, tuple[str, ...]]()
    with problems.collect():
        ids, feature_names = read_ids(raw, count), read_feature_names(raw)
    covariates, categories = dict[str, NDArray[np.int64]](), dict[str, tuple[str, ...]]()
    with problems.collect():
        covariates, categories = read_covariates(raw, count, ids)
    with problems.collect():
        rows = np.arange(count) if split is None else _choose_rows(raw, count, split, split_seed)
    columns: dict[str, Column] = {}
    specs: dict[str, ModalitySpec] = {}
    in_memory = {name: _is_in_memory(array, memory_map) for name, array in raw.modalities.items()}
    for number, (name, array) in enumerate(raw.modalities.items()):
        with problems.collect():
            column, spec = _make_column(raw, name, array, present[:, number], ids)
            present[:, number] = column.present
            columns[name], specs[name] = _check_values(raw, name, column, spec, scan=in_memory[name])
    problems.check()
    modalities: dict[str, Values] = {}
    for name, column in columns.items():
        if isinstance(column.array, MatrixRows):
            modalities[name] = _select_rows(column, rows)
        elif in_memory[name]:
            modalities[name] = column.read(rows)
        else:
            mapped.expect_random_access(column.array)
            modalities[name] = MappedTensor(column, rows)
    provenance = {**raw.provenance, "split": {"name": split, "given": raw.split is not None, "seed": split_seed}}
    return MultimodalDataset(
        modalities,
        None if labels.values is None else torch.from_numpy(labels.values[rows]),
        torch.from_numpy(present[rows]),
        raw.name,
        split or "train",
        provenance,
        specs,
        labels.label_names,
        labels.class_names,
        None if ids is None else ids[rows],
        feature_names,
        {name: torch.from_numpy(codes[rows]) for name, codes in covariates.items()},
        categories,
    )


def _is_in_memory(array: NDArray[Any] | MatrixRows, memory_map: bool | None) -> bool:
    """Return True if the values of an array are in memory or are to be read into it, so that all are checked."""
    if isinstance(array, MatrixRows):
        return array.stored_values() is not None
    stays_on_disk = array.nbytes >= mapped.LARGE if memory_map is None else memory_map
    return not (is_image_files(array) or (mapped.is_mapped(array) and stays_on_disk))


def _select_rows(column: Column, rows: NDArray[np.int64]) -> MappedTensor:
    """Return a lazy selection of the rows of a matrix, which does not keep the others in memory."""
    if not column.is_checked:
        return MappedTensor(column, rows)  # checked as they are read, so that messages need their numbers
    ids = None if column.ids is None else column.ids[rows]
    part = replace(column, array=cast("MatrixRows", column.array).take(rows), present=column.present[rows], ids=ids)
    return MappedTensor(part, np.arange(len(rows)))


def _count_items(raw: RawArrays) -> int:
    """Return the number of items, and check names, types and lengths of the modalities."""
    if not raw.modalities:
        raise ValueError(f"{raw.where}: must hold at least one array of a modality, got none")
    first = next(iter(raw.modalities))
    for name, array in raw.modalities.items():
        check_modality_name(name, raw.locate(name))
        mapped.check_array(raw.locate(name), array)
        if len(array) != len(raw.modalities[first]):
            raise ValueError(
                f"{raw.locate(name)}: must have {len(raw.modalities[first])} items as {first!r} has, got {len(array)}"
            )
    return len(raw.modalities[first])


def _read_present(raw: RawArrays, count: int) -> NDArray[np.bool_]:
    """Return a checked copy of the mask of present modalities, `(item, modality)`."""
    shape = (count, len(raw.modalities))
    if raw.present is None:
        return np.ones(shape, dtype=bool)
    if raw.present.dtype != np.bool_ or raw.present.shape != shape:
        raise ValueError(
            f"{raw.files.get('present', raw.where)}: present must be (item, modality) = {shape} of bool, with columns "
            f"{', '.join(raw.modalities)}, got {raw.present.shape} of {raw.present.dtype}"
        )
    return np.array(raw.present)


def _choose_rows(raw: RawArrays, count: int, split: str, seed: int) -> NDArray[np.int64]:
    """Return the indices of the items of a split, in order."""
    check_split(raw.where, split, SPLITS)
    where = raw.files.get("split", raw.where)
    if raw.split is None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"{raw.where}: split_seed must be an integer of at least 0, got {seed!r}")
        ends = np.round(np.cumsum(SHARES) * count).astype(int)
        parts = np.split(np.random.default_rng(seed).permutation(count), ends[:-1])
        rows = np.sort(parts[SPLITS.index(split)])
        hint = f" of {count}: give the split of each item"
    else:
        rows, hint = _select_split(where, raw.split, count, split), ""
    if not len(rows):
        raise ValueError(f"{where}: split {split!r} must have at least one item, got none{hint}")
    return rows


def _training_rows(raw: RawArrays, count: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of the training items, or of all items if none is assigned to the training."""
    assigned = raw.split
    if assigned is not None and not np.isin(assigned, ("train",) if assigned.dtype.kind == "U" else (0,)).any():
        return np.arange(count)
    return _choose_rows(raw, count, "train", seed)


def _select_split(where: str, assigned: NDArray[Any], count: int, split: str) -> NDArray[np.int64]:
    """Return the indices of the items that are assigned to a split, by number or by name."""
    allowed = f"0, 1, 2 or {', '.join(SPLITS)}"
    if assigned.shape != (count,) or assigned.dtype.kind not in "iuU":
        raise ValueError(
            f"{where}: split must be (item,) = ({count},) of {allowed}, got {assigned.shape} of {assigned.dtype}"
        )
    by_name = assigned.dtype.kind == "U"
    valid = np.isin(assigned, np.array(SPLITS) if by_name else np.arange(len(SPLITS)))
    if not valid.all():
        first = int(np.argmin(valid))
        raise ValueError(f"{where}: item {first}: split must be {allowed}, got {assigned[first]!s}")
    return np.flatnonzero(assigned == (split if by_name else SPLITS.index(split)))


def _make_column(
    raw: RawArrays,
    name: str,
    array: NDArray[Any] | MatrixRows,
    present: NDArray[np.bool_],
    ids: NDArray[np.str_] | None,
) -> tuple[Column, ModalitySpec]:
    """Return the column of a modality and its description, as far as they are known before its values are read."""
    where, spec = raw.locate(name), raw.meta.spec(name)
    is_byte = array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 4)
    data_type = spec.data_type or infer_data_type(where, array.dtype.kind, is_byte, tuple(array.shape[1:]))
    if data_type == "image" and not isinstance(array, MatrixRows):
        array = channels_first(array)
    column = Column(where, array, data_type, present, spec.classes, ids)
    if raw.meta.allows("missing_nan", name):
        column = replace(column, present=present & ~column.nan_items())
    if not column.present.any():
        raise ValueError(f"{where}: must be present in at least one item, got none")
    is_pixels = array.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}
    pixels = is_pixels if spec.pixels is None and data_type == "image" else spec.pixels
    spec = replace(spec, data_type=data_type, pixels=pixels)
    resolve_modality(spec, where=where)
    if spec.is_text and array.ndim != 2:
        raise ValueError(f"{where}: items of text must have the shape (position,), got {column.shape}")
    return column, spec


def _check_values(
    raw: RawArrays, name: str, column: Column, spec: ModalitySpec, *, scan: bool
) -> tuple[Column, ModalitySpec]:
    """Check the values of a column, all of them if ``scan`` is True, and complete the number of classes of tokens."""
    if scan:
        column.scan()
        column = replace(column, is_checked=True)
    must_vary = not raw.meta.allows("allow_constant", name) and not is_image_files(column.array)
    if must_vary and column.array.size > 1 and column.is_constant():
        raise ValueError(
            f"{column.where}: values must vary, got {column.first_value()!s} everywhere: set "
            "allow_constant to true if that is intended"
        )
    if column.kind == "tokens" and column.classes is None:
        classes = max(column.largest() + 1, 2)
        return replace(column, classes=classes), replace(spec, classes=classes)
    return column, spec
