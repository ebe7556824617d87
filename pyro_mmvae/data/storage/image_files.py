"""Images in files, such as JPEG or PNG, which are decoded when they are indexed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pyro_mmvae._printable import one_line, printable_line

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
"""The suffixes of files that are taken for images, in lower case."""

Size = tuple[int, int]

_MODES = {1: "L", 3: "RGB"}
_GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "F"})
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, TypeError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """An array of uint8 images `(item, channel, height, width)` whose rows are decoded from files as they are read.

    It can be the array of a :class:`~pyro_mmvae.data.storage.mapped.Column`.

    Args:
        where: Data and modality, for messages.
        files: Path of each item's file, or None for an item without one, which is read as zeros.
        names: Description of each item for messages, such as ``"item 'a'"``.
        size: Height and width of the images.
        channels: Number of channels, 1 for grey images and 3 for colours, which files are converted to.
        resize: If True, images are scaled to cover ``size`` and cropped at the centre; if False, another size is an
            error.
    """

    where: str
    files: Sequence[Path | None]
    names: Sequence[str]
    size: Size
    channels: int
    resize: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the pixels."""
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the whole array."""
        return (len(self.files), self.channels, *self.size)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return 4

    @property
    def nbytes(self) -> int:
        """The number of bytes that all images have in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.files)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Decode the images of some items, chosen by a slice or by an array of indices."""
        rows = np.atleast_1d(np.arange(len(self))[index])
        images = np.zeros((len(rows), *self.shape[1:]), dtype=np.uint8)
        for position, row in enumerate(rows.tolist()):
            file = self.files[row]
            if file is not None:
                images[position] = self._decode(row, file)
        return images

    def _decode(self, row: int, file: Path) -> NDArray[np.uint8]:
        """Return one image `(channel, height, width)`."""
        where = f"{self.where}: {self.names[row]}"
        return decode_image(where, file, self.channels, self.size, resize=self.resize)


def is_image_files(array: Any) -> bool:
    """Return True for an array of images that are decoded as they are read."""
    return isinstance(array, ImageFiles)


def decode_image(
    where: str, file: Path | IO[bytes], channels: int, size: Size, *, resize: bool, label: str | None = None
) -> NDArray[np.uint8]:
    """Return the pixels of an image, `(channel, height, width)`.

    Args:
        where: Data, modality and item, the beginning of error messages.
        file: Path of the file, or an open file.
        channels: Number of channels, 1 for grey and 3 for colours, which the image is converted to.
        size: Height and width of the result.
        resize: If True, the image is scaled to cover ``size`` and cropped at the centre; if False, another size is an
            error.
        label: Name of the file in messages; by default the path.

    Raises:
        ValueError: If the file is not an image, or has another size.
    """
    label = printable_line(str(file)) if label is None else label
    height, width = size
    with open_image(where, file, label) as image, _errors_of_file(where, label):
        if resize:
            image.draft(_MODES[channels], (2 * width, 2 * height))  # a JPEG is decoded at a fraction of its size
        else:
            _check_size(where, label, image, size)  # before the pixels are decoded, of which there may be many
        upright = ImageOps.exif_transpose(image)
        pixels = _convert(upright, channels)
        if resize:
            pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BICUBIC)
        array = np.asarray(pixels, dtype=np.uint8)
    return array[None] if channels == 1 else np.moveaxis(array, -1, 0)


def _check_size(where: str, label: str, image: Image.Image, size: Size) -> None:
    # The tag of the orientation of a PNG may stand after its pixels, so that it is looked for last.
    height, width = image.size[::-1] if sorted(image.size) != sorted(size) else _upright_size(image)
    if (height, width) != size:
        raise ImageSizeError(
            f"{where}: {label} must have height x width {size[0]} x {size[1]} as the first image, got {height} x "
            f"{width}: set the option image_size, such as 64, to resize all images"
        )


def _upright_size(image: Image.Image) -> Size:
    is_turned = image.getexif().get(0x0112, 1) in {5, 6, 7, 8}  # the tag of the orientation
    width, height = image.size[::-1] if is_turned else image.size
    return height, width


class ImageSizeError(ValueError):
    """An image that does not have the expected size; the message is complete."""


class _errors_of_file:  # noqa: N801  (a context manager that reads as a function)
    """A context manager that turns errors of decoding into a ValueError of one line, and suppresses warnings."""

    def __init__(self, where: str, label: str) -> None:
        self.where, self.label, self.caught = where, label, warnings.catch_warnings()

    def __enter__(self) -> None:
        self.caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.caught.__exit__(kind, error, trace)
        if isinstance(error, _DECODING_ERRORS) and not isinstance(error, ImageSizeError):
            reason = one_line(error)
            raise ValueError(f"{self.where}: {self.label} must be a readable image, got an error: {reason}") from None


def open_image(where: str, file: Path | IO[bytes], label: str | None = None) -> Image.Image:
    """Open an image file, reading only its header.

    Args:
        where: Data, modality and item, the beginning of error messages.
        file: Path of the file, or an open file.
        label: Name of the file in messages; by default the path.

    Raises:
        ValueError: If there is no such file or it is not an image.
    """
    label = printable_line(str(file)) if label is None else label
    if isinstance(file, Path) and not file.is_file():
        raise ValueError(f"{where}: {label} must be an existing file, got none")
    with _errors_of_file(where, label):
        return Image.open(file)


def find_format(where: str, file: Path | IO[bytes], label: str | None = None) -> tuple[Size, int]:
    """Return height and width of an image, upright, and its number of channels, 1 or 3.

    Args:
        where: Data, modality and item, the beginning of error messages.
        file: Path of the file, or an open file.
        label: Name of the file in messages; by default the path.

    Raises:
        ValueError: If there is no such file or it is not an image.
    """
    label = printable_line(str(file)) if label is None else label
    with open_image(where, file, label) as image, _errors_of_file(where, label):
        return _upright_size(image), 1 if image.mode in _GREY_MODES else 3


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Return an image with 8 bits per channel; 16 bits are scaled, since Pillow would cut them off."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    return image.convert(_MODES[channels])
