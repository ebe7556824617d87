"""Convolutions of kinds that oneDNN is slow at, done in another way: what a CPU computes, with its gradients.

All can be differentiated any number of times. None of them knows of ``torch.compile`` or ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.nn import functional

from pyro_mmvae._typing import Float, Tensor

_MANY = 16  # channels
_CHUNK = 1 << 21
"""Bytes of patches at once, which two cores' caches hold."""


class Layer(torch.autograd.Function):
    """A convolution, transposed or not, with what follows it done in place: its bias and, if wanted, a ReLU.

    In bfloat16 the weight's gradient is a product of matrices, where there are channels enough: at least as fast as
    oneDNN's kernel for it, whose threads wait for one another; where they are far apart that takes twice the time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        output_padding: Sequence[int] | None,
        is_rectified: bool,
    ) -> Tensor:
        """Apply it, transposed if there is an ``output_padding``."""
        is_up = output_padding is not None
        ctx.options = (list(stride), list(padding), [1, 1], is_up, list(output_padding or (0, 0)), 1)
        found = torch.convolution(values, weight, None if is_up else bias, *ctx.options)
        if is_up and bias is not None:
            found.add_(bias.reshape(-1, 1, 1))
        if is_rectified:
            found.relu_()
        ctx.save_for_backward(values, weight, found if is_rectified else None)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients."""
        (gradient,), (values, weight, found) = gradients, ctx.saved_tensors
        stride, padding, _, is_up, *_ = ctx.options
        if found is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, found, 0)
        by_values, by_weight, by_bias, *_ = ctx.needs_input_grad
        by_columns = _wants_columns(gradient, weight)
        for_values, for_weight, for_bias = torch.ops.aten.convolution_backward(
            gradient, values, weight, [gradient.shape[1]], *ctx.options,
            [by_values, by_weight and not by_columns, by_bias and not (is_up or by_columns)],
        )  # fmt: skip
        if by_weight and by_columns:
            small, large = (values, gradient) if is_up else (gradient, values)
            for_weight = _by_columns(large, small, weight.shape, stride, padding)
        if by_bias and (is_up or by_columns):
            for_bias = gradient.sum((0, 2, 3))
        return for_values, for_weight, for_bias, None, None, None, None


def _wants_columns(gradient: Tensor, weight: Tensor) -> bool:
    """Whether that is the case."""
    return gradient.dtype == torch.bfloat16 and weight.shape[1] >= _MANY


