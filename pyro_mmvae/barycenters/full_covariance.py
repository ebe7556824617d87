r"""Aggregation of Gaussians with full covariance: tensors in, tensors out.

As in :mod:`pyro_mmvae.barycenters.diagonal`, with a lower triangular factor L of the covariance, Σ = L Lᵀ, in the place
of the scale:

    (weights `(*batch, component, modality)`, loc `(*batch, modality, latent)`, scale_tril `(*batch, modality, latent,
    latent)`) -> loc `(*batch, component, latent)`, scale_tril `(*batch, component, latent, latent)`

with at least one positive weight in each row. Everything is computed in float64 and given back in the type of ``loc``:
in float32 the factorisation of a covariance fails where standard deviations differ by a few thousand.
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
    r"""The lower triangular factor of :math:`\mathrm{diag}(\mathrm{scale}^2) + F F^\top`.

    By an orthogonal decomposition of ``[diag(scale), F]``, which squares nothing and cannot fail.

    Args:
        scale: positive.
        factor: F.

    Returns:
        L with positive diagonal.
    """
    return triangular(torch.cat([torch.diag_embed(scale), factor], -1).mT)


def select(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    """The one member of each row, of weight 1 where the others have 0."""
    return weights @ loc, _mix(weights, scale_tril)


def natural(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    r"""The product :math:`\prod_m q_m^{w_m}`, normalised: natural parameters add.

    .. math::
        P = \sum_m w_m \Sigma_m^{-1}, \quad \mathrm{loc} = P^{-1} \sum_m w_m \Sigma_m^{-1} \mathrm{loc}_m, \quad
        \Sigma = P^{-1}

    by triangular solves; no covariance is inverted. Each latent dimension is measured in the geometric middle of the
    scales at hand, so that dimensions of different units do no harm.

    Args:
        weights: non-negative, at least one positive in each row.
        loc: means.
        scale_tril: factors of the covariances.

    Returns:
        loc and scale_tril of each row's product.
    """
    wide, dtype = scale_tril.double(), loc.dtype
    with torch.no_grad():
        scale = torch.linalg.vector_norm(wide, dim=-1)
        middle = scale.amin(-2).sqrt() * scale.amax(-2).sqrt()
    unit = torch.eye(loc.shape[-1], dtype=wide.dtype, device=wide.device)
    whitening = torch.linalg.solve_triangular(wide / middle[..., None, :, None], unit, upper=False)
    precision = whitening.mT @ whitening
    shift = (precision @ (loc.double() / middle.unsqueeze(-2)).unsqueeze(-1)).squeeze(-1)
    weights = weights.double()
    # P = U Uᵀ with U upper triangular, so that U⁻ᵀ is the lower triangular factor of the covariance.
    upper = torch.linalg.cholesky(_mix(weights, precision).flip((-2, -1))).flip((-2, -1))
    tril = torch.linalg.solve_triangular(upper, unit, upper=True).mT
    mean = (tril @ (tril.mT @ (weights @ shift).unsqueeze(-1))).squeeze(-1)
    return (mean * middle.unsqueeze(-2)).to(dtype), (tril * middle[..., None, :, None]).to(dtype)


def wasserstein(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    r"""The 2-Wasserstein barycenter: means average, the covariance is their Bures barycenter.

    See :func:`pyro_mmvae.barycenters.bures.barycenter`.

    Args:
        weights: non-negative, rows that sum to 1.
        loc: means.
        scale_tril: factors of the covariances.

    Returns:
        loc and scale_tril of each row's barycenter.
    """
    return weights @ loc, bures.barycenter(weights, scale_tril).scale_tril.to(loc.dtype)


def moment(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
) -> FullGaussians:
    r"""The Gaussian with mean and covariance of the mixture, which minimises :math:`\sum_m w_m KL(q_m \| q)`.

    .. math::
        \Sigma = \sum_m w_m \left(\Sigma_m + (\mathrm{loc}_m - \mathrm{loc})(\mathrm{loc}_m - \mathrm{loc})^\top\right)

    Args:
        weights: non-negative, rows that sum to 1.
        loc: means.
        scale_tril: factors of the covariances.

    Returns:
        loc and scale_tril of each row's Gaussian.
    """
    weights, centre, wide = weights.double(), loc.double(), scale_tril.double()
    mean = weights @ centre
    centred = centre.unsqueeze(-3) - mean.unsqueeze(-2)
    between = centred.mT @ (weights.unsqueeze(-1) * centred)
    covariance = _mix(weights, wide @ wide.mT) + between
    return mean.to(loc.dtype), torch.linalg.cholesky(covariance).to(loc.dtype)


def _mix(weights: Tensor, matrices: Tensor) -> Tensor:
    """Weighted sums of matrices over modalities, all components at once."""
    return (weights @ matrices.flatten(-2)).unflatten(-1, matrices.shape[-2:])
