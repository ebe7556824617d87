"""Modalities that stay on disk: arrays whose rows are read, checked and converted a batch at a time."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.options import describe_item
from pyro_mmvae.data.storage.rows import MatrixRows
from pyro_mmvae.modality_spec import check_image

LARGE = 2**30
"""The number of bytes from which an array on disk stays there by default, to be checked as it is read."""

_BLOCK_BYTES = 2**22  # read at once
_NAN_ADVICE = ": set missing_nan to true if a NaN stands for an absent modality"
_COUNT_ADVICE = ": these are not whole counts; round them, or set data_type to vector (by the option kinds)"
_MAX_INTEGER = 2**24  # float32 represents every integer up to here


@dataclass(frozen=True, eq=False)
class Column:
    """An array `(item, …)` with the rules that its values must obey.

    Args:
        where: File and modality, for messages.
        array: The values, in memory, mapped from disk, or rows of a matrix that are made dense as they are read.
        kind: Data type, see :class:`~pyro_mmvae.ModalitySpec`.
        present: True for the items that are present, `(item,)`. The others are read as 0 and never checked.
        classes: Number of classes of tokens, or None if it is not known yet.
        ids: Identifiers of the items, `(item,)`, for messages; None for items without identifiers.
        is_checked: If True, all values have been checked, and are not checked again when they are read. False by
            default.

    Raises:
        ValueError: If type or shape of the array do not fit the kind.
    """

    where: str
    array: NDArray[Any] | MatrixRows
    kind: str
    present: NDArray[np.bool_]
    classes: int | None = None
    ids: NDArray[np.str_] | None = None
    is_checked: bool = False

    def __post_init__(self) -> None:
        """Check type and shape."""
        check_array(self.where, self.array)
        letter, shape = self.array.dtype.kind, self.shape
        allowed = {"image": "f", "tokens": "iu", "counts": "iuf"}.get(self.kind, "biuf")
        if letter not in allowed and not (self.kind == "image" and self.array.dtype.str[1:] in {"u1", "u2"}):
            expected = {"image": "uint8, uint16 or floats", "tokens": "integers"}.get(self.kind, "numbers")
            raise ValueError(f"{self.where}: {self.kind} must be {expected}, got {self.array.dtype}")
        if self.kind == "image":
            check_image(self.where, shape)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item."""
        return tuple(self.array.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The type that is read: uint8 for uint8 images, signed integers for tokens, floats for everything else."""
        if self.pixels:
            return torch.uint8
        if self.kind != "tokens":
            return torch.get_default_dtype()
        # An unsigned type needs twice the bits as a signed one.
        bits = self.array.dtype.itemsize * (16 if self.array.dtype.kind == "u" else 8)
        return {8: torch.int8, 16: torch.int16, 32: torch.int32}.get(bits, torch.int64)

    @property
    def pixels(self) -> bool:
        """True if the values are uint8 images."""
        return self.kind == "image" and self.array.dtype == np.uint8

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Copy, check and convert some rows.

        Args:
            rows: Indices of the items, `(row,)`.

        Returns:
            The items, `(row, …)`, of type ``dtype``.

        Raises:
            ValueError: If a value is not allowed; the message names the item.
        """
        block, absent = self.array[rows], ~self.present[rows]
        # Rows of a matrix are a new array already.
        convert = np.asarray if isinstance(self.array, MatrixRows) else np.array
        block = convert(block, dtype=block.dtype.newbyteorder("="))
        if absent.any():
            block[absent] = 0
        if not self.pixels and not self.is_checked:
            self._check_values(block, rows)
        with np.errstate(over="ignore"):
            # NumPy converts, since torch lacks most unsigned types; an empty tensor gives NumPy's name of the type.
            block = block.astype(torch.empty(0, dtype=self.dtype).numpy().dtype, copy=False)
        if self.kind == "image" and self.array.dtype.str[1:] == "u2":
            block /= np.iinfo(np.uint16).max
        if block.dtype.kind == "f" and not self.is_checked:
            self._reject(~np.isfinite(block), block, rows, "finite in the floating type that it is converted to")
        return torch.from_numpy(block)

    def _check_values(self, block: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """Check the values of some rows against the rules of the kind."""
        if block.dtype.kind == "f":
            self._reject(np.isnan(block), block, rows, "a number", _NAN_ADVICE)
            self._reject(np.isinf(block), block, rows, "finite")
        if self.kind == "tokens":
            self._reject(block < 0, block, rows, "a token of at least 0")
            if self.classes is not None:
                self._reject(block >= self.classes, block, rows, f"a token below classes = {self.classes}")
            self._reject(block > _MAX_INTEGER, block, rows, f"a token of at most {_MAX_INTEGER}")
        if self.kind == "counts":
            if block.dtype.kind == "f":
                self._reject(block != np.floor(block), block, rows, "an integer, as a count is", _COUNT_ADVICE)
            self._reject(block < 0, block, rows, "a count of at least 0")
            self._reject(block > _MAX_INTEGER, block, rows, f"a count of at most {_MAX_INTEGER}")
        if self.kind == "binary" and block.dtype.kind != "b":
            self._reject((block < 0) | (block > 1), block, rows, "a number in [0, 1]")

    def _reject(
        self,
        invalid: NDArray[np.bool_],
        block: NDArray[Any],
        rows: NDArray[np.int64],
        requirement: str,
        advice: str = "",
    ) -> None:
        """Raise a ValueError that shows the first invalid value of some rows, if there is one."""
        if invalid.any():
            first = tuple(int(i[0]) for i in np.nonzero(invalid))
            place = f" at {first[1:]}" if len(first) > 1 else ""
            row = int(rows[first[0]])
            raise ValueError(
                f"{self.where}: {describe_item(self.ids, row)}: value{place} must be {requirement}, got "
                f"{block[first]!s}{advice}"
            )

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yield the indices of all items, in blocks of some megabytes."""
        block_size = max(_BLOCK_BYTES // max(self.array.nbytes // len(self), 1), 1)
        for start in range(0, len(self), block_size):
            yield np.arange(start, min(start + block_size, len(self)))

    def nan_items(self) -> NDArray[np.bool_]:
        """Return True for the items that contain a NaN, `(item,)`, reading the array once, block by block."""
        if self.array.dtype.kind != "f":
            return np.zeros(len(self), dtype=bool)
        return np.concatenate([np.isnan(self.array[r]).reshape(len(r), -1).any(-1) for r in self.blocks()])

    def scan(self) -> None:
        """Check every value, block by block.

        Raises:
            ValueError: If a value is not allowed; the message names the first.
        """
        if self._stored_values_are_valid():
            return
        for rows in self.blocks():
            self.read(rows)

    def _stored_values_are_valid(self) -> bool:
        """Return True if the stored values of a sparse matrix in memory are allowed, and with them its zeros."""
        stored = self.array.stored_values() if isinstance(self.array, MatrixRows) else None
        if stored is None:
            return False
        try:
            if len(stored):
                replace(self, array=stored[:, None], present=np.ones(len(stored), dtype=bool), ids=None).scan()
        except ValueError:
            return False  # the value may belong to an absent item, and the message has to name item and feature
        return True

    def first_value(self) -> Any:
        """Return the first value of the first present item."""
        return self.array[np.flatnonzero(self.present)[:1]].flat[0]

    def largest(self) -> int:
        """Return the largest value of a column of integers."""
        return max(int(self.read(rows).max()) for rows in self.blocks())

    def is_constant(self) -> bool:
        """Return True if all values of the present items are equal; reading stops at the first that differs."""
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
    """A lazy selection of rows of a column, which are read, checked and converted when they are indexed.

    It can be used as a modality of a data set in place of a tensor `(item, …)`.

    Args:
        column: The column that holds the rows.
        rows: Index into the column of each item, `(item,)`.
        device: Device of the tensors that are read; the CPU by default.
    """

    def __init__(self, column: Column, rows: NDArray[np.int64], device: torch.device | str = "cpu") -> None:
        self.column, self.rows, self.device = column, rows, torch.device(device)
        self.shape = torch.Size((len(rows), *column.shape))
        self.dtype = column.dtype

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Return one line with file, modality, shape and type."""
        return f"MappedTensor({self.column.where}, {tuple(self.shape)}, {self.dtype})"

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        """Return a copy of some items, on ``device``."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index).cpu().numpy()  # type: ignore[assignment]
        return self.column.read(self.rows[index]).to(self.device)

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def subset(self, index: Tensor) -> MappedTensor | Tensor:
        """Return some items: a copy in memory, or a lazy selection of the rows of a matrix.

        Args:
            index: Indices of the items, or a bool mask `(item,)`.
        """
        if isinstance(self.column.array, MatrixRows):
            return MappedTensor(self.column, np.atleast_1d(self.rows[index.cpu().numpy()]), self.device)
        return self[index]

    def to(self, device: torch.device | str) -> MappedTensor:
        """Return a selection of the rows that is read onto a device; nothing is read yet."""
        return MappedTensor(self.column, self.rows, device)


def channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """Return images `(item, channel, height, width)`, as a view, of images without channels or with channels last.

    Args:
        array: Images `(item, height, width)`, `(item, height, width, channel)` with 1, 3 or 4 channels, or already
            `(item, channel, height, width)`; arrays of other shapes are returned unchanged.
    """
    few = {1, 3, 4}
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[-1] in few and array.shape[1] not in few:
        return np.moveaxis(array, -1, 1)
    return array


def check_array(where: str, array: NDArray[Any] | MatrixRows) -> None:
    """Check that an array `(item, …)` holds numbers.

    Args:
        where: File and modality, for messages.
        array: The array to check.

    Raises:
        ValueError: If its type is not bool, an integer or a float, or it has no items or items without values.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{where}: must be of bool, integers or floats, or strings (item,) as text in memory, got {array.dtype}"
        )
    if array.ndim < 1 or len(array) < 1:
        raise ValueError(f"{where}: must be (item, …) with at least one item, got an array of shape {array.shape}")
    if not math.prod(array.shape):
        raise ValueError(f"{where}: items must hold at least one value, got items of shape {array.shape[1:]}")


def is_mapped(array: NDArray[Any] | MatrixRows) -> bool:
    """Return True if an array is mapped from disk and not in memory."""
    return _find_mapping(array) is not None


def expect_random_access(array: NDArray[Any] | MatrixRows) -> None:
    """Advise the system that rows of a mapped array are read in random order, so that it does not read ahead."""
    mapping, advice = _find_mapping(array), getattr(mmap, "MADV_RANDOM", None)  # missing on Windows
    if mapping is not None and advice is not None:
        mapping.madvise(advice)


def _find_mapping(array: NDArray[Any] | MatrixRows) -> mmap.mmap | None:
    """Return the memory map that an array is a view of, or None."""
    base: Any = array
    while base is not None:
        if isinstance(base, mmap.mmap):
            return base
        base = getattr(base, "base", None)
    return None
