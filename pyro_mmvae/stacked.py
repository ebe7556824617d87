"""Tensors of one shape as one, without a copy where they lie one after the other in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._typing import Tensor


def side_by_side(values: Sequence[Tensor]) -> Tensor:
    """``torch.stack(values, 1)``, without a copy where that is possible.

    Args:
        values: of one shape.
    """
    found = adjacent(values)
    return torch.stack(list(values), 1) if found is None else found


def adjacent(values: Sequence[Tensor]) -> Tensor | None:
    """What ``torch.stack(values, 1)`` gives, as a view of them; None if they do not lie one after the other.

    Args:
        values: at least one; of those that require a gradient there is no such view.
    """
    first = values[0]
    start, size, place = first.storage_offset(), first.numel(), first.untyped_storage()._cdata
    for number, value in enumerate(values):
        if (
            value.shape != first.shape
            or value.dtype != first.dtype
            or value.requires_grad
            or not value.is_contiguous()
            or value.untyped_storage()._cdata != place
            or value.storage_offset() != start + number * size
        ):
            return None
    return first.as_strided((len(values), *first.shape), (size, *first.stride())).transpose(0, 1)
