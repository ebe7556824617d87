"""The convolutional pair of the PolyMNIST recipe, for images of any size and any number of channels.

Encoder: three convolutions (kernel 3, stride 2, padding 1) of width, 2 width and 4 width channels, a hidden linear
layer, the head. Decoder: the mirror image, without a nonlinearity at the end. Source of the sizes: Sutter et al., 2021,
Generalized multimodal ELBO, arXiv 2105.02470; group normalisation and other nonlinearities are additions of this
package.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.blocks import activation, conv_block
from pyro_mmvae.networks.grouped import GroupedDecoder, GroupedLinear, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, unflatten_batch
from pyro_mmvae.networks.onednn import ConvTranspose2d, GroupedConvolutions
from pyro_mmvae.networks.options import NetworkOptions

_NUM_CONVOLUTIONS = 3


def is_image_shape(shape: tuple[int, ...]) -> bool:
    """Return True for shapes of three axes, `(channel, height, width)`."""
    return len(shape) == 3


def _side_lengths(side: int) -> list[int]:
    """Return the length of a side before and after each convolution of the encoder."""
    lengths = [side]
    for _ in range(_NUM_CONVOLUTIONS):
        lengths.append(math.ceil(lengths[-1] / 2))
    return lengths


class ConvEncoder(GroupedNetwork):
    """An encoder of images by three convolutions and a hidden linear layer.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes `(channel, height, width)`. The
    encoder reads the options ``width``, ``hidden``, ``norm``, ``activation`` and those of
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
        channels = [shape[0], *(options.width * 2**i for i in range(_NUM_CONVOLUTIONS))]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            convolution = nn.Conv2d(groups * before, groups * after, 3, stride=2, padding=1, groups=groups)
            layers += conv_block(convolution, groups, after, options)
        heights, widths = _side_lengths(shape[1]), _side_lengths(shape[2])
        # The first convolution returns the most values: each later one halves the sides and doubles the channels.
        self.convolutions = GroupedConvolutions(groups, layers, channels[1] * heights[1] * widths[1])
        self.hidden = nn.Sequential(
            nn.Flatten(2),
            GroupedLinear(groups, channels[-1] * heights[-1] * widths[-1], options.hidden),
            activation(options),
        )
        self.head = GaussianHead(groups, options.hidden, latent_size, options, private_size=private_size)

    def forward(self, images: Float[Tensor, "*batch group channel height width"]) -> Encoding:
        """Return the head's output, each tensor `(*batch, group, …)`."""
        batch = images.shape[:-4]
        flat = images.reshape(-1, self.groups, *self.shape)
        return unflatten_batch(self.head(self.hidden(self.convolutions(flat))), batch)


class ConvDecoder(GroupedDecoder):
    """A decoder of images by a linear layer, or two, and three transposed convolutions.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes `(channel, height, width)`. The
    decoder reads the options ``width``, ``norm`` and ``activation``; if ``decoder_hidden`` is True, it has a hidden
    linear layer of ``hidden`` features too, which the recipe does not have.
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
        heights, widths = _side_lengths(shape[1])[::-1], _side_lengths(shape[2])[::-1]
        channels = [*(options.width * 2**i for i in reversed(range(_NUM_CONVOLUTIONS))), shape[0]]
        self.linear = self._linear_layers(channels[0], heights[0], widths[0])
        layers: list[nn.Module] = []
        for i in range(_NUM_CONVOLUTIONS):
            # Without padding of the output a side of n becomes 2 n - 1.
            padding = (heights[i + 1] - 2 * heights[i] + 1, widths[i + 1] - 2 * widths[i] + 1)
            convolution = ConvTranspose2d(
                groups * channels[i], groups * channels[i + 1], 3,
                stride=2, padding=1, output_padding=padding, groups=groups,
            )  # fmt: skip
            is_last = i == _NUM_CONVOLUTIONS - 1
            layers += [convolution] if is_last else conv_block(convolution, groups, channels[i + 1], options)
        self.convolutions = GroupedConvolutions(groups, layers, channels[-2] * heights[-2] * widths[-2])

    def _linear_layers(self, channels: int, height: int, width: int) -> nn.Sequential:
        """Return the layers from a latent to the input of the first transposed convolution."""
        options, groups, flat = self.options, self.groups, channels * height * width
        layers = [self.first_layer(options.hidden if options.decoder_hidden else flat), activation(options)]
        if options.decoder_hidden:
            layers += [
                nn.Unflatten(-1, (groups, options.hidden)),
                GroupedLinear(groups, options.hidden, flat),
                activation(options),
                nn.Flatten(1),
            ]
        return nn.Sequential(*layers, nn.Unflatten(1, (groups, channels, height, width)))

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch group channel height width"]:
        """Return the parameters of the likelihoods."""
        flat, batch = self.flatten_batch(z)
        images = self.convolutions(self.linear(flat))
        return images.reshape(*batch, self.groups, *self.shape)
