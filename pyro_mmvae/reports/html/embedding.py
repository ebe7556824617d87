"""Values embedded in a page: JSON that cannot end its script, numbers of few digits, and images as sprite sheets."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, features

CELL = 16
"""The grid of a sprite sheet in pixels: lossy formats mix the colours of blocks of this size, and of no larger ones."""

_QUALITIES = (85, 75, 60, 45, 30, 15)
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def script_json(value: Any) -> str:
    r"""Return a value as JSON that can stand inside a script element, whatever its strings hold.

    The characters that begin a tag or a comment, and the line separators of older JavaScript, are written as escapes.
    Numbers that are not finite become null.

    Args:
        value: The value to write: mappings, sequences, strings, numbers, booleans and None.

    Example:
        >>> script_json({"name": "</script>"})
        '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode("utf-8", "replace").decode()  # lone surrogates of file names are not UTF-8


def _finite(value: Any) -> Any:
    """Return the value with None in place of numbers that JSON does not have, and built-in types throughout."""
    if isinstance(value, dict):
        return {str(key): _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rounded(values: ArrayLike, digits: int = 4) -> Any:
    """Return numbers with few significant digits as nested lists, None for those that are not finite.

    Args:
        values: The numbers, of any shape.
        digits: The number of significant digits, 4 by default.
    """
    array = np.asarray(values, dtype=np.float64)
    texts = [float(f"{number:.{digits}g}") if math.isfinite(number) else None for number in array.ravel().tolist()]
    nested = np.empty(array.size, dtype=object)
    nested[:] = texts
    return nested.reshape(array.shape).tolist()


def sprite_sheet(images: NDArray[np.uint8]) -> tuple[Image.Image, int, int]:
    """Return images as one picture, in rows of columns, and the width and height of a cell.

    A cell is padded by its last pixels to a multiple of 16, so that lossy compression does not mix two of its images.

    Args:
        images: The images, of shape `(row, column, channel, height, width)`, grey or RGB.
    """
    rows, columns, channels, height, width = images.shape
    pad = [(0, 0), (0, 0), (0, 0), (0, -height % CELL), (0, -width % CELL)]
    padded = np.pad(images, pad, mode="edge")
    if channels == 1:
        padded = np.repeat(padded, 3, axis=2)
    cell_height, cell_width = padded.shape[-2:]
    sheet = padded.transpose(0, 3, 1, 4, 2).reshape(rows * cell_height, columns * cell_width, 3)
    return Image.fromarray(np.ascontiguousarray(sheet)), cell_width, cell_height


def encode_sheets(sheets: Sequence[Image.Image], limit: int) -> list[str]:
    """Return pictures as data URIs, compressed with the best quality at which they fit into a limit together.

    Args:
        sheets: The pictures to compress.
        limit: The largest number of bytes of all of them; with the worst quality they may exceed it.
    """
    encoded: list[bytes] = []
    kind = "webp" if features.check("webp") else "jpeg"
    for quality in _QUALITIES:
        encoded = [_compress(sheet, kind, quality) for sheet in sheets]
        if sum(map(len, encoded)) <= limit:
            break
    return [f"data:image/{kind};base64,{base64.b64encode(content).decode()}" for content in encoded]


def _compress(sheet: Image.Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"method": 2} if kind == "webp" else {"subsampling": 0}
    sheet.save(buffer, kind, quality=quality, **options)
    return buffer.getvalue()
