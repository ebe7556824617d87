"""The last layer of an encoder, which turns features into the parameters of experts."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import nn

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.full_covariance import low_rank_tril
from pyro_mmvae.networks.grouped import GroupedLinear
from pyro_mmvae.networks.options import NetworkOptions

INITIAL_SCALE = 0.135
"""The approximate scale of an expert before training; for Gaussians, the standard deviation. Experts that start as wide
as the prior bury their information in noise, and the decoders learn to ignore the latent."""

SCALE_FLOOR = 1e-4
"""The smallest scale of an expert, in units of the latent. It is the only floor in the package."""

_MAX_LOG_SCALE = 10.0  # keeps the exponential finite in float32 when training diverges


Encoding: TypeAlias = tuple[Tensor, ...]
"""Loc, and scale or scale_tril; then, if there is a private latent, its loc and scale."""


class GaussianHead(nn.Module):
    r"""A linear layer from features to loc and scale of experts, or to loc and scale_tril of full Gaussians.

    The scale is ``SCALE_FLOOR`` plus the exponential of the layer's output, which is computed in float32 or float64 and
    clamped to 10. Correlations are in units of the scale: a full covariance has the factor
    :math:`L = diag(scale) (I + N)`, N strictly lower triangular and 0 at first, so that training starts from a diagonal
    covariance; a covariance of low rank is :math:`diag(scale) (I + F F^\top) diag(scale)`, F `(latent, rank)` and small
    at first. ``isotropic`` experts have one scale for all dimensions.

    The private latent of a modality, which no other modality informs, has a diagonal Gaussian in every case.

    Args:
        groups: The number of networks.
        features: number of features of one network.
        latent_size: number of latent dimensions that all modalities share.
        options: options, of which the head reads ``covariance``, ``isotropic`` and ``rank``; the defaults if None.
        private_size: number of dimensions of the private latent, 0 for none.
    """

    def __init__(
        self,
        groups: int,
        features: int,
        latent_size: int,
        options: NetworkOptions | None = None,
        *,
        private_size: int = 0,
    ) -> None:
        super().__init__()
        options = options or NetworkOptions()
        self.latent_size, self.rank, self.private_size = latent_size, options.rank, private_size
        self.covariance = options.effective_covariance
        scales = 1 if self.covariance == "isotropic" else latent_size
        correlations = {"full": latent_size * (latent_size - 1) // 2, "low_rank": latent_size * self.rank}
        self.sizes = (latent_size, scales, correlations.get(self.covariance, 0), private_size, private_size)
        self.linear = GroupedLinear(groups, features, sum(self.sizes))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start from scales about ``INITIAL_SCALE`` and from correlations that are zero or small."""
        _, bias_of_scale, bias_of_correlations, _, bias_of_private_scale = self.linear.bias.split(self.sizes, -1)
        weight_of_correlations = self.linear.weight.split(self.sizes, -1)[2]
        bias_of_scale += math.log(INITIAL_SCALE)
        bias_of_private_scale += math.log(INITIAL_SCALE)
        if self.covariance == "full":
            bias_of_correlations.zero_()
            weight_of_correlations.zero_()
        elif self.covariance == "low_rank":  # so that F Fᵀ does not grow with the rank
            bias_of_correlations /= math.sqrt(self.rank)
            weight_of_correlations /= math.sqrt(self.rank)

    def forward(self, features: Float[Tensor, "batch group feature"]) -> Encoding:
        """Return the parameters of the experts.

        Args:
            features: features of each item, for each network.

        Returns:
            Loc and scale `(batch, group, latent)`, or scale_tril `(batch, group, latent, latent)` for a full or
            low-rank covariance; then, if there is a private latent, its loc and scale `(batch, group, private)`.
        """
        out = self.linear(features)
        # The exponential of a bfloat16 number would have two or three digits.
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        loc, log_scale, correlations, private_loc, private_log_scale = out.split(self.sizes, -1)
        private = (private_loc, _positive_scale(private_log_scale)) if self.private_size else ()
        scale = _positive_scale(log_scale).expand_as(loc)
        if self.covariance == "full":
            return loc, _unit_lower_triangular(correlations, self.latent_size) * scale.unsqueeze(-1), *private
        if self.covariance == "low_rank":
            factor = correlations.unflatten(-1, (self.latent_size, self.rank))
            return loc, low_rank_tril(torch.ones_like(scale), factor) * scale.unsqueeze(-1), *private
        return loc, scale, *private


def unflatten_batch(encoding: Encoding, batch: torch.Size) -> Encoding:
    """Return a head's output with the leading dimensions `(*batch, …)` in place of the first one.

    Args:
        encoding: output of :class:`GaussianHead`, each tensor `(item, …)`.
        batch: shape whose product is the number of items.
    """
    return tuple(part.reshape(*batch, *part.shape[1:]) for part in encoding)


def _positive_scale(log_scale: Tensor) -> Tensor:
    return SCALE_FLOOR + log_scale.clamp(max=_MAX_LOG_SCALE).exp()


def _unit_lower_triangular(entries: Tensor, size: int) -> Tensor:
    """Return lower triangular matrices with ones on the diagonal and the given entries, by rows, below it."""
    row, column = torch.tril_indices(size, size, -1, device=entries.device)
    flat = entries.new_zeros(*entries.shape[:-1], size * size).index_copy(-1, row * size + column, entries)
    return flat.unflatten(-1, (size, size)) + torch.eye(size, dtype=entries.dtype, device=entries.device)
