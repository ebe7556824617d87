"""The last layer of an encoder."""

from __future__ import annotations

import math

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.gaussians import low_rank_tril
from pyro_mmvae.networks.grouped import GroupedLinear

INITIAL_SCALE = 0.135
"""About the scale of an expert before training, for Gaussians the standard deviation. Experts that start as wide as the
prior drown what they know in noise, and the decoders learn to ignore them."""

SCALE_FLOOR = 1e-4
"""The least standard deviation of an expert, in units of the latent. The only floor in the package."""


COVARIANCES = ("diagonal", "isotropic", "full", "low_rank")


class GaussianHead(nn.Module):
    r"""Features to loc and scale of diagonal or isotropic experts, or to loc and scale_tril of full Gaussians.

    The scale is ``SCALE_FLOOR`` plus the exponential of what the layer gives, computed in float32 at least and kept
    below e^10. Correlations are in units of it: a full covariance has the factor :math:`L = diag(scale) (I + N)`, N
    strictly lower triangular and 0 at first, so that training starts from a diagonal; one of low rank is
    :math:`diag(scale) (I + F F^\top) diag(scale)`, F `(latent, rank)` and small at first.

    Args:
        groups: how many networks at once.
        features: size of the input of one.
        latent_size: number of latent dimensions.
        isotropic: the same as ``covariance="isotropic"``.
        covariance: ``diagonal``; ``isotropic``, one scale for all dimensions, the case of the barycentric paper's
            isotropic experts; ``full``; or ``low_rank``.
        rank: of ``low_rank``.

    Raises:
        ValueError: for an unknown covariance, or ``isotropic`` beside another one.
    """

    def __init__(
        self,
        groups: int,
        features: int,
        latent_size: int,
        *,
        isotropic: bool = False,
        covariance: str = "diagonal",
        rank: int = 4,
    ) -> None:
        super().__init__()
        self.latent_size, self.rank = latent_size, rank
        self.covariance = check_covariance(covariance, isotropic)
        scales = 1 if self.covariance == "isotropic" else latent_size
        self.first_correlation = latent_size + scales
        correlations = {"full": latent_size * (latent_size - 1) // 2, "low_rank": latent_size * rank}
        size = self.first_correlation + correlations.get(self.covariance, 0)
        self.linear = GroupedLinear(groups, features, size)
        with torch.no_grad():
            self.linear.bias[..., latent_size : self.first_correlation] += math.log(INITIAL_SCALE)
            if self.covariance == "full":
                for parameter in (self.linear.weight, self.linear.bias):
                    parameter[..., self.first_correlation :] = 0.0
            elif self.covariance == "low_rank":
                self.linear.bias[..., self.first_correlation :] /= math.sqrt(rank)
                self.linear.weight[..., self.first_correlation :] /= math.sqrt(rank)

    def forward(
        self, features: Float[Tensor, "batch group feature"]
    ) -> tuple[Float[Tensor, "batch group latent"], Float[Tensor, "batch group *spread"]]:
        """Give loc, and scale or scale_tril."""
        out = self.linear(features)
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        sizes = (self.latent_size, self.first_correlation - self.latent_size, out.shape[-1] - self.first_correlation)
        loc, log_scale, correlations = out.split(sizes, -1)
        scale = (SCALE_FLOOR + log_scale.clamp(max=10.0).exp()).expand_as(loc)
        if self.covariance == "full":
            return loc, _unit_triangular(correlations, self.latent_size) * scale.unsqueeze(-1)
        if self.covariance == "low_rank":
            factor = correlations.unflatten(-1, (self.latent_size, self.rank))
            return loc, low_rank_tril(torch.ones_like(scale), factor) * scale.unsqueeze(-1)
        return loc, scale


def check_covariance(covariance: str, isotropic: bool) -> str:
    """The covariance that two options ask for together.

    Raises:
        ValueError: if there is none.
    """
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance must be one of {', '.join(COVARIANCES)}, not {covariance!r}")
    if isotropic and covariance not in {"diagonal", "isotropic"}:
        raise ValueError(f"isotropic experts have no covariance={covariance!r}: leave one of the two out")
    return "isotropic" if isotropic else covariance


def _unit_triangular(entries: Tensor, size: int) -> Tensor:
    """Lower triangular matrices with ones on the diagonal and the given entries below it."""
    row, column = torch.tril_indices(size, size, -1, device=entries.device)
    flat = entries.new_zeros(*entries.shape[:-1], size * size).index_copy(-1, row * size + column, entries)
    return flat.unflatten(-1, (size, size)) + torch.eye(size, dtype=entries.dtype, device=entries.device)
