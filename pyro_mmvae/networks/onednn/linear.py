"""Linear layers in float32 by oneDNN, which on some CPUs is twice as fast as the BLAS that torch comes with."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional

from pyro_mmvae._typing import Float, Tensor

_MANY = 1 << 22
"""Multiplications in one product, below which the BLAS is as fast."""


def grouped_linear(
    features: Float[Tensor, "group item feature"],
    weight: Float[Tensor, "group feature out"],
    bias: Float[Tensor, "group one out"],
) -> Float[Tensor, "group item out"]:
    """What ``torch.baddbmm(bias, features, weight)`` gives, to rounding, differentiable any number of times.

    oneDNN is asked for float32 on x86 CPUs only, outside of autocast, which has its own way to it, and of
    ``torch.compile`` and ``torch.func``.

    Args:
        features: of the items, for each group.
        weight: of each group's layer.
        bias: of each group's layer.
    """
    size = features.shape[1] * weight.shape[1] * weight.shape[2]
    if size < _MANY or not _is_for_onednn(features, weight, bias):
        if len(weight) == 1:
            return functional.linear(features[0], weight[0].mT, bias[0, 0]).unsqueeze(0)
        return torch.baddbmm(bias, features, weight)
    return cast("Tensor", _Product.apply(features, weight)) + bias


class Linear(nn.Linear):
    """``torch.nn.Linear``, by oneDNN as :func:`grouped_linear` says."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Apply it."""
        if input.dim() != 2 or input.numel() * self.out_features < _MANY or not _is_for_onednn(input, self.weight):
            return functional.linear(input, self.weight, self.bias)
        product = cast("Tensor", _Product.apply(input.unsqueeze(0), self.weight.mT.unsqueeze(0))).squeeze(0)
        return product if self.bias is None else product + self.bias


def _is_for_onednn(*tensors: Tensor) -> bool:
    """Whether oneDNN multiplies such matrices in float32, and nothing else wants to see the product."""
    return bool(
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and is_plain(*tensors)
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def is_plain(*tensors: Tensor) -> bool:
    """Whether nothing but reverse mode wants to see what becomes of these.

    That is neither ``torch.compile`` nor ``torch.func`` nor ``torch.autograd.forward_ad``.
    """
    return (
        not torch.compiler.is_compiling()
        and forward_ad._current_level < 0
        and not any(torch._C._functorch.is_functorch_wrapped_tensor(tensor) for tensor in tensors)
    )


def _dense(matrix: Tensor) -> Tensor:
    """A matrix without gaps, in either order: of others oneDNN makes a thousand times the work."""
    if matrix.is_contiguous() or matrix.mT.is_contiguous():
        return matrix
    return matrix.contiguous() if matrix.stride(-1) == 1 else matrix.mT.contiguous().mT


class _Product(torch.autograd.Function):
    r""":math:`C_g = A_g B_g`, with the gradients :math:`G_g B_g^\top` and :math:`A_g^\top G_g`, products likewise."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        """Multiply `(group, row, inner)` and `(group, inner, column)`."""
        ctx.save_for_backward(first, second)
        multiply = torch.ops.mkldnn._linear_pointwise
        if len(first) == 1:
            return cast("Tensor", multiply(_dense(first[0]), _dense(second[0]).mT, None, "none", [], "")).unsqueeze(0)
        product = first.new_empty(*first.shape[:-1], second.shape[-1])
        for a, b, place in zip(first, second, product, strict=True):
            place.copy_(multiply(_dense(a), _dense(b).mT, None, "none", [], ""))
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Multiply back."""
        (gradient,), (first, second) = gradients, ctx.saved_tensors
        by_first, by_second = ctx.needs_input_grad
        return (
            cast("Tensor", _Product.apply(gradient, second.mT)) if by_first else None,
            cast("Tensor", _Product.apply(first.mT, gradient)) if by_second else None,
        )
