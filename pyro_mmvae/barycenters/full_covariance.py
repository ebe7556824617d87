r"""Aggregation of Gaussians with full covariance: tensors in, tensors out.

The functions are those of :mod:`pyro_mmvae.barycenters.diagonal`, with a lower triangular factor L of the covariance,
Σ = L Lᵀ, in place of the scale:

    (weights `(*batch, component, modality)`, loc `(*batch, modality, latent)`, scale_tril `(*batch, modality, latent,
    latent)`) -> loc `(*batch, component, latent)`, scale_tril `(*batch, component, latent, latent)`

with at least one positive weight in each row. Everything is computed in float64 and returned in the type of ``loc``,
since in float32 the factorisation of a covariance fails if standard deviations differ by a factor of a few thousand.
"""

from __future__ import annotations

from typing import TypeAlias

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters import bures
from pyro_mmvae.barycenters.operators import triangular

FullGaussians: TypeAlias = tuple[
    Float[Tensor, "*batch component latent"], Float[Tensor, "*batch component latent latent"]
]


def low_rank_tril(
    scale: Float[Tensor, "*batch latent"], factor: Float[Tensor, "*batch latent rank"]
) -> Float[Tensor, "*batch latent latent"]:
    r"""Return the lower triangular factor of :math:`\mathrm{diag}(\mathrm{scale}^2) + F F^\top`.

    It comes from an orthogonal decomposition of ``[diag(scale), F]``, which, unlike a Cholesky factorisation of the
    covariance, squares nothing and cannot fail.

    Args:
        scale: The square root of the diagonal part, positive.
        factor: The factor F of the part of low rank.

    Returns:
        The factor L, with a positive diagonal.
    """
    return triangular(torch.cat([torch.diag_embed(scale), factor], -1).mT)


def select(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    """Return the only member of each row, which has weight 1 where the others have 0."""
    return weights @ loc, _mix(weights, scale_tril)


def natural(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    r"""Return the normalised product :math:`\prod_m q_m^{w_m}`, whose natural parameters are weighted sums.

    .. math::
        P = \sum_m w_m \Sigma_m^{-1}, \quad \mathrm{loc} = P^{-1} \sum_m w_m \Sigma_m^{-1} \mathrm{loc}_m, \quad
        \Sigma = P^{-1}

    computed by triangular solves, without inverting a covariance. Each latent dimension is measured relative to the
    geometric mean of its least and greatest scale, so that dimensions may have different units.

    Args:
        weights: Non-negative weights, at least one positive in each row.
        loc: The means of the members.
        scale_tril: Lower triangular factors of the covariances of the members.

    Returns:
        loc and scale_tril of the product of each row.
    """
    wide, dtype = scale_tril.double(), loc.dtype
    with torch.no_grad():
        scale = torch.linalg.vector_norm(wide, dim=-1)
        unit = scale.amin(-2).sqrt() * scale.amax(-2).sqrt()
    identity = torch.eye(loc.shape[-1], dtype=wide.dtype, device=wide.device)
    whitening = torch.linalg.solve_triangular(wide / unit[..., None, :, None], identity, upper=False)
    precision = whitening.mT @ whitening
    shift = (precision @ (loc.double() / unit.unsqueeze(-2)).unsqueeze(-1)).squeeze(-1)
    weights = weights.double()
    # P = U Uᵀ with U upper triangular, so that U⁻ᵀ is the lower triangular factor of the covariance.
    upper = torch.linalg.cholesky(_mix(weights, precision).flip((-2, -1))).flip((-2, -1))
    tril = torch.linalg.solve_triangular(upper, identity, upper=True).mT
    mean = (tril @ (tril.mT @ (weights @ shift).unsqueeze(-1))).squeeze(-1)
    return (mean * unit.unsqueeze(-2)).to(dtype), (tril * unit[..., None, :, None]).to(dtype)


def wasserstein(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    r"""Return the 2-Wasserstein barycenter: the mean of the locs with the Bures barycenter of the covariances.

    :func:`pyro_mmvae.barycenters.bures.barycenter` computes the covariance.

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale_tril: Lower triangular factors of the covariances of the members.

    Returns:
        loc and scale_tril of the barycenter of each row.
    """
    return weights @ loc, bures.barycenter(weights, scale_tril).scale_tril.to(loc.dtype)


def moment(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    r"""Return the Gaussian with mean and covariance of the mixture, which minimises :math:`\sum_m w_m KL(q_m \| q)`.

    .. math::
        \Sigma = \sum_m w_m \left(\Sigma_m + (\mathrm{loc}_m - \mathrm{loc})(\mathrm{loc}_m - \mathrm{loc})^\top\right)

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale_tril: Lower triangular factors of the covariances of the members.

    Returns:
        loc and scale_tril of the Gaussian of each row.
    """
    weights, centre, wide = weights.double(), loc.double(), scale_tril.double()
    mean = weights @ centre
    centred = centre.unsqueeze(-3) - mean.unsqueeze(-2)
    between = centred.mT @ (weights.unsqueeze(-1) * centred)
    covariance = _mix(weights, wide @ wide.mT) + between
    return mean.to(loc.dtype), torch.linalg.cholesky(covariance).to(loc.dtype)


def _mix(weights: Tensor, matrices: Tensor) -> Tensor:
    """Return weighted sums of matrices over modalities, for all components at once."""
    return (weights @ matrices.flatten(-2)).unflatten(-1, matrices.shape[-2:])
