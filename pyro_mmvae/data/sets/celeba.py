"""`celeba`: faces and the names of their attributes, from files that a user has; nothing is shipped or downloaded.

The recipe is that of MoPoE's CelebA setting (Sutter et al., 2021, "Generalized Multimodal ELBO", arXiv 2105.02470); the
data is that of Liu, Luo, Wang and Tang, 2015, "Deep learning face attributes in the wild", for research only.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data.characters import encode_texts
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.folder import read_npz
from pyro_mmvae.data.registry import register_data, register_format
from pyro_mmvae.data.sets.celeba_images import HOW, Open, load_faces
from pyro_mmvae.data.sets.celeba_lists import ATTRIBUTES, PARTITION, Lists, read_lists
from pyro_mmvae.data.storage.cache import cache_folder
from pyro_mmvae.data.storage.mapped import Column, MappedTensor, is_mapped
from pyro_mmvae.data.text import ALPHABET
from pyro_mmvae.modality_spec import ModalitySpec

NAME = "celeba"

FORMAT = 1
"""Version of the cache files: raise it when the same files come to mean other images."""

IMAGES = "img_align_celeba"
SPLITS = ("train", "val", "test")
LENGTH = 256
"""Characters of a text, as in the recipe."""

PADDING = "*"
"""What shorter texts end in, likewise."""

ARRAYS = ("jpeg", "offsets", "attributes", "attribute_names", "partition", "filenames")
"""Arrays of an ``.npz`` of faces."""


@dataclass(frozen=True, eq=False)
class _Source:
    """Lists, and where the images are.

    Attributes:
        where: path of the images, for messages.
        lists: of all images.
        there: which of them there are, `(item,)`.
        identity: number of an image to what tells its content from another, fit for JSON.
        source: number of an image to what Pillow opens.
        about: of the list files or arrays, for the provenance.
    """

    where: str
    lists: Lists
    there: NDArray[np.bool_]
    identity: Callable[[int], Any]
    source: Open
    about: dict[str, Any]


def _home(path: Path) -> Path | None:
    """The official folder: the path itself, or ``celeba`` in it."""
    for folder in (path, path / NAME):
        if any((folder / name).exists() for name in (ATTRIBUTES, PARTITION, IMAGES)):
            return folder
    return None


def _is_celeba(path: Path) -> bool:
    if path.is_dir():
        return _home(path) is not None
    if path.suffix != ".npz":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    return {f"{name}.npy" for name in ARRAYS} <= names


@register_data(NAME, splits=SPLITS)
def load_celeba_from(
    split: str,
    *,
    cache: bool = True,
    root: Path | None = None,
    max_items: int | None = None,
    memory_map: bool | None = None,
) -> MultimodalDataset:
    """Load one split of CelebA by name; see :func:`load_celeba`.

    Args:
        split: as there; and so are the other options.
        cache: likewise.
        root: where the files are, as ``path`` there.
        max_items: likewise.
        memory_map: likewise.

    Raises:
        ValueError: as there, and if there is no ``root``.
    """
    if root is None:
        raise ValueError(
            f"data {NAME!r} is made of files that you have: say where by the option root, or give their path as data "
            f"(./{NAME} if they lie there)"
        )
    path = Path(root).expanduser()
    if not _is_celeba(path):
        raise ValueError(f"{path}: no CelebA, expected a folder with {IMAGES}, {ATTRIBUTES} and {PARTITION}, or an npz")
    return load_celeba(path, split, cache=cache, max_items=max_items, memory_map=memory_map)


@register_format(NAME, detect=_is_celeba, splits=SPLITS, first=True)
def load_celeba(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    max_items: int | None = None,
    memory_map: bool | None = None,
) -> MultimodalDataset:
    """Load one split of CelebA: ``image`` (3, 64, 64), ``text`` of 256 characters, and 40 attributes as labels.

    Any part of the images will do: those that the lists name and that are not there are left out, and counted in the
    provenance. Splits are those of the official partition.

    Args:
        path: the official folder, ``img_align_celeba/*.jpg``, ``list_attr_celeba.txt`` and
            ``list_eval_partition.txt``, or its parent; or an ``.npz`` with the arrays ``ARRAYS``, where image i is the
            JPEG ``jpeg[offsets[i]:offsets[i + 1]]``.
        split: ``train``, ``val`` or ``test``.
        cache: keep the decoded images on disk, and read them from there as long as no name, size or time of change of
            an image is another one.
        max_items: the first so many of the split.
        memory_map: leave the images in the cache file, and read only the items of a batch; by default those of a
            gibibyte or more.

    Returns:
        The split; items in the order of the list of attributes.

    Raises:
        ValueError: if a file is missing or not what it should be, or no image of the split is there; the message names
            file and line, or the image.
    """
    if max_items is not None and max_items < 1:
        raise ValueError(f"max_items of {NAME!r}: found {max_items}, expected a whole number of at least 1")
    source = _read_npz(path) if path.is_file() else _read_folder(_home(path) or path)
    listed = source.lists.partition == SPLITS.index(split)
    rows = np.flatnonzero(listed & source.there)[:max_items]
    if not len(rows):
        raise ValueError(
            f"{source.where}: found none of the {int(listed.sum())} images that the lists name for split {split!r}"
        )
    return _assemble(source, split, rows, int((listed & ~source.there).sum()), cache, memory_map)


def _assemble(
    source: _Source, split: str, rows: NDArray[np.int64], absent: int, cache: bool, memory_map: bool | None
) -> MultimodalDataset:
    lists = source.lists
    tokens, truncated = encode_texts(lists.texts(rows), LENGTH, PADDING)
    names = [lists.files[row] for row in rows]
    digest = _digest([[name, source.identity(int(row))] for name, row in zip(names, rows, strict=True)])
    identity = {"format": FORMAT, "images": digest, "how": HOW, "pillow": importlib.metadata.version("pillow")}
    file = cache_folder() / f"{NAME}-{split}-v{FORMAT}-{_digest(identity)[:16]}.safetensors" if cache else None
    places = [f"{source.where}: {name}" for name in names]
    images = load_faces(file, identity, places, lambda i: source.source(int(rows[i])), memory_map=memory_map)
    everywhere = np.ones(len(rows), dtype=bool)
    if is_mapped(images):
        column = Column(f"{file}: modality 'image'", images, "image", everywhere)
        image: torch.Tensor | MappedTensor = MappedTensor(column, np.arange(len(rows)))
    else:
        image = torch.from_numpy(images)
    provenance = {
        **identity, **source.about, "items": len(rows), "absent": absent,
        "text": {"alphabet": ALPHABET, "length": LENGTH, "padding": PADDING, "truncated": truncated},
    }  # fmt: skip
    specs = {
        "image": ModalitySpec(data_type="image", network="residual", pixels=True),
        "text": ModalitySpec(
            data_type="tokens", network="residual", classes=len(ALPHABET), alphabet=ALPHABET, padding=PADDING
        ),
    }
    return MultimodalDataset(
        {"image": image, "text": torch.from_numpy(tokens)},
        torch.from_numpy(lists.attributes[rows]),
        torch.from_numpy(np.stack([everywhere] * 2, -1)),
        NAME,
        split,
        provenance,
        specs,
        lists.attribute_names,
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# Sources -------------------------------------------------------------------------------------------------------------


def _read_folder(home: Path) -> _Source:
    lists, folder = read_lists(home), home / IMAGES
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: entry for entry in entries}
    except OSError:
        raise ValueError(f"{folder}: missing or unreadable, expected a folder of images") from None
    there = np.array([file in found for file in lists.files])

    def identity(row: int) -> list[int]:
        stat = found[lists.files[row]].stat()
        return [stat.st_size, stat.st_mtime_ns]

    sums = {name: hashlib.sha256((home / name).read_bytes()).hexdigest() for name in (ATTRIBUTES, PARTITION)}
    return _Source(str(folder), lists, there, identity, lambda row: folder / lists.files[row], {"files": sums})


def _read_npz(path: Path) -> _Source:
    arrays = read_npz(path)
    for name in ARRAYS:
        if name not in arrays:
            raise ValueError(f"{path}: found no array {name!r}, expected {', '.join(ARRAYS)}")
    count = len(arrays["filenames"]) if arrays["filenames"].ndim == 1 else 0
    _check(path, arrays, count)
    jpeg, offsets = arrays["jpeg"], arrays["offsets"]
    lists = Lists(
        tuple(arrays["filenames"].tolist()),
        tuple(arrays["attribute_names"].tolist()),
        arrays["attributes"] == 1,
        arrays["partition"].astype(np.int64),
    )

    def source(row: int) -> BytesIO:
        return BytesIO(jpeg[int(offsets[row]) : int(offsets[row + 1])].tobytes())

    stat = [path.stat().st_size, path.stat().st_mtime_ns]
    there = np.ones(count, dtype=bool)
    return _Source(str(path), lists, there, lambda row: [*stat, row], source, {"files": {path.name: stat}})


def _check(path: Path, arrays: Mapping[str, NDArray[Any]], count: int) -> None:
    """Refuse arrays that do not fit together."""
    attributes = arrays["attribute_names"].size
    wanted = {
        "filenames": ("U", (count,)), "attribute_names": ("U", (attributes,)), "jpeg": ("u", (arrays["jpeg"].size,)),
        "offsets": ("iu", (count + 1,)), "attributes": ("i", (count, attributes)), "partition": ("iu", (count,)),
    }  # fmt: skip
    for name, (kinds, shape) in wanted.items():
        found = arrays[name]
        if found.dtype.kind not in kinds or found.shape != shape or not found.size:
            raise ValueError(f"{path}[{name}]: found {found.shape} of {found.dtype}, expected {shape}, not empty")
    if arrays["jpeg"].dtype != np.uint8:
        raise ValueError(f"{path}[jpeg]: found {arrays['jpeg'].dtype}, expected bytes, uint8")
    for name, allowed, what in (("attributes", [-1, 1], "1 or -1"), ("partition", [0, 1, 2], "0, 1 or 2")):
        bad = np.argwhere(~np.isin(arrays[name], allowed))
        if len(bad):
            value = arrays[name][tuple(bad[0])]
            raise ValueError(f"{path}[{name}]: item {bad[0][0]}: found {value}, expected {what}")
    offsets = arrays["offsets"].astype(np.int64)
    for item in np.flatnonzero((np.diff(offsets) <= 0) | (offsets[:-1] < 0) | (offsets[1:] > arrays["jpeg"].size)):
        span = f"{offsets[item]} to {offsets[item + 1]}"
        raise ValueError(f"{path}[offsets]: item {item}: found bytes {span}, expected some of {arrays['jpeg'].size}")
