"""`celeba`: faces and the names of their attributes, from files that the user provides; nothing is downloaded.

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

from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.own.folder import read_npz
from pyro_mmvae.data.registry import register_data, register_format
from pyro_mmvae.data.sets.celeba_images import RESIZING, Open, load_faces
from pyro_mmvae.data.sets.celeba_lists import ATTRIBUTES, PARTITION, Lists, read_lists
from pyro_mmvae.data.storage.cache import cache_folder
from pyro_mmvae.data.storage.mapped import Column, MappedTensor, is_mapped
from pyro_mmvae.data.text import ALPHABET, encode_texts
from pyro_mmvae.modality_spec import ModalitySpec

NAME = "celeba"

FORMAT = 1
"""The version of the cache files, to be increased when the same files come to mean other images."""

IMAGES = "img_align_celeba"
SPLITS = ("train", "val", "test")
LENGTH = 256
"""The number of characters of a text, as in the recipe."""

PADDING = "*"
"""The character that shorter texts are padded with, as in the recipe."""

ARRAYS = ("jpeg", "offsets", "attributes", "attribute_names", "partition", "filenames")
"""The arrays of an ``.npz`` archive of faces."""


@dataclass(frozen=True, eq=False)
class _Source:
    """The content of the lists, with access to the images.

    Attributes:
        where: Path of the images, for messages.
        lists: Names, attributes and partition of all images.
        available: True for the images whose file exists, `(item,)`.
        identity: Function from the index of an image to everything that identifies its content, serialisable as JSON.
        open: Function from the index of an image to a file that Pillow can open.
        about: Identity of the list files or arrays, for the provenance.
    """

    where: str
    lists: Lists
    available: NDArray[np.bool_]
    identity: Callable[[int], Any]
    open: Open
    about: dict[str, Any]


def _find_folder(path: Path) -> Path | None:
    """Return the official folder, the path itself or ``celeba`` in it, or None."""
    for folder in (path, path / NAME):
        if any((folder / name).exists() for name in (ATTRIBUTES, PARTITION, IMAGES)):
            return folder
    return None


def _is_celeba(path: Path) -> bool:
    """Return True if a path is an official folder or an archive with the arrays ``ARRAYS``."""
    if path.is_dir():
        return _find_folder(path) is not None
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
    """Load one split of CelebA by name, see :func:`load_celeba`.

    Args:
        split: Name of the split: ``train``, ``val`` or ``test``.
        cache: If True, the decoded images are kept on disk and read from there the next time.
        root: Path of the official folder, of its parent, or of an ``.npz`` archive; it must be given.
        max_items: Number of items, from the first of the split; all by default.
        memory_map: If True, the images stay in the cache file, and only the items of a batch are read; by default
            those of a gibibyte or more.

    Raises:
        ValueError: If ``root`` is not given or not CelebA, a file is missing or malformed, or no image of the split
            is available.
    """
    if root is None:
        raise ValueError(
            f"data {NAME!r}: root must be the folder of the files, which are not downloaded, got none: set it by the "
            f"option root, or pass its path as the name of the data (./{NAME} if it is in the current folder)"
        )
    path = Path(root).expanduser()
    if not _is_celeba(path):
        raise ValueError(
            f"{path}: must be a folder with {IMAGES}, {ATTRIBUTES} and {PARTITION}, or an .npz archive with "
            f"{', '.join(ARRAYS)}, got neither"
        )
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

    Images that the lists name but that are missing are left out, and their number is in the provenance. Splits are
    those of the official partition.

    Args:
        path: Path of the official folder, with ``img_align_celeba/*.jpg``, ``list_attr_celeba.txt`` and
            ``list_eval_partition.txt``, or of its parent; or of an ``.npz`` archive with the arrays ``ARRAYS``, where
            image i is the JPEG ``jpeg[offsets[i]:offsets[i + 1]]``.
        split: Name of the split: ``train``, ``val`` or ``test``.
        cache: If True, the decoded images are kept on disk, and read from there as long as no image changes its name,
            size or time of modification.
        max_items: Number of items, from the first of the split; all by default.
        memory_map: If True, the images stay in the cache file, and only the items of a batch are read; by default
            those of a gibibyte or more.

    Returns:
        The split, with items in the order of the list of attributes.

    Raises:
        ValueError: If a file is missing or malformed, or no image of the split is available; the message names file
            and line, or the image.
    """
    if max_items is not None and max_items < 1:
        raise ValueError(f"max_items of {NAME!r} must be an integer of at least 1, got {max_items}")
    source = _read_npz(path) if path.is_file() else _read_folder(_find_folder(path) or path)
    listed = source.lists.partition == SPLITS.index(split)
    rows = np.flatnonzero(listed & source.available)[:max_items]
    if not len(rows):
        raise ValueError(
            f"{source.where}: must hold at least one of the {int(listed.sum())} images listed for split {split!r}, got "
            "none"
        )
    return _assemble(source, split, rows, int((listed & ~source.available).sum()), cache, memory_map)


