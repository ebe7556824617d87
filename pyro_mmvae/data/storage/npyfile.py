"""Writing of ``.npy`` files one item at a time, with a number of items that is not known in advance."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray


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
        self.file = path.open("xb")
        # The header is written again when the number of items is known: NumPy leaves room for it to grow in place.
        self._write_header(0)
        self.start = self.file.tell()
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
        self._write_header(count)
        self.file.flush()
        os.fsync(self.file.fileno())

    def _write_header(self, count: int) -> None:
        """Write the header of an array of so many items at the current position."""
        shape = (count, *self.shape)
        description = {"descr": dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        write_array_header_1_0(self.file, description)

    def __enter__(self) -> ItemFile:
        """Return the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, whether it is finished or not."""
        self.file.close()
