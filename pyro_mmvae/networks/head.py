"""The last layer of an encoder."""

from __future__ import annotations

import math

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.networks.grouped import GroupedLinear

INITIAL_SCALE = 0.135
"""About the standard deviation of an expert before training. Experts that start as wide as the prior drown what they
know in noise, and the decoders learn to ignore them."""

SCALE_FLOOR = 1e-4
"""The least standard deviation of an expert, in units of the latent. The only floor in the package."""


class GaussianHead(nn.Module):
    """Features to loc and scale of diagonal or isotropic Gaussians.

    The scale is ``SCALE_FLOOR`` plus the exponential of what the layer gives, computed in float32 at least and kept
    below e^10.

    Args:
        groups: how many networks at once.
        features: size of the input of one.
        latent_size: number of latent dimensions.
        isotropic: one scale for all dimensions, the case of the barycentric paper's isotropic experts.
    """

    def __init__(self, groups: int, features: int, latent_size: int, *, isotropic: bool = False) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.linear = GroupedLinear(groups, features, latent_size + (1 if isotropic else latent_size))
        with torch.no_grad():
            self.linear.bias[..., latent_size:] += math.log(INITIAL_SCALE)

    def forward(
        self, features: Float[Tensor, "batch group feature"]
    ) -> tuple[Float[Tensor, "batch group latent"], Float[Tensor, "batch group latent"]]:
        """Give loc and scale."""
        out = self.linear(features)
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        loc, log_scale = out[..., : self.latent_size], out[..., self.latent_size :]
        return loc, (SCALE_FLOOR + log_scale.clamp(max=10.0).exp()).expand_as(loc)
