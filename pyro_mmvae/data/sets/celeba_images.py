"""CelebA's images: photographs decoded to small squares by several threads, cached in a file, and mapped from it."""

from __future__ import annotations

import json
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from pyro_mmvae._printable import one_line
from pyro_mmvae.data.storage.cache import cache_folder
from pyro_mmvae.data.storage.cache_entries import keep_limit, mark_used
from pyro_mmvae.data.storage.mapped import LARGE
from pyro_mmvae.locks import building

CROP, SIDE = 148, 64
"""The sides of the centre crop and of the image that it is resized to, in pixels (Sutter et al., 2021)."""

RESIZING = "centre crop 148, resized to 64 by Pillow's bilinear filter with antialiasing"

_BLOCK_SIZE = 1024  # images held at once, 12 MiB
_THREADS = min(8, os.cpu_count() or 1)
_READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, struct.error,
                Image.DecompressionBombError)  # fmt: skip
"""The errors that Pillow raises on damaged images; found by fuzzing, as it documents none."""

Open = Callable[[int], Path | BytesIO]
"""A function from the index of an image to a file that Pillow can open."""


def decode_face(place: str, source: Path | BytesIO) -> NDArray[np.uint8]:
    """Decode one image to `(3, 64, 64)`, cropped and resized unless it has this size already, see ``RESIZING``.

    Args:
        place: Name of the image, for messages.
        source: The file of the image, a JPEG or PNG.

    Raises:
        ValueError: If the image is damaged, or smaller than the crop.
    """
    try:
        with Image.open(source, formats=("JPEG", "PNG")) as file:
            image = file.convert("RGB")
    except _READ_ERRORS as error:
        reason = one_line(error, 100)
        raise ValueError(f"{place}: must be a readable JPEG or PNG image, got an error: {reason}") from None
    width, height = image.size
    if (width, height) != (SIDE, SIDE):
        if min(width, height) < CROP:
            raise ValueError(
                f"{place}: must have {SIDE} x {SIDE} pixels, or at least {CROP} x {CROP}, got {width} x {height}"
            )
        left, top = round((width - CROP) / 2), round((height - CROP) / 2)
        image = image.crop((left, top, left + CROP, top + CROP)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))


def decode_faces(places: Sequence[str], source: Open) -> Iterator[NDArray[np.uint8]]:
    """Yield all images in blocks `(image, 3, 64, 64)`, so that memory is bounded however many there are.

    Args:
        places: Name of each image, for messages.
        source: Function from the index of an image to its file.

    Raises:
        ValueError: If an image cannot be read; the message names the first.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(places), _BLOCK_SIZE):
            block = range(start, min(start + _BLOCK_SIZE, len(places)))
            yield np.stack(list(pool.map(lambda i: decode_face(places[i], source(i)), block)))


def load_faces(
    file: Path | None, identity: dict[str, Any], places: Sequence[str], source: Open, *, memory_map: bool | None = None
) -> NDArray[np.uint8]:
    """Read images from a cache file, which is made if it is missing or damaged.

    Args:
        file: Path of the cache file, or None to decode without one. If it cannot be written, a warning says so, and
            the images are decoded into memory.
        identity: Everything that determines the images, serialisable as JSON.
        places: Name of each image, for messages.
        source: Function from the index of an image to its file.
        memory_map: If True, the images stay in the cache file; by default those of a gibibyte or more. The file of
            images that stay there is checked by its size only, any other by its checksum.

    Returns:
        The images, `(image, 3, 64, 64)`, in memory or mapped.

    Raises:
        ValueError: If an image cannot be read; the message names the first.
    """
    shape = (len(places), 3, SIDE, SIDE)
    stays_on_disk = int(np.prod(shape)) >= LARGE if memory_map is None else memory_map
    if file is not None:
        cached = _read_cache(file, identity, shape, verify=not stays_on_disk)
        if cached is None:
            with building(file) as waited:
                cached = _read_cache(file, identity, shape, verify=not stays_on_disk) if waited else None
                if cached is None and _write_cache(file, identity, shape, decode_faces(places, source)):
                    cached = _read_cache(file, identity, shape, verify=False)
        if cached is not None:
            return cached if stays_on_disk else np.array(cached)
    images = np.empty(shape, dtype=np.uint8)
    start = 0
    for block in decode_faces(places, source):
        images[start : start + len(block)] = block
        start += len(block)
    return images


def _read_cache(
    file: Path, identity: dict[str, Any], shape: tuple[int, ...], *, verify: bool
) -> NDArray[np.uint8] | None:
    """Map the images of a cache file, or return None if it is missing or damaged; the latter is warned about."""
    try:
        with safe_open(file, framework="np") as opened:  # this checks header and size
            metadata, layout = opened.metadata() or {}, opened.get_slice("image")
            if json.loads(metadata.get("identity", "null")) != identity or tuple(layout.get_shape()) != shape:
                raise ValueError("its identity or shape differs from the one that its name stands for")
            total = int(opened.get_tensor("checksum")[0])
        with file.open("rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            offset = 8 + length + json.loads(content.read(length))["image"]["data_offsets"][0]
        images = np.memmap(file, dtype=np.uint8, mode="c", offset=offset, shape=shape)
        if verify and _checksum(images[i : i + _BLOCK_SIZE] for i in range(0, len(images), _BLOCK_SIZE)) != total:
            raise ValueError("its checksum differs from its content")
        mark_used(file)
        return images
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
        warnings.warn(f"{file} is damaged and will be rebuilt: {error}", stacklevel=6)
        return None


def _write_cache(
    file: Path, identity: dict[str, Any], shape: tuple[int, ...], blocks: Iterator[NDArray[np.uint8]]
) -> bool:  # fmt: skip
    """Write a safetensors file block by block, atomically; return False with a warning if it cannot be written."""
    temporary = file.with_name(f".{file.name}.{uuid4().hex}.tmp")
    num_bytes = int(np.prod(shape))
    header = {
        "__metadata__": {"identity": json.dumps(identity)},
        "image": {"dtype": "U8", "shape": list(shape), "data_offsets": [0, num_bytes]},
        "checksum": {"dtype": "I64", "shape": [1], "data_offsets": [num_bytes, num_bytes + 8]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as content:
            content.write(struct.pack("<Q", len(text)) + text)
            total = _checksum(_write_blocks(content, blocks))
            content.write(struct.pack("<q", total))
            content.flush()
            os.fsync(content.fileno())
        temporary.replace(file)
        keep_limit(cache_folder(), file)
    except OSError as error:
        warnings.warn(f"{file.parent} cannot be written, continuing without a cache: {error}", stacklevel=6)
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _write_blocks(content: Any, blocks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Write blocks to a file as they are passed on, so that each is in memory once."""
    for block in blocks:
        content.write(block.data)
        yield block


def _checksum(blocks: Iterator[NDArray[np.uint8]]) -> int:
    """Return the CRC-32 of the bytes of all blocks."""
    total = 0
    for block in blocks:
        total = zlib.crc32(np.ascontiguousarray(block).data, total)
    return total
