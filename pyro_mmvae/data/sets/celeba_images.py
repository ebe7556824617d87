"""Photographs to small square images: decoded by several threads, streamed into a cache file, mapped from there."""

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

from pyro_mmvae.data.storage.mapped import LARGE

CROP, SIDE = 148, 64
"""Pixels of the centre crop, and of what it is resized to, as in the CelebA recipe (Sutter et al., 2021)."""

HOW = "centre crop 148, resized to 64 by Pillow's bilinear filter with antialiasing"

_BLOCK = 1024  # images held at once, 12 MiB
_THREADS = min(8, os.cpu_count() or 1)
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, struct.error,
           Image.DecompressionBombError)  # fmt: skip
"""What Pillow raises on files that are no whole images."""

Open = Callable[[int], Path | BytesIO]
"""Number of an image to what Pillow opens."""


def decode_face(place: str, source: Path | BytesIO) -> NDArray[np.uint8]:
    """One image, `(3, 64, 64)`: an image of 64 × 64 as it is, a larger one cropped and resized, see ``HOW``.

    Args:
        place: of the image, for messages.
        source: a JPEG or PNG.

    Raises:
        ValueError: if it is no whole image, or smaller than the crop.
    """
    try:
        with Image.open(source, formats=("JPEG", "PNG")) as file:
            image = file.convert("RGB")
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ValueError(f"{place}: no whole JPEG or PNG image ({reason})") from None
    width, height = image.size
    if (width, height) != (SIDE, SIDE):
        if min(width, height) < CROP:
            raise ValueError(
                f"{place}: found {width} x {height} pixels, expected {SIDE} x {SIDE}, or {CROP} x {CROP} at least"
            )
        left, top = round((width - CROP) / 2), round((height - CROP) / 2)
        image = image.crop((left, top, left + CROP, top + CROP)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.moveaxis(np.asarray(image), -1, 0))


def decode_faces(places: Sequence[str], source: Open) -> Iterator[NDArray[np.uint8]]:
    """All images, in blocks `(image, 3, 64, 64)`, so that memory stays bounded however many there are.

    Args:
        places: of each image, for messages.
        source: where image i is.

    Raises:
        ValueError: for the first that cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(places), _BLOCK):
            block = range(start, min(start + _BLOCK, len(places)))
            yield np.stack(list(pool.map(lambda i: decode_face(places[i], source(i)), block)))


def load_faces(
    file: Path | None, identity: dict[str, Any], places: Sequence[str], source: Open, *, memory_map: bool | None = None
) -> NDArray[np.uint8]:
    """Images from a cache file, which is made where it is not there, or damaged.

    Args:
        file: of the cache; None to do without. Where it cannot be written, that is said and done without.
        identity: all that determines the images, fit for JSON.
        places: of each image, for messages.
        source: where image i is.
        memory_map: leave them in the file; by default those of a gibibyte or more. What is left there is checked by
            its size only, anything else by its sum too.

    Returns:
        `(image, 3, 64, 64)`, in memory or mapped.

    Raises:
        ValueError: for the first image that cannot be read.
    """
    shape = (len(places), 3, SIDE, SIDE)
    stays = memory_map or (memory_map is None and int(np.prod(shape)) >= LARGE)
    if file is not None:
        found = _read(file, identity, shape, check=not stays)
        if found is None and _write(file, identity, shape, decode_faces(places, source)):
            found = _read(file, identity, shape, check=False)
        if found is not None:
            return found if stays else np.array(found)
    images = np.empty(shape, dtype=np.uint8)
    start = 0
    for block in decode_faces(places, source):
        images[start : start + len(block)] = block
        start += len(block)
    return images


def _read(file: Path, identity: dict[str, Any], shape: tuple[int, ...], *, check: bool) -> NDArray[np.uint8] | None:
    """Map the images, or None where there is no file or it is damaged; the latter with a warning."""
    try:
        with safe_open(file, framework="np") as opened:  # which checks header and size
            metadata, layout = opened.metadata() or {}, opened.get_slice("image")
            if json.loads(metadata.get("identity", "null")) != identity or tuple(layout.get_shape()) != shape:
                raise ValueError("made from something else than its name says")
            total = int(opened.get_tensor("checksum")[0])
        with file.open("rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            offset = 8 + length + json.loads(content.read(length))["image"]["data_offsets"][0]
        images = np.memmap(file, dtype=np.uint8, mode="c", offset=offset, shape=shape)
        if check and _checksum(images[i : i + _BLOCK] for i in range(0, len(images), _BLOCK)) != total:
            raise ValueError("checksums differ")
        return images
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
        warnings.warn(f"{file} is damaged and is built again: {error}", stacklevel=6)
        return None


def _write(
    file: Path, identity: dict[str, Any], shape: tuple[int, ...], blocks: Iterator[NDArray[np.uint8]]
) -> bool:  # fmt: skip
    """Write a safetensors file block by block, whole or not at all; where that cannot be done, say so."""
    temporary = file.with_name(f".{file.name}.{uuid4().hex}.tmp")
    size = int(np.prod(shape))
    header = {
        "__metadata__": {"identity": json.dumps(identity)},
        "image": {"dtype": "U8", "shape": list(shape), "data_offsets": [0, size]},
        "checksum": {"dtype": "I64", "shape": [1], "data_offsets": [size, size + 8]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as content:
            content.write(struct.pack("<Q", len(text)) + text)
            total = _checksum(_through(content, blocks))
            content.write(struct.pack("<q", total))
            content.flush()
            os.fsync(content.fileno())
        temporary.replace(file)
    except OSError as error:
        warnings.warn(f"{file.parent} cannot be written, going on without a cache: {error}", stacklevel=6)
        return False
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _through(content: Any, blocks: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for block in blocks:
        content.write(block.data)
        yield block


def _checksum(blocks: Iterator[NDArray[np.uint8]]) -> int:
    """CRC-32 of the bytes of all blocks."""
    total = 0
    for block in blocks:
        total = zlib.crc32(np.ascontiguousarray(block).data, total)
    return total
