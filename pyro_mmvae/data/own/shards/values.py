"""The modalities of items in shards, whose members are read and decoded when they are indexed."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.shards.decoding import Format
from pyro_mmvae.data.own.shards.headers import BLOCK, read_member
from pyro_mmvae.data.own.shards.index import ShardIndex

_NAME_BYTES = 100  # of a header, at its beginning
_MAX_OPEN = 32  # shards with an open file and an index in memory


@dataclass(frozen=True)
class _Shard:
    """An open shard.

    Attributes:
        descriptor: File descriptor of the shard.
        index: Index of the shard.
    """

    descriptor: int
    index: ShardIndex


class ShardReader:
    """The shards of one split, of which the last ones that were read are open.

    Args:
        files: Path of each shard.
        sizes: Number of items in each shard, all positive.
        index: Function from the number of a shard to its index, which is called when the shard is opened.
    """

    def __init__(self, files: Sequence[Path], sizes: Sequence[int], index: Callable[[int], ShardIndex]) -> None:
        self.files, self.index = tuple(files), index
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        """Return the number of items."""
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which opens the files again."""
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        """Close the files."""
        for shard in getattr(self, "_open", {}).values():
            os.close(shard.descriptor)

    def locate(self, row: int) -> tuple[int, int]:
        """Return the number of the shard of an item, and its position in the shard."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return number, row - int(self.starts[number])

    def read(self, rows: NDArray[np.int64], modality: str) -> tuple[list[int], list[bytes]]:
        """Return the contents of the members of some items, without those that do not have the modality.

        Args:
            rows: Indices of the items.
            modality: Name of the modality.

        Returns:
            The positions in ``rows`` of the items that have it, and the contents of their members.

        Raises:
            ValueError: If a shard was changed or is damaged; the message names shard and member.
        """
        places, contents = list[int](), list[bytes]()
        order = np.argsort(rows, kind="stable")  # in the order of the files
        numbers = np.searchsorted(self.starts, rows[order], side="right") - 1
        ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)] if len(rows) else []
        start = 0
        for end in ends:
            number = int(numbers[start])
            shard, part = self._shard(number), order[start:end]
            start = end
            if modality not in shard.index.modalities:
                continue
            column = shard.index.modalities.index(modality)
            positions = rows[part] - self.starts[number]
            offsets, sizes = (array[positions, column].tolist() for array in (shard.index.offsets, shard.index.sizes))
            sums = shard.index.checksums
            expected = [None] * len(part) if sums is None else sums[positions, column].tolist()
            for place, offset, size, checksum in zip(part.tolist(), offsets, sizes, expected, strict=True):
                if not offset:
                    continue
                try:
                    content = read_member(shard.descriptor, offset, size)
                    if checksum is not None and zlib.crc32(content) != checksum:
                        raise ValueError(
                            "must be as it was exported, got other bytes: the file was changed or is damaged"
                        )
                except ValueError as error:
                    raise ValueError(f"{self.name(int(rows[place]), modality)} {error}") from None
                places.append(place)
                contents.append(content)
        return places, contents

    def name(self, row: int, modality: str) -> str:
        """Return the shard and the member of an item, for messages.

        Args:
            row: Index of the item.
            modality: Name of the modality.
        """
        number, position = self.locate(row)
        shard = self._shard(number)
        offset = int(shard.index.offsets[position, shard.index.modalities.index(modality)])
        header = os.pread(shard.descriptor, _NAME_BYTES, offset - BLOCK).rstrip(b"\0")
        return f"{self.files[number]}: member {header.decode('utf-8', 'replace')!r}"

    def _shard(self, number: int) -> _Shard:
        shard = self._open.get(number)
        if shard is None:
            index = self.index(number)
            count = int(self.starts[number + 1] - self.starts[number])
            if len(index) != count:
                raise ValueError(f"{self.files[number]}: must hold {count} items, got {len(index)} in its index")
            shard = self._open[number] = _Shard(os.open(self.files[number], os.O_RDONLY | os.O_CLOEXEC), index)
            if len(self._open) > _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1].descriptor)
        else:
            self._open.move_to_end(number)
        return shard


class ShardValues:
    """A lazy array `(item, …)` of one modality in shards; absent items are 0.

    It can be used as the array of a :class:`~pyro_mmvae.data.storage.mapped.Column`.

    Args:
        reader: Reader of the shards of a split.
        modality: Name of the modality.
        form: The encoding of its members, and the shape and the type of one item.
    """

    def __init__(self, reader: ShardReader, modality: str, form: Format) -> None:
        self.reader, self.modality, self.form = reader, modality, form
        self.shape = (len(reader), *form.shape)
        self.dtype = np.dtype(form.dtype)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.reader)

    @property
    def size(self) -> int:
        """The number of values of all items."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """The number of bytes that all items have in memory."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return the values of some items, chosen by a slice or by an array of indices, as a new array."""
        rows = np.atleast_1d(AllRows(len(self))[index])
        values = np.zeros((len(rows), *self.shape[1:]), dtype=self.dtype)
        places, contents = self.reader.read(rows, self.modality)
        if places:
            values[places] = self.form.decode(contents, lambda k: self.reader.name(int(rows[places[k]]), self.modality))
        return values


class MemberNames:
    """A lazy sequence of the names of the members of a modality, for messages.

    Args:
        reader: Reader of the shards of a split.
        modality: Name of the modality.
    """

    def __init__(self, reader: ShardReader, modality: str) -> None:
        self.reader, self.modality = reader, modality

    def __getitem__(self, row: int) -> str:
        """Return the shard and the member of an item."""
        return self.reader.name(row, self.modality)


class AllRows:
    """The indices 0, 1, … of all items, which take no memory.

    Args:
        count: The number of items.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        """Return the number of items."""
        return self.count

    def __getitem__(self, index: Any) -> NDArray[np.int64]:
        """Return the indices that a slice, an array of integers or a mask chooses."""
        if isinstance(index, slice):
            return np.arange(*index.indices(self.count))
        chosen = np.asarray(index)
        if chosen.dtype == np.bool_:
            if chosen.shape != (self.count,):
                raise IndexError(f"mask must be ({self.count},), got {chosen.shape}")
            return np.flatnonzero(chosen)
        if chosen.size and not -self.count <= chosen.min() <= chosen.max() < self.count:
            raise IndexError(f"index must be from 0 to {self.count - 1}, got {chosen.min()} to {chosen.max()}")
        return np.where(chosen < 0, chosen + self.count, chosen)
