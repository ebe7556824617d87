"""Convolutions of kinds for which oneDNN is slow, computed in other ways on a CPU, with their gradients.

All of them can be differentiated any number of times in reverse mode; ``torch.compile`` and ``torch.func`` have no
rules for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.nn import functional

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.onednn._private import convolution_backward, relu_backward
from pyro_mmvae.networks.onednn.conditions import autocast_dtype

_MIN_IM2COL_CHANNELS = 16
_MAX_PATCH_BYTES = 1 << 21
"""Number of bytes of patches that are copied out at a time, which the caches of two cores hold."""


def conv_bias_relu(
    values: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any = None,
    *,
    is_rectified: bool = False,
) -> Tensor:
    """Return the result of :class:`ConvBiasReLU` in the type that autocast asks for.

    Args:
        values: images `(item, channel, height, width)`.
        weight: weight in the layout of ``torch.nn.Conv2d``, or of ``torch.nn.ConvTranspose2d`` if ``output_padding``
            is not None.
        bias: one number per output channel, or None.
        stride: step of the kernel along each side.
        padding: padding of the images along each side.
        output_padding: padding of the output along each side; None for a convolution that is not transposed.
        is_rectified: If True, a ReLU follows.
    """
    dtype = autocast_dtype(values)
    bias = None if bias is None else bias.to(dtype)
    options = (stride, padding, output_padding, is_rectified)
    return cast("Tensor", ConvBiasReLU.apply(values.to(dtype), weight.to(dtype), bias, *options))


class ConvBiasReLU(torch.autograd.Function):
    """A convolution, plain or transposed, with its bias and, if asked for, a ReLU, both done in place.

    The gradient of the weight is a product of matrices in bfloat16, where there are enough channels: it is at least as
    fast as oneDNN's kernel for it, and where the threads of that kernel wait for one another, as they do on cores that
    are far apart, twice as fast.
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
        """Return the result, of a transposed convolution if ``output_padding`` is not None."""
        is_transposed = output_padding is not None
        ctx.options = {
            "stride": list(stride), "padding": list(padding), "output_padding": list(output_padding or (0, 0)),
            "is_transposed": is_transposed, "groups": 1,
        }  # fmt: skip
        # With a bias oneDNN's transposed convolution is several times slower, so that the bias is added afterwards.
        result = torch.convolution(
            values, weight, None if is_transposed else bias, ctx.options["stride"], ctx.options["padding"], [1, 1],
            is_transposed, ctx.options["output_padding"], 1,
        )  # fmt: skip
        if is_transposed and bias is not None:
            result.add_(bias.reshape(-1, 1, 1))
        if is_rectified:
            result.relu_()
        ctx.save_for_backward(values, weight, result if is_rectified else None)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values, weight and bias."""
        (gradient,), (values, weight, rectified) = gradients, ctx.saved_tensors
        is_transposed = ctx.options["is_transposed"]
        if rectified is not None:
            gradient = relu_backward(gradient, rectified)
        wants_values, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        by_im2col = _uses_im2col(gradient, weight)
        # oneDNN computes the bias's gradient along with the weight's, and slowly for transposed convolutions.
        bias_apart = is_transposed or by_im2col
        for_values, for_weight, for_bias = convolution_backward(
            gradient, values, weight, **ctx.options,
            wants=(wants_values, wants_weight and not by_im2col, wants_bias and not bias_apart),
        )  # fmt: skip
        if wants_weight and by_im2col:
            small, large = (values, gradient) if is_transposed else (gradient, values)
            stride, padding = ctx.options["stride"], ctx.options["padding"]
            for_weight = weight_gradient_by_im2col(large, small, weight.shape, stride, padding)
        if wants_bias and bias_apart:
            for_bias = gradient.sum((0, 2, 3))
        return for_values, for_weight, for_bias, None, None, None, None


def _uses_im2col(gradient: Tensor, weight: Tensor) -> bool:
    """Return True if the weight's gradient is faster as a product of matrices."""
    return gradient.dtype == torch.bfloat16 and weight.shape[1] >= _MIN_IM2COL_CHANNELS


