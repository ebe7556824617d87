"""Layers for several networks of one shape at once: a group a modality, no weights shared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.onednn.linear import Linear, grouped_linear

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


class GroupedLinear(nn.Module):
    """One linear layer a group, as one batched product.

    Initialised as ``torch.nn.Linear`` is, each group by itself.

    Args:
        groups: how many.
        in_features: of one group.
        out_features: of one group.
    """

    def __init__(self, groups: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, in_features, out_features))
        self.bias = nn.Parameter(torch.empty(groups, 1, out_features))
        bound = 1 / math.sqrt(in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, features: Float[Tensor, "batch group feature"]) -> Float[Tensor, "batch group out"]:
        """Apply each group's layer to its own features."""
        return grouped_linear(features.transpose(0, 1), self.weight, self.bias).transpose(0, 1)


class GroupedNetwork(nn.Module):
    """Networks of one shape as one: parameters of all groups lie one after the other in the first dimension.

    Args:
        groups: how many networks.
        **options: of the constructor of the same class, to make one of fewer groups.
    """

    def __init__(self, groups: int, **options: Any) -> None:
        super().__init__()
        self.groups, self.options = groups, options
        self._templates: dict[int, list[nn.Module]] = {}  # in a list, so that no template becomes a submodule

    def run_groups(self, groups: Sequence[int], *args: Any) -> Any:
        """What the network gives for some of its groups, at the cost of those groups only.

        Args:
            groups: which ones, in the order wanted.
            *args: of ``forward``; inputs that have a group axis hold those groups only.

        Returns:
            What ``forward`` returns, with as many groups.
        """
        if list(groups) == list(range(self.groups)):
            return self(*args)
        count = len(groups)
        if count not in self._templates:
            with torch.device("meta"):
                self._templates[count] = [type(self)(groups=count, **self.options)]
        template = self._templates[count][0].train(self.training)
        values = {
            name: _of_groups(value, self.groups, groups) for name, value in self.state_dict(keep_vars=True).items()
        }
        return functional_call(template, values, args)


class GroupedDecoder(GroupedNetwork):
    """Decoders of one shape as one, from one latent for all of them or from one of each.

    Args:
        groups: how many decoders.
        latent_size: number of latent dimensions that each sees.
        own_latents: whether latents have a group axis, `(*batch, group, latent)`: where a part of them is private.
        **options: see :class:`GroupedNetwork`.
    """

    def __init__(self, groups: int, latent_size: int, own_latents: bool, **options: Any) -> None:
        super().__init__(groups, latent_size=latent_size, own_latents=own_latents, **options)

    def first(self, features: int) -> nn.Module:
        """The first layer, from `(batch, latent)` or `(batch, group, latent)` to `(batch, group · feature)`."""
        latent_size = self.options["latent_size"]
        if self.options["own_latents"]:
            return nn.Sequential(GroupedLinear(self.groups, latent_size, features), nn.Flatten(1))
        return Linear(latent_size, self.groups * features)

    def flatten(self, z: Tensor) -> tuple[Tensor, torch.Size]:
        """Latents with one batch dimension, and the batch dimensions that there were."""
        axes = z.dim() - (2 if self.options["own_latents"] else 1)
        return z.reshape(-1, *z.shape[axes:]), z.shape[:axes]


def _of_groups(value: torch.Tensor, total: int, groups: Sequence[int]) -> torch.Tensor:
    parts = value.unflatten(0, (total, -1))
    return torch.cat([parts[group] for group in groups])
