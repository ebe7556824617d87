"""The convolutional pair of the PolyMNIST recipe, for images of any size and any number of channels.

Encoder: three convolutions (kernel 3, stride 2, padding 1) of width, 2 width and 4 width channels, a hidden linear
layer, the head. Decoder: its mirror, without a nonlinearity at the end. Source of the sizes: Sutter et al., 2021,
Generalized multimodal ELBO, arXiv 2105.02470; group normalisation and other nonlinearities are options of ours.

Modalities of one shape are one grouped network, see :mod:`pyro_mmvae.networks.onednn.convolutions`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedDecoder, GroupedLinear, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, of_batch
from pyro_mmvae.networks.onednn.convolutions import Convolutions, UpConvolution, block

NORMS = ("none", "group")

_LAYERS = 3


def _sides(side: int) -> list[int]:
    """Length of a side before and after each convolution."""
    sides = [side]
    for _ in range(_LAYERS):
        sides.append(math.ceil(sides[-1] / 2))
    return sides


class ConvEncoder(GroupedNetwork):
    """Images to experts.

    Args:
        shape: `(channel, height, width)` of one image.
        latent_size: number of latent dimensions.
        groups: how many modalities of that shape.
        width: channels of the first convolution.
        hidden: size of the hidden linear layer.
        norm: ``none`` or ``group``.
        activation: ``relu``, ``silu`` or ``gelu``.
        **head: of the experts and private latents, see :class:`~pyro_mmvae.networks.GaussianHead`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_size: int,
        *,
        groups: int = 1,
        width: int = 32,
        hidden: int = 512,
        norm: str = "none",
        activation: str = "relu",
        **head: Any,
    ) -> None:
        super().__init__(
            groups, shape=shape, latent_size=latent_size, width=width, hidden=hidden, norm=norm, activation=activation,
            **head,
        )  # fmt: skip
        self.shape = shape
        channels = [shape[0], *(width * 2**i for i in range(_LAYERS))]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            convolution = nn.Conv2d(groups * before, groups * after, 3, stride=2, padding=1, groups=groups)
            layers += block(convolution, groups, after, norm, activation)
        heights, widths = _sides(shape[1]), _sides(shape[2])
        flat = channels[-1] * heights[-1] * widths[-1]
        self.convolutions = Convolutions(groups, layers, channels[1] * heights[1] * widths[1])
        self.hidden = nn.Sequential(
            nn.Flatten(2),
            GroupedLinear(groups, flat, hidden),
            ACTIVATIONS[activation](),
        )
        self.head = GaussianHead(groups, hidden, latent_size, **head)

    def forward(self, images: Float[Tensor, "*batch group channel height width"]) -> Encoding:
        """Give what the head gives, each `(*batch, group, …)`."""
        batch = images.shape[:-4]
        flat = images.reshape(-1, self.groups, *self.shape)
        return of_batch(self.head(self.hidden(self.convolutions(flat))), batch)


class ConvDecoder(GroupedDecoder):
    """A latent to the parameters of images' likelihoods.

    Args:
        shape: `(channel, height, width)` of what to give.
        latent_size: number of latent dimensions, private ones among them.
        groups: how many modalities of that shape.
        width: channels before the last transposed convolution.
        hidden: size of a hidden linear layer; None for none, as in the recipe.
        norm: ``none`` or ``group``.
        activation: ``relu``, ``silu`` or ``gelu``.
        own_latents: see :class:`~pyro_mmvae.networks.GroupedDecoder`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent_size: int,
        *,
        groups: int = 1,
        width: int = 32,
        hidden: int | None = None,
        norm: str = "none",
        activation: str = "relu",
        own_latents: bool = False,
    ) -> None:
        super().__init__(
            groups, latent_size, own_latents, shape=shape, width=width, hidden=hidden, norm=norm, activation=activation
        )
        self.shape = shape
        heights, widths = _sides(shape[1])[::-1], _sides(shape[2])[::-1]
        channels = [width * 2**i for i in reversed(range(_LAYERS))] + [shape[0]]
        act = ACTIVATIONS[activation]
        flat = channels[0] * heights[0] * widths[0]
        linear: list[nn.Module] = [self.first(hidden or flat), act()]
        if hidden is not None:
            linear += [nn.Unflatten(-1, (groups, hidden)), GroupedLinear(groups, hidden, flat), act(), nn.Flatten(1)]
        linear.append(nn.Unflatten(1, (groups, channels[0], heights[0], widths[0])))
        layers: list[nn.Module] = []
        for i in range(_LAYERS):
            before, after = groups * channels[i], groups * channels[i + 1]
            padding = (heights[i + 1] - 2 * heights[i] + 1, widths[i + 1] - 2 * widths[i] + 1)
            up = UpConvolution(before, after, 3, stride=2, padding=1, output_padding=padding, groups=groups)
            layers += [up] if i == _LAYERS - 1 else block(up, groups, channels[i + 1], norm, activation)
        self.linear = nn.Sequential(*linear)
        self.convolutions = Convolutions(groups, layers, channels[-2] * heights[-2] * widths[-2])

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch group channel height width"]:
        """Give the likelihoods' parameters."""
        flat, batch = self.flatten(z)
        images = self.convolutions(self.linear(flat))
        return images.reshape(*batch, self.groups, *self.shape)
