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
from pyro_mmvae.networks.onednn.kernels import Layer, dtype_of, up_by_phases
from pyro_mmvae.networks.onednn.linear import is_plain

Step: TypeAlias = Callable[[Tensor], Tensor]

_LARGE = 1 << 19
"""Values that a layer gives for one network, from which on networks are faster one at a time on a CPU."""

_NORM_CHANNELS = 16  # in one normalisation group
_FEW = 4  # channels, of an image


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
        if plain and images.device.type == "cpu" and len(images) * self.largest >= _LARGE:
            return self.one_by_one(images)
        values = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        values = super().forward(values)
        values = cast("Tensor", _Contiguous.apply(values)) if plain else values.contiguous()
        return values.unflatten(1, (self.groups, -1))

    def one_by_one(
        self, images: Float[Tensor, "batch group channel height width"]
    ) -> Float[Tensor, "batch group channels heights widths"]:
        """The same, to rounding, one network after the other."""
        steps = _apart(list(self), self.groups)
        found = []
        for group, image in enumerate(images.to(dtype_of(images)).unbind(1)):
            value = image.contiguous(memory_format=torch.channels_last)
            for step in steps:
                value = step[group](value)
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
    is slow in any case: see :class:`~pyro_mmvae.networks.onednn.kernels.Phases`.
    """

    @property
    def has_phases(self) -> bool:
        """Whether it is one of those."""
        shape = (self.kernel_size, self.stride, self.padding, self.dilation)
        few = self.out_channels // self.groups <= _FEW
        return few and shape == ((3, 3), (2, 2), (1, 1), (1, 1)) and all(size <= 1 for size in self.output_padding)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002  (torch's own name)
        """Apply it."""
        if output_size is not None or self.dilation != (1, 1) or input.device.type != "cpu":
            return super().forward(input, output_size)
        weight, bias, more, padding = self.weight, self.bias, self.output_padding, cast("tuple[int, ...]", self.padding)
        is_own = is_plain(input, weight)
        if is_own and self.has_phases:
            return up_by_phases(input, weight, bias, more, self.groups)
        if is_own and self.groups == 1:
            return _layer(input, weight, bias, self.stride, padding, more)
        found = functional.conv_transpose2d(input, weight, None, self.stride, padding, more, self.groups)
        return found if bias is None else found + bias.to(found.dtype).reshape(-1, 1, 1)


def _layer(
    values: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any = None,
    *, is_rectified: bool = False,
) -> Tensor:  # fmt: skip
    """:class:`~pyro_mmvae.networks.onednn.kernels.Layer` in the type that autocast asks for."""
    dtype = dtype_of(values)
    bias = None if bias is None else bias.to(dtype)
    options = (stride, padding, output_padding, is_rectified)
    return cast("Tensor", Layer.apply(values.to(dtype), weight.to(dtype), bias, *options))


def _apart(layers: Sequence[nn.Module], groups: int) -> list[list[Step]]:
    """Layers of several networks as steps of each: a convolution, and the ReLU after it, is one."""
    steps: list[list[Step]] = []
    for before, layer, after in zip([None, *layers[:-1]], layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.GroupNorm):
            parameters = zip(_split(layer.weight, groups), _split(layer.bias, groups), strict=True)
            parts = layer.num_groups // groups
            steps.append([
                partial(functional.group_norm, num_groups=parts, weight=weight, bias=bias, eps=layer.eps)
                for weight, bias in parameters
            ])  # fmt: skip
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            weights = _split(layer.weight.to(dtype_of(layer.weight)), groups)
            biases = [None] * groups if layer.bias is None else _split(layer.bias, groups)
            options: dict[str, Any] = {}
            if isinstance(layer, nn.ConvTranspose2d):
                options["output_padding"] = layer.output_padding
            function: Any = up_by_phases
            if _is_layer(layer):
                function = partial(_layer, stride=layer.stride, padding=layer.padding)
                options["is_rectified"] = isinstance(after, nn.ReLU)
            steps.append([
                partial(function, weight=weight, bias=bias, **options)
                for weight, bias in zip(weights, biases, strict=True)
            ])  # fmt: skip
        elif not (isinstance(layer, nn.ReLU) and _is_layer(before)):
            steps.append([layer] * groups)
    return steps


def _is_layer(module: nn.Module | None) -> bool:
    """Whether it is done as :class:`~pyro_mmvae.networks.onednn.kernels.Layer`, with a ReLU that may follow."""
    is_convolution = isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    return is_convolution and not (isinstance(module, UpConvolution) and module.has_phases)


def _split(parameter: Tensor, groups: int) -> Sequence[Tensor]:
    return parameter.unflatten(0, (groups, -1)).unbind(0)
