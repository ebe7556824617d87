"""The convolutional pair of SVHN in the MNIST-SVHN-TEXT recipe, for images whose sides are multiples of 16.

Encoder: four convolutions (kernel 4, stride 2, padding 1, 1, 1, 0) of width, 2 width, 2 width and 4 width channels,
then the head: an image of 32 × 32 ends as 1 × 1. Decoder: a linear layer and the mirror image of the convolutions,
without a nonlinearity at the end. Source of the sizes: Sutter et al., 2021, Generalized multimodal ELBO,
arXiv 2105.02470, with width 32; group normalisation and other nonlinearities are additions of this package.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.blocks import activation, conv_block
from pyro_mmvae.networks.grouped import GroupedDecoder, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, unflatten_batch
from pyro_mmvae.networks.options import NetworkOptions

_KERNEL, _STRIDE, _PADDINGS = 4, 2, (1, 1, 1, 0)
_WIDTH_MULTIPLES = (1, 2, 2, 4)


def fits_conv4(shape: tuple[int, ...]) -> bool:
    """Return True for shapes `(channel, height, width)` whose sides are 32, 48, 64, and so on.

    With such sides the convolutions reach every pixel, and the transposed ones restore the sides.
    """
    return len(shape) == 3 and all(side % 16 == 0 and side >= 32 for side in shape[1:])


def _final_sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of an image after the last convolution."""
    return shape[1] // 16 - 1, shape[2] // 16 - 1


class Conv4Encoder(GroupedNetwork):
    """An encoder of images by four convolutions.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes that :func:`fits_conv4`
    accepts. The encoder reads the options ``width``, ``norm``, ``activation`` and those of
    :class:`~pyro_mmvae.networks.GaussianHead`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        options: NetworkOptions | None = None,
        *,
        groups: int = 1,
        private_size: int = 0,
    ) -> None:
        super().__init__(shape, latent_size, options, groups=groups, private_size=private_size)
        options = self.options
        channels = [shape[0], *(options.width * multiple for multiple in _WIDTH_MULTIPLES)]
        layers: list[nn.Module] = []
        for (before, after), padding in zip(pairwise(channels), _PADDINGS, strict=True):
            convolution = nn.Conv2d(
                groups * before, groups * after, _KERNEL, stride=_STRIDE, padding=padding, groups=groups
            )
            layers += conv_block(convolution, groups, after, options)
        self.convolutions = nn.Sequential(*layers, nn.Unflatten(1, (groups, channels[-1])), nn.Flatten(2))
        features = channels[-1] * math.prod(_final_sides(shape))
        self.head = GaussianHead(groups, features, latent_size, options, private_size=private_size)

    def forward(self, images: Float[Tensor, "*batch group channel height width"]) -> Encoding:
        """Return the head's output, each tensor `(*batch, group, …)`."""
        batch, (channels, *sides) = images.shape[:-4], self.shape
        flat = images.reshape(-1, self.groups * channels, *sides)
        # Convolutions are faster with channels last in memory.
        features = self.convolutions(flat.contiguous(memory_format=torch.channels_last))
        return unflatten_batch(self.head(features), batch)


class Conv4Decoder(GroupedDecoder):
    """A decoder of images by a linear layer and four transposed convolutions.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes that :func:`fits_conv4`
    accepts. The decoder reads the options ``width``, ``norm`` and ``activation``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        options: NetworkOptions | None = None,
        *,
        groups: int = 1,
        private_size: int = 0,
    ) -> None:
        super().__init__(shape, latent_size, options, groups=groups, private_size=private_size)
        options, sides = self.options, _final_sides(shape)
        channels = [*(options.width * multiple for multiple in reversed(_WIDTH_MULTIPLES)), shape[0]]
        self.linear = nn.Sequential(
            self.first_layer(channels[0] * math.prod(sides)),
            activation(options),
            nn.Unflatten(1, (groups * channels[0], *sides)),
        )
        layers: list[nn.Module] = []
        steps = list(zip(pairwise(channels), reversed(_PADDINGS), strict=True))
        for number, ((before, after), padding) in enumerate(steps, 1):
            convolution = nn.ConvTranspose2d(
                groups * before, groups * after, _KERNEL, stride=_STRIDE, padding=padding, groups=groups
            )
            layers += [convolution] if number == len(steps) else conv_block(convolution, groups, after, options)
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch group channel height width"]:
        """Return the parameters of the likelihoods."""
        flat, batch = self.flatten_batch(z)
        # Convolutions are faster with channels last in memory; the likelihoods' data have the groups apart.
        smallest = self.linear(flat).contiguous(memory_format=torch.channels_last)
        images = self.convolutions(smallest).contiguous()
        return images.reshape(*batch, self.groups, *self.shape)
