"""From arrays, in memory or on disk, to one split of a data set: all that every format of a user's own data shares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.labels import read_labels
from pyro_mmvae.data.own.raw_arrays import Source
from pyro_mmvae.data.storage import mapped as columns
from pyro_mmvae.data.storage.mapped import Column, MappedTensor
from pyro_mmvae.modality_spec import ModalitySpec, infer_data_type, resolve_modality

SPLITS = ("train", "val", "test")
SHARES = (0.8, 0.1, 0.1)


def assemble(
    source: Source, split: str | None, *, split_seed: int = 0, memory_map: bool | None = None
) -> MultimodalDataset:
    """Check arrays, and make one split of them.

    Args:
        source: what was found.
        split: ``train``, ``val`` or ``test``; None for all items, whose split is then called ``train``.
        split_seed: of the shares where none are given: 80, 10 and 10 in a hundred items, at random.
        memory_map: leave arrays on disk, checked as they are read; by default those of ``LARGE`` bytes or more.

    Returns:
        The split, items in the order of the arrays.

    Raises:
        ValueError: for whatever does not fit; the message names file, modality, item and what was expected.
    """
    count = _count(source)
    source.meta.check_names(source.where, list(source.modalities))
    present = _present(source, count)
    labels, label_names = read_labels(source, count)
    rows = np.arange(count) if split is None else _rows(source, count, split, split_seed)
    found, specs = {}, {}
    for number, (name, array) in enumerate(source.modalities.items()):
        column, specs[name] = _column(source, name, array, present[:, number])
        present[:, number] = column.present
        stays = columns.is_mapped(array) and (memory_map or (memory_map is None and array.nbytes >= columns.LARGE))
        column, specs[name] = _settle(source, name, column, specs[name], scan=not stays)
        if stays:
            columns.expect_random_access(array)
        found[name] = MappedTensor(column, rows) if stays else column.read(rows)
    about = {**source.provenance, "split": {"name": split, "given": source.split is not None, "seed": split_seed}}
    return MultimodalDataset(
        found,
        None if labels is None else torch.from_numpy(labels[rows]),
        torch.from_numpy(present[rows]),
        source.name,
        split or "train",
        about,
        specs,
        label_names,
    )


def _count(source: Source) -> int:
    if not source.modalities:
        raise ValueError(f"{source.where}: found no modality, expected at least one array")
    first = next(iter(source.modalities))
    for name, array in source.modalities.items():
        if not name.isidentifier():
            raise ValueError(f"{source.place(name)}: expected a name of letters, digits and _, not starting with one")
        columns.check_array(source.place(name), array)
        if len(array) != len(source.modalities[first]):
            raise ValueError(
                f"{source.place(name)}: found {len(array)} items, expected {len(source.modalities[first])} as in "
                f"{first!r}"
            )
    return len(source.modalities[first])


def _present(source: Source, count: int) -> NDArray[np.bool_]:
    shape = (count, len(source.modalities))
    if source.present is None:
        return np.ones(shape, dtype=bool)
    given = source.present
    if given.dtype != np.bool_ or given.shape != shape:
        raise ValueError(
            f"{source.files.get('present', source.where)}: found {given.shape} of {given.dtype}, expected "
            f"(item, modality) = {shape} of bool, columns in the order {', '.join(source.modalities)}"
        )
    return np.array(given)


def _rows(source: Source, count: int, split: str, seed: int) -> NDArray[np.int64]:
    """The items of a split, in order."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {source.where}, expected one of: {', '.join(SPLITS)}")
    where = source.files.get("split", source.where)
    if source.split is None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"{source.where}: split_seed: found {seed!r}, expected a whole number of at least 0")
        ends = np.round(np.cumsum(SHARES) * count).astype(int)
        parts = np.split(np.random.default_rng(seed).permutation(count), ends[:-1])
        rows = np.sort(parts[SPLITS.index(split)])
        hint = f", of {count} items; give a split"
    else:
        given, hint = source.split, ""
        if given.shape != (count,) or given.dtype.kind not in "iuU":
            raise ValueError(
                f"{where}: found {given.shape} of {given.dtype}, expected (item,) = ({count},) of 0, 1, 2 or "
                f"{', '.join(SPLITS)}"
            )
        names = np.array(SPLITS)
        known = np.isin(given, names if given.dtype.kind == "U" else np.arange(len(SPLITS)))
        if not known.all():
            first = int(np.argmin(known))
            raise ValueError(f"{where}: item {first}: found {given[first]!s}, expected 0, 1, 2 or {', '.join(SPLITS)}")
        rows = np.flatnonzero(given == (split if given.dtype.kind == "U" else SPLITS.index(split)))
    if not len(rows):
        raise ValueError(f"{where}: split {split!r} is empty, expected at least one item{hint}")
    return rows


def _column(source: Source, name: str, array: NDArray[Any], present: NDArray[np.bool_]) -> tuple[Column, ModalitySpec]:
    """The column of a modality, and what is known of it before its values are looked at."""
    where, spec = source.place(name), source.meta.spec(name)
    is_byte = array.dtype == np.uint8
    data_type = spec.data_type or infer_data_type(where, array.dtype.kind, is_byte, tuple(array.shape[1:]))
    column = Column(where, array, data_type, present, spec.classes)
    if source.meta.allows("missing_nan", name):
        column = replace(column, present=present & ~column.nan_items())
    if not column.present.any():
        raise ValueError(f"{where}: found in no item, expected it in one at least")
    pixels = column.pixels if spec.pixels is None and data_type == "image" else spec.pixels
    spec = replace(spec, data_type=data_type, pixels=pixels)
    resolve_modality(spec, where=where)
    if spec.alphabet is not None and array.ndim != 2:
        raise ValueError(f"{where}: found items of shape {column.shape}, expected (position,), as tokens are text")
    return column, spec


def _settle(
    source: Source, name: str, column: Column, spec: ModalitySpec, *, scan: bool
) -> tuple[Column, ModalitySpec]:
    """Look at the values: all of them, unless they are to stay on disk."""
    if scan:
        column.scan()
    if not source.meta.allows("allow_constant", name) and column.array.size > 1 and column.is_constant():
        raise ValueError(
            f"{column.where}: found {column.array[column.present].flat[0]!s} everywhere, expected values that vary "
            "(allow_constant: true lets it)"
        )
    if column.kind == "tokens" and column.classes is None:
        classes = max(column.largest() + 1, 2)
        return replace(column, classes=classes), replace(spec, classes=classes)
    return column, spec
