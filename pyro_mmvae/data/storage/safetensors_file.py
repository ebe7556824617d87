"""Writing of safetensors files one array at a time, so that the whole need not fit into memory."""

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
"""Type and shape of each array of a file by name, in the order of the file."""

_CODES: dict[Any, str] = {np.uint8: "U8", np.int64: "I64"}


def write_arrays(
    path: Path, layout: Layout, arrays: Iterable[tuple[str, NDArray[Any]]], metadata: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Write a safetensors file, one array after the other.

    Args:
        path: Path of the file; an existing one is overwritten.
        layout: Types, uint8 or int64, and shapes of the arrays by name. A wider type comes before a narrower one, so
            that each array is aligned.
        arrays: Names and contents of the arrays, in the order of ``layout``.
        metadata: Texts by name for the header of the file; none by default.

    Returns:
        CRC-32 of each array's bytes by name.

    Raises:
        ValueError: If an array differs from ``layout`` in name, type or shape.
    """
    sums: dict[str, int] = {}
    with path.open("wb") as file:
        file.write(_header(layout, dict(metadata or {})))
        for (name, array), (expected, (dtype, shape)) in zip(arrays, layout.items(), strict=True):
            if (name, array.dtype, array.shape) != (expected, np.dtype(dtype), shape):
                raise ValueError(
                    f"{path}: array {expected!r} must be {shape} of {np.dtype(dtype)}, got {name!r}, {array.shape} of "
                    f"{array.dtype}"
                )
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            file.write(content)
            sums[name] = zlib.crc32(content)
            del array, content  # before the iterator makes the next one, so that only one is in memory
        file.flush()
        os.fsync(file.fileno())
    return sums


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the CRC-32 of each tensor's bytes, by name."""
    return {name: zlib.crc32(tensor.contiguous().numpy().data) for name, tensor in tensors.items()}


def _header(layout: Layout, metadata: dict[str, str]) -> bytes:
    """Return the length and JSON text that begin a file, padded so that the first array is aligned to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + math.prod(shape) * np.dtype(dtype).itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
