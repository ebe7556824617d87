"""Convolutions of several networks of one shape: all in one call, or one network after the other where that is faster.

One call is what makes small images fast. Where activations are large, a CPU is faster with one network at a time: what
a layer gives is still in its cache when the next one reads it, and oneDNN partitions plain convolutions better than
grouped ones. Images are kept channels last, where convolutions are faster, and so is a normalisation over groups of 16
channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.nn import functional

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import ACTIVATIONS
from pyro_mmvae.networks.linear import is_plain

Layer: TypeAlias = Callable[[Tensor], Tensor]

_LARGE = 1 << 19
"""Values that a layer gives for one network, from which on networks are faster one at a time on a CPU."""

_NORM_CHANNELS = 16  # in one normalisation group


def block(convolution: nn.Module, groups: int, channels: int, norm: str, activation: str) -> list[nn.Module]:
    """A convolution, its normalisation and its nonlinearity."""
    layers = [convolution]
    if norm == "group":
        parts = channels // _NORM_CHANNELS if channels % _NORM_CHANNELS == 0 else 1
        layers.append(nn.GroupNorm(groups * parts, groups * channels))
    return [*layers, ACTIVATIONS[activation]()]


class Convolutions(nn.Sequential):
    """Layers of grouped convolutions, one group a network.

    Args:
        groups: how many networks.
        layers: convolutions and transposed ones without dilation, group normalisations, and modules that work value by
            value.
        largest: how many values one network has between two layers at the most, for one item.
    """

    def __init__(self, groups: int, layers: Iterable[nn.Module], largest: int) -> None:
        super().__init__(*layers)
        self.groups, self.largest = groups, largest

    def forward(
        self, images: Float[Tensor, "batch group channel height width"]
    ) -> Float[Tensor, "batch group channels heights widths"]:
        """Apply each network to its own images."""
        plain = is_plain(images, *self.parameters())
        large = self.groups > 1 and images.device.type == "cpu" and len(images) * self.largest >= _LARGE
        if large and plain:
            return self.one_by_one(images)
        values = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        values = super().forward(values)
        values = cast("Tensor", _Contiguous.apply(values)) if plain else values.contiguous()
        return values.unflatten(1, (self.groups, -1))

    def one_by_one(
        self, images: Float[Tensor, "batch group channel height width"]
    ) -> Float[Tensor, "batch group channels heights widths"]:
        """The same, to rounding, one network after the other."""
        layers = [_apart(layer, self.groups) for layer in self]
        found = []
        for group, image in enumerate(images.to(_dtype(images)).unbind(1)):
            value = image.contiguous(memory_format=torch.channels_last)
            for layer in layers:
                value = layer[group](value)
            found.append(cast("Tensor", _Contiguous.apply(value)))
        return torch.stack(found).transpose(0, 1)


class _Contiguous(torch.autograd.Function):
    """``Tensor.contiguous``, whose gradient comes back channels last, as what came before it was."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        """Channels first."""
        return values.contiguous()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        """Channels last."""
        return gradients[0].contiguous(memory_format=torch.channels_last)


class UpConvolution(nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d``, done in the way that is fastest on a CPU.

    There oneDNN takes longer for a transposed convolution with a bias, and for its gradient, than for one without,
    several times as long where sides come out odd: the bias is added afterwards. For a few channels, as of an image, it
    is slow in any case: see :class:`_Phases`.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002  (torch's own name)
        """Apply it."""
        if output_size is not None or self.dilation != (1, 1):
            return super().forward(input, output_size)
        return _up_convolution(
            input, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups
        )


def _up_convolution(
    values: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any, groups: int = 1
) -> Tensor:
    """``torch.nn.functional.conv_transpose2d``, see :class:`UpConvolution`."""
    on_cpu = values.device.type == "cpu"
    if on_cpu and _has_phases(weight, stride, padding, output_padding) and is_plain(values, weight):
        dtype = _dtype(values)
        bias = None if bias is None else bias.to(dtype)
        return cast("Tensor", _Phases.apply(values.to(dtype), weight.to(dtype), bias, output_padding, groups))
    if not on_cpu or bias is None:
        return functional.conv_transpose2d(values, weight, bias, stride, padding, output_padding, groups)
    if groups == 1 and _wants_columns(values, weight):
        dtype = _dtype(values)
        result = _ByColumns.apply(values.to(dtype), weight.to(dtype), None, stride, padding, output_padding)
    else:
        result = functional.conv_transpose2d(values, weight, None, stride, padding, output_padding, groups)
    return result + bias.to(result.dtype).reshape(-1, 1, 1)


def _convolution(values: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
    """``torch.nn.functional.conv2d`` of one network."""
    if not _wants_columns(values, weight):
        return functional.conv2d(values, weight, bias, stride, padding)
    dtype = _dtype(values)
    bias = None if bias is None else bias.to(dtype)
    return cast("Tensor", _ByColumns.apply(values.to(dtype), weight.to(dtype), bias, stride, padding, None))


_FEW = 4  # channels


def _has_phases(weight: Tensor, stride: Any, padding: Any, output_padding: Any) -> bool:
    """Whether a transposed convolution is one of those of :class:`_Phases`."""
    shape = (tuple(weight.shape[2:]), tuple(stride), tuple(padding))
    return weight.shape[1] <= _FEW and shape == ((3, 3), (2, 2), (1, 1)) and all(size <= 1 for size in output_padding)


class _Phases(torch.autograd.Function):
    """A transposed convolution of kernel 3, stride 2 and padding 1, as a convolution and a shuffle of pixels.

    A value of the output meets one or two values of the input along each side, by whether its position is even (the
    middle of the kernel) or odd (its ends). So a kernel of 2 gives the values of all four parities as channels; more of
    its entries are 0 than with the transposed convolution, whose backward pass is taken, for that is fast.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, output_padding: Sequence[int], groups: int
    ) -> Tensor:
        """Apply it."""
        ctx.save_for_backward(values, weight)
        ctx.output_padding, ctx.groups = list(output_padding), groups
        kernel = _kernel_of_phases(weight, groups).contiguous(memory_format=torch.channels_last)
        biases = None if bias is None else bias.repeat_interleave(4)
        phases = functional.conv2d(functional.pad(values, (0, 1, 0, 1)), kernel, biases, groups=groups)
        height, width = (2 * side - 1 + more for side, more in zip(values.shape[2:], output_padding, strict=True))
        return functional.pixel_shuffle(phases, 2)[:, :, :height, :width]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """That of the transposed convolution."""
        (gradient,), (values, weight) = gradients, ctx.saved_tensors
        by_values, by_weight, by_bias, *_ = ctx.needs_input_grad
        for_values, for_weight, _ = torch.ops.aten.convolution_backward(
            gradient, values, weight, None, [2, 2], [1, 1], [1, 1], True, ctx.output_padding, ctx.groups,
            [by_values, by_weight, False],
        )  # fmt: skip
        return for_values, for_weight, gradient.sum((0, 2, 3)) if by_bias else None, None, None


