r"""Closed-form aggregation of diagonal Gaussians: tensors in, tensors out.

A diagonal barycenter is a weighted mean in a chart :math:`\varphi` of (loc, scale),
:math:`q_S = \varphi^{-1}(W \varphi(q_1, …, q_M))`. All subsets at once are one matrix product, one row of ``W`` a
subset. Nothing here knows of presence, priors or subsets: a member that must not count has weight 0 and any finite loc
and positive scale. Each function has the signature

    (weights `(*batch, component, modality)`, loc, scale `(*batch, modality, latent)`)
        -> loc, scale `(*batch, component, latent)`

with at least one positive weight in each row. Nothing is normalised here.
"""

from __future__ import annotations

from typing import TypeAlias

import torch

from pyro_mmvae._typing import Float, Tensor

Gaussians: TypeAlias = tuple[Float[Tensor, "*batch component latent"], Float[Tensor, "*batch component latent"]]


def natural(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
) -> Gaussians:
    r"""The product :math:`\prod_m q_m^{w_m}`, normalised: the mean of natural parameters.

    .. math::
        P = \sum_m w_m \sigma_m^{-2}, \quad \mathrm{loc} = P^{-1} \sum_m w_m \sigma_m^{-2} \mathrm{loc}_m, \quad
        \mathrm{scale} = P^{-1/2}

    Weights of 1 give the product of experts, weights that sum to 1 the log-linear pool, which minimises
    :math:`\sum_m w_m KL(q \| q_m)`. Precisions are taken relative to the geometric middle of the scales at hand, so
    that in float32 scales may differ by a factor of 10^15 in one item before anything under- or overflows.

    References:
        Hinton, 2002. Training products of experts by minimizing contrastive divergence. Neural Computation 14(8).
        Genest and Zidek, 1986. Combining probability distributions. Statistical Science 1(1).

    Args:
        weights: non-negative, at least one positive in each row.
        loc: means.
        scale: standard deviations.

    Returns:
        loc and scale of each row's product.
    """
    with torch.no_grad():
        middle = scale.amin(-2, keepdim=True).sqrt() * scale.amax(-2, keepdim=True).sqrt()
    precision = (middle / scale).square()
    total = weights @ precision
    return (weights @ (precision * loc)) / total, middle * total.rsqrt()


def wasserstein(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
) -> Gaussians:
    r"""The 2-Wasserstein barycenter, which minimises :math:`\sum_m w_m W_2^2(q, q_m)`: quantiles average.

    .. math:: \mathrm{loc} = \sum_m w_m \mathrm{loc}_m, \qquad \mathrm{scale} = \sum_m w_m \mathrm{scale}_m

    It averages standard deviations; averaging variances or log-variances is another rule.

    References:
        Agueh and Carlier, 2011. Barycenters in the Wasserstein space. SIAM J. Math. Anal. 43(2).
        Qiu et al., 2025. Multimodal variational autoencoder: a barycentric view. AAAI 39(19), arXiv 2412.20487.

    Args:
        weights: non-negative, rows that sum to 1.
        loc: means.
        scale: standard deviations.

    Returns:
        loc and scale of each row's barycenter.
    """
    return weights @ loc, weights @ scale


def moment(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
) -> Gaussians:
    r"""The Gaussian with the moments of the mixture, which minimises :math:`\sum_m w_m KL(q_m \| q)`.

    .. math::
        \mathrm{loc} = \sum_m w_m \mathrm{loc}_m, \qquad
        \mathrm{scale}^2 = \sum_m w_m \left(\mathrm{scale}_m^2 + (\mathrm{loc}_m - \mathrm{loc})^2\right)

    The spread of the means is summed centred like this; the raw second moment cancels in float32.

    References:
        Minka, 2001. Expectation propagation for approximate Bayesian inference. UAI.

    Args:
        weights: non-negative, rows that sum to 1.
        loc: means.
        scale: standard deviations.

    Returns:
        loc and scale of each row's Gaussian.
    """
    mean = weights @ loc
    centred = loc.unsqueeze(-3) - mean.unsqueeze(-2)
    between = (weights.unsqueeze(-1) * centred.square()).sum(-2)
    return mean, (weights @ scale.square() + between).sqrt()
