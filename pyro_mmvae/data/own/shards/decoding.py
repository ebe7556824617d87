"""The contents of members of shards, images, arrays and texts, as arrays of one shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae._printable import one_line
from pyro_mmvae.data.storage.image_files import decode_image, find_format
from pyro_mmvae.data.text import encode_texts

Encoding = Literal["image", "npy", "txt"]

SUFFIXES: dict[str, Encoding] = {
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm"), "image"),
    "npy": "npy",
    "txt": "txt",
    "text": "txt",
}
"""The encoding of the members of each suffix; members of other suffixes cannot be read."""

_MAGIC = b"\x93NUMPY"
_MAX_ITEM = 2**31  # bytes of an item in memory
_MAX_HEADER = 10_000  # bytes of the header of an array


@dataclass(frozen=True)
class Format:
    """The encoding of a modality in shards, and the array that one item becomes.

    Attributes:
        encoding: ``"image"``, ``"npy"``, or ``"txt"`` for texts in UTF-8.
        shape: Shape of one item; of a text, the number of its tokens.
        dtype: Name of the type of the values, such as ``"float32"``.
        alphabet: Characters that the tokens of a text stand for, in order; empty for other encodings.
        padding: Character of the alphabet that fills up shorter texts; empty for other encodings.
        resize: If True, images are scaled to cover ``shape`` and cropped; if False (default), another size is an error.
    """

    encoding: Encoding
    shape: tuple[int, ...]
    dtype: str
    alphabet: str = ""
    padding: str = ""
    resize: bool = False

    def __post_init__(self) -> None:
        """Check that the parts fit together, since they may come from a file of anyone.

        Raises:
            ValueError: If they do not.
        """
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            raise ValueError(f"dtype must be the name of a type of numbers, got {self.dtype!r}") from None
        if dtype.kind not in "biuf" or dtype.name != self.dtype:
            raise ValueError(f"dtype must be the name of bool, an integer or a float, got {self.dtype!r}")
        if any(size < 1 for size in self.shape) or math.prod(self.shape) * dtype.itemsize > _MAX_ITEM:
            raise ValueError(f"shape must be of at most {_MAX_ITEM:,} bytes per item, got {self.shape}")
        axes, fits = {"image": 3, "txt": 1}.get(self.encoding), True
        if self.encoding == "image":
            fits = self.shape[:1] in {(1,), (3,)} and self.dtype == "uint8"
        elif self.encoding == "txt":
            fits = len(self.alphabet) > 1 and len(self.padding) == 1 and self.padding in self.alphabet
        if axes not in {None, len(self.shape)} or not fits:
            raise ValueError(f"shape, dtype and alphabet must be those of {self.encoding}, got {self.shape}")

    def decode(self, contents: Sequence[bytes], name: Callable[[int], str]) -> NDArray[Any]:
        """Return the values of some items, `(item, *shape)`.

        Args:
            contents: The bytes of the member of each item.
            name: Function from the position of an item in ``contents`` to the shard and the member, for messages.

        Raises:
            ValueError: If a member is damaged, or is of another shape or type; the message is one line.
        """
        if self.encoding == "txt":
            return self._decode_texts(contents, name)
        values = np.empty((len(contents), *self.shape), dtype=self.dtype)
        for position, content in enumerate(contents):
            if self.encoding == "image":
                values[position] = self._decode_image(content, partial(name, position))
                continue
            try:
                array = parse_npy(content)
            except ValueError as error:
                raise ValueError(f"{name(position)}: {error}") from None
            # The name does not tell byte orders apart, and takes longer to find than the comparison of types.
            if array.shape != self.shape or (array.dtype != values.dtype and array.dtype.name != self.dtype):
                raise ValueError(
                    f"{name(position)}: must be an array of shape {self.shape} of {self.dtype} as the first item has, "
                    f"got {array.shape} of {array.dtype}"
                )
            values[position] = array
        return values

    def _decode_image(self, content: bytes, name: Callable[[], str]) -> NDArray[np.uint8]:
        channels, height, width = self.shape
        try:
            return decode_image("", BytesIO(content), channels, (height, width), resize=self.resize, label="the member")
        except ValueError as error:
            raise ValueError(f"{name()}{error}") from None

    def _decode_texts(self, contents: Sequence[bytes], name: Callable[[int], str]) -> NDArray[Any]:
        texts = [read_text(content, partial(name, position)) for position, content in enumerate(contents)]
        try:
            tokens, _ = encode_texts(texts, self.shape[0], self.padding, self.alphabet)
        except ValueError:
            for position, text in enumerate(texts):  # which one it is
                unknown = [character for character in text[: self.shape[0]] if character not in self.alphabet]
                if unknown:
                    raise ValueError(
                        f"{name(position)}: characters must be those of the alphabet {self.alphabet!r}, got "
                        f"{unknown[0]!r}"
                    ) from None
            raise
        return tokens.astype(self.dtype, copy=False)


def read_text(content: bytes, name: Callable[[], str]) -> str:
    """Return a member as text.

    Args:
        content: The bytes of the member.
        name: Function that returns the shard and the member, for the message.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{name()}: must be text in UTF-8, got other bytes") from None


