"""One modality as it lies in an array, perhaps on disk: read, checked and converted a few rows at a time."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.modality_spec import check_image

LARGE = 2**30
"""Bytes from which an array on disk is left there, and checked as it is read."""

_BLOCK = 2**22  # bytes read at once
_LARGEST = 2**24  # up to here float32 holds every whole number


@dataclass(frozen=True, eq=False)
class Column:
    """An array `(item, …)` and what its values must be.

    Args:
        where: file and modality, for messages.
        array: in memory or mapped.
        kind: data type, see :class:`~pyro_mmvae.ModalitySpec`.
        present: which items are there, `(item,)`. What stands elsewhere is read as 0 and never checked.
        classes: of tokens, where they are known.

    Raises:
        ValueError: if type or shape do not fit the kind.
    """

    where: str
    array: NDArray[Any]
    kind: str
    present: NDArray[np.bool_]
    classes: int | None = None

    def __post_init__(self) -> None:
        """Check type and shape."""
        check_array(self.where, self.array)
        letter, shape = self.array.dtype.kind, self.shape
        allowed = {"image": "f", "tokens": "iu", "counts": "iuf"}.get(self.kind, "biuf")
        if letter not in allowed and not (self.kind == "image" and self.array.dtype == np.uint8):
            wanted = {"image": "uint8 or floats", "tokens": "integers"}.get(self.kind, "numbers")
            raise ValueError(f"{self.where}: found {self.array.dtype}, expected {wanted} for kind {self.kind}")
        if self.kind == "image":
            check_image(self.where, shape)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return tuple(self.array.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read: uint8 for such images, signed integers for tokens, floats for everything else."""
        if self.pixels:
            return torch.uint8
        if self.kind != "tokens":
            return torch.get_default_dtype()
        bits = self.array.dtype.itemsize * (16 if self.array.dtype.kind == "u" else 8)
        return {8: torch.int8, 16: torch.int16, 32: torch.int32}.get(bits, torch.int64)

    @property
    def pixels(self) -> bool:
        """Whether values are uint8 images."""
        return self.kind == "image" and self.array.dtype == np.uint8

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Copy, check and convert some rows, `(row, …)`.

        Raises:
            ValueError: if a value is not allowed; the message names the item.
        """
        block, absent = self.array[rows], ~self.present[rows]
        block = np.array(block, dtype=block.dtype.newbyteorder("="))
        if absent.any():
            block[absent] = 0
        if not self.pixels:
            self._check(block, rows)
        with np.errstate(over="ignore"):
            # Through NumPy, since torch has few unsigned types; "numpy()" of no element gives NumPy's name of ours.
            block = block.astype(torch.empty(0, dtype=self.dtype).numpy().dtype, copy=False)
        if block.dtype.kind == "f":
            self._refuse(~np.isfinite(block), block, rows, "finite numbers that fit the floating type")
        return torch.from_numpy(block)

    def _check(self, block: NDArray[Any], rows: NDArray[np.int64]) -> None:
        if block.dtype.kind == "f":
            self._refuse(np.isnan(block), block, rows, "a number (missing_nan: true makes the item absent)")
            self._refuse(np.isinf(block), block, rows, "finite numbers")
        if self.kind == "tokens":
            self._refuse(block < 0, block, rows, "tokens from 0")
            if self.classes is not None:
                self._refuse(block >= self.classes, block, rows, f"tokens below classes = {self.classes}")
            self._refuse(block > _LARGEST, block, rows, f"tokens up to {_LARGEST}")
        if self.kind == "counts":
            if block.dtype.kind == "f":
                self._refuse(block != np.floor(block), block, rows, "whole numbers, as counts are")
            self._refuse(block < 0, block, rows, "counts from 0")
            self._refuse(block > _LARGEST, block, rows, f"counts up to {_LARGEST}")
        if self.kind == "binary" and block.dtype.kind != "b":
            self._refuse((block < 0) | (block > 1), block, rows, "numbers in [0, 1]")

    def _refuse(self, bad: NDArray[np.bool_], block: NDArray[Any], rows: NDArray[np.int64], expected: str) -> None:
        if bad.any():
            first = tuple(int(i[0]) for i in np.nonzero(bad))
            place = f" at {first[1:]}" if len(first) > 1 else ""
            raise ValueError(
                f"{self.where}: item {int(rows[first[0]])}: found {block[first]!s}{place}, expected {expected}"
            )

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """All rows, in blocks of some megabytes."""
        size = max(_BLOCK // max(self.array[:1].nbytes, 1), 1)
        for start in range(0, len(self), size):
            yield np.arange(start, min(start + size, len(self)))

    def nan_items(self) -> NDArray[np.bool_]:
        """Which items have a NaN in them, `(item,)`; everything is read once, block by block."""
        if self.array.dtype.kind != "f":
            return np.zeros(len(self), dtype=bool)
        return np.concatenate([np.isnan(self.array[r]).reshape(len(r), -1).any(-1) for r in self.blocks()])

    def scan(self) -> None:
        """Check every value, block by block.

        Raises:
            ValueError: for the first that is not allowed.
        """
        for rows in self.blocks():
            self.read(rows)

    def largest(self) -> int:
        """The greatest value, of integers."""
        return max(int(self.read(rows).max()) for rows in self.blocks())

    def is_constant(self) -> bool:
        """Whether all values of all present items are equal; reading stops at the first that is not."""
        first: Any = None
        for rows in self.blocks():
            block = self.array[rows[self.present[rows]]]
            if block.size == 0:
                continue
            first = block.flat[0] if first is None else first
            if (block != first).any():
                return False
        return True


class MappedTensor:
    """Some rows of a column, which are read, checked and converted only when they are indexed.

    It stands where a tensor `(item, …)` would, and has what data sets and batches need of one.

    Args:
        column: where the rows are.
        rows: which, `(item,)`.
        device: of what is read.
    """

    def __init__(self, column: Column, rows: NDArray[np.int64], device: torch.device | str = "cpu") -> None:
        self.column, self.rows, self.device = column, rows, torch.device(device)
        self.shape = torch.Size((len(rows), *column.shape))
        self.dtype = column.dtype

    def __len__(self) -> int:
        """Number of items."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Where it is, and its shape."""
        return f"MappedTensor({self.column.where}, {tuple(self.shape)}, {self.dtype})"

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        """A copy of some items, on ``device``."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index).cpu().numpy()  # type: ignore[assignment]
        return self.column.read(self.rows[index]).to(self.device)

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def to(self, device: torch.device | str) -> MappedTensor:
        """The same rows, to be read onto ``device``; nothing is read now."""
        return MappedTensor(self.column, self.rows, device)


def check_array(where: str, array: NDArray[Any]) -> None:
    """Refuse what holds no numbers.

    Raises:
        ValueError: for another type than bool, integers or floats, or an array without items or without values.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: found {array.dtype}, expected bool, integers or floats")
    if array.ndim < 1 or len(array) < 1:
        raise ValueError(f"{where}: found an array of shape {array.shape}, expected (item, …) with at least one item")
    if not math.prod(array.shape):
        raise ValueError(f"{where}: found items of shape {array.shape[1:]}, which hold nothing")


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array is on disk, and not in memory."""
    return _mapping(array) is not None


def expect_random_access(array: NDArray[Any]) -> None:
    """Tell the system that rows of a mapped array are read in no order, so that it reads no others ahead of them."""
    mapping, advice = _mapping(array), getattr(mmap, "MADV_RANDOM", None)
    if mapping is not None and advice is not None:
        mapping.madvise(advice)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    base: Any = array
    while base is not None:
        if isinstance(base, mmap.mmap):
            return base
        base = getattr(base, "base", None)
    return None
