"""The writer of a data set into WebDataset shards, one item after the other."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from PIL import Image

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.covariates import UNKNOWN
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.infer import complete_specs, infer_specs
from pyro_mmvae.data.own.shards.decoding import Format
from pyro_mmvae.data.own.shards.files import SPLITS, sha256
from pyro_mmvae.data.own.shards.headers import BLOCK, MAX_MEMBER
from pyro_mmvae.data.own.shards.index import SUFFIX, ShardIndex
from pyro_mmvae.data.own.shards.record import FILE, ModalityRecord, MomentsRecord, ShardRecord, ShardsRecord
from pyro_mmvae.data.text import decode_texts
from pyro_mmvae.files import naming, sync_folder, write_atomically
from pyro_mmvae.likelihoods import moments

SHARD_SIZE = 10_000
"""The default number of items per shard."""

_BLOCK_ITEMS = 256  # items read at once
_NAME_BYTES = 100  # of a member, for which no further header is needed


def write_shards(
    folder: str | Path,
    splits: Mapping[str, MultimodalDataset] | Iterable[tuple[str, MultimodalDataset]],
    *,
    shard_size: int = SHARD_SIZE,
    progress: Callable[[str, int], None] | None = None,
) -> int:
    """Write the splits of a data set into a new folder of WebDataset shards, which ``load_data(folder, split)`` reads.

    An item is one member ``KEY.NAME.SUFFIX`` per modality that it has: ``png`` for images in bytes, ``txt`` for texts
    with an alphabet, ``npy`` for everything else; its label, identifier and categories are ``KEY.json``. Each shard
    ``SPLIT-000000.tar`` has an index beside it, and ``shards.json`` describes all of them. Items are read in blocks, so
    that the data may be larger than memory. The folder appears when it is complete.

    Args:
        folder: Path of the folder, which must not exist or be empty.
        splits: Data sets by the name of the split, ``train``, ``val`` or ``test``, or pairs of both, which are taken
            one after the other. Their modalities, features, alphabets, classes and categories must be equal.
        shard_size: Largest number of items per shard, 10,000 by default.
        progress: Function that is called with the name of each shard and its number of items when it is written; None
            by default.

    Returns:
        The number of shards.

    Raises:
        FileExistsError: If the folder holds files.
        ValueError: If the splits do not fit together, a split is unknown, or an item cannot be stored.
    """
    folder = Path(folder)
    if not isinstance(shard_size, int) or isinstance(shard_size, bool) or shard_size < 1:
        raise ValueError(f"shard_size must be an integer of at least 1, got {shard_size!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} must be empty or not exist yet: choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        record = _write_all(temporary, splits.items() if isinstance(splits, Mapping) else splits, shard_size, progress)
        write_atomically(temporary / FILE, record.model_dump_json(exclude_defaults=False, indent=1).encode())
        sync_folder(temporary)
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(record.shards)


def _write_all(
    folder: Path,
    splits: Iterable[tuple[str, MultimodalDataset]],
    shard_size: int,
    progress: Callable[[str, int], None] | None,
) -> ShardsRecord:
    """Write all shards and return their description, whose moments are those of the training split."""
    modalities: dict[str, ModalityRecord] = {}
    shards, first = list[ShardRecord](), None
    about: dict[str, Any] = {}
    for split, data in splits:
        if split not in SPLITS or any(shard.split == split for shard in shards):
            raise ValueError(f"splits must be some of {', '.join(SPLITS)}, each once, got {split!r}")
        described = _describe(data)
        if first is None:
            first, modalities, about = split, described, _facts(data)
        else:
            _check_equal(first, split, (modalities, about), (described, _facts(data)))
        if split == "train":
            modalities = _with_statistics(data, modalities)
        writer = _ShardWriter(data, {name: entry.form for name, entry in described.items()})
        for number, start in enumerate(range(0, len(data), shard_size)):
            rows = range(start, min(start + shard_size, len(data)))
            shards.append(writer.write(folder / f"{split}-{number:06d}.tar", split, rows))
            if progress is not None:
                progress(shards[-1].file, len(rows))
    if not shards:
        raise ValueError("splits must hold at least one data set, got none")
    return ShardsRecord(format=1, modalities=modalities, shards=tuple(shards), **about)


def _facts(data: MultimodalDataset) -> dict[str, Any]:
    covariates = {name: tuple(categories) for name, categories in data.covariate_names.items()}
    return {
        "name": data.name, "class_names": data.class_names, "label_names": data.label_names, "covariates": covariates,
    }  # fmt: skip


def _describe(data: MultimodalDataset) -> dict[str, ModalityRecord]:
    """Return the description of each modality, without what depends on the values."""
    result = {}
    for name, spec in infer_specs(data).items():
        values = data.modalities[name]
        shape, dtype = tuple(values.shape[1:]), torch.empty(0, dtype=values.dtype).numpy().dtype
        if spec.data_type == "image" and dtype == np.uint8 and len(shape) == 3 and shape[0] in {1, 3}:
            form = Format("image", shape, "uint8")
        elif spec.alphabet is not None and spec.padding is not None and len(shape) == 1 and dtype.kind in "iu":
            form = Format("txt", shape, dtype.name, spec.alphabet, spec.padding)
        else:
            form = Format("npy", shape, dtype.name)
        suffix = "png" if form.encoding == "image" else form.encoding
        features = tuple(data.feature_names.get(name, ()))
        result[name] = ModalityRecord(suffix=suffix, form=form, spec=spec.settings(), features=features)
    return result


def _check_equal(first: str, split: str, expected: tuple[Any, ...], received: tuple[Any, ...]) -> None:
    """Check that a split can be stored beside the first one."""
    (modalities, about), (others, other_about) = expected, received
    if list(modalities) != list(others):
        raise ValueError(f"{split}: modalities must be {', '.join(modalities)} as in {first}, got {', '.join(others)}")
    for name, entry in modalities.items():
        if (entry.form, entry.features) != (others[name].form, others[name].features):
            raise ValueError(
                f"{split}: modality {name!r} must have the shape, type, alphabet and features of {first}, "
                f"{entry.form.shape} of {entry.form.dtype}, got {others[name].form.shape} of {others[name].form.dtype}"
            )
    for key in ("class_names", "label_names", "covariates"):
        if about[key] != other_about[key]:
            raise ValueError(f"{split}: {key} must be {about[key]} as in {first}, got {other_about[key]}")


def _with_statistics(data: MultimodalDataset, modalities: Mapping[str, ModalityRecord]) -> dict[str, ModalityRecord]:
    """Return descriptions with the classes of tokens, the total of counts, and the moments of vectors."""
    completed, result = complete_specs(data, infer_specs(data)), {}
    for name, entry in modalities.items():
        spec, found = completed[name], None
        rows = data.present[:, data.names.index(name)].nonzero()[:, 0]
        if spec.data_type == "vector" and len(rows):
            blocks = (data.modalities[name][part] for part in rows.split(_BLOCK_ITEMS))
            center, spread = (part.flatten().tolist() for part in moments(blocks))
            found = MomentsRecord(items=len(rows), center=center, spread=spread)
        spec = replace(spec, standardize=data.modality_specs[name].standardize if name in data.modality_specs else None)
        result[name] = entry.model_copy(update={"spec": spec.settings(), "moments": found})
    return result


class _ShardWriter:
    """The writer of the shards of one split.

    Args:
        data: The items of the split.
        forms: The encoding of each modality by name.
    """

    def __init__(self, data: MultimodalDataset, forms: Mapping[str, Format]) -> None:
        self.data, self.forms = data, forms
        self.headers = {name: _npy_header(form) for name, form in forms.items() if form.encoding == "npy"}

    def write(self, file: Path, split: str, rows: range) -> ShardRecord:
        """Write one shard and its index.

        Args:
            file: Path of the shard.
            split: Name of the split.
            rows: Indices of its items.
        """
        data, shape = self.data, (len(rows), len(self.forms))
        offsets, sizes, checksums = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        with naming(file), file.open("xb") as opened:
            with tarfile.open(fileobj=opened, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
                for start in range(rows.start, rows.stop, _BLOCK_ITEMS):
                    block = range(start, min(start + _BLOCK_ITEMS, rows.stop))
                    contents = {name: self._encode(name, block) for name in self.forms}
                    for row in block:
                        for column, name in enumerate(self.forms):
                            content = contents[name].get(row)
                            if content is not None:
                                suffix = "png" if self.forms[name].encoding == "image" else self.forms[name].encoding
                                place = row - rows.start, column
                                offsets[place] = _add(tar, f"{row:09d}.{name}.{suffix}", content)
                                sizes[place], checksums[place] = len(content), zlib.crc32(content)
                        about = self._about(row)
                        if about:
                            _add(tar, f"{row:09d}.json", json.dumps(about).encode())
            opened.flush()
            os.fsync(opened.fileno())
        part = slice(rows.start, rows.stop)
        index = ShardIndex(
            tuple(self.forms),
            offsets,
            sizes,
            checksums,
            None if data.labels is None else data.labels[part].cpu().numpy(),
            None if data.item_ids is None else tuple(data.item_ids[part].tolist()),
            {name: codes[part].cpu().numpy() for name, codes in data.covariates.items()},
        )
        beside = file.with_suffix(SUFFIX)
        write_atomically(beside, index.to_bytes())
        return ShardRecord(
            file=file.name, split=split, items=len(rows), bytes=file.stat().st_size, sha256=sha256(file),
            index_sha256=sha256(beside),
        )  # fmt: skip

    def _encode(self, name: str, rows: range) -> dict[int, bytes]:
        """Return the content of the member of each item that has a modality."""
        mask = self.data.present[rows.start : rows.stop, self.data.names.index(name)].cpu()
        chosen = mask.nonzero()[:, 0] + rows.start
        if not len(chosen):
            return {}
        values, form = self.data.modalities[name][chosen].cpu(), self.forms[name]
        if form.encoding == "txt":
            texts = decode_texts(values, form.padding, form.alphabet)
            contents = [text.encode("utf-8") for text in texts]
        elif form.encoding == "image":
            contents = [_encode_png(image) for image in values]
        else:
            contents = [self.headers[name] + np.ascontiguousarray(value).tobytes() for value in values.numpy()]
        return dict(zip(chosen.tolist(), contents, strict=True))

    def _about(self, row: int) -> dict[str, Any]:
        """Return the label, the identifier and the categories of an item."""
        data, about = self.data, dict[str, Any]()
        if data.item_ids is not None:
            about["id"] = str(data.item_ids[row])
        if data.labels is not None and data.label_names:
            about["attributes"] = [name for name, flag in zip(data.label_names, data.labels[row], strict=True) if flag]
        elif data.labels is not None and int(data.labels[row]) >= 0:
            about["label"] = int(data.labels[row])
            if data.class_names:
                about["class"] = data.class_names[about["label"]]
        known = {name: int(codes[row]) for name, codes in data.covariates.items() if int(codes[row]) != UNKNOWN}
        if known:
            about["covariates"] = {name: data.covariate_names[name][code] for name, code in known.items()}
        return about


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a member to a tar file and return the position of its content."""
    if len(name.encode()) > _NAME_BYTES:
        raise ValueError(f"member {name!r} must have a name of at most {_NAME_BYTES} bytes: rename the modality")
    if len(content) > MAX_MEMBER:
        raise ValueError(f"member {name!r} must have at most {MAX_MEMBER:,} bytes, got {len(content):,}")
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = tar.offset + BLOCK
    tar.addfile(info, io.BytesIO(content))
    tar.getmembers().clear()  # which would hold every member in memory
    return offset


def _encode_png(image: Tensor) -> bytes:
    array = image.numpy()
    file = io.BytesIO()
    Image.fromarray(array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)).save(file, format="png")
    return file.getvalue()


def _npy_header(form: Format) -> bytes:
    """Return the header of an array of one item, which all items share."""
    file = io.BytesIO()
    description = {"descr": dtype_to_descr(np.dtype(form.dtype)), "fortran_order": False, "shape": form.shape}
    write_array_header_1_0(file, description)
    return file.getvalue()