def _kernel_of_phases(weight: Tensor, groups: int) -> Tensor:
    """`(group · before, after, 3, 3)` to `(group · after · 4, before, 2, 2)`."""
    taps = functional.pad(weight.unflatten(0, (groups, -1)), (0, 1, 0, 1))  # the fourth is 0
    order = torch.tensor([1, 3, 2, 0])  # even: the middle and nothing; odd: the end of one value, the start of the next
    taps = taps[..., order, :][..., order].unflatten(-1, (2, 2)).unflatten(-3, (2, 2))
    return taps.permute(0, 2, 3, 5, 1, 4, 6).reshape(-1, taps.shape[1], 2, 2)


_MANY = 16  # channels


def _wants_columns(values: Tensor, weight: Tensor) -> bool:
    """Whether :class:`_ByColumns` is faster."""
    is_bfloat16 = values.device.type == "cpu" and _dtype(values) == torch.bfloat16
    return is_bfloat16 and weight.shape[1] >= _MANY and is_plain(values, weight)


class _ByColumns(torch.autograd.Function):
    """A convolution, transposed or not, whose weight's gradient is one product of matrices.

    The rows of one are the patches that the kernel meets, copied out of the larger side of the convolution; those of
    the other are the values of the smaller side. In bfloat16 that is at least as fast as oneDNN's kernel for it, whose
    threads wait for one another: where they are far apart it takes twice the time.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any
    ) -> Tensor:
        """Apply it, transposed if there is an ``output_padding``."""
        ctx.save_for_backward(values, weight)
        is_up = output_padding is not None
        ctx.options = (list(stride), list(padding), [1, 1], is_up, list(output_padding) if is_up else [0, 0], 1)
        return torch.convolution(values, weight, bias, *ctx.options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients."""
        (gradient,), (values, weight), (stride, padding, _, is_up, *_) = gradients, ctx.saved_tensors, ctx.options
        by_values, by_weight, by_bias, *_ = ctx.needs_input_grad
        for_values = for_weight = for_bias = None
        if by_values:
            wanted = [True, False, False]
            for_values = torch.ops.aten.convolution_backward(gradient, values, weight, None, *ctx.options, wanted)[0]
        if by_weight:
            small, large = (values, gradient) if is_up else (gradient, values)
            columns = _columns(large, weight.shape[2:], stride, padding, small.shape[2:])
            product = columns.mT @ small.permute(0, 2, 3, 1).flatten(0, 2)
            for_weight = product.reshape(*weight.shape[2:], *weight.shape[:2][::-1]).permute(3, 2, 0, 1)
        if by_bias:
            for_bias = gradient.sum((0, 2, 3))
        return for_values, for_weight, for_bias, None, None, None


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


def _dtype(values: Tensor) -> torch.dtype:
    """In which a convolution of these computes: autocast leaves float64 alone."""
    is_cast = torch.is_autocast_enabled("cpu") and values.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if is_cast else values.dtype


def _apart(layer: nn.Module, groups: int) -> list[Layer]:
    """A layer of several networks as one function for each of them."""
    if isinstance(layer, nn.GroupNorm):
        parameters = zip(_split(layer.weight, groups), _split(layer.bias, groups), strict=True)
        parts = layer.num_groups // groups
        return [
            partial(functional.group_norm, num_groups=parts, weight=w, bias=b, eps=layer.eps) for w, b in parameters
        ]
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        weights = _split(layer.weight.to(_dtype(layer.weight)), groups)
        biases = [None] * groups if layer.bias is None else _split(layer.bias, groups)
        options = {"stride": layer.stride, "padding": layer.padding}
        function: Any = _convolution
        if isinstance(layer, nn.ConvTranspose2d):
            function, options = _up_convolution, {**options, "output_padding": layer.output_padding}
        return [partial(function, weight=w, bias=b, **options) for w, b in zip(weights, biases, strict=True)]
    return [layer] * groups


def _split(parameter: Tensor, groups: int) -> Sequence[Tensor]:
    return parameter.unflatten(0, (groups, -1)).unbind(0)
