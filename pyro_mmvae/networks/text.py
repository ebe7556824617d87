"""The pair of MNIST-SVHN-TEXT for tokens, for texts whose length is a multiple of 4 and any alphabet.

Encoder: one-hot tokens through three convolutions along the text of 4 width channels (kernel 1; kernel 4, stride 2,
padding 1; kernel 4, stride 2), then the head: 8 characters end as one position, longer texts as length / 4 - 1.
Decoder: a linear layer and the mirror image of the convolutions, which ends in logits. Source of the sizes: Sutter et
al., 2021, Generalized multimodal ELBO, arXiv 2105.02470, with width 32 (128 channels), 8 characters and 71 classes;
group normalisation and other nonlinearities are additions of this package.
"""

from __future__ import annotations

from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.blocks import activation, conv_block
from pyro_mmvae.networks.grouped import GroupedDecoder, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, unflatten_batch
from pyro_mmvae.networks.options import NetworkOptions

_WIDTH_MULTIPLE = 4


def fits_text(shape: tuple[int, ...]) -> bool:
    """Return True for shapes `(position, class)` of 8, 12, 16, and so on, positions.

    With such a length the convolutions reach every position, and the transposed ones restore the length.
    """
    return len(shape) == 2 and shape[0] % 4 == 0 and shape[0] >= 8


def _final_length(shape: tuple[int, ...]) -> int:
    """Return the number of positions of a text after the last convolution."""
    return shape[0] // 4 - 1


class TextEncoder(GroupedNetwork):
    """An encoder of one-hot tokens by three convolutions along the text.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes `(position, class)` that
    :func:`fits_text` accepts. The encoder reads the options ``width``, ``norm``, ``activation`` and those of
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
        options, channels = self.options, _WIDTH_MULTIPLE * self.options.width
        total = groups * channels
        self.convolutions = nn.Sequential(
            *conv_block(nn.Conv1d(groups * shape[1], total, 1, groups=groups), groups, channels, options),
            *conv_block(nn.Conv1d(total, total, 4, 2, 1, groups=groups), groups, channels, options),
            *conv_block(nn.Conv1d(total, total, 4, 2, 0, groups=groups), groups, channels, options),
            nn.Unflatten(1, (groups, channels)),
            nn.Flatten(2),
        )
        features = channels * _final_length(shape)
        self.head = GaussianHead(groups, features, latent_size, options, private_size=private_size)

    def forward(self, texts: Float[Tensor, "*batch group position token"]) -> Encoding:
        """Return the head's output, each tensor `(*batch, group, …)`."""
        batch, (length, classes) = texts.shape[:-3], self.shape
        flat = texts.mT.reshape(-1, self.groups * classes, length)
        return unflatten_batch(self.head(self.convolutions(flat)), batch)


class TextDecoder(GroupedDecoder):
    """A decoder of logits of tokens by a linear layer and three convolutions along the text.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes `(position, class)` that
    :func:`fits_text` accepts. The decoder reads the options ``width``, ``norm`` and ``activation``.
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
        options, channels = self.options, _WIDTH_MULTIPLE * self.options.width
        total, length = groups * channels, _final_length(shape)
        self.linear = nn.Sequential(
            self.first_layer(channels * length), activation(options), nn.Unflatten(1, (total, length))
        )
        self.convolutions = nn.Sequential(
            *conv_block(nn.ConvTranspose1d(total, total, 4, 2, 0, groups=groups), groups, channels, options),
            *conv_block(nn.ConvTranspose1d(total, total, 4, 2, 1, groups=groups), groups, channels, options),
            nn.Conv1d(total, groups * shape[1], 1, groups=groups),
        )

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch group position token"]:
        """Return the parameters of the likelihoods."""
        flat, batch = self.flatten_batch(z)
        length, classes = self.shape
        values = self.convolutions(self.linear(flat))
        return values.reshape(*batch, self.groups, classes, length).mT
