"""Convolutions of several networks of one shape, in one grouped call or one network after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.nn import functional

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.onednn.conditions import autocast_dtype, is_untraced
from pyro_mmvae.networks.onednn.kernels import conv_bias_relu, subpixel_conv_transpose

Step: TypeAlias = Callable[[Tensor], Tensor]

_MIN_VALUES_PER_NETWORK = 1 << 19
"""Number of values that a layer returns for one network from which on a CPU runs one network at a time."""

_MAX_SUBPIXEL_CHANNELS = 4  # the channels of an image, and few enough for oneDNN's transposed convolution to be slow


class GroupedConvolutions(nn.Sequential):
    """A sequence of grouped convolutions and other layers, one group per network.

    One call for all networks is what makes small images fast. Where activations are large, a CPU is faster with one
    network at a time: the output of a layer is still in the cache when the next layer reads it, and oneDNN partitions
    plain convolutions better than grouped ones. Images are channels last in memory, in which both convolutions and
    normalisations over groups of 16 channels are faster.

    Args:
        groups: The number of networks.
        layers: convolutions and transposed ones without dilation, group normalisations, and modules that work value by
            value.
        largest: number of values that one network has between two layers at most, for one item.
    """

    def __init__(self, groups: int, layers: Iterable[nn.Module], largest: int) -> None:
        super().__init__(*layers)
        self.groups, self.largest = groups, largest

    def forward(
        self, images: Float[Tensor, "batch group channel height width"]
    ) -> Float[Tensor, "batch group channels heights widths"]:
        """Apply each network to its own images."""
        untraced = is_untraced(images, *self.parameters())
        # Large activations of one network stay in a CPU's cache from layer to layer, those of all networks do not.
        if untraced and images.device.type == "cpu" and len(images) * self.largest >= _MIN_VALUES_PER_NETWORK:
            return self.forward_per_network(images)
        values = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        values = super().forward(values)
        # A custom autograd function fixes the layout of the gradient, but has no rule for what traces it.
        values = cast("Tensor", _Contiguous.apply(values)) if untraced else values.contiguous()
        return values.unflatten(1, (self.groups, -1))

    def forward_per_network(
        self, images: Float[Tensor, "batch group channel height width"]
    ) -> Float[Tensor, "batch group channels heights widths"]:
        """Apply each network to its own images, one network after the other.

        The result is that of :meth:`forward` up to rounding.
        """
        steps = _steps_per_network(list(self), self.groups)
        results = []
        for group, image in enumerate(images.to(autocast_dtype(images)).unbind(1)):
            value = image.contiguous(memory_format=torch.channels_last)
            for step in steps:
                value = step[group](value)
            results.append(cast("Tensor", _Contiguous.apply(value)))
        return torch.stack(results).transpose(0, 1)


class _Contiguous(torch.autograd.Function):
    """A ``Tensor.contiguous`` whose gradient is channels last.

    The layers before it work in channels last, so that their backward passes do not meet two layouts.
    """

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        """Return the values with channels first in memory."""
        return values.contiguous()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient with channels last in memory."""
        return gradients[0].contiguous(memory_format=torch.channels_last)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A ``torch.nn.ConvTranspose2d`` that a CPU computes in the way that is fastest there.

    The arguments, parameters and initial weights are those of ``torch.nn.ConvTranspose2d``. The package's docstring
    says which way is taken when.
    """

    @property
    def is_subpixel(self) -> bool:
        """True if a CPU computes this layer as :class:`~pyro_mmvae.networks.onednn.SubpixelConvTranspose`."""
        shape = (self.kernel_size, self.stride, self.padding, self.dilation)
        has_few_channels = self.out_channels // self.groups <= _MAX_SUBPIXEL_CHANNELS
        has_shape = shape == ((3, 3), (2, 2), (1, 1), (1, 1)) and all(size <= 1 for size in self.output_padding)
        return has_few_channels and has_shape

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002  (torch's own name)
        """Return the transposed convolution of images `(item, channel, height, width)`."""
        # The measurements behind the other paths were made on CPUs, of convolutions without dilation.
        if output_size is not None or self.dilation != (1, 1) or input.device.type != "cpu":
            return super().forward(input, output_size)
        weight, bias, padding = self.weight, self.bias, cast("tuple[int, ...]", self.padding)
        untraced = is_untraced(input, weight)
        if untraced and self.is_subpixel:
            return subpixel_conv_transpose(input, weight, bias, self.output_padding, self.groups)
        if untraced and self.groups == 1:  # ConvBiasReLU has no groups
            return conv_bias_relu(input, weight, bias, self.stride, padding, self.output_padding)
        # With a bias oneDNN is several times slower, forward and backward, above all for results of odd sides.
        result = functional.conv_transpose2d(
            input, weight, None, self.stride, padding, self.output_padding, self.groups
        )
        return result if bias is None else result + bias.to(result.dtype).reshape(-1, 1, 1)


def _steps_per_network(layers: Sequence[nn.Module], groups: int) -> list[list[Step]]:
    """Return the layers of several networks as steps, each a list of one function per network.

    A ReLU after a convolution is a part of the convolution's step, where :class:`ConvBiasReLU` computes that.
    """
    steps: list[list[Step]] = []
    for before, layer, after in zip([None, *layers[:-1]], layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.GroupNorm):
            steps.append(_norm_steps(layer, groups))
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            steps.append(_convolution_steps(layer, groups, is_rectified=isinstance(after, nn.ReLU)))
        elif not (isinstance(layer, nn.ReLU) and _fuses_relu(before)):
            steps.append([layer] * groups)
    return steps


def _norm_steps(layer: nn.GroupNorm, groups: int) -> list[Step]:
    """Return a group normalisation of all networks as one function per network."""
    parameters = zip(_split_networks(layer.weight, groups), _split_networks(layer.bias, groups), strict=True)
    parts = layer.num_groups // groups
    return [
        partial(functional.group_norm, num_groups=parts, weight=weight, bias=bias, eps=layer.eps)
        for weight, bias in parameters
    ]


def _convolution_steps(layer: nn.Conv2d | nn.ConvTranspose2d, groups: int, *, is_rectified: bool) -> list[Step]:
    """Return a grouped convolution as one function per network.

    Args:
        layer: convolution of all networks.
        groups: The number of networks.
        is_rectified: If True, a ReLU follows, which is included if the convolution can be fused with it.
    """
    weights = _split_networks(layer.weight.to(autocast_dtype(layer.weight)), groups)  # one conversion for all networks
    biases = [None] * groups if layer.bias is None else _split_networks(layer.bias, groups)
    options: dict[str, Any] = {}
    if isinstance(layer, nn.ConvTranspose2d):
        options["output_padding"] = layer.output_padding
    function: Any = subpixel_conv_transpose
    if _fuses_relu(layer):
        function = partial(conv_bias_relu, stride=layer.stride, padding=layer.padding, is_rectified=is_rectified)
    return [
        partial(function, weight=weight, bias=bias, **options) for weight, bias in zip(weights, biases, strict=True)
    ]


def _fuses_relu(module: nn.Module | None) -> bool:
    """Return True for a convolution that :class:`ConvBiasReLU` computes, with a ReLU that may follow it."""
    is_convolution = isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    return is_convolution and not (isinstance(module, ConvTranspose2d) and module.is_subpixel)


def _split_networks(parameter: Tensor, groups: int) -> Sequence[Tensor]:
    """Return the part of a parameter that belongs to each network."""
    return parameter.unflatten(0, (groups, -1)).unbind(0)
