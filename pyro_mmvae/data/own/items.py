"""Data sets made of an iterable of items, held in memory or written into a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import yaml
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.arrays import from_arrays, meta_from_arguments, to_numpy
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.folder import (
    COVARIATES,
    FEATURES,
    META_FILE,
    RESERVED_NAMES,
    is_reserved,
    make_raw_arrays,
    read_npy,
)
from pyro_mmvae.data.own.meta import Meta
from pyro_mmvae.data.storage.mapped import check_array
from pyro_mmvae.data.storage.npyfile import ItemFile
from pyro_mmvae.files import write_text
from pyro_mmvae.modality_spec import check_modality_name, infer_data_type


def from_items(
    items: Iterable[Mapping[str, Any]] | Any,
    *,
    name: str = "items",
    split: str = "train",
    meta: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
) -> MultimodalDataset:
    """Make a data set of items, such as a torch ``Dataset`` or ``IterableDataset`` of dicts, read once and in order.

    All items must exist before training starts, since batches are drawn at random from the whole. Without a ``folder``
    they are held in memory, and two to three times their size is needed while they are stacked. With a ``folder``, each
    item is written as it comes, into one ``.npy`` file per modality, which the data set then maps: memory holds one
    item while writing and the items of a batch afterwards, and all labels, presence and strings. An
    ``IterableDataset`` is read by this process, without workers, and must end.

    Args:
        items: The items, as an iterable or an object with a length and integer indices. Each is a mapping from
            modality names to arrays, tensors or numbers, whose shape and type are the same for all items. A modality
            that is None or left out is absent. ``"label"`` is the item's class, an integer, or its attributes, bool or
            0 and 1 `(attribute,)`; either all items have one or none. ``"id"`` is the item's identifier, a string or an
            integer that no other item has; either all items have one or none.
        name: Name of the data, ``"items"`` by default.
        split: Name of the split, ``"train"`` by default.
        meta: The description that ``meta.yaml`` would hold, see :func:`from_arrays`; by default everything is inferred.
        label_names: Names of the attributes, overriding those in ``meta``. By default ``attribute 0``, ….
        provenance: Everything that identifies the content, serialisable as JSON. Empty by default; with a ``folder``
            by default the sizes and times of modification of its files.
        folder: Path of a new folder to write to, which appears once it is complete. It is a data set by itself:
            ``load_data(folder)`` reads it without the items. None by default, to hold the items in memory.

    Returns:
        The data set, with modalities in the order in which they first appear.

    Raises:
        ValueError: If there are no items or they do not fit together; the message names modality and item.
        TypeError: If an item is not a mapping.
        FileExistsError: If the folder exists already.
    """
    checked_meta = meta_from_arguments(meta, label_names)
    if folder is not None:
        return _write_folder(items, Path(folder), name, split, checked_meta, provenance)
    values: dict[str, dict[int, NDArray[Any]]] = {}
    reader = _ItemReader(name)
    for item, key, value in reader.read(items):
        values.setdefault(key, {})[item] = value
    # Each modality's items are released as soon as they are stacked.
    arrays = {key: _stack(values.pop(key), reader.count) for key in list(values)}
    return from_arrays(
        arrays,
        reader.labels(),
        reader.present(),
        name=name,
        split=split,
        meta=checked_meta.model_dump(exclude_unset=True, exclude_none=True),
        provenance=provenance,
        item_ids=reader.ids(),
    )


_LABEL_LENGTH = 64  # the characters of a label that is a string, since all are stored with one length


@dataclass
class _ItemReader:
    """A reader of items that checks them and keeps their labels and presence, a few bytes per item.

    Attributes:
        name: Name of the data, for messages.
        signatures: Shape and type of each modality's first value, and the index of its item.
        present_bytes: One byte per item and modality, 1 where it is present; trailing zeros may be missing.
        label_signature: Shape and type of the labels, or None if there are none.
        label_bytes: The bytes of all labels, in order.
        item_ids: Identifiers of the items, in order; empty if they have none.
        count: Number of items read so far.
    """

    name: str
    signatures: dict[str, tuple[tuple[int, ...], np.dtype[Any], int]] = field(default_factory=dict)
    present_bytes: dict[str, bytearray] = field(default_factory=dict)
    label_signature: tuple[tuple[int, ...], np.dtype[Any]] | None = None
    label_bytes: bytearray = field(default_factory=bytearray)
    item_ids: list[str] = field(default_factory=list)
    count: int = 0

    def read(self, items: Any) -> Iterator[tuple[int, str, NDArray[Any]]]:
        """Yield every value with its item and modality, checked against the first value of the modality."""
        for item in _iterate(items):
            if not isinstance(item, Mapping):
                raise TypeError(
                    f"{self.name}: item {self.count} must be a mapping from modality names to values, got "
                    f"{type(item).__name__}"
                )
            self._add_label(item.get("label"))
            self._add_id(item.get("id"))
            for key, value in item.items():
                if value is not None and key not in {"label", "id"}:
                    array = to_numpy(value)
                    self._add_value(str(key), array)
                    yield self.count, str(key), array
            self.count += 1
        if not self.count:
            raise ValueError(f"{self.name}: must hold at least one item, got none")

    def _add_value(self, key: str, array: NDArray[Any]) -> None:
        """Check shape and type of a value, and record that the modality is present."""
        shape, dtype, first = self.signatures.setdefault(key, (array.shape, array.dtype, self.count))
        are_strings = array.dtype.kind == dtype.kind == "U"  # which may differ in length
        if array.shape != shape or (array.dtype != dtype and not are_strings):
            raise ValueError(
                f"{self.name}: modality {key!r}: item {self.count} must be {shape} of {dtype} as item {first} is, got "
                f"{array.shape} of {array.dtype}"
            )
        flags = self.present_bytes.setdefault(key, bytearray())
        flags += bytes(self.count - len(flags)) + b"\1"

    def _add_label(self, value: Any) -> None:
        """Check shape and type of a label, and record it."""
        if value is None:
            if self.label_signature is not None:
                raise ValueError(f"{self.name}: item {self.count} must have a label as the others have, got none")
            return
        array = to_numpy(value)
        if array.shape == () and array.dtype.kind in "iu":
            array = array.astype(np.int64)  # integer types may differ between items
        if array.dtype.kind == "U":
            array = array.astype(f"<U{_LABEL_LENGTH}")
        if array.dtype.hasobject:
            raise ValueError(
                f"{self.name}: item {self.count}: label must be a number or an array of numbers, got "
                f"{type(value).__name__}"
            )
        if self.label_signature is None and self.count:
            raise ValueError(f"{self.name}: item 0 must have a label as the others have, got none")
        self.label_signature = self.label_signature or (array.shape, array.dtype)
        shape, dtype = self.label_signature
        if (array.shape, array.dtype) != (shape, dtype):
            raise ValueError(
                f"{self.name}: item {self.count}: label must be {shape} of {dtype} as in item 0, got {array.shape} of "
                f"{array.dtype}"
            )
        self.label_bytes += array.tobytes()

    def _add_id(self, value: Any) -> None:
        """Check and record an identifier; either all items have one or none."""
        expected = bool(self.item_ids) if self.count else value is not None
        if (value is not None) != expected:
            first = self.count if expected else 0
            raise ValueError(f"{self.name}: item {first} must have an id as the others have, got none")
        if value is None:
            return
        array = to_numpy(value)
        if array.shape != () or array.dtype.kind not in "iuU":
            raise ValueError(f"{self.name}: item {self.count}: id must be a string or an integer, got {value!r}")
        self.item_ids.append(str(array))

    def ids(self) -> NDArray[np.str_] | None:
        """Return the identifiers, `(item,)`, or None if there are none."""
        return np.array(self.item_ids, dtype=np.str_) if self.item_ids else None

    def labels(self) -> NDArray[Any] | None:
        """Return the labels, `(item,)` or `(item, attribute)`, with unchecked values, or None if there are none."""
        if self.label_signature is None:
            return None
        shape, dtype = self.label_signature
        return np.ndarray((self.count, *shape), dtype, bytes(self.label_bytes))

    def present(self) -> NDArray[np.bool_]:
        """Return the mask of present modalities, `(item, modality)`."""
        columns = [
            np.frombuffer(flags.ljust(self.count, b"\0"), dtype=np.bool_) for flags in self.present_bytes.values()
        ]
        return np.stack(columns, -1) if columns else np.zeros((self.count, 0), dtype=bool)


def _iterate(items: Any) -> Iterable[Any]:
    """Return an iterator over items.

    A torch ``Dataset`` without ``__iter__`` is indexed up to its length, since ``iter`` would index it without end.
    """
    if hasattr(items, "__len__") and hasattr(items, "__getitem__") and not isinstance(items, (Sequence, Mapping)):
        return (items[i] for i in range(len(items)))
    return iter(items)


def _stack(values: dict[int, NDArray[Any]], count: int) -> NDArray[Any]:
    """Stack values by item, `(item, …)`, with zeros where an item has none."""
    first, dtypes = next(iter(values.values())), {value.dtype for value in values.values()}
    array = np.zeros((count, *first.shape), dtype=np.result_type(*dtypes))  # the type of the longest of strings
    for item, value in values.items():
        array[item] = value
    return array


def _write_folder(
    items: Any, folder: Path, name: str, split: str, meta: Meta, provenance: Mapping[str, Any] | None
) -> MultimodalDataset:
    """Write items into a temporary folder beside the new one, check the files, and rename it."""
    folder = folder.expanduser().absolute()
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} must not exist yet: choose another folder")
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        reader = _write_values(items, temporary, name, meta)
        names = list(reader.present_bytes)
        arrays = {key: read_npy(temporary / f"{key}.npy") for key in names}
        labels, present = reader.labels(), reader.present()
        _write_labels_and_meta(temporary, names, labels, present, meta)
        if reader.item_ids:
            np.save(temporary / "ids.npy", np.array(reader.item_ids, dtype=np.str_), allow_pickle=False)
        stats = {f"{key}.npy": (temporary / f"{key}.npy").stat() for key in names}
        raw = make_raw_arrays(
            folder,
            {key: f"{folder / key}.npy" for key in (*names, *RESERVED_NAMES)},
            arrays,
            meta,
            {file: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for file, stat in stats.items()},
        )
        data = assemble(replace(raw, labels=labels, present=present, ids=reader.ids()), None, memory_map=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(data, name=name, split=split, provenance=raw.provenance if provenance is None else dict(provenance))


def _write_values(items: Any, folder: Path, name: str, meta: Meta) -> _ItemReader:
    """Write every value into the file of its modality, and return the reader with labels and presence."""
    reader, files, texts = _ItemReader(name), dict[str, ItemFile](), dict[str, dict[int, NDArray[Any]]]()
    with ExitStack() as stack:
        for item, key, value in reader.read(items):
            if value.dtype.kind == "U" and value.shape == ():
                if key not in texts:
                    _check_name(name, key)
                texts.setdefault(key, {})[item] = value
                continue
            if key not in files:
                _check_first_value(name, key, value, meta)
                files[key] = stack.enter_context(ItemFile(folder / f"{key}.npy", value.dtype, value.shape))
            files[key].write(item, value)
        for file in files.values():
            file.finish(reader.count)
    for key, values in texts.items():
        np.save(folder / f"{key}.npy", _stack(values, reader.count), allow_pickle=False)
    return reader


def _check_first_value(name: str, key: str, value: NDArray[Any], meta: Meta) -> None:
    """Check name, type and kind of a modality at its first value, before hours are spent on writing the others."""
    _check_name(name, key)
    where = f"{name}: modality {key!r}"
    check_array(where, value[None])
    if meta.spec(key).data_type is None:
        is_byte = value.dtype == np.uint8 or (value.dtype == np.uint16 and value.ndim == 3)
        infer_data_type(where, value.dtype.kind, is_byte, value.shape)


def _check_name(name: str, key: str) -> None:
    """Check that a modality can be stored in a file of its name."""
    where = f"{name}: modality {key!r}"
    check_modality_name(key, where)
    if is_reserved(key):
        raise ValueError(
            f"{where}: the name must be none of {', '.join(RESERVED_NAMES)} and not begin with {FEATURES!r} or "
            f"{COVARIATES!r}, got {key!r}: rename it"
        )


def _write_labels_and_meta(
    folder: Path, names: list[str], labels: NDArray[Any] | None, present: NDArray[np.bool_], meta: Meta
) -> None:
    """Write labels, presence and ``meta.yaml``; columns of ``present`` are sorted by name, as the loader reads them."""
    if labels is not None:
        np.save(folder / "labels.npy", labels, allow_pickle=False)
    if not present.all():
        np.save(folder / "present.npy", present[:, np.argsort(names)], allow_pickle=False)
    content = meta.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    if content:
        write_text(folder / META_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
