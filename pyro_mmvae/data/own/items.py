"""Data sets of anything that gives items one by one, held in memory or written into a folder."""

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
from pyro_mmvae.data.own.arrays import array_of, from_arrays, make_said
from pyro_mmvae.data.own.assemble import assemble
from pyro_mmvae.data.own.folder import META, OTHERS, make_source, read_npy
from pyro_mmvae.data.own.meta import Meta
from pyro_mmvae.data.storage.mapped import check_array
from pyro_mmvae.data.storage.npyfile import ItemFile
from pyro_mmvae.files import write_text
from pyro_mmvae.modality_spec import infer_data_type


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
    """A data set of items, such as a torch ``Dataset`` or ``IterableDataset`` of dicts, which are read once, in order.

    All items must be there before training starts: batches are drawn at random from the whole. Without a ``folder``
    they are held in memory, and for a moment, while they are put together, it takes two to three times their size. With
    one, they are written there as they come, one ``.npy`` a modality, and the data set maps these files: of what is
    larger than memory, an item is held at a time while writing, and the items of a batch afterwards; only labels, and
    which modalities are there, always stay in memory. An ``IterableDataset`` is read by this process alone, without
    workers; one without an end never comes back.

    Args:
        items: each a mapping of modality names to arrays, tensors or numbers, of one shape and type a modality. One
            that is None or not there is absent. ``"label"`` is the item's class, an integer, or which attributes it
            has, bool or 0 and 1 `(attribute,)`; in all items or in none. What has a length and is indexed by whole
            numbers does as well as what is iterated over.
        name: see :func:`from_arrays`; and so on.
        split: likewise.
        meta: likewise.
        label_names: likewise.
        provenance: likewise; by default of a ``folder`` the sizes and times of its files.
        folder: a new one, that is there once everything is in it, and then a data set of its own:
            ``load_data(folder)`` reads it without the items.

    Returns:
        The data set, modalities in the order in which they first appear.

    Raises:
        ValueError: for no items, or items that do not fit together; the message names modality and item.
        TypeError: if an item is no mapping.
        FileExistsError: if there is something of the folder's name.
    """
    said = make_said(meta, label_names)
    if folder is not None:
        return _written(items, Path(folder), name, split, said, provenance)
    found: dict[str, dict[int, NDArray[Any]]] = {}
    rest = _Rest(name)
    for item, key, value in rest.read(items):
        found.setdefault(key, {})[item] = value
    arrays = {key: _stack(found.pop(key), rest.count) for key in list(found)}
    told = said.model_dump(exclude_unset=True, exclude_none=True)
    return from_arrays(arrays, rest.labels(), rest.present(), name=name, split=split, meta=told, provenance=provenance)


@dataclass
class _Rest:
    """What is kept of items beside their values, a few bytes an item.

    Attributes:
        name: of the data, for messages.
        first: modality to shape and type of its first value, and whose that is.
        seen: modality to a byte an item, 1 where it is there; those at the end may be lacking.
        label: shape and type of the labels.
        given: the bytes of the labels.
        count: of items.
    """

    name: str
    first: dict[str, tuple[tuple[int, ...], np.dtype[Any], int]] = field(default_factory=dict)
    seen: dict[str, bytearray] = field(default_factory=dict)
    label: tuple[tuple[int, ...], np.dtype[Any]] | None = None
    given: bytearray = field(default_factory=bytearray)
    count: int = 0

    def read(self, items: Any) -> Iterator[tuple[int, str, NDArray[Any]]]:
        """Every value with its item and modality, checked against the first of its modality."""
        for item in _each(items):
            if not isinstance(item, Mapping):
                what = type(item).__name__
                raise TypeError(f"{self.name}: item {self.count}: found {what}, expected a mapping of modalities")
            self._add_label(item.get("label"))
            for key, value in item.items():
                if value is not None and key != "label":
                    array = array_of(value)
                    self._add(str(key), array)
                    yield self.count, str(key), array
            self.count += 1
        if not self.count:
            raise ValueError(f"{self.name}: found no items, expected at least one")

    def _add(self, key: str, array: NDArray[Any]) -> None:
        shape, dtype, first = self.first.setdefault(key, (array.shape, array.dtype, self.count))
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"{self.name}: modality {key!r}: item {self.count}: found {array.shape} of {array.dtype}, expected "
                f"{shape} of {dtype} as in item {first}"
            )
        seen = self.seen.setdefault(key, bytearray())
        seen += bytes(self.count - len(seen)) + b"\1"

    def _add_label(self, value: Any) -> None:
        if value is None:
            if self.label is not None:
                raise ValueError(f"{self.name}: item {self.count}: found no label, others have one")
            return
        array = array_of(value)
        if array.shape == () and array.dtype.kind in "iu":
            array = array.astype(np.int64)  # whatever type a class has
        if array.dtype.hasobject:
            raise ValueError(f"{self.name}: item {self.count}: found a label that is no number and no array of them")
        if self.label is None and self.count:
            raise ValueError(f"{self.name}: item 0: found no label, others have one")
        self.label = self.label or (array.shape, array.dtype)
        if (array.shape, array.dtype) != self.label:
            raise ValueError(
                f"{self.name}: item {self.count}: found a label {array.shape} of {array.dtype}, expected "
                f"{self.label[0]} of {self.label[1]} as in item 0"
            )
        self.given += array.tobytes()

    def labels(self) -> NDArray[Any] | None:
        """`(item,)` or `(item, attribute)`, checked no further; None where no item has one."""
        if self.label is None:
            return None
        shape, dtype = self.label
        return np.ndarray((self.count, *shape), dtype, bytes(self.given))

    def present(self) -> NDArray[np.bool_]:
        """`(item, modality)`."""
        columns = [np.frombuffer(seen.ljust(self.count, b"\0"), dtype=np.bool_) for seen in self.seen.values()]
        return np.stack(columns, -1) if columns else np.zeros((self.count, 0), dtype=bool)


