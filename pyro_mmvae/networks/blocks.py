"""Blocks of layers that several convolutional networks are made of.

All of them serve several networks at once: channels of one network after the other, in grouped convolutions.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.options import ACTIVATIONS, NetworkOptions

NORM_CHANNELS = 16
"""Number of channels in one group of a group normalisation, where the channels of a network are a multiple of it."""

_CONVOLUTIONS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
}
_POOLS: dict[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d}


def activation(options: NetworkOptions) -> nn.Module:
    """Return the nonlinearity that the options name."""
    return ACTIVATIONS[options.activation]()


def norm_activation(groups: int, channels: int, options: NetworkOptions) -> list[nn.Module]:
    """Return a normalisation of each network by itself, if the options ask for one, and the nonlinearity.

    Args:
        groups: The number of networks.
        channels: number of channels of one network.
        options: options that name the normalisation and the nonlinearity.

    Returns:
        One or two layers.
    """
    layers: list[nn.Module] = []
    if options.norm == "group":
        parts = channels // NORM_CHANNELS if channels % NORM_CHANNELS == 0 else 1
        layers.append(nn.GroupNorm(groups * parts, groups * channels))
    return [*layers, activation(options)]


def conv_block(convolution: nn.Module, groups: int, channels: int, options: NetworkOptions) -> list[nn.Module]:
    """Return a convolution followed by its normalisation and its nonlinearity.

    Args:
        convolution: grouped convolution, plain or transposed.
        groups: The number of networks.
        channels: number of channels that the convolution gives one network.
        options: options that name the normalisation and the nonlinearity.

    Returns:
        Two or three layers, the convolution first.
    """
    return [convolution, *norm_activation(groups, channels, options)]


def variance_preserving_conv(
    dims: int, groups: int, before: int, after: int, kernel: Any, *, stride: int = 1, up: bool = False,
    gain: float = math.sqrt(2),
) -> nn.Module:  # fmt: skip
    """Return a grouped convolution whose output has the variance of its input when training starts.

    Weights are Gaussian with the standard deviation of He et al., 2015, arXiv 1502.01852; biases are 0.

    Args:
        dims: number of spatial dimensions, 1 or 2.
        groups: The number of networks.
        before: number of channels that come in, of one network.
        after: number of channels that go out, of one network.
        kernel: size of the kernel, one for all sides or one per side; sizes 3 and 4 are padded by 1.
        stride: step of the kernel along each side.
        up: If True, the convolution is transposed.
        gain: factor of the standard deviation, √2 after a nonlinearity (which halves the mean square), 1 elsewhere.

    Returns:
        The convolution.
    """
    size = (kernel,) * dims if isinstance(kernel, int) else tuple(kernel)
    padding = 1 if kernel in {3, 4} else 0
    convolution: Any = _CONVOLUTIONS[dims][up](
        groups * before, groups * after, size, stride=stride, padding=padding, groups=groups
    )
    # The number of entries of the kernel that meet in one value of the output.
    taps = math.prod(size) // stride**dims if up else math.prod(size)
    if up and not padding:  # one position is spread over the whole output, whose values meet one entry each
        taps = 1
    nn.init.normal_(convolution.weight, 0.0, gain / math.sqrt(before * taps))
    nn.init.zeros_(convolution.bias)
    return convolution


class ResidualBlock(nn.Module):
    r"""A residual block that halves or doubles every side.

    It computes :math:`(f(x) + s(x)) / \sqrt 2`, which keeps the variance. f is twice a normalisation, a nonlinearity
    and a convolution (He et al., 2016, arXiv 1603.05027), the first of kernel 4 and stride 2, the second of kernel 3.
    s is the mean of neighbours and a convolution of kernel 1, or that convolution and each value repeated.

    Args:
        dims: number of spatial dimensions, 2 for images, 1 for sequences.
        groups: The number of networks.
        before: number of channels that come in, of one network.
        after: number of channels that go out, of one network.
        options: options that name the normalisation and the nonlinearity.
        up: If True, sides are doubled, otherwise halved.
    """

    def __init__(self, dims: int, groups: int, before: int, after: int, options: NetworkOptions, *, up: bool) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *norm_activation(groups, before, options),
            variance_preserving_conv(dims, groups, before, after, 4, stride=2, up=up),
            *norm_activation(groups, after, options),
            variance_preserving_conv(dims, groups, after, after, 3),
        )
        pointwise = variance_preserving_conv(dims, groups, before, after, 1, gain=1.0)
        resized = [pointwise, nn.Upsample(scale_factor=2)] if up else [_POOLS[dims](2), pointwise]
        self.shortcut = nn.Sequential(*resized)

    def forward(self, values: Float[Tensor, "batch channel *side"]) -> Float[Tensor, "batch channels *sides"]:
        """Return the block's output, with every side halved or doubled."""
        return (self.main(values) + self.shortcut(values)) * math.sqrt(0.5)
