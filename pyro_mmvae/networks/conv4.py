"""The convolutional pair of SVHN in the MNIST-SVHN-TEXT recipe, for images whose sides are multiples of 16.

Encoder: four convolutions (kernel 4, stride 2, padding 1, 1, 1, 0) of width, 2 width, 2 width and 4 width channels,
then the head: an image of 32 × 32 ends as 1 × 1. Decoder: a linear layer and the mirror of the convolutions, without a
nonlinearity at the end. Source of the sizes: Sutter et al., 2021, Generalized multimodal ELBO, arXiv 2105.02470, with
width 32; group normalisation and other nonlinearities are options of ours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedDecoder, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, of_batch
from pyro_mmvae.networks.onednn.convolutions import block

_KERNEL, _STRIDE, _PADDINGS = 4, 2, (1, 1, 1, 0)
_MULTIPLES = (1, 2, 2, 4)  # of the width


def fits_conv4(shape: tuple[int, ...]) -> bool:
    """Whether the convolutions divide an image without a rest: `(channel, height, width)`, sides 32, 48, 64, …."""
    return len(shape) == 3 and all(side % 16 == 0 and side >= 32 for side in shape[1:])


class Conv4Encoder(GroupedNetwork):
    """Images to experts.

    Args:
        shape: `(channel, height, width)` of one image.
        latent_size: number of latent dimensions.
        groups: how many modalities of that shape.
        width: channels of the first convolution.
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
        norm: str = "none",
        activation: str = "relu",
        **head: Any,
    ) -> None:
        super().__init__(
            groups, shape=shape, latent_size=latent_size, width=width, norm=norm, activation=activation,
            **head,
        )  # fmt: skip
        self.shape = shape
        channels = [shape[0], *(width * multiple for multiple in _MULTIPLES)]
        layers: list[nn.Module] = []
        for (before, after), padding in zip(pairwise(channels), _PADDINGS, strict=True):
            convolution = nn.Conv2d(
                groups * before, groups * after, _KERNEL, stride=_STRIDE, padding=padding, groups=groups
            )
            layers += block(convolution, groups, after, norm, activation)
        self.convolutions = nn.Sequential(*layers, nn.Unflatten(1, (groups, channels[-1])), nn.Flatten(2))
        features = channels[-1] * _area(shape)
        self.head = GaussianHead(groups, features, latent_size, **head)

    def forward(self, images: Float[Tensor, "*batch group channel height width"]) -> Encoding:
        """Give what the head gives, each `(*batch, group, …)`."""
        batch = images.shape[:-4]
        flat = images.reshape(-1, self.groups * self.shape[0], *self.shape[1:])
        return of_batch(self.head(self.convolutions(flat.contiguous(memory_format=torch.channels_last))), batch)


class Conv4Decoder(GroupedDecoder):
    """A latent to the parameters of images' likelihoods.

    Args:
        shape: `(channel, height, width)` of what to give.
        latent_size: number of latent dimensions, private ones among them.
        groups: how many modalities of that shape.
        width: channels before the last transposed convolution.
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
        norm: str = "none",
        activation: str = "relu",
        own_latents: bool = False,
    ) -> None:
        super().__init__(groups, latent_size, own_latents, shape=shape, width=width, norm=norm, activation=activation)
        self.shape = shape
        channels = [*(width * multiple for multiple in reversed(_MULTIPLES)), shape[0]]
        self.linear = nn.Sequential(
            self.first(channels[0] * _area(shape)),
            ACTIVATIONS[activation](),
            nn.Unflatten(1, (groups * channels[0], *_sides(shape))),
        )
        layers: list[nn.Module] = []
        steps = list(zip(pairwise(channels), reversed(_PADDINGS), strict=True))
        for number, ((before, after), padding) in enumerate(steps, 1):
            up = nn.ConvTranspose2d(
                groups * before, groups * after, _KERNEL, stride=_STRIDE, padding=padding, groups=groups
            )
            layers += [up] if number == len(steps) else block(up, groups, after, norm, activation)
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch group channel height width"]:
        """Give the likelihoods' parameters."""
        flat, batch = self.flatten(z)
        first = self.linear(flat).contiguous(memory_format=torch.channels_last)
        images = self.convolutions(first).contiguous()  # modalities apart, as the observations are
        return images.reshape(*batch, self.groups, *self.shape)


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Of an image after the last convolution."""
    return shape[1] // 16 - 1, shape[2] // 16 - 1


def _area(shape: tuple[int, ...]) -> int:
    height, width = _sides(shape)
    return height * width
