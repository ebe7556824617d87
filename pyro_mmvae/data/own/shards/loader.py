"""The loader of WebDataset shards, whose items are read from the tar files batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.options import check_integer
from pyro_mmvae.data.own.manifest import ImageSize
from pyro_mmvae.data.own.shards.decoding import Format
from pyro_mmvae.data.own.shards.files import ShardFiles, find_shards, is_shards, split_shards
from pyro_mmvae.data.own.shards.foreign import foreign_formats
from pyro_mmvae.data.own.shards.index import ShardIndex
from pyro_mmvae.data.own.shards.record import FILE, ShardsRecord
from pyro_mmvae.data.own.shards.values import AllRows, MemberNames, ShardReader, ShardValues
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.shard_order import Shards, StoredMoments
from pyro_mmvae.data.storage.mapped import Column, MappedTensor
from pyro_mmvae.modality_spec import DATA_TYPES, ModalitySpec, infer_data_type

BUFFER = 20_000
"""The default number of items among which a training chooses at random."""

_UNLABELLED = -1


@register_format("webdataset", detect=is_shards, loads_all=True)
def load_shards(
    path: Path,
    split: str | None,
    *,
    cache: bool = True,
    modalities: tuple[str, ...] | None = None,
    kinds: Mapping[str, str] | None = None,
    image_size: ImageSize | None = None,
    val_shards: Path | None = None,
    test_shards: Path | None = None,
    split_seed: int = 0,
    buffer: int = BUFFER,
    verify: bool = False,
) -> MultimodalDataset:
    """Load one split of WebDataset shards, tar files with neighbouring members ``KEY.NAME.SUFFIX`` for each item.

    Members are images (``png``, ``jpg``, …), arrays (``npy``) and texts (``txt``), ``cls`` and ``json`` hold labels.
    The values stay in the shards, of which only the items of a batch are read. Shards that ``pyro-mmvae data export``
    wrote are described by ``shards.json``; shards of other programs are described by a first pass over their headers.

    Args:
        path: Path of a folder of shards, of a tar file, or a pattern such as ``shards-{0000..0099}.tar``.
        split: Name of the split: ``train``, ``val`` or ``test``; None for all items of the path, in order.
        cache: If True, what the first pass over shards of other programs finds is kept in the folder of the cache.
        modalities: Names of the modalities to read, in order; members of others are ignored. All by default.
        kinds: Data type by modality name, see :class:`~pyro_mmvae.ModalitySpec`, for shards of other programs; by
            default it is inferred.
        image_size: Height and width in pixels that images of shards of other programs are resized to, one number for
            both, or a mapping from modality names to sizes. By default all images of a modality must have one size.
        val_shards: Path or pattern of the shards of the validation split; by default those of ``shards.json``, or one
            in ten at random.
        test_shards: Path or pattern of the shards of the test split; by default those of ``shards.json``, or one in
            ten at random.
        split_seed: Seed of the random division of shards without ``shards.json``; 0 by default.
        buffer: Number of items among which a training chooses at random, beside those of the shard that it reads;
            20,000 by default.
        verify: If True, every shard is read and compared with its SHA-256 in ``shards.json`` when it is opened; by
            default the size of the file is compared, and the checksum of each member as it is read.

    Raises:
        ValueError: If a shard is missing, damaged, changed or not safe to read, or its items do not fit together; the
            message is one line that names shard and member.
    """
    check_integer("buffer", str(path), buffer, 0)
    check_integer("split_seed", str(path), split_seed, 0)
    shards = find_shards(path, cache=cache)
    val, test = (None if option is None else Path(option) for option in (val_shards, test_shards))
    files = split_shards(shards, split, val, test, split_seed)
    for file in files:
        shards.check(file, verify=verify)
    if shards.record is not None:
        specs = shards.record.specs(Path(str(shards.folder), FILE))
        forms = {name: modality.form for name, modality in shards.record.modalities.items()}
        _refuse_options(path, specs, kinds, image_size)
    else:
        every = dict.fromkeys([*shards.files, *files])
        specs, forms = foreign_formats(path, {file: shards.index(file) for file in every}, modalities, image_size)
        specs = _with_data_types(path, specs, forms, kinds or {})
    names = _choose(path, tuple(forms), modalities)
    return _assemble(shards, files, split, {name: forms[name] for name in names}, specs, buffer)


def _refuse_options(
    path: Path, specs: Mapping[str, ModalitySpec], kinds: Mapping[str, str] | None, image_size: ImageSize | None
) -> None:
    """Refuse options that contradict the description of exported shards."""
    others = {name: kind for name, kind in (kinds or {}).items() if name in specs and specs[name].data_type != kind}
    for option, value in (("kinds", others), ("image_size", image_size)):
        if value:
            raise ValueError(f"{path}: {option} must be left out, as {FILE} describes the shards, got {value!r}")


def _choose(path: Path, names: tuple[str, ...], modalities: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the modalities to read."""
    for name in modalities or ():
        if name not in names:
            raise ValueError(f"{path}: modalities must be some of {', '.join(names)}, got {name!r}")
    if modalities is not None and (not modalities or len(set(modalities)) < len(modalities)):
        raise ValueError(f"{path}: modalities must be different names, at least one, got {list(modalities)}")
    return names if modalities is None else tuple(modalities)


