"""Layers and base classes for several networks of one shape, which share no weights and run in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.func import functional_call

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.onednn import Linear, grouped_linear
from pyro_mmvae.networks.options import NetworkOptions


class GroupedLinear(nn.Module):
    """One linear layer per group, computed as one batched product.

    Each group is initialised by itself, from the distribution of ``torch.nn.Linear``.

    Args:
        groups: The number of layers.
        in_features: number of features that one layer takes.
        out_features: number of features that one layer returns.
    """

    def __init__(self, groups: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features))
        bound = 1 / math.sqrt(in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, features: Float[Tensor, "batch group feature"]) -> Float[Tensor, "batch group out"]:
        """Apply the layer of each group to the features of that group."""
        return grouped_linear(features.transpose(0, 1), self.weight, self.bias).transpose(0, 1)


class GroupedNetwork(nn.Module):
    """The base class of encoders and decoders: networks for several modalities of one shape, in one module.

    The first dimension of every parameter and buffer holds the groups, one after the other: it is as long as the
    number of groups or a multiple of it. All subclasses have the constructor below, because :meth:`run_groups` calls
    it; one that takes further arguments overrides :meth:`with_groups`. An encoder whose constructor also takes
    ``covariate_size`` sees the covariates of the items, see :func:`~pyro_mmvae.networks.register_network`.

    An encoder's ``forward`` takes `(*batch, group, *shape)` and returns loc and scale `(*batch, group, latent)`, then,
    where ``private_size`` is positive, loc and scale `(*batch, group, private)` of the private latent;
    :class:`~pyro_mmvae.networks.GaussianHead` makes them from features. A decoder is a :class:`GroupedDecoder`.

    Args:
        shape: shape of one item: of an encoder's input, or of the parameters of the likelihood that a decoder returns.
        latent_size: number of latent dimensions that all modalities share.
        options: sizes and layers, of which each network reads those that apply to it; the defaults if None.
        groups: number of modalities of that shape, one network each.
        private_size: number of dimensions of each modality's private latent, 0 for none.
    """

    covariate_size: int = 0
    """The number of categories of all covariates that ``forward`` takes as a second argument; 0 for none."""

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        options: NetworkOptions | None = None,
        *,
        groups: int = 1,
        private_size: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.latent_size, self.private_size = tuple(shape), latent_size, private_size
        self.options, self.groups = options or NetworkOptions(), groups
        self._templates: dict[int, list[GroupedNetwork]] = {}  # in lists, so that torch does not make them submodules

    def with_groups(self, groups: int) -> Self:
        """Return a new network of this structure, with other weights, for another number of modalities."""
        return type(self)(self.shape, self.latent_size, self.options, groups=groups, private_size=self.private_size)

    def run_groups(self, groups: Sequence[int], *args: Any) -> Any:
        """Return the output for some of the groups, at the cost of those groups only.

        Args:
            groups: indices of the groups, in the order of the output.
            *args: arguments of ``forward``; inputs that have a group axis hold these groups only.

        Returns:
            The output of ``forward``, with these groups.
        """
        if list(groups) == list(range(self.groups)):
            return self(*args)
        count = len(groups)
        if count not in self._templates:
            # On the meta device a template has no memory and draws no random numbers.
            with torch.device("meta"):
                self._templates[count] = [self.with_groups(count)]
        template = self._templates[count][0].train(self.training)
        values = {
            name: select_groups(value, self.groups, groups) for name, value in self.state_dict(keep_vars=True).items()
        }
        return functional_call(template, values, args)


class GroupedDecoder(GroupedNetwork):
    """The base class of decoders, which take one latent for all modalities or one latent per modality.

    ``forward`` takes `(*batch, latent)`, or `(*batch, group, latent + private)` where ``private_size`` is positive,
    and returns the parameters of the likelihoods `(*batch, group, *shape)`. The constructor is that of
    :class:`GroupedNetwork`.
    """

    @property
    def input_size(self) -> int:
        """The number of latent dimensions that the decoder of one modality sees, private ones included."""
        return self.latent_size + self.private_size

    def first_layer(self, features: int) -> nn.Module:
        """Return the first layer, from the latents of :meth:`flatten_batch` to `(batch, group · feature)`.

        Args:
            features: number of features that the layer gives one modality.
        """
        if self.private_size:
            return nn.Sequential(GroupedLinear(self.groups, self.input_size, features), nn.Flatten(1))
        return Linear(self.input_size, self.groups * features)  # all modalities read one latent: one product

    def flatten_batch(self, z: Tensor) -> tuple[Tensor, torch.Size]:
        """Return latents with one batch dimension, `(batch, latent)` or `(batch, group, latent)`, and the batch shape.

        Args:
            z: latents with any leading dimensions, as ``forward`` takes them.
        """
        axes = z.dim() - (2 if self.private_size else 1)
        return z.reshape(-1, *z.shape[axes:]), z.shape[:axes]


def select_groups(value: Tensor, total: int, groups: Sequence[int]) -> Tensor:
    """Return the parts of a parameter that belong to some of its groups, in their order.

    Args:
        value: parameter or buffer whose first dimension holds all groups.
        total: number of groups that it holds.
        groups: indices of the groups to return.
    """
    parts = value.unflatten(0, (total, -1))
    return torch.cat([parts[group] for group in groups])
