r"""The consensus of diagonal Gaussian experts whose errors are correlated: tensors in, tensors out."""

from __future__ import annotations

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.diagonal import Gaussians


def consensus(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
    *,
    rho: float = 0.5,
    has_prior: bool = False,
) -> Gaussians:
    r"""Return the posterior of a quantity with a flat prior, given estimates whose errors have correlation ρ.

    In each dimension the estimates :math:`\mathrm{loc}_m` have errors of the covariance
    :math:`\Sigma_{ij} = \rho \, \sigma_i \sigma_j`, :math:`\Sigma_{ii} = \sigma_i^2`, and

    .. math::
        P = 1^\top \Sigma^{-1} 1, \qquad \mathrm{loc} = P^{-1} \, 1^\top \Sigma^{-1} (\mathrm{loc}_m)_m, \qquad
        \mathrm{scale} = P^{-1/2}

    With :math:`a_m = 1 / \sigma_m` and the total weight :math:`n = \sum_m w_m`, the formula of Sherman and Morrison is
    arranged such that nothing cancels as ρ tends to 1:

    .. math::
        P = \frac{\sum_m w_m (a_m - \bar a)^2}{1 - \rho} + \frac{n \, \bar a^2}{1 - \rho + n \rho}, \qquad
        \bar a = \frac1n \sum_m w_m a_m

    A member of weight 2 counts as two members with errors of that correlation. At ρ = 0 this is the product
    :math:`\prod_m q_m^{w_m}`. At ρ = 1 it exists for members of equal scale only, and is their Wasserstein barycenter.
    Where ρ exceeds the ratio of two scales, the less precise member gets a negative share in loc, which may then lie
    outside of the range of the members' locs.

    References:
        Winkler, 1981. Combining probability distributions from dependent information sources. Management Science 27(4).
        Mancisidor et al., 2025. Aggregation of dependent expert distributions in multimodal variational autoencoders.
        ICML, arXiv 2505.01134.

    Args:
        weights: Non-negative weights, at least one positive in each row.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.
        rho: The correlation ρ of the errors of any two members, from 0 to 1; 0.5 by default.
        has_prior: If True, the last member is independent of the others, as a prior is. False by default.

    Returns:
        loc and scale of the consensus of each row.

    Raises:
        ValueError: If ρ is 1 and the members of a row do not have equal scales.
    """
    fixed = scale.detach()  # a unit keeps squares in the range of float32, and has no influence on the result
    unit = fixed.amin(-2, keepdim=True).sqrt() * fixed.amax(-2, keepdim=True).sqrt()
    inverse = unit / scale
    count = loc.shape[-2] - 1 if has_prior else loc.shape[-2]  # a bool cannot be subtracted from a size in torch.jit
    members = weights[..., :count].unsqueeze(-1)  # (*batch, component, modality, 1)
    a, dependent = inverse[..., :count, :].unsqueeze(-3), loc[..., :count, :].unsqueeze(-3)
    total = members.sum(-2)
    some = torch.where(total > 0, total, 1.0)
    mean, centre = (members * a).sum(-2) / some, (members * dependent).sum(-2) / some
    # Locs relative to their mean: a large common offset would cancel.
    spread, offset = a - mean.unsqueeze(-2), dependent - centre.unsqueeze(-2)
    shared = mean * torch.where(total > 0, total / torch.where(total > 0, 1 - rho + total * rho, 1.0), 0.0)
    precision = mean * shared
    shift = shared * (members * a * offset).sum(-2) / some
    if rho < 1:
        precision = precision + (members * spread.square()).sum(-2) / (1 - rho)
        shift = shift + (members * spread * a * offset).sum(-2) / (1 - rho)
    else:
        _check_equal_scales(spread, mean, members)
    if has_prior:
        own = weights[..., -1:] * inverse[..., -1:, :].square()
        precision, shift = precision + own, shift + own * (loc[..., -1:, :] - centre)
    return centre + shift / precision, unit * precision.rsqrt()


def _check_equal_scales(spread: Tensor, mean: Tensor, members: Tensor) -> None:
    tolerance = 16 * torch.finfo(mean.dtype).eps
    if bool(((spread.detach().abs() > tolerance * mean.detach().unsqueeze(-2)) & (members > 0)).any()):
        raise ValueError(
            "rho must be below 1 for experts of different scales, since fully correlated errors of different sizes "
            "determine the latent without any uncertainty, got rho=1"
        )
