"""Functions of torch that are not part of its documented interface.

Seen in torch 2.14.1. Later versions may rename or remove them; everything that this package takes from there, for its
networks, is in this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch.autograd import forward_ad

from pyro_mmvae._typing import Tensor


def is_forward_ad_active() -> bool:
    """Return True inside of ``torch.autograd.forward_ad.dual_level``."""
    return forward_ad._current_level >= 0


def is_functorch_tensor(tensor: Tensor) -> bool:
    """Return True for a tensor that a transform of ``torch.func`` has wrapped."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def has_onednn_matmul() -> bool:
    """Return True if this build of torch has the operator behind :func:`onednn_matmul`."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_matmul(first: Tensor, second_transposed: Tensor) -> Tensor:
    """Return the product of a matrix and a transposed matrix in float32, computed by oneDNN."""
    return cast("Tensor", torch.ops.mkldnn._linear_pointwise(first, second_transposed, None, "none", [], ""))


def relu_backward(gradient: Tensor, result: Tensor) -> Tensor:
    """Return the gradient of a ReLU from that of its result, without its input."""
    return cast("Tensor", torch.ops.aten.threshold_backward(gradient, result, 0))


def convolution_backward(
    gradient: Tensor,
    values: Tensor,
    weight: Tensor,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    is_transposed: bool,
    groups: int,
    wants: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of a two-dimensional convolution, in the order values, weight, bias.

    Args:
        gradient: gradient of the convolution's result.
        values: input of the convolution.
        weight: weight of the convolution.
        stride: step of the kernel along each side.
        padding: padding of the input along each side.
        output_padding: padding of the output along each side, of a transposed convolution.
        is_transposed: If True, the convolution is a transposed one.
        groups: number of groups of channels.
        wants: True for each gradient to compute; the others are None.
    """
    gradients = torch.ops.aten.convolution_backward(
        gradient, values, weight, [gradient.shape[1]], stride, padding, [1, 1], is_transposed, output_padding, groups,
        wants,
    )  # fmt: skip
    return cast("tuple[Tensor | None, Tensor | None, Tensor | None]", gradients)