def weight_gradient_by_im2col(
    large: Tensor, small: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Return the gradient of a convolution's weight as a product of two matrices.

    The rows of one matrix are the patches that the kernel meets, copied out of the larger side of the convolution;
    those of the other are the values of the smaller side.

    Args:
        large: input of the convolution, or gradient of the result of a transposed one.
        small: gradient of the result of the convolution, or input of a transposed one.
        shape: shape of the weight.
        stride: step of the kernel along each side.
        padding: padding of the larger side.
    """
    rows = small.permute(0, 2, 3, 1)
    item_bytes = rows[0].numel() // rows.shape[-1] * shape[1] * shape[2] * shape[3] * rows.element_size()
    num_chunks = -(-len(rows) * item_bytes // _MAX_PATCH_BYTES)
    # With create_graph all patches are kept for the next derivative, so that chunks would not stay in the cache.
    if num_chunks < 2 or torch.is_grad_enabled():
        product = im2col(large, shape[2:], stride, padding, small.shape[2:]).mT @ rows.flatten(0, 2)
    else:
        step = -(-len(rows) // num_chunks)
        product = torch.stack([
            im2col(images, shape[2:], stride, padding, small.shape[2:]).mT @ chunk.flatten(0, 2)
            for images, chunk in zip(large.split(step), rows.split(step), strict=True)
        ]).sum(0)  # fmt: skip
    return product.reshape(*shape[2:], *reversed(shape[:2])).permute(3, 2, 0, 1)


def im2col(
    images: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], places: Sequence[int]
) -> Tensor:
    """Return the patches of images as rows `(item · place, kernel height · kernel width · channel)`.

    ``torch.nn.functional.unfold`` has channels first in a row, which costs a transposition of images that are channels
    last.

    Args:
        images: images `(item, channel, height, width)`.
        kernel: height and width of a patch.
        stride: distance of neighbouring patches along each side.
        padding: number of zeros around the images along each side.
        places: number of patches along each side.
    """
    (high, wide), channels = padding, images.shape[1]
    rows = functional.pad(images.permute(0, 2, 3, 1), (0, 0, wide, wide, high, high)).contiguous()
    item, row, pixel, _ = rows.stride()
    patches = rows.as_strided(
        (len(images), *places, kernel[0], kernel[1] * channels), (item, stride[0] * row, stride[1] * pixel, row, 1)
    )
    return patches.reshape(-1, kernel[0] * kernel[1] * channels)


def subpixel_conv_transpose(
    values: Tensor, weight: Tensor, bias: Tensor | None, output_padding: Sequence[int], groups: int = 1
) -> Float[Tensor, "batch channel height width"]:
    """Return the result of :class:`SubpixelConvTranspose` in the type that autocast asks for.

    Args:
        values: images `(item, channel, height, width)`.
        weight: weight of kernel 3, in the layout of ``torch.nn.ConvTranspose2d``.
        bias: one number per output channel, or None.
        output_padding: 0 or 1 along each side.
        groups: number of groups of channels.
    """
    dtype = autocast_dtype(values)
    bias = None if bias is None else bias.to(dtype)
    result = SubpixelConvTranspose.apply(values.to(dtype), weight.to(dtype), bias, output_padding, groups)
    return cast("Tensor", result)


class SubpixelConvTranspose(torch.autograd.Function):
    """A transposed convolution of kernel 3, stride 2 and padding 1, as a sub-pixel convolution.

    A value of the output meets one or two values of the input along each side, depending on whether its position is
    even (the middle of the kernel) or odd (its ends). A convolution of kernel 2 returns the values of the four parities
    as channels, and a shuffle of pixels puts them in place (Shi et al., 2016, arXiv 1609.05158). It multiplies by more
    zeros than the transposed convolution, but oneDNN is ten times as slow at that one for a few output channels. The
    backward pass of the transposed convolution is fast and is used as it is.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, output_padding: Sequence[int], groups: int
    ) -> Float[Tensor, "batch channel height width"]:
        """Return the result of the transposed convolution."""
        ctx.save_for_backward(values, weight)
        ctx.output_padding, ctx.groups = list(output_padding), groups
        kernel = _subpixel_kernel(weight, groups).contiguous(memory_format=torch.channels_last)
        biases = None if bias is None else bias.repeat_interleave(4)
        parities = functional.conv2d(functional.pad(values, (0, 1, 0, 1)), kernel, biases, groups=groups)
        height, width = (2 * side - 1 + more for side, more in zip(values.shape[2:], output_padding, strict=True))
        return _pixel_shuffle(parities)[..., :height, :width]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values, weight and bias, computed by torch's transposed convolution."""
        values, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        wants_values, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        for_values, for_weight, _ = convolution_backward(
            gradient, values, weight, stride=[2, 2], padding=[1, 1], output_padding=ctx.output_padding,
            is_transposed=True, groups=ctx.groups, wants=(wants_values, wants_weight, False),
        )  # fmt: skip
        for_bias = None
        if wants_bias:  # the sum over items comes first, since the values of an item are contiguous
            rows = gradient.permute(0, 2, 3, 1).reshape(len(gradient), -1)
            for_bias = rows.sum(0).view(-1, gradient.shape[1]).sum(0)
        return for_values, for_weight, for_bias, None, None


_TYPE_OF_PAIRS = {2: torch.int32, 4: torch.int64, 8: torch.complex128}
"""A type twice as long as one number, by the number of bytes of that number."""


def _pixel_shuffle(parities: Tensor) -> Tensor:
    """Return ``torch.nn.functional.pixel_shuffle(parities, 2)``, contiguous.

    Two neighbours of a row are copied as one number of twice the length, which takes a quarter of torch's time.
    """
    count, channels, height, width = parities.shape
    pairs = parities.permute(0, 2, 3, 1).reshape(-1).view(_TYPE_OF_PAIRS[parities.element_size()])
    # The last axis of the view is the parity of the row.
    rows = pairs.view(count, height, width, channels // 4, 2).permute(0, 3, 1, 4, 2)
    return rows.reshape(-1).view(parities.dtype).view(count, channels // 4, 2 * height, 2 * width)


def _subpixel_kernel(weight: Tensor, groups: int) -> Tensor:
    """Return the weight `(group · before, after, 3, 3)` as a kernel `(group · after · 4, before, 2, 2)`."""
    taps = functional.pad(weight.unflatten(0, (groups, -1)), (0, 1, 0, 1))  # a fourth tap of 0 along each side
    # Even positions meet the middle and the zero; odd ones the end at one value and the start at the next one.
    order = torch.tensor([1, 3, 2, 0])
    taps = taps[..., order, :][..., order].unflatten(-1, (2, 2)).unflatten(-3, (2, 2))
    return taps.permute(0, 2, 3, 5, 1, 4, 6).reshape(-1, taps.shape[1], 2, 2)
