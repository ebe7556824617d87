"""Tensors that repeat the rows of another one by index, so that pairing an image again costs one integer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pyro_mmvae._typing import Int, Tensor


class IndexedTensor:
    """A lazy view of ``base[rows]`` that copies only the items of a batch.

    It can be used as a modality of a data set in place of a tensor `(item, …)`.

    Args:
        base: The tensor of distinct rows, `(row, …)`, shared and never copied.
        rows: Index into ``base`` of each item, `(item,)`, on the device of ``base``.
        redraw: A function from the index of an epoch to new ``rows``, `(item,)`, for data that changes from epoch to
            epoch of a training. It must give the same rows for the same epoch, so that a training can be resumed.
            None by default, for rows that never change.

    Raises:
        ValueError: If ``rows`` are not integers `(item,)` or an index is out of range.

    Example:
        >>> colours = torch.tensor([[255, 0, 0], [0, 0, 255]])
        >>> paired = IndexedTensor(colours, torch.tensor([1, 0, 1]))
        >>> paired.shape, paired[1:].tolist()
        (torch.Size([3, 3]), [[255, 0, 0], [0, 0, 255]])
    """

    def __init__(self, base: Tensor, rows: Int[Tensor, " item"], redraw: Callable[[int], Tensor] | None = None) -> None:
        if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
            raise ValueError(f"rows must be (item,) of integers, got {tuple(rows.shape)} of {rows.dtype}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(base):
            raise ValueError(f"rows must be from 0 to {len(base) - 1}, got {int(rows.min())} to {int(rows.max())}")
        self.base, self.rows, self.redraw = base, rows.long(), redraw
        self.shape = torch.Size((len(rows), *base.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the base."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """The device of the base."""
        return self.base.device

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Return one line with shape, type, and number of rows of the base."""
        return f"IndexedTensor({tuple(self.shape)}, {self.dtype}, of {len(self.base)} rows)"

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        """Return a copy of some items."""
        items = index if isinstance(index, (slice, Tensor)) else torch.as_tensor(index)
        return self.base[self.rows[items]]

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def to(self, device: torch.device | str) -> IndexedTensor:
        """Return a copy with base and rows on a device."""
        return IndexedTensor(self.base.to(device), self.rows.to(device), self.redraw)

    def at_epoch(self, epoch: int) -> IndexedTensor:
        """Return the tensor of an epoch, counted from 0: redrawn if there is ``redraw``, and this one otherwise."""
        if self.redraw is None:
            return self
        return IndexedTensor(self.base, self.redraw(epoch).to(self.rows.device), self.redraw)

    def first_of_each(self, items: Int[Tensor, " item"]) -> Int[Tensor, " chosen"]:
        """Return the first item of each row, so that every image occurs once however often it is paired.

        Args:
            items: Indices of the items to choose from, `(item,)`.

        Returns:
            The chosen indices, in the order of ``items``.
        """
        rows = self.rows[items]
        order = rows.argsort(stable=True)
        is_first = torch.ones_like(order, dtype=torch.bool)
        is_first[1:] = rows[order][1:] != rows[order][:-1]
        return items[order[is_first].sort().values]
