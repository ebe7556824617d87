"""Photographs: files of images, read as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What the name of a photograph may end in, in small or capital letters."""


def list_photographs(folder: Path, count: int) -> list[Path]:
    """The first photographs of a folder, by name; files of other kinds are passed over.

    Args:
        folder: of photographs.
        count: how many are needed.

    Raises:
        ValueError: if the folder is missing or has fewer.
    """
    if not folder.is_dir():
        raise ValueError(f"photographs: {folder} is no folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(found) < count:
        raise ValueError(
            f"photographs: {count} modalities need {count} of them, one each, and {folder} has {len(found)} "
            f"({', '.join(SUFFIXES)})"
        )
    return found[:count]


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """Pixels of an image file as RGB, `(height, width, 3)`.

    Raises:
        ValueError: if the file cannot be read as an image.
    """
    from PIL import Image  # noqa: PLC0415

    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"photograph {str(path)!r} cannot be read as an image") from error
