"""Features of a modality in another order, read from data that stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._typing import Float, Int, Tensor
from pyro_mmvae.data.storage.indexed import IndexedTensor
from pyro_mmvae.data.storage.mapped import MappedTensor


class SelectedFeatures:
    """A lazy view of a modality `(item, feature)` whose features are reordered, left out, or filled with constants.

    It can be used as a modality of a data set in place of a tensor `(item, …)`.

    Args:
        base: The values to read from, `(item, feature)`.
        columns: Index of each feature of the view among those of ``base``, int64, `(feature,)`; -1 for a feature that
            ``base`` lacks.
        fill: Value of each feature that ``base`` lacks, `(feature,)`; the other entries are ignored.

    Example:
        >>> base = IndexedTensor(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
        >>> SelectedFeatures(base, torch.tensor([1, -1]), torch.tensor([0.0, 9.0]))[:].tolist()
        [[4.0, 9.0], [2.0, 9.0]]
    """

    def __init__(
        self,
        base: Tensor | MappedTensor | IndexedTensor | SelectedFeatures,
        columns: Int[Tensor, " feature"],
        fill: Float[Tensor, " feature"],
    ) -> None:
        self.base, self.columns, self.fill = base, columns, fill
        self.shape = torch.Size((len(base), len(columns)))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the base."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """The device that items are read onto."""
        return self.base.device

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.base)

    def __repr__(self) -> str:
        """Return one line with shape, type, and base."""
        return f"SelectedFeatures({tuple(self.shape)}, {self.dtype}, of {self.base!r})"

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        """Return a copy of some items, on the device of the base."""
        block = self.base[index]
        columns = self.columns.to(block.device)
        values = block[..., columns.clamp(min=0)]
        return torch.where(columns >= 0, values, self.fill.to(values))

    def dim(self) -> int:
        """Return the number of axes."""
        return 2

    def to(self, device: torch.device | str) -> SelectedFeatures:
        """Return a view whose items are read onto a device."""
        return SelectedFeatures(self.base.to(device), self.columns, self.fill)
