r"""Residual convolutional networks, for images (2-D) and for sequences (1-D).

The sizes are those of MoPoE's CelebA setting (Sutter et al., 2021, arXiv 2105.02470): with a width of 128 an image of
64 × 64 becomes 640 × 1 × 1, and so does a text of 256 characters. The blocks are our own:

- Sides are halved until none is over 4, or one is odd. The first halving is a plain convolution (kernel 4, stride 2) to
  ``width`` channels, each further one a block; they have 2, 3, 4 and from then on 5 times ``width`` channels. A
  convolution over all that is left gives one more ``width`` of features, up to 5 times it, and the head reads those.
- A block is :math:`(f(x) + s(x)) / \sqrt 2`, which keeps the variance. f is twice normalisation, nonlinearity and a
  convolution (He et al., 2016, arXiv 1603.05027): the first of kernel 4 and stride 2, the second of kernel 3. s is the
  mean of neighbours, then a convolution of kernel 1.
- The decoder is the mirror: transposed convolutions, and in s every value repeated. Nothing follows its last layer.

Weights start as Gaussians that keep the variance (He et al., 2015, arXiv 1502.01852), biases at 0. Normalisation is
over groups of channels of one item, never over a batch.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedDecoder, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, of_batch

_SMALL, _LARGEST = 4, 8  # sides are halved down to this, and may be this at the most when they cannot be
_MOST = 5  # times the width, channels
_NORM_CHANNELS = 16  # in one normalisation group, as in `conv`

_CONVOLUTIONS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
}
_POOLS: dict[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d}


class _Layout:
    """How an item lies, and how its sides and channels change from layer to layer.

    Args:
        shape: `(channel, height, width)` or `(position, channel)`.
        width: channels after the first halving.
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        if len(shape) not in {2, 3}:
            raise ValueError(
                f"network 'residual' needs images (channel, height, width) or sequences (position, channel), not shape "
                f"{shape}"
            )
        self.is_image = len(shape) == 3
        self.channels_in = shape[0] if self.is_image else shape[-1]
        self.sides = [shape[1:] if self.is_image else shape[:1]]
        while max(self.sides[-1]) > _SMALL and not any(side % 2 for side in self.sides[-1]):
            self.sides.append(tuple(side // 2 for side in self.sides[-1]))
        if len(self.sides) < 2 or max(self.sides[-1]) > _LARGEST:
            raise ValueError(
                f"network 'residual' halves sides to {_LARGEST} or less, at least once, which sides of "
                f"{' x '.join(map(str, self.sides[0]))} do not allow: expected multiples of a power of two"
            )
        self.dims = len(self.sides[0])
        self.channels = [width * min(level, _MOST) for level in range(1, len(self.sides))]
        self.features = width * min(len(self.sides), _MOST)

    def arrange(self, items: Tensor, groups: int) -> Tensor:
        """`(*batch, group, *shape)` to `(batch, group * channel, *side)`, images channels last in memory."""
        if self.is_image:
            flat = items.reshape(-1, groups * self.channels_in, *self.sides[0])
            return flat.contiguous(memory_format=torch.channels_last)
        return items.mT.reshape(-1, groups * self.channels_in, *self.sides[0])

    def restore(self, values: Tensor, batch: torch.Size, groups: int) -> Tensor:
        """Back again."""
        items = values.contiguous().reshape(*batch, groups, self.channels_in, *self.sides[0])
        return items if self.is_image else items.mT.contiguous()


def _convolution(
    dims: int, groups: int, before: int, after: int, kernel: Any, *, stride: int = 1, up: bool = False,
    gain: float = math.sqrt(2),
) -> nn.Module:  # fmt: skip
    """A grouped convolution, transposed for ``up``, whose output has the variance of its input.

    ``gain`` is √2 behind a nonlinearity, which halves the mean square, and 1 elsewhere.
    """
    size = (kernel,) * dims if isinstance(kernel, int) else tuple(kernel)
    padding = 1 if kernel in {3, 4} else 0
    made: Any = _CONVOLUTIONS[dims][up](
        groups * before, groups * after, size, stride=stride, padding=padding, groups=groups
    )
    taps = math.prod(size) // stride**dims if up else math.prod(size)  # that meet in one value
    if up and not padding:
        taps = 1
    nn.init.normal_(made.weight, 0.0, gain / math.sqrt(before * taps))
    nn.init.zeros_(made.bias)
    return made


def _ready(groups: int, channels: int, norm: str, activation: str) -> list[nn.Module]:
    """What comes before a convolution: normalisation of each group by itself, and a nonlinearity."""
    parts = channels // _NORM_CHANNELS if channels % _NORM_CHANNELS == 0 else 1
    norms: list[nn.Module] = [nn.GroupNorm(groups * parts, groups * channels)] if norm == "group" else []
    return [*norms, ACTIVATIONS[activation]()]


class ResidualBlock(nn.Module):
    """Halves or doubles every side, see the module.

    Args:
        dims: 2 for images, 1 for sequences.
        groups: how many networks at once.
        before: channels that come in, of one network.
        after: channels that go out.
        up: whether sides are doubled.
        norm: ``none`` or ``group``.
        activation: ``relu``, ``silu`` or ``gelu``.
    """

    def __init__(
        self, dims: int, groups: int, before: int, after: int, *, up: bool, norm: str, activation: str
    ) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_ready(groups, before, norm, activation),
            _convolution(dims, groups, before, after, 4, stride=2, up=up),
            *_ready(groups, after, norm, activation),
            _convolution(dims, groups, after, after, 3),
        )
        point = _convolution(dims, groups, before, after, 1, gain=1.0)
        self.shortcut = nn.Sequential(*[point, nn.Upsample(scale_factor=2)] if up else [_POOLS[dims](2), point])

    def forward(self, values: Float[Tensor, "batch channel *side"]) -> Float[Tensor, "batch channels *sides"]:
        """Apply."""
        return (self.main(values) + self.shortcut(values)) * math.sqrt(0.5)


class ResidualEncoder(GroupedNetwork):
    """Images or sequences to experts.

    Args:
        shape: of one item, `(channel, height, width)` or `(position, channel)`.
        latent_size: number of latent dimensions.
        groups: how many modalities of that shape.
        width: channels after the first halving; 128 in MoPoE's setting.
        norm: ``none`` or ``group``.
        activation: ``relu``, ``silu`` or ``gelu``.
        **head: of the experts and private latents, see :class:`~pyro_mmvae.networks.GaussianHead`.

    Raises:
        ValueError: for another number of axes, or sides that cannot be halved often enough.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        *,
        groups: int = 1,
        width: int = 128,
        norm: str = "group",
        activation: str = "relu",
        **head: Any,
    ) -> None:
        super().__init__(
            groups, shape=shape, latent_size=latent_size, width=width, norm=norm, activation=activation,
            **head,
        )  # fmt: skip
        self.layout = layout = _Layout(shape, width)
        last = layout.channels[-1]
        self.layers = nn.Sequential(
            _convolution(layout.dims, groups, layout.channels_in, width, 4, stride=2, gain=1.0),
            *(
                ResidualBlock(layout.dims, groups, before, after, up=False, norm=norm, activation=activation)
                for before, after in pairwise(layout.channels)
            ),
            *_ready(groups, last, norm, activation),
            _convolution(layout.dims, groups, last, layout.features, layout.sides[-1]),
            ACTIVATIONS[activation](),
        )
        self.head = GaussianHead(groups, layout.features, latent_size, **head)

    def forward(self, items: Float[Tensor, "*batch_group_and_item"]) -> Encoding:
        """Give what the head gives, of `(*batch, group, *shape)`, each `(*batch, group, …)`."""
        batch = items.shape[: items.dim() - len(self.options["shape"]) - 1]
        features = self.layers(self.layout.arrange(items, self.groups))
        return of_batch(self.head(features.reshape(-1, self.groups, self.layout.features)), batch)


class ResidualDecoder(GroupedDecoder):
    """A latent to the parameters of likelihoods of images or sequences.

    Args:
        shape: of what to give for one item, `(channel, height, width)` or `(position, channel)`.
        latent_size: number of latent dimensions, private ones among them.
        groups: how many modalities of that shape.
        width: channels before the last doubling; 128 in MoPoE's setting.
        norm: ``none`` or ``group``.
        activation: ``relu``, ``silu`` or ``gelu``.
        own_latents: see :class:`~pyro_mmvae.networks.GroupedDecoder`.

    Raises:
        ValueError: as for the encoder.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        *,
        groups: int = 1,
        width: int = 128,
        norm: str = "group",
        activation: str = "relu",
        own_latents: bool = False,
    ) -> None:
        super().__init__(groups, latent_size, own_latents, shape=shape, width=width, norm=norm, activation=activation)
        self.layout = layout = _Layout(shape, width)
        self.linear = nn.Sequential(self.first(layout.features), ACTIVATIONS[activation]())
        self.layers = nn.Sequential(
            _convolution(layout.dims, groups, layout.features, layout.channels[-1], layout.sides[-1], up=True),
            *(
                ResidualBlock(layout.dims, groups, before, after, up=True, norm=norm, activation=activation)
                for before, after in pairwise(reversed(layout.channels))
            ),
            *_ready(groups, width, norm, activation),
            _convolution(layout.dims, groups, width, layout.channels_in, 4, stride=2, up=True, gain=1.0),
        )

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch_group_and_parameters"]:
        """Give the likelihoods' parameters, `(*batch, group, *shape)`."""
        flat, batch = self.flatten(z)
        first = self.linear(flat)
        first = first.reshape(*first.shape, *[1] * self.layout.dims)
        if self.layout.is_image:
            first = first.contiguous(memory_format=torch.channels_last)
        return self.layout.restore(self.layers(first), batch, self.groups)
