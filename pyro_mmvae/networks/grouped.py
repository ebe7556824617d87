"""Layers for several networks of one shape at once: a group a modality, no weights shared."""

from __future__ import annotations

import math

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor

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
        if self.weight.shape[0] == 1:
            return nn.functional.linear(features, self.weight[0].mT, self.bias[0, 0])
        return torch.baddbmm(self.bias, features.transpose(0, 1), self.weight).transpose(0, 1)
