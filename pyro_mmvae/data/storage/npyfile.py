"""``.npy`` files that are written an item at a time, however many items there will be."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST = 10**18  # items that the header has room for
_ALIGNED = 64  # bytes, as NumPy aligns what follows a header


class ItemFile:
    """A file of one array `(item, …)`; items that are never written are 0, and take no room where the system can.

    Args:
        path: of the file, which is new.
        dtype: of the items, bool, integers or floats.
        shape: of one item.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npy"
        >>> with ItemFile(path, np.dtype("int16"), (2,)) as file:
        ...     file.write(1, np.array([3, 4], dtype="int16"))
        ...     file.finish(3)
        >>> np.load(path).tolist()
        [[0, 0], [3, 4], [0, 0]]
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.dtype, self.shape = dtype, shape
        self.size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self.start = -(-(10 + len(self._text(_MOST)) + 1) // _ALIGNED) * _ALIGNED
        self.file = path.open("xb")
        self.file.seek(self.start)
        self.next = 0

    def write(self, item: int, value: NDArray[Any]) -> None:
        """Write an item of the file's type and shape."""
        if item != self.next:
            self.file.seek(self.start + item * self.size)
        self.file.write(value.tobytes())
        self.next = item + 1

    def finish(self, count: int) -> None:
        """Write how many items there are, and see to it that all of it is on disk."""
        self.file.truncate(self.start + count * self.size)
        self.file.seek(0)
        length = self.start - 10
        self.file.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little"))
        self.file.write(self._text(count).ljust(length - 1).encode("latin-1") + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def _text(self, count: int) -> str:
        """The header, of version 1.0 of the format."""
        shape = (count, *self.shape)
        return f"{{'descr': {self.dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"

    def __enter__(self) -> ItemFile:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, finished or not."""
        self.file.close()
