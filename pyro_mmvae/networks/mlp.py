"""A pair of multilayer perceptrons, for vectors and for anything else that can be flattened."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedDecoder, GroupedLinear, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, of_batch


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
        **head: of the experts and private latents, see :class:`~pyro_mmvae.networks.GaussianHead`.
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
        **head: Any,
    ) -> None:
        super().__init__(
            groups, shape=shape, latent_size=latent_size, hidden=hidden, depth=depth, activation=activation,
            **head,
        )  # fmt: skip
        self.shape = shape
        self.body = nn.Sequential(*_layers(groups, [math.prod(shape), *[hidden] * depth], activation))
        features = hidden if depth else math.prod(shape)
        self.head = GaussianHead(groups, features, latent_size, **head)

    def forward(self, values: Float[Tensor, "*batch_group_and_item"]) -> Encoding:
        """Give what the head gives, each `(*batch, group, …)`."""
        batch = values.shape[: values.dim() - len(self.shape) - 1]
        return of_batch(self.head(self.body(values.reshape(-1, self.groups, math.prod(self.shape)))), batch)


class MLPDecoder(GroupedDecoder):
    """A latent to the parameters of likelihoods.

    Args:
        shape: of what to give for one item.
        latent_size: number of latent dimensions, private ones among them.
        groups: how many modalities of that shape.
        hidden: size of the hidden layers.
        depth: how many of them.
        activation: ``relu``, ``silu`` or ``gelu``.
        own_latents: see :class:`~pyro_mmvae.networks.GroupedDecoder`.
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
        own_latents: bool = False,
    ) -> None:
        super().__init__(
            groups, latent_size, own_latents, shape=shape, hidden=hidden, depth=depth, activation=activation
        )
        self.shape = shape
        last = GroupedLinear(groups, hidden if depth else latent_size, math.prod(shape))
        self.body = nn.Sequential(*_layers(groups, [latent_size, *[hidden] * depth], activation), last)

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch_group_and_item"]:
        """Give the likelihoods' parameters."""
        flat, batch = self.flatten(z)
        apart = flat if flat.dim() == 3 else flat.unsqueeze(1).expand(-1, self.groups, -1)
        out: Tensor = self.body(apart)
        return out.reshape(*batch, self.groups, *self.shape)