def _assemble(
    source: _Source, split: str, rows: NDArray[np.int64], absent: int, cache: bool, memory_map: bool | None
) -> MultimodalDataset:
    """Make the data set of some rows of the lists; ``absent`` is the number of images of the split that are missing."""
    lists = source.lists
    tokens, truncated = encode_texts(lists.texts(rows), LENGTH, PADDING)
    names = [lists.files[row] for row in rows]
    digest = _digest([[name, source.identity(int(row))] for name, row in zip(names, rows, strict=True)])
    identity = {"format": FORMAT, "images": digest, "how": RESIZING, "pillow": importlib.metadata.version("pillow")}
    file = cache_folder() / f"{NAME}-{split}-v{FORMAT}-{_digest(identity)[:16]}.safetensors" if cache else None
    places = [f"{source.where}: {name}" for name in names]
    images = load_faces(file, identity, places, lambda i: source.open(int(rows[i])), memory_map=memory_map)
    present = np.ones(len(rows), dtype=bool)
    if is_mapped(images):
        column = Column(f"{file}: modality 'image'", images, "image", present)
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
        torch.from_numpy(np.stack([present] * 2, -1)),
        NAME,
        split,
        provenance,
        specs,
        lists.attribute_names,
    )


def _digest(content: Any) -> str:
    """Return the SHA-256 of a content serialised as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_folder(home: Path) -> _Source:
    """Read the lists of the official folder, and which of its images are available."""
    lists, folder = read_lists(home), home / IMAGES
    try:
        with os.scandir(folder) as entries:
            files = {entry.name: entry for entry in entries}
    except OSError:
        raise ValueError(f"{folder}: must be a readable folder of images, got none") from None
    available = np.array([file in files for file in lists.files])

    def identify(row: int) -> list[int]:
        stat = files[lists.files[row]].stat()
        return [stat.st_size, stat.st_mtime_ns]

    sums = {name: hashlib.sha256((home / name).read_bytes()).hexdigest() for name in (ATTRIBUTES, PARTITION)}
    return _Source(str(folder), lists, available, identify, lambda row: folder / lists.files[row], {"files": sums})


def _read_npz(path: Path) -> _Source:
    """Read the lists and the images of an ``.npz`` archive."""
    arrays = read_npz(path)
    for name in ARRAYS:
        if name not in arrays:
            raise ValueError(f"{path}: must hold the arrays {', '.join(ARRAYS)}, got no {name!r}")
    count = len(arrays["filenames"]) if arrays["filenames"].ndim == 1 else 0
    _check_arrays(path, arrays, count)
    jpeg, offsets = arrays["jpeg"], arrays["offsets"]
    lists = Lists(
        tuple(arrays["filenames"].tolist()),
        tuple(arrays["attribute_names"].tolist()),
        arrays["attributes"] == 1,
        arrays["partition"].astype(np.int64),
    )

    def open_image(row: int) -> BytesIO:
        return BytesIO(jpeg[int(offsets[row]) : int(offsets[row + 1])].tobytes())

    stat = [path.stat().st_size, path.stat().st_mtime_ns]
    available = np.ones(count, dtype=bool)
    return _Source(str(path), lists, available, lambda row: [*stat, row], open_image, {"files": {path.name: stat}})


def _check_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], count: int) -> None:
    """Check types, shapes and values of the arrays of an archive of ``count`` images."""
    attributes = arrays["attribute_names"].size
    expected = {
        "filenames": ("U", (count,)), "attribute_names": ("U", (attributes,)), "jpeg": ("u", (arrays["jpeg"].size,)),
        "offsets": ("iu", (count + 1,)), "attributes": ("i", (count, attributes)), "partition": ("iu", (count,)),
    }  # fmt: skip
    for name, (dtype_kinds, shape) in expected.items():
        array = arrays[name]
        if array.dtype.kind not in dtype_kinds or array.shape != shape or not array.size:
            described = {"U": "text", "u": "bytes", "i": "signed integers", "iu": "integers"}[dtype_kinds]
            raise ValueError(
                f"{path}[{name}]: must be {shape} of {described}, not empty, got {array.shape} of {array.dtype}"
            )
    if arrays["jpeg"].dtype != np.uint8:
        raise ValueError(f"{path}[jpeg]: must be bytes of type uint8, got {arrays['jpeg'].dtype}")
    for name, allowed, described in (("attributes", [-1, 1], "1 or -1"), ("partition", [0, 1, 2], "0, 1 or 2")):
        invalid = np.argwhere(~np.isin(arrays[name], allowed))
        if len(invalid):
            value = arrays[name][tuple(invalid[0])]
            raise ValueError(f"{path}[{name}]: item {invalid[0][0]}: value must be {described}, got {value}")
    offsets = arrays["offsets"].astype(np.int64)
    num_bytes = arrays["jpeg"].size
    for item in np.flatnonzero((np.diff(offsets) <= 0) | (offsets[:-1] < 0) | (offsets[1:] > num_bytes)):
        raise ValueError(
            f"{path}[offsets]: item {item}: offsets must increase from 0 to at most {num_bytes}, the number of bytes, "
            f"got {offsets[item]} to {offsets[item + 1]}"
        )
