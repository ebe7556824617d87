"""Large tensors a few items at a time, so that what is made on the way stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._typing import Tensor

_ELEMENTS = 2**17  # half a megabyte of float32, of which a core's cache holds several


def pieces(shape: Sequence[int], device: torch.device) -> list[slice]:
    """The first dimension of a shape in pieces: one on an accelerator, or where there are few of them.

    Args:
        shape: of the largest tensor.
        device: where it is.
    """
    count = torch.Size(shape).numel()
    if device.type != "cpu" or count < 8 * _ELEMENTS:
        return [slice(None)]
    size = max(1, _ELEMENTS * shape[0] // count)
    return [slice(start, start + size) for start in range(0, shape[0], size)]


def is_divided(tensor: Tensor, shape: Sequence[int]) -> bool:
    """Whether a tensor that broadcasts to a shape has its first dimension, rather than being the same throughout."""
    return tensor.dim() == len(shape) and tensor.shape[0] == shape[0]


def piece_of(tensor: Tensor, at: slice, shape: Sequence[int]) -> Tensor:
    """The part of a tensor that a piece of a shape it broadcasts to needs."""
    return tensor[at] if is_divided(tensor, shape) else tensor
