"""Photographs: image files that are read as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae._bounded import check_regular

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""The suffixes of photographs, in lower or upper case."""


def list_photographs(folder: Path, count: int) -> list[Path]:
    """Return the first photographs of a folder, by name; other files are ignored.

    Args:
        folder: Path of the folder of photographs.
        count: Number of photographs to return.

    Raises:
        ValueError: If the folder is missing or holds fewer photographs.
    """
    if not folder.is_dir():
        raise ValueError(f"photographs must be a folder of image files, got {str(folder)!r}, which is not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(paths) < count:
        raise ValueError(
            f"photographs: the folder {folder} must hold at least {count} image files, one per modality, got "
            f"{len(paths)} with a suffix among {', '.join(SUFFIXES)}"
        )
    return paths[:count]


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """Read the pixels of an image file as RGB, `(height, width, 3)`.

    Args:
        path: Path of the image file.

    Raises:
        ValueError: If the file cannot be read as an image.
    """
    from PIL import Image  # noqa: PLC0415  (Pillow is in an extra)

    try:
        check_regular(path)
        with Image.open(path) as image:
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"photograph {str(path)!r} must be a readable image file, got an error: {error}") from error
