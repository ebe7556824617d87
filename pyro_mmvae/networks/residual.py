r"""The residual convolutional pair, for images (two spatial dimensions) and for sequences (one).

The sizes are those of MoPoE's CelebA setting (Sutter et al., 2021, arXiv 2105.02470): with a width of 128 an image of
64 × 64 becomes 640 × 1 × 1, and so does a text of 256 characters. The blocks are this package's:

- Sides are halved until all are at most 4, or one is odd. The first halving is a plain convolution (kernel 4, stride 2)
  to ``width`` channels; each further one is a :class:`~pyro_mmvae.networks.blocks.ResidualBlock`. They have 2, 3, 4 and
  from then on 5 times ``width`` channels. A convolution over the sides that are left gives one more ``width`` of
  features, up to 5 times it, which the head reads.
- The decoder is the mirror image, with transposed convolutions. Nothing follows its last layer.

Weights start as Gaussians that keep the variance, biases at 0. Normalisation is over groups of channels of one item,
never over a batch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.blocks import ResidualBlock, activation, norm_activation, variance_preserving_conv
from pyro_mmvae.networks.grouped import GroupedDecoder, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, unflatten_batch
from pyro_mmvae.networks.options import NetworkOptions

_TARGET_SIDE = 4  # sides are halved until none is longer
_MAX_FINAL_SIDE = 8  # a side that cannot be halved down to the target must be this long at most
_MAX_WIDTH_MULTIPLE = 5


class _Layout:
    """The axes of an item, and its sides and channels from layer to layer.

    Args:
        shape: shape of one item, `(channel, height, width)` or `(position, channel)`.
        width: number of channels after the first halving.
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        if len(shape) not in {2, 3}:
            raise ValueError(
                f"network 'residual' needs images (channel, height, width) or sequences (position, channel), got shape "
                f"{shape}"
            )
        self.is_image = len(shape) == 3
        self.channels_in = shape[0] if self.is_image else shape[-1]
        self.sides = [shape[1:] if self.is_image else shape[:1]]
        while max(self.sides[-1]) > _TARGET_SIDE and not any(side % 2 for side in self.sides[-1]):
            self.sides.append(tuple(side // 2 for side in self.sides[-1]))
        if len(self.sides) < 2 or max(self.sides[-1]) > _MAX_FINAL_SIDE:
            raise ValueError(
                f"network 'residual' halves sides to {_MAX_FINAL_SIDE} or less, at least once, so sides must be "
                f"multiples of a power of two, got {' x '.join(map(str, self.sides[0]))}"
            )
        self.dims = len(self.sides[0])
        self.channels = [width * min(level, _MAX_WIDTH_MULTIPLE) for level in range(1, len(self.sides))]
        self.features = width * min(len(self.sides), _MAX_WIDTH_MULTIPLE)

    def to_channels(self, items: Tensor, groups: int) -> Tensor:
        """Return items `(*batch, group, *shape)` as `(batch, group * channel, *side)`."""
        if self.is_image:
            flat = items.reshape(-1, groups * self.channels_in, *self.sides[0])
            # Convolutions are faster with channels last in memory.
            return flat.contiguous(memory_format=torch.channels_last)
        return items.mT.reshape(-1, groups * self.channels_in, *self.sides[0])

    def to_items(self, values: Tensor, batch: torch.Size, groups: int) -> Tensor:
        """Return values `(batch, group * channel, *side)` as items `(*batch, group, *shape)`."""
        items = values.contiguous().reshape(*batch, groups, self.channels_in, *self.sides[0])
        return items if self.is_image else items.mT.contiguous()


class ResidualEncoder(GroupedNetwork):
    """An encoder of images or sequences by residual blocks.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes `(channel, height, width)` or
    `(position, channel)`. The encoder reads the options ``width`` (128 in MoPoE's setting), ``norm``, ``activation``
    and those of :class:`~pyro_mmvae.networks.GaussianHead`.

    Raises:
        ValueError: If the shape has another number of axes, or sides that cannot be halved often enough.
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
        self.layout = layout = _Layout(shape, options.width)
        dims, last = layout.dims, layout.channels[-1]
        self.layers = nn.Sequential(
            variance_preserving_conv(dims, groups, layout.channels_in, options.width, 4, stride=2, gain=1.0),
            *(
                ResidualBlock(dims, groups, before, after, options, up=False)
                for before, after in pairwise(layout.channels)
            ),
            *norm_activation(groups, last, options),
            variance_preserving_conv(dims, groups, last, layout.features, layout.sides[-1]),
            activation(options),
        )
        self.head = GaussianHead(groups, layout.features, latent_size, options, private_size=private_size)

    def forward(self, items: Float[Tensor, "*batch_group_and_item"]) -> Encoding:
        """Return the head's output for items `(*batch, group, *shape)`, each tensor `(*batch, group, …)`."""
        batch = items.shape[: items.dim() - len(self.shape) - 1]
        features = self.layers(self.layout.to_channels(items, self.groups))
        return unflatten_batch(self.head(features.reshape(-1, self.groups, self.layout.features)), batch)


class ResidualDecoder(GroupedDecoder):
    """A decoder of images or sequences by a linear layer and residual blocks.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`, for shapes `(channel, height, width)` or
    `(position, channel)`. The decoder reads the options ``width`` (128 in MoPoE's setting), ``norm`` and
    ``activation``.

    Raises:
        ValueError: If the shape has another number of axes, or sides that cannot be halved often enough.
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
        self.layout = layout = _Layout(shape, options.width)
        dims, width, first = layout.dims, options.width, layout.channels[-1]
        self.linear = nn.Sequential(self.first_layer(layout.features), activation(options))
        self.layers = nn.Sequential(
            variance_preserving_conv(dims, groups, layout.features, first, layout.sides[-1], up=True),
            *(
                ResidualBlock(dims, groups, before, after, options, up=True)
                for before, after in pairwise(reversed(layout.channels))
            ),
            *norm_activation(groups, width, options),
            variance_preserving_conv(dims, groups, width, layout.channels_in, 4, stride=2, up=True, gain=1.0),
        )

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch_group_and_parameters"]:
        """Return the parameters of the likelihoods, `(*batch, group, *shape)`."""
        flat, batch = self.flatten_batch(z)
        features = self.linear(flat)
        features = features.reshape(*features.shape, *[1] * self.layout.dims)
        if self.layout.is_image:
            # Convolutions are faster with channels last in memory.
            features = features.contiguous(memory_format=torch.channels_last)
        return self.layout.to_items(self.layers(features), batch, self.groups)