def _by_columns(
    large: Tensor, small: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The weight's gradient, as a product of matrices.

    The rows of one are the patches that the kernel meets, copied out of the larger side of the convolution; those of
    the other are the values of the smaller side. It goes some items at a time, while their patches are in the cache.
    """
    rows = small.permute(0, 2, 3, 1)
    size = rows[0].numel() // rows.shape[-1] * shape[1] * shape[2] * shape[3] * rows.element_size()
    count = -(-len(rows) * size // _CHUNK)
    if count < 2 or torch.is_grad_enabled():
        product = _columns(large, shape[2:], stride, padding, small.shape[2:]).mT @ rows.flatten(0, 2)
    else:
        step = -(-len(rows) // count)
        product = torch.stack([
            _columns(some, shape[2:], stride, padding, small.shape[2:]).mT @ part.flatten(0, 2)
            for some, part in zip(large.split(step), rows.split(step), strict=True)
        ]).sum(0)  # fmt: skip
    return product.reshape(*shape[2:], *reversed(shape[:2])).permute(3, 2, 0, 1)


def _columns(
    images: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], places: Sequence[int]
) -> Tensor:
    """Patches `(item · place, kernel height · kernel width · channel)` of images `(item, channel, height, width)`."""
    (high, wide), channels = padding, images.shape[1]
    rows = functional.pad(images.permute(0, 2, 3, 1), (0, 0, wide, wide, high, high)).contiguous()
    item, row, pixel, _ = rows.stride()
    patches = rows.as_strided(
        (len(images), *places, kernel[0], kernel[1] * channels), (item, stride[0] * row, stride[1] * pixel, row, 1)
    )
    return patches.reshape(-1, kernel[0] * kernel[1] * channels)


class Phases(torch.autograd.Function):
    """A transposed convolution of kernel 3, stride 2 and padding 1 to a few channels.

    A value of the output meets one or two values of the input along each side, by whether its position is even (the
    middle of the kernel) or odd (its ends). So a kernel of 2 gives the values of all four parities as channels; more of
    its entries are 0 than with the transposed convolution, whose backward pass is taken, for that is fast.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, output_padding: Sequence[int], groups: int
    ) -> Float[Tensor, "batch channel height width"]:
        """Apply it."""
        ctx.save_for_backward(values, weight)
        ctx.output_padding, ctx.groups = list(output_padding), groups
        kernel = _kernel_of_phases(weight, groups).contiguous(memory_format=torch.channels_last)
        biases = None if bias is None else bias.repeat_interleave(4)
        phases = functional.conv2d(functional.pad(values, (0, 1, 0, 1)), kernel, biases, groups=groups)
        height, width = (2 * side - 1 + more for side, more in zip(values.shape[2:], output_padding, strict=True))
        return _shuffled(phases)[..., :height, :width]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """That of the transposed convolution."""
        values, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        by_values, by_weight, by_bias, *_ = ctx.needs_input_grad
        for_values, for_weight, _ = torch.ops.aten.convolution_backward(
            gradient, values, weight, None, [2, 2], [1, 1], [1, 1], True, ctx.output_padding, ctx.groups,
            [by_values, by_weight, False],
        )  # fmt: skip
        for_bias = None
        if by_bias:  # over items first: a row of them lies in one piece
            rows = gradient.permute(0, 2, 3, 1).reshape(len(gradient), -1)
            for_bias = rows.sum(0).view(-1, gradient.shape[1]).sum(0)
        return for_values, for_weight, for_bias, None, None


_PAIR = {2: torch.int32, 4: torch.int64, 8: torch.complex128}


def _shuffled(phases: Tensor) -> Tensor:
    """``torch.nn.functional.pixel_shuffle(phases, 2)``, contiguous, two neighbours of a row moved as one number."""
    count, channels, height, width = phases.shape
    pairs = phases.permute(0, 2, 3, 1).reshape(-1).view(_PAIR[phases.element_size()])
    rows = pairs.view(count, height, width, channels // 4, 2).permute(0, 3, 1, 4, 2)  # 2: the even row and the odd
    return rows.reshape(-1).view(phases.dtype).view(count, channels // 4, 2 * height, 2 * width)


def _kernel_of_phases(weight: Tensor, groups: int) -> Tensor:
    """`(group · before, after, 3, 3)` to `(group · after · 4, before, 2, 2)`."""
    taps = functional.pad(weight.unflatten(0, (groups, -1)), (0, 1, 0, 1))  # the fourth is 0
    order = torch.tensor([1, 3, 2, 0])  # even: the middle and nothing; odd: the end of one value, the start of the next
    taps = taps[..., order, :][..., order].unflatten(-1, (2, 2)).unflatten(-3, (2, 2))
    return taps.permute(0, 2, 3, 5, 1, 4, 6).reshape(-1, taps.shape[1], 2, 2)


def up_by_phases(
    values: Tensor, weight: Tensor, bias: Tensor | None, output_padding: Sequence[int], groups: int = 1
) -> Float[Tensor, "batch channel height width"]:
    """:class:`Phases` in the type that autocast asks for."""
    dtype = dtype_of(values)
    bias = None if bias is None else bias.to(dtype)
    return cast("Tensor", Phases.apply(values.to(dtype), weight.to(dtype), bias, output_padding, groups))


def dtype_of(values: Tensor) -> torch.dtype:
    """In which a convolution of these computes: autocast leaves float64 alone."""
    is_cast = torch.is_autocast_enabled("cpu") and values.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if is_cast else values.dtype
