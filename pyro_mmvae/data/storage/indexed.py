"""Rows of another tensor, by an index array: many pairings of the same images cost one index each, and no image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pyro_mmvae._typing import Int, Tensor


class IndexedTensor:
    """``base[rows]``, of which only the items of a batch are ever copied.

    It stands where a tensor `(item, …)` would, and has what data sets and batches need of one.

    Args:
        base: `(row, …)`, shared and never copied.
        rows: of ``base``, which one each item is, `(item,)`, on the same device.
        redraw: the rows of an epoch, `(item,)` again, for what is drawn anew in each epoch of a training. The same
            epoch must always give the same rows, or a training could not be taken up again.

    Raises:
        ValueError: if a row is none of ``base``.

    Example:
        >>> colours = torch.tensor([[255, 0, 0], [0, 0, 255]])
        >>> paired = IndexedTensor(colours, torch.tensor([1, 0, 1]))
        >>> paired.shape, paired[1:].tolist()
        (torch.Size([3, 3]), [[255, 0, 0], [0, 0, 255]])
    """

    def __init__(self, base: Tensor, rows: Int[Tensor, " item"], redraw: Callable[[int], Tensor] | None = None) -> None:
        if rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
            raise ValueError(f"rows: found {tuple(rows.shape)} of {rows.dtype}, expected whole numbers (item,)")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(base):
            raise ValueError(f"rows: found {int(rows.min())} to {int(rows.max())}, expected 0 to {len(base) - 1}")
        self.base, self.rows, self.redraw = base, rows.long(), redraw
        self.shape = torch.Size((len(rows), *base.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """Of the base."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Of the base."""
        return self.base.device

    def __len__(self) -> int:
        """Number of items."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Its shape, and of how many rows."""
        return f"IndexedTensor({tuple(self.shape)}, {self.dtype}, of {len(self.base)} rows)"

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        """A copy of some items."""
        some = index if isinstance(index, (slice, Tensor)) else torch.as_tensor(index)
        return self.base[self.rows[some]]

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def to(self, device: torch.device | str) -> IndexedTensor:
        """The same rows, base and index on ``device``."""
        return IndexedTensor(self.base.to(device), self.rows.to(device), self.redraw)

    def at_epoch(self, epoch: int) -> IndexedTensor:
        """As it is in an epoch, counted from 0: itself unless it is drawn anew in each."""
        if self.redraw is None:
            return self
        return IndexedTensor(self.base, self.redraw(epoch).to(self.rows.device), self.redraw)

    def first_of_each(self, items: Int[Tensor, " item"]) -> Int[Tensor, " chosen"]:
        """Of some items the first that shows each row, in order: every image once, however often it is paired."""
        rows = self.rows[items]
        order = rows.argsort(stable=True)
        fresh = torch.ones_like(order, dtype=torch.bool)
        fresh[1:] = rows[order][1:] != rows[order][:-1]
        return items[order[fresh].sort().values]