def _with_data_types(
    path: Path, specs: Mapping[str, ModalitySpec], forms: Mapping[str, Format], kinds: Mapping[str, str]
) -> dict[str, ModalitySpec]:
    """Return descriptions with the data types of an option, or those that follow from the arrays."""
    for name, kind in kinds.items():
        if kind not in DATA_TYPES or name not in specs:
            raise ValueError(
                f"{path}: kinds must map some of {', '.join(specs)} to one of {', '.join(DATA_TYPES)}, got "
                f"{name!r}: {kind!r}"
            )
    result = {}
    for name, spec in specs.items():
        dtype, shape = np.dtype(forms[name].dtype), forms[name].shape
        is_byte = dtype == np.uint8 or (dtype == np.uint16 and len(shape) == 3)
        data_type = kinds.get(name) or spec.data_type
        data_type = data_type or infer_data_type(f"{path}: modality {name!r}", dtype.kind, is_byte, shape)
        pixels = dtype.kind == "u" if data_type == "image" else None
        result[name] = replace(spec, data_type=data_type, pixels=pixels)
    return result


def _assemble(
    shards: ShardFiles,
    files: tuple[Path, ...],
    split: str | None,
    forms: Mapping[str, Format],
    specs: Mapping[str, ModalitySpec],
    buffer: int,
) -> MultimodalDataset:
    """Return the data set of some shards."""
    indices = _Indices(shards)
    parts = [indices.read_facts(file, tuple(forms)) for file in files]
    sizes = tuple(len(part.present) for part in parts)
    present = np.concatenate([part.present for part in parts])
    reader = ShardReader(files, sizes, lambda number: indices.read(files[number]))
    modalities = {}
    for number, (name, form) in enumerate(forms.items()):
        column = Column(
            f"{shards.path}: modality {name!r}",
            cast("NDArray[Any]", ShardValues(reader, name, form)),
            specs[name].data_type or "vector",
            present[:, number],
            specs[name].classes,
            cast("NDArray[np.str_]", MemberNames(reader, name)),
        )
        modalities[name] = MappedTensor(column, cast("NDArray[np.int64]", AllRows(len(reader))))
    record, digest = shards.record, _digest(shards, files)
    identifiers = [part.ids for part in parts]
    is_named = all(ids is not None for ids in identifiers)
    return MultimodalDataset(
        modalities,
        _labels(shards, [part.labels for part in parts], sizes),
        torch.from_numpy(present),
        shards.path.name,
        split or "train",
        {"shards": len(files), "content": digest, "split": split},
        {name: specs[name] for name in forms},
        record.label_names if record else (),
        record.class_names if record else (),
        np.array([name for ids in identifiers for name in ids or ()], dtype=np.str_) if is_named else None,
        {name: entry.features for name, entry in record.modalities.items() if name in forms and entry.features}
        if record
        else {},
        _covariates(shards, parts),
        dict(record.covariates) if record else {},
        Shards(
            sizes,
            buffer,
            files,
            {name: f"{digest}:{name}" for name in forms} if record else {},
            _moments(record, forms) if record and split == "train" else {},
        ),
    )


