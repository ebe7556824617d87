"""The pair of MNIST-SVHN-TEXT for tokens, for texts whose length is a multiple of 4 and any alphabet.

Encoder: one-hot tokens through three convolutions along the text of 4 width channels (kernel 1; kernel 4, stride 2,
padding 1; kernel 4, stride 2), then the head: 8 characters end as one position, more as length / 4 - 1. Decoder: a
linear layer and the mirror of the convolutions, which ends in logits. Source of the sizes: Sutter et al., 2021,
Generalized multimodal ELBO, arXiv 2105.02470, with width 32 (128 channels), 8 characters and 71 classes; group
normalisation and other nonlinearities are options of ours.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedDecoder, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, of_batch
from pyro_mmvae.networks.onednn.convolutions import block

_MULTIPLE = 4  # channels, of the width


def fits_text(shape: tuple[int, ...]) -> bool:
    """Whether the convolutions divide a text without a rest: `(position, class)`, 8, 12, 16, … positions."""
    return len(shape) == 2 and shape[0] % 4 == 0 and shape[0] >= 8


class TextEncoder(GroupedNetwork):
    """One-hot tokens to experts.

    Args:
        shape: `(position, class)` of one text.
        latent_size: number of latent dimensions.
        groups: how many modalities of that shape.
        width: a quarter of the channels of the convolutions.
        norm: ``none`` or ``group``.
        activation: ``relu``, ``silu`` or ``gelu``.
        **head: of the experts and private latents, see :class:`~pyro_mmvae.networks.GaussianHead`.
    """

    def __init__(
        self,
        shape: tuple[int, int],
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
        self.shape, channels = shape, _MULTIPLE * width
        each = groups * channels
        self.convolutions = nn.Sequential(
            *block(nn.Conv1d(groups * shape[1], each, 1, groups=groups), groups, channels, norm, activation),
            *block(nn.Conv1d(each, each, 4, 2, 1, groups=groups), groups, channels, norm, activation),
            *block(nn.Conv1d(each, each, 4, 2, 0, groups=groups), groups, channels, norm, activation),
            nn.Unflatten(1, (groups, channels)),
            nn.Flatten(2),
        )
        features = channels * _positions(shape)
        self.head = GaussianHead(groups, features, latent_size, **head)

    def forward(self, texts: Float[Tensor, "*batch group position token"]) -> Encoding:
        """Give what the head gives, each `(*batch, group, …)`."""
        length, classes = self.shape
        flat = texts.mT.reshape(-1, self.groups * classes, length)
        batch = texts.shape[:-3]
        return of_batch(self.head(self.convolutions(flat)), batch)


class TextDecoder(GroupedDecoder):
    """A latent to logits of tokens.

    Args:
        shape: `(position, class)` of what to give.
        latent_size: number of latent dimensions, private ones among them.
        groups: how many modalities of that shape.
        width: a quarter of the channels of the convolutions.
        norm: ``none`` or ``group``.
        activation: ``relu``, ``silu`` or ``gelu``.
        own_latents: see :class:`~pyro_mmvae.networks.GroupedDecoder`.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        latent_size: int,
        *,
        groups: int = 1,
        width: int = 32,
        norm: str = "none",
        activation: str = "relu",
        own_latents: bool = False,
    ) -> None:
        super().__init__(groups, latent_size, own_latents, shape=shape, width=width, norm=norm, activation=activation)
        self.shape, channels = shape, _MULTIPLE * width
        each = groups * channels
        self.linear = nn.Sequential(
            self.first(channels * _positions(shape)),
            ACTIVATIONS[activation](),
            nn.Unflatten(1, (each, _positions(shape))),
        )
        self.convolutions = nn.Sequential(
            *block(nn.ConvTranspose1d(each, each, 4, 2, 0, groups=groups), groups, channels, norm, activation),
            *block(nn.ConvTranspose1d(each, each, 4, 2, 1, groups=groups), groups, channels, norm, activation),
            nn.Conv1d(each, groups * shape[1], 1, groups=groups),
        )

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch group position token"]:
        """Give the likelihoods' parameters."""
        flat, batch = self.flatten(z)
        length, classes = self.shape
        values = self.convolutions(self.linear(flat))
        return values.reshape(*batch, self.groups, classes, length).mT


def _positions(shape: tuple[int, ...]) -> int:
    """Of a text after the last convolution."""
    return shape[0] // 4 - 1
