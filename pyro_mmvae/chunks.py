"""Division of large tensors into chunks of a few items, so that intermediate results stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._typing import Tensor

_ELEMENTS = 2**17  # half a megabyte of float32; the cache of one core holds several tensors of this size


def chunks(shape: Sequence[int], device: torch.device) -> list[slice]:
    """Divide the first dimension of a shape into slices.

    Args:
        shape: The shape of the largest tensor of the computation.
        device: The device that the computation runs on.

    Returns:
        Slices that cover the first dimension in order; a single one on an accelerator or for a small shape.
    """
    count = torch.Size(shape).numel()
    if device.type != "cpu" or count < 8 * _ELEMENTS:
        return [slice(None)]
    size = max(1, _ELEMENTS * shape[0] // count)
    return [slice(start, start + size) for start in range(0, shape[0], size)]


def has_first_dimension(tensor: Tensor, shape: Sequence[int]) -> bool:
    """Return True if a tensor that broadcasts to a shape has the first dimension of that shape."""
    return tensor.dim() == len(shape) and tensor.shape[0] == shape[0]


def select_chunk(tensor: Tensor, chunk: slice, shape: Sequence[int]) -> Tensor:
    """Return the part of a tensor that broadcasts to one chunk of a shape.

    Args:
        tensor: A tensor that broadcasts to ``shape``.
        chunk: One of the slices of :func:`chunks`.
        shape: The shape that was divided.
    """
    return tensor[chunk] if has_first_dimension(tensor, shape) else tensor