def _each(items: Any) -> Iterable[Any]:
    """A torch ``Dataset`` need not be iterable, and has no end if it is iterated over by its index."""
    if hasattr(items, "__len__") and hasattr(items, "__getitem__") and not isinstance(items, (Sequence, Mapping)):
        return (items[i] for i in range(len(items)))
    return iter(items)


def _stack(values: dict[int, NDArray[Any]], count: int) -> NDArray[Any]:
    example = next(iter(values.values()))
    array = np.zeros((count, *example.shape), dtype=example.dtype)
    for item, value in values.items():
        array[item] = value
    return array


# Into a folder -------------------------------------------------------------------------------------------------------


def _written(
    items: Any, folder: Path, name: str, split: str, meta: Meta, provenance: Mapping[str, Any] | None
) -> MultimodalDataset:
    """Write into a temporary folder beside, look at what is there, then rename."""
    folder = folder.expanduser().absolute()
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists already, choose another folder")
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        rest = _write(items, temporary, name, meta)
        arrays = {key: read_npy(temporary / f"{key}.npy") for key in rest.seen}
        labels, present = rest.labels(), rest.present()
        _write_rest(temporary, list(rest.seen), labels, present, meta)
        about = {f"{key}.npy": (temporary / f"{key}.npy").stat() for key in rest.seen}
        source = make_source(
            folder,
            {key: f"{folder / key}.npy" for key in (*rest.seen, *OTHERS)},
            arrays,
            meta,
            {file: {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns} for file, stat in about.items()},
        )
        data = assemble(replace(source, labels=labels, present=present), None, memory_map=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    given = source.provenance if provenance is None else dict(provenance)
    return replace(data, name=name, split=split, provenance=given)


def _write(items: Any, folder: Path, name: str, meta: Meta) -> _Rest:
    """Every value into the file of its modality."""
    rest, files = _Rest(name), dict[str, ItemFile]()
    with ExitStack() as stack:
        for item, key, value in rest.read(items):
            if key not in files:
                _check_first(name, key, value, meta)
                files[key] = stack.enter_context(ItemFile(folder / f"{key}.npy", value.dtype, value.shape))
            files[key].write(item, value)
        for file in files.values():
            file.finish(rest.count)
    return rest


def _check_first(name: str, key: str, value: NDArray[Any], meta: Meta) -> None:
    """Refuse at the first item what would be refused in the end."""
    where = f"{name}: modality {key!r}"
    if not key.isidentifier() or key in OTHERS:
        raise ValueError(f"{where}: expected a name of letters, digits and _, and none of {', '.join(OTHERS)}")
    check_array(where, value[None])
    if meta.spec(key).data_type is None:
        infer_data_type(where, value.dtype.kind, value.dtype == np.uint8, value.shape)


def _write_rest(
    folder: Path, names: list[str], labels: NDArray[Any] | None, present: NDArray[np.bool_], meta: Meta
) -> None:
    """What else a folder of data holds; columns of ``present`` are in alphabetical order there."""
    if labels is not None:
        np.save(folder / "labels.npy", labels, allow_pickle=False)
    if not present.all():
        np.save(folder / "present.npy", present[:, np.argsort(names)], allow_pickle=False)
    said = meta.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    if said:
        write_text(folder / META, yaml.safe_dump(said, sort_keys=False, allow_unicode=True))
