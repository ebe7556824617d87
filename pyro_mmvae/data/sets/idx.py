"""MNIST from its own files, in IDX: a magic number, the lengths of the axes, then the bytes.

The format is described at the end of LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import hashlib
import importlib
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from gzip import GzipFile
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.sets.polymnist_recipe import SIDE

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Names of the files of images and of labels, unpacked; packed ones end in `.gz`."""

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""Of the published files, unpacked."""

FOLDERS = ("MNIST/raw", "raw", "MNIST", ".")
"""Where in a folder the files are looked for: `MNIST/raw` is torchvision's place."""

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Digits:
    """The digit images of one part of MNIST.

    Args:
        images: `(digit, 28, 28)`, pixel values 0 to 255.
        labels: class of each, 0 to 9, `(digit,)`.
        files: name of each file, the MD5 of its unpacked content, and whether that is the published one's.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    files: list[dict[str, Any]] = field(default_factory=list)


def find_mnist(folder: Path) -> dict[str, Path]:
    """The four files of MNIST in a folder or in torchvision's place below it, packed or not.

    Args:
        folder: where to look.

    Returns:
        Name of each file, unpacked, to its path.

    Raises:
        ValueError: if one is missing; it says which files belong where.
    """
    found = {}
    for name in MD5:
        dotted = name.replace("-idx", ".idx")  # as some archives unpack
        places = [folder / place / (stem + end) for place in FOLDERS for stem in (name, dotted) for end in ("", ".gz")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ValueError(
                f"MNIST: {name} is not in {folder}: put {', '.join(f'{file}.gz' for file in MD5)} (or the same files "
                f"unpacked) into {folder / FOLDERS[0]}, or let them be downloaded with --download"
            )
        found[name] = path
    return found


def download_mnist(folder: Path) -> dict[str, Path]:
    """The four files of MNIST, downloaded by torchvision into `MNIST/raw` below a folder if they are not there.

    Args:
        folder: where to look, and to download to.

    Returns:
        Name of each file, unpacked, to its path.

    Raises:
        ValueError: if they cannot be had; it says which files belong where.
    """
    try:
        return find_mnist(folder)
    except ValueError:
        datasets = importlib.import_module("torchvision.datasets")
    try:
        datasets.MNIST(str(folder), download=True)
        return find_mnist(folder)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"MNIST cannot be downloaded ({error}): put {', '.join(f'{file}.gz' for file in MD5)} into "
            f"{folder / FOLDERS[0]} by other means"
        ) from error


def read_mnist(files: dict[str, Path], part: str) -> Digits:
    """Images and labels of one part of MNIST.

    Args:
        files: as `find_mnist` gives them.
        part: `train` or `test`.

    Raises:
        ValueError: if a file is not what it should be; the message names it.
    """
    names = FILES[part]
    images, images_md5 = read_idx(files[names[0]], axes=3)
    labels, labels_md5 = read_idx(files[names[1]], axes=1)
    if images.shape[1:] != (SIDE, SIDE):
        found = " x ".join(map(str, images.shape[1:]))
        raise ValueError(f"{files[names[0]]}: found images of {found} pixels, expected {SIDE} x {SIDE}")
    if len(labels) != len(images):
        raise ValueError(f"{files[names[1]]}: found {len(labels)} labels, expected {len(images)}, one an image")
    if labels.max() > 9:
        index = int(labels.argmax())
        raise ValueError(f"{files[names[1]]}: label {index} is {labels[index]}, expected 0 to 9")
    about = [
        {"file": files[name].name, "md5_unpacked": md5, "published": md5 == MD5[name]}
        for name, md5 in zip(names, (images_md5, labels_md5), strict=True)
    ]
    return Digits(images, labels.astype(np.int64), about)


def read_idx(path: Path, axes: int) -> tuple[NDArray[np.uint8], str]:
    """An array of bytes from an IDX file, packed by gzip or not, whatever its name says.

    Args:
        path: of the file.
        axes: how many the array must have.

    Returns:
        The array, and the MD5 of the unpacked content.

    Raises:
        ValueError: if the file is damaged or holds anything else, more, or less; the message names it.
        OSError: if it cannot be opened.
    """
    magic = bytes((0, 0, 8, axes))
    with _unpacked(path) as file:
        head = _read(file, 4 + 4 * axes)
        if head[:4] != magic:
            raise ValueError(
                f"{path}: found the magic number {head[:4].hex() or 'of an empty file'}, expected {magic.hex()}: "
                f"unsigned bytes with {axes} axes"
            )
        if len(head) < 4 + 4 * axes:
            raise ValueError(f"{path}: ends after {len(head)} bytes, within the lengths of its axes")
        shape = struct.unpack(f">{axes}I", head[4:])
        size = math.prod(shape)
        if size < 1:
            raise ValueError(f"{path}: found lengths {shape}, expected at least one item")
        content = _read(file, size + 1)
    if len(content) != size:
        found = f"{len(content)}" if len(content) < size else f"more than {size}"
        raise ValueError(f"{path}: found {found} bytes of content, expected {size} for lengths {shape}")
    md5 = hashlib.md5(head + content, usedforsecurity=False).hexdigest()
    return np.frombuffer(content, dtype=np.uint8).reshape(shape), md5


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        if not packed:
            yield raw
            return
        try:
            with GzipFile(fileobj=raw) as file:
                yield cast("IO[bytes]", file)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from error


def _read(file: IO[bytes], size: int) -> bytes:
    """Up to ``size`` bytes; what is not there takes no memory."""
    chunks, left = [], size
    while left and (chunk := file.read(min(left, _CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
