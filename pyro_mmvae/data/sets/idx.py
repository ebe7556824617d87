"""MNIST from its published files, in IDX: a magic number, the lengths of the axes, then the bytes.

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
"""The names of the files of images and of labels, decompressed; compressed ones end in `.gz`."""

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The MD5 of the published files, decompressed."""

FOLDERS = ("MNIST/raw", "raw", "MNIST", ".")
"""The folders below a given one that are searched for the files; `MNIST/raw` is torchvision's."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class Digits:
    """The digit images of one part of MNIST.

    Args:
        images: Pixel values 0 to 255, `(digit, 28, 28)`.
        labels: Class of each image, 0 to 9, `(digit,)`.
        files: Name of each file, MD5 of its decompressed content, and True if it is the published file.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    files: list[dict[str, Any]] = field(default_factory=list)


def find_mnist(folder: Path) -> dict[str, Path]:
    """Return the four files of MNIST in a folder or at torchvision's place below it, compressed or not.

    Args:
        folder: Path of the folder to search.

    Returns:
        The paths by name of the decompressed file.

    Raises:
        ValueError: If a file is missing; the message says which files belong where.
    """
    paths = {}
    for name in MD5:
        dotted = name.replace("-idx", ".idx")  # some archives extract to these names
        places = [folder / place / (stem + end) for place in FOLDERS for stem in (name, dotted) for end in ("", ".gz")]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ValueError(
                f"MNIST: {folder} must hold {name}, got no such file: put {', '.join(f'{file}.gz' for file in MD5)} "
                f"(or the decompressed files) into {folder / FOLDERS[0]}, or download them with --download"
            )
        paths[name] = path
    return paths


def download_mnist(folder: Path) -> dict[str, Path]:
    """Return the four files of MNIST, downloaded by torchvision into `MNIST/raw` below a folder if they are missing.

    Args:
        folder: Path of the folder to search, and to download to.

    Returns:
        The paths by name of the decompressed file.

    Raises:
        ValueError: If the download fails; the message says which files belong where.
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
            f"MNIST cannot be downloaded ({error}): download {', '.join(f'{file}.gz' for file in MD5)} by other means "
            f"and put them into {folder / FOLDERS[0]}"
        ) from error


def read_mnist(files: dict[str, Path], part: str) -> Digits:
    """Read images and labels of one part of MNIST.

    Args:
        files: Paths of the files, as :func:`find_mnist` returns them.
        part: Name of the part, ``"train"`` or ``"test"``.

    Raises:
        ValueError: If a file is damaged or malformed; the message names it.
    """
    names = FILES[part]
    images, images_md5 = read_idx(files[names[0]], axes=3)
    labels, labels_md5 = read_idx(files[names[1]], axes=1)
    if images.shape[1:] != (SIDE, SIDE):
        pixels = " x ".join(map(str, images.shape[1:]))
        raise ValueError(f"{files[names[0]]}: images must have {SIDE} x {SIDE} pixels, got {pixels}")
    if len(labels) != len(images):
        raise ValueError(f"{files[names[1]]}: must hold {len(images)} labels, one per image, got {len(labels)}")
    if labels.max() > 9:
        index = int(labels.argmax())
        raise ValueError(f"{files[names[1]]}: label {index} must be from 0 to 9, got {labels[index]}")
    about = [
        {"file": files[name].name, "md5_unpacked": md5, "published": md5 == MD5[name]}
        for name, md5 in zip(names, (images_md5, labels_md5), strict=True)
    ]
    return Digits(images, labels.astype(np.int64), about)


def read_idx(path: Path, axes: int) -> tuple[NDArray[np.uint8], str]:
    """Read an array of bytes from an IDX file, compressed by gzip or not, whatever its name.

    Args:
        path: Path of the file.
        axes: Number of axes that the array must have.

    Returns:
        The array, and the MD5 of the decompressed content.

    Raises:
        ValueError: If the file is damaged, or holds another array, more, or less; the message names it.
        OSError: If the file cannot be opened.
    """
    magic = bytes((0, 0, 8, axes))
    with _open_decompressed(path) as file:
        head = _read_bytes(file, 4 + 4 * axes)
        if head[:4] != magic:
            raise ValueError(
                f"{path}: the magic number must be {magic.hex()}, for unsigned bytes with {axes} axes, got "
                f"{head[:4].hex() or 'an empty file'}"
            )
        if len(head) < 4 + 4 * axes:
            raise ValueError(f"{path}: the header must have {4 + 4 * axes} bytes, got {len(head)}")
        shape = struct.unpack(f">{axes}I", head[4:])
        num_bytes = math.prod(shape)
        if num_bytes < 1:
            raise ValueError(f"{path}: the lengths of the axes must be at least 1, got {shape}")
        content = _read_bytes(file, num_bytes + 1)
    if len(content) != num_bytes:
        received = f"{len(content)}" if len(content) < num_bytes else f"more than {num_bytes}"
        raise ValueError(f"{path}: must hold {num_bytes} bytes for lengths {shape}, got {received}")
    md5 = hashlib.md5(head + content, usedforsecurity=False).hexdigest()
    return np.frombuffer(content, dtype=np.uint8).reshape(shape), md5


@contextmanager
def _open_decompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressing it if it is a gzip file."""
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not is_compressed:
            yield raw
            return
        try:
            with GzipFile(fileobj=raw) as file:
                yield cast("IO[bytes]", file)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: must be a readable gzip file, got an error: {error}") from error


def _read_bytes(file: IO[bytes], num_bytes: int) -> bytes:
    """Read up to a number of bytes in chunks, so that a damaged header does not allocate memory for absent bytes."""
    chunks, remaining = [], num_bytes
    while remaining and (chunk := file.read(min(remaining, _CHUNK_BYTES))):
        chunks.append(chunk)
        remaining -= len(chunk)
    return b"".join(chunks)