class _Facts:
    """The content of the index of a shard without the places of the members.

    Attributes:
        present: True where an item has a modality, bool `(item, modality)`, with columns in the order asked for.
        labels: The labels of the items, or None.
        ids: Their identifiers, or None.
        covariates: Code of each item's category by the name of the covariate.
    """

    def __init__(self, index: ShardIndex, names: tuple[str, ...]) -> None:
        nowhere = np.zeros(len(index), dtype=bool)
        known = {name: index.present[:, number] for number, name in enumerate(index.modalities)}
        self.present = np.stack([known.get(name, nowhere) for name in names], -1)
        self.labels, self.ids, self.covariates = index.labels, index.ids, index.covariates


class _Indices:
    """The indices of shards: those of exported shards are read again when needed, others are kept."""

    def __init__(self, shards: ShardFiles) -> None:
        self.shards, self.kept = shards, dict[Path, ShardIndex]()

    def read(self, file: Path) -> ShardIndex:
        """Return the index of a shard."""
        if file in self.kept:
            return self.kept[file]
        index = self.shards.index(file)
        if self.shards.record is None:
            self.kept[file] = index
        return index

    def read_facts(self, file: Path, names: tuple[str, ...]) -> _Facts:
        """Return the content of the index of a shard without the places of the members."""
        index = self.read(file)
        described = self.shards.described.get(file.name)
        if described is not None and len(index) != described.items:
            raise ValueError(f"{file}: must hold {described.items} items as {FILE} says, got {len(index)}")
        return _Facts(index, names)


def _labels(shards: ShardFiles, parts: Sequence[NDArray[Any] | None], sizes: Sequence[int]) -> torch.Tensor | None:
    """Return the labels of all items, -1 for the items of a shard without labels; None if no item has one."""
    if all(part is None for part in parts):
        return None
    record = shards.record
    width = len(record.label_names) if record else 0
    if width:
        if any(part is None or part.shape[1:] != (width,) or part.dtype != np.bool_ for part in parts):
            raise ValueError(f"{shards.path}: labels must be {width} attributes of each item: export the shards again")
        return torch.from_numpy(np.concatenate([part for part in parts if part is not None]))
    filled = [np.full(n, _UNLABELLED) if part is None else part for part, n in zip(parts, sizes, strict=True)]
    if any(part.ndim != 1 or part.dtype != np.int64 for part in filled):
        raise ValueError(f"{shards.path}: labels must be one class of each item: export the shards again")
    labels = np.concatenate(filled)
    most = len(record.class_names) if record and record.class_names else 2**31
    if labels.min() < _UNLABELLED or labels.max() >= most:
        raise ValueError(f"{shards.path}: classes must be below {most}, got {labels.max()}: export the shards again")
    return torch.from_numpy(labels)


def _covariates(shards: ShardFiles, parts: Sequence[_Facts]) -> dict[str, torch.Tensor]:
    """Return the codes of the categories of all items by the name of the covariate."""
    names = tuple(shards.record.covariates) if shards.record else ()
    for name in names:
        if any(name not in part.covariates for part in parts):
            raise ValueError(f"{shards.path}: covariate {name!r} must be in every index: export the shards again")
    return {name: torch.from_numpy(np.concatenate([part.covariates[name] for part in parts])) for name in names}


def _moments(record: ShardsRecord, forms: Mapping[str, Format]) -> dict[str, StoredMoments]:
    """Return the stored moments of the modalities."""
    result = {}
    for name, form in forms.items():
        stored = record.modalities[name].moments
        if stored is not None:
            center, spread = (torch.tensor(part, dtype=torch.float64) for part in (stored.center, stored.spread))
            size = int(np.prod(form.shape))
            if len(center) != size or len(spread) != size or not bool((spread > 0).all() & center.isfinite().all()):
                raise ValueError(f"{FILE}: the moments of modality {name!r} must be {size} numbers: export again")
            result[name] = StoredMoments(stored.items, center.reshape(form.shape), spread.reshape(form.shape))
    return result


def _digest(shards: ShardFiles, files: Sequence[Path]) -> str:
    """Return a digest of the content of shards: by their checksums, or by the names, sizes and times of the files."""
    digest = hashlib.sha256()
    for file in files:
        if shards.record is not None:
            digest.update(shards.described[file.name].sha256.encode())
        else:
            stat = file.stat()
            digest.update(f"{file.name}:{stat.st_size}:{stat.st_mtime_ns};".encode())
    return digest.hexdigest()[:16]
