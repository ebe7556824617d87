"""A pair of multilayer perceptrons, for vectors and for anything else that can be flattened."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedLinear, GroupedNetwork
from pyro_mmvae.networks.head import GaussianHead


def _layers(groups: int, sizes: list[int], activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [GroupedLinear(groups, before, after), ACTIVATIONS[activation]()]
    return layers


class MLPEncoder(GroupedNetwork):
    """Flattened items to experts.

    Args:
        shape: of one item.
        latent_size: number of latent dimensions.
        groups: how many modalities of that shape.
        hidden: size of the hidden layers.
        depth: how many of them.
        activation: ``relu``, ``silu`` or ``gelu``.
        isotropic: one scale for all latent dimensions.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        *,
        groups: int = 1,
        hidden: int = 400,
        depth: int = 1,
        activation: str = "relu",
        isotropic: bool = False,
    ) -> None:
        super().__init__(
            groups, shape=shape, latent_size=latent_size, hidden=hidden, depth=depth, activation=activation,
            isotropic=isotropic,
        )  # fmt: skip
        self.shape = shape
        self.body = nn.Sequential(*_layers(groups, [math.prod(shape), *[hidden] * depth], activation))
        self.head = GaussianHead(groups, hidden if depth else math.prod(shape), latent_size, isotropic=isotropic)

    def forward(
        self, values: Float[Tensor, "*batch_group_and_item"]
    ) -> tuple[Float[Tensor, "*batch group latent"], Float[Tensor, "*batch group latent"]]:
        """Give loc and scale."""
        batch = values.shape[: values.dim() - len(self.shape) - 1]
        loc, scale = self.head(self.body(values.reshape(-1, self.groups, math.prod(self.shape))))
        return loc.reshape(*batch, *loc.shape[1:]), scale.reshape(*batch, *loc.shape[1:])


class MLPDecoder(GroupedNetwork):
    """A latent to the parameters of likelihoods.

    Args:
        shape: of what to give for one item.
        latent_size: number of latent dimensions.
        groups: how many modalities of that shape.
        hidden: size of the hidden layers.
        depth: how many of them.
        activation: ``relu``, ``silu`` or ``gelu``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        *,
        groups: int = 1,
        hidden: int = 400,
        depth: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__(
            groups, shape=shape, latent_size=latent_size, hidden=hidden, depth=depth, activation=activation
        )
        self.shape = shape
        last = GroupedLinear(groups, hidden if depth else latent_size, math.prod(shape))
        self.body = nn.Sequential(*_layers(groups, [latent_size, *[hidden] * depth], activation), last)

    def forward(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch_group_and_item"]:
        """Give the likelihoods' parameters."""
        flat = z.reshape(-1, 1, z.shape[-1]).expand(-1, self.groups, -1)
        out: Tensor = self.body(flat)
        return out.reshape(*z.shape[:-1], self.groups, *self.shape)
