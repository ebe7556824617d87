"""The pair of multilayer perceptrons, for vectors and for any other items, which are flattened."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Self

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.blocks import activation
from pyro_mmvae.networks.grouped import GroupedDecoder, GroupedLinear, GroupedNetwork
from pyro_mmvae.networks.head import Encoding, GaussianHead, unflatten_batch
from pyro_mmvae.networks.options import NetworkOptions


def _hidden_layers(groups: int, in_features: int, options: NetworkOptions) -> list[nn.Module]:
    """Return as many linear layers as the options ask for, each followed by its nonlinearity."""
    layers: list[nn.Module] = []
    for before, after in pairwise([in_features, *[options.hidden] * options.depth]):
        layers += [GroupedLinear(groups, before, after), activation(options)]
    return layers


class MLPEncoder(GroupedNetwork):
    """An encoder that flattens items and applies hidden linear layers.

    The encoder reads the options ``hidden``, ``depth``, ``activation`` and those of
    :class:`~pyro_mmvae.networks.GaussianHead`.

    Args:
        shape: shape of one item, any.
        latent_size: number of latent dimensions that all modalities share.
        options: sizes and layers; the defaults if None.
        groups: number of modalities of that shape, 1 by default.
        private_size: number of dimensions of each modality's private latent, 0 (default) for none.
        covariate_size: number of categories of all covariates, whose indicators follow the features of the flattened
            item; 0 (default) for none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        options: NetworkOptions | None = None,
        *,
        groups: int = 1,
        private_size: int = 0,
        covariate_size: int = 0,
    ) -> None:
        super().__init__(shape, latent_size, options, groups=groups, private_size=private_size)
        self.covariate_size = covariate_size
        options, size = self.options, math.prod(shape) + covariate_size
        self.body = nn.Sequential(*_hidden_layers(groups, size, options))
        features = options.hidden if options.depth else size
        self.head = GaussianHead(groups, features, latent_size, options, private_size=private_size)

    def with_groups(self, groups: int) -> Self:
        """Return a new network of this structure, with other weights, for another number of modalities."""
        sizes = {"private_size": self.private_size, "covariate_size": self.covariate_size}
        return type(self)(self.shape, self.latent_size, self.options, groups=groups, **sizes)

    def forward(
        self,
        values: Float[Tensor, "*batch_group_and_item"],
        covariates: Float[Tensor, "*batch covariate"] | None = None,
    ) -> Encoding:
        """Return the head's output for items, each tensor `(*batch, group, …)`.

        Args:
            values: items of shape `(*batch, group, *shape)`.
            covariates: indicators of the items' categories `(*batch, covariate)`, which all modalities see; None
                (default) if ``covariate_size`` is 0.
        """
        batch = values.shape[: values.dim() - len(self.shape) - 1]
        flat = values.reshape(-1, self.groups, math.prod(self.shape))
        if covariates is not None:
            known = covariates.reshape(-1, 1, self.covariate_size).expand(-1, self.groups, -1)
            flat = torch.cat([flat, known.to(flat.dtype)], -1)
        return unflatten_batch(self.head(self.body(flat)), batch)


class MLPDecoder(GroupedDecoder):
    """A decoder of hidden linear layers, whose output has any shape.

    The constructor is that of :class:`~pyro_mmvae.networks.GroupedNetwork`. The decoder reads the options ``hidden``,
    ``depth`` and ``activation``. Nothing follows its last linear layer.
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
        features = self.options.hidden if self.options.depth else self.input_size
        # Before the hidden layers, so that the weights of a seed stay those of earlier versions.
        last = GroupedLinear(groups, features, math.prod(shape))
        self.body = nn.Sequential(*_hidden_layers(groups, self.input_size, self.options), last)

    def forward(self, z: Float[Tensor, "*batch_and_latent"]) -> Float[Tensor, "*batch_group_and_item"]:
        """Return the parameters of the likelihoods, `(*batch, group, *shape)`."""
        flat, batch = self.flatten_batch(z)
        per_group = flat if flat.dim() == 3 else flat.unsqueeze(1).expand(-1, self.groups, -1)
        out: Tensor = self.body(per_group)
        return out.reshape(*batch, self.groups, *self.shape)
