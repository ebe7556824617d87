"""Writing of ``.npy`` files one item at a time, with a number of items that is not known in advance."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_ITEMS = 10**18  # the header has room for this number
_ALIGNMENT = 64  # bytes; NumPy aligns the data behind a header to them


class ItemFile:
    """A context manager that writes one array `(item, …)` to a new ``.npy`` file.

    Items that are never written are 0, and take no space if the file system supports sparse files.

    Args:
        path: Path of the file, which must not exist.
        dtype: Type of the items: bool, integers or floats.
        shape: Shape of one item.

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
        self.item_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        # The header is written last, when the number of items is known; its 10 bytes of magic, version and length, the
        # text and a line break are rounded up to the alignment.
        self.start = -(-(10 + len(self._header(_MAX_ITEMS)) + 1) // _ALIGNMENT) * _ALIGNMENT
        self.file = path.open("xb")
        self.file.seek(self.start)
        self.next = 0

    def write(self, item: int, value: NDArray[Any]) -> None:
        """Write one item.

        Args:
            item: Index of the item; items may be skipped.
            value: Its value, of the file's shape; it is converted to the file's type.
        """
        if item != self.next:
            self.file.seek(self.start + item * self.item_bytes)
        self.file.write(np.asarray(value, dtype=self.dtype).tobytes())  # NumPy scalars lose a foreign byte order
        self.next = item + 1

    def finish(self, count: int) -> None:
        """Write the header and flush the file to disk.

        Args:
            count: Number of items in the file.
        """
        self.file.truncate(self.start + count * self.item_bytes)
        self.file.seek(0)
        length = self.start - 10
        self.file.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little"))
        self.file.write(self._header(count).ljust(length - 1).encode("latin-1") + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def _header(self, count: int) -> str:
        """Return the text of the header in version 1.0 of the format, ``numpy.lib.format``."""
        shape = (count, *self.shape)
        return f"{{'descr': {self.dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"

    def __enter__(self) -> ItemFile:
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, whether it is finished or not."""
        self.file.close()
