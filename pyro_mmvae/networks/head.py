"""The last layer of an encoder."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.full_covariance import low_rank_tril
from pyro_mmvae.networks.grouped import GroupedLinear

INITIAL_SCALE = 0.135
"""About the scale of an expert before training, for Gaussians the standard deviation. Experts that start as wide as the
prior drown what they know in noise, and the decoders learn to ignore them."""

SCALE_FLOOR = 1e-4
"""The least standard deviation of an expert, in units of the latent. The only floor in the package."""


Encoding: TypeAlias = tuple[Tensor, ...]
"""Loc, and scale or scale_tril; then, where there is one, loc and scale of the private latent."""

COVARIANCES = ("diagonal", "isotropic", "full", "low_rank")


class GaussianHead(nn.Module):
    r"""Features to loc and scale of diagonal or isotropic experts, or to loc and scale_tril of full Gaussians.

    The scale is ``SCALE_FLOOR`` plus the exponential of what the layer gives, computed in float32 at least and kept
    below e^10. Correlations are in units of it: a full covariance has the factor :math:`L = diag(scale) (I + N)`, N
    strictly lower triangular and 0 at first, so that training starts from a diagonal; one of low rank is
    :math:`diag(scale) (I + F F^\top) diag(scale)`, F `(latent, rank)` and small at first.

    A private latent is one that no other modality says anything of; its Gaussian is always a diagonal one.

    Args:
        groups: how many networks at once.
        features: size of the input of one.
        latent_size: number of latent dimensions.
        isotropic: the same as ``covariance="isotropic"``.
        covariance: ``diagonal``; ``isotropic``, one scale for all dimensions, the case of the barycentric paper's
            isotropic experts; ``full``; or ``low_rank``.
        rank: of ``low_rank``.
        private_size: number of dimensions of a private latent.

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
        private_size: int = 0,
    ) -> None:
        super().__init__()
        self.latent_size, self.rank, self.private_size = latent_size, rank, private_size
        self.covariance = check_covariance(covariance, isotropic)
        scales = 1 if self.covariance == "isotropic" else latent_size
        self.first_correlation = latent_size + scales
        correlations = {"full": latent_size * (latent_size - 1) // 2, "low_rank": latent_size * rank}
        size = self.first_correlation + correlations.get(self.covariance, 0)
        self.linear = GroupedLinear(groups, features, size + 2 * private_size)
        with torch.no_grad():
            correlation = slice(self.first_correlation, size)
            self.linear.bias[..., latent_size : self.first_correlation] += math.log(INITIAL_SCALE)
            self.linear.bias[..., size + private_size :] += math.log(INITIAL_SCALE)
            if self.covariance == "full":
                for parameter in (self.linear.weight, self.linear.bias):
                    parameter[..., correlation] = 0.0
            elif self.covariance == "low_rank":
                self.linear.bias[..., correlation] /= math.sqrt(rank)
                self.linear.weight[..., correlation] /= math.sqrt(rank)
        self.sizes = (latent_size, scales, size - self.first_correlation, private_size, private_size)

    def forward(self, features: Float[Tensor, "batch group feature"]) -> Encoding:
        """Give loc and scale `(batch, group, latent)`, or scale_tril, and those of a private latent if there is one."""
        out = self.linear(features)
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        loc, log_scale, correlations, private_loc, private_log_scale = out.split(self.sizes, -1)
        private = (private_loc, _scale(private_log_scale)) if self.private_size else ()
        scale = _scale(log_scale).expand_as(loc)
        if self.covariance == "full":
            return loc, _unit_triangular(correlations, self.latent_size) * scale.unsqueeze(-1), *private
        if self.covariance == "low_rank":
            factor = correlations.unflatten(-1, (self.latent_size, self.rank))
            return loc, low_rank_tril(torch.ones_like(scale), factor) * scale.unsqueeze(-1), *private
        return loc, scale, *private


def _scale(log_scale: Tensor) -> Tensor:
    return SCALE_FLOOR + log_scale.clamp(max=10.0).exp()


def of_batch(encoding: Encoding, batch: torch.Size) -> Encoding:
    """What a head gave, with the leading dimensions `(*batch, …)` in place of the first."""
    return tuple(part.reshape(*batch, *part.shape[1:]) for part in encoding)


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
