"""Linear layers in float32 by oneDNN, which on some CPUs is twice as fast as the BLAS that torch comes with."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.onednn._private import onednn_matmul
from pyro_mmvae.networks.onednn.conditions import has_fast_matmul

_MIN_MULTIPLICATIONS = 1 << 22
"""Number of multiplications in one product from which oneDNN is used; below, torch's BLAS is as fast."""


def grouped_linear(
    features: Float[Tensor, "group item feature"],
    weight: Float[Tensor, "group feature out"],
    bias: Float[Tensor, "group one out"],
) -> Float[Tensor, "group item out"]:
    """Return ``torch.baddbmm(bias, features, weight)`` up to rounding, differentiable any number of times.

    Args:
        features: features of the items, for each group.
        weight: weights of the layer of each group.
        bias: biases of the layer of each group.
    """
    size = features.shape[1] * weight.shape[1] * weight.shape[2]
    if size < _MIN_MULTIPLICATIONS or not has_fast_matmul(features, weight, bias):
        if len(weight) == 1:  # a plain product is faster than a batch of one
            return functional.linear(features[0], weight[0].mT, bias[0, 0]).unsqueeze(0)
        return torch.baddbmm(bias, features, weight)
    return cast("Tensor", _BatchedMatmul.apply(features, weight)) + bias


class Linear(nn.Linear):
    """A ``torch.nn.Linear`` that oneDNN computes where that is faster.

    The arguments, parameters and initial weights are those of ``torch.nn.Linear``.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's own name)
        """Return the product with the weight, plus the bias, of `(item, feature)` or any leading dimensions."""
        is_large = input.dim() == 2 and input.numel() * self.out_features >= _MIN_MULTIPLICATIONS
        if not is_large or not has_fast_matmul(input, self.weight):
            return functional.linear(input, self.weight, self.bias)
        product = cast("Tensor", _BatchedMatmul.apply(input.unsqueeze(0), self.weight.mT.unsqueeze(0))).squeeze(0)
        return product if self.bias is None else product + self.bias


def _without_gaps(matrix: Tensor) -> Tensor:
    """Return a matrix that is dense in memory, by rows or by columns.

    For other matrices, such as slices of a batch with the group axis in between, oneDNN's product takes a thousand
    times as long.
    """
    if matrix.is_contiguous() or matrix.mT.is_contiguous():
        return matrix
    return matrix.contiguous() if matrix.stride(-1) == 1 else matrix.mT.contiguous().mT


class _BatchedMatmul(torch.autograd.Function):
    r"""The products :math:`C_g = A_g B_g`, with the gradients :math:`G_g B_g^\top` and :math:`A_g^\top G_g`."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        """Return the products of `(group, row, inner)` and `(group, inner, column)`."""
        ctx.save_for_backward(first, second)
        if len(first) == 1:  # the product of a single group needs no copy into a batch
            return onednn_matmul(_without_gaps(first[0]), _without_gaps(second[0]).mT).unsqueeze(0)
        products = first.new_empty(*first.shape[:-1], second.shape[-1])
        for a, b, product in zip(first, second, products, strict=True):  # oneDNN's operator takes matrices only
            product.copy_(onednn_matmul(_without_gaps(a), _without_gaps(b).mT))
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of both factors, which can be differentiated again."""
        (gradient,), (first, second) = gradients, ctx.saved_tensors
        wants_first, wants_second = ctx.needs_input_grad
        return (
            cast("Tensor", _BatchedMatmul.apply(gradient, second.mT)) if wants_first else None,
            cast("Tensor", _BatchedMatmul.apply(first.mT, gradient)) if wants_second else None,
        )