def find_item_format(encoding: Encoding, content: bytes, size: tuple[int, int] | None, name: str) -> Format:
    """Return the format of a modality by its first member.

    Args:
        encoding: The encoding of the member, ``"image"`` or ``"npy"``.
        content: The bytes of the member.
        size: Height and width that images are resized to; None to keep them.
        name: The shard and the member, for messages.

    Raises:
        ValueError: If the member is damaged.
    """
    if encoding == "image":
        try:
            found, channels = find_format("", BytesIO(content), "the member")
        except ValueError as error:
            raise ValueError(f"{name}{error}") from None
        return Format("image", (channels, *(size or found)), "uint8", resize=size is not None)
    try:
        array = parse_npy(content)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Format("npy", array.shape, array.dtype.name)


def parse_npy(content: bytes) -> NDArray[Any]:
    """Return the array of a file of NumPy as a view of its bytes; objects, which would be unpickled, are refused.

    Args:
        content: The bytes of a file ``.npy``.

    Raises:
        ValueError: If it is not such a file, or does not hold numbers; the message is a part of a line.
    """
    length_size = 2 if content[6:7] == b"\x01" else 4
    start = 8 + length_size
    length = int.from_bytes(content[8:start], "little")
    if content[:6] != _MAGIC or length > _MAX_HEADER or len(content) < start + length:
        raise ValueError("must be an array of NumPy (.npy), got other bytes")
    shape, is_fortran, dtype = _parse_header(content[: start + length])
    expected = math.prod(shape) * dtype.itemsize
    if len(content) != start + length + expected:
        raise ValueError(
            f"must be an array of shape {shape} of {dtype} in {expected:,} bytes, got {len(content) - start - length:,}"
        )
    array = np.frombuffer(content, dtype, offset=start + length)
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)


@lru_cache(maxsize=256)  # items of a modality have the same header
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = BytesIO(header)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file, max_header_size=_MAX_HEADER)
    except Exception as error:  # noqa: BLE001  (NumPy documents none, and raises a dozen kinds)
        reason = one_line(error, 100)
        raise ValueError(f"must be an array of NumPy (.npy), got a damaged header: {reason}") from None
    if dtype.hasobject:
        raise ValueError("must be an array of numbers, got Python objects: pickles are never loaded")
    if dtype.kind not in "biuf":
        raise ValueError(f"must be an array of bool, integers or floats, got {dtype}")
    if any(size < 0 for size in shape) or math.prod(shape) > _MAX_ITEM:
        raise ValueError(f"must be an array of at most 2^31 values, got shape {shape}")
    return shape, is_fortran, dtype
