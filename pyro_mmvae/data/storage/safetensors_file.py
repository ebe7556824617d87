"""Arrays in safetensors files, written as they come, so that what is built piece by piece is never whole in memory."""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor

Layout = Mapping[str, tuple[type[np.generic], tuple[int, ...]]]
"""Name of each array of a file to its type and shape, in the order in which they stand in it."""

_CODES: dict[Any, str] = {np.uint8: "U8", np.int64: "I64"}


def write_arrays(
    path: Path, layout: Layout, arrays: Iterable[tuple[str, NDArray[Any]]], metadata: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Write a safetensors file, one array after the other.

    Args:
        path: of the new file; what is there is overwritten.
        layout: what will come, uint8 and int64. A wider type stands before a narrower one, so that each is aligned.
        arrays: name and content, in the order of ``layout``.
        metadata: texts by name, for the file's header.

    Returns:
        CRC-32 of each array's bytes.

    Raises:
        ValueError: if an array is another one than ``layout`` says.
    """
    sums: dict[str, int] = {}
    with path.open("wb") as file:
        file.write(_header(layout, dict(metadata or {})))
        for (name, array), (expected, (dtype, shape)) in zip(arrays, layout.items(), strict=True):
            if (name, array.dtype, array.shape) != (expected, np.dtype(dtype), shape):
                raise ValueError(f"{path}: {name} {array.shape} of {array.dtype} came where {expected} {shape} was due")
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            file.write(content)
            sums[name] = zlib.crc32(content)
            del array, content  # before the next one is made
        file.flush()
        os.fsync(file.fileno())
    return sums


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """CRC-32 of each tensor's bytes."""
    return {name: zlib.crc32(tensor.contiguous().numpy().data) for name, tensor in tensors.items()}


def _header(layout: Layout, metadata: dict[str, str]) -> bytes:
    """Length and JSON text that begin a file, padded so that the first array is aligned to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
