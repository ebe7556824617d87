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

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.pieces import is_divided, piece_of, pieces

Gaussians: TypeAlias = tuple[Float[Tensor, "*batch component latent"], Float[Tensor, "*batch component latent"]]


Chart: TypeAlias = Callable[[Tensor, Tensor, Tensor], Gaussians]

_FOLDED = {"natural": 2**18, "wasserstein": 2**21, "moment": 2**18}
"""Elements; beyond, one product an item is faster than one wide product, which leaves the cache."""


def _folding(chart: Chart) -> Chart:
    """Take items that share their rows of weights for more latent dimensions: one product instead of one an item."""

    @wraps(chart)
    def folding(weights: Tensor, loc: Tensor, scale: Tensor) -> Gaussians:
        if weights.dim() > 2 or loc.dim() < 3 or len(weights) * loc[..., 0, :].numel() > _FOLDED[chart.__name__]:
            return chart(weights, loc, scale)
        shape = loc.movedim(-2, 0).shape[1:]
        loc, scale = chart(weights, loc.movedim(-2, 0).flatten(1), scale.movedim(-2, 0).flatten(1))
        return loc.unflatten(1, shape).movedim(0, -2), scale.unflatten(1, shape).movedim(0, -2)

    return folding


class _Product(torch.autograd.Function):
    r"""From precisions of members, :math:`p_m`, and :math:`\eta_m = p_m \, \mathrm{loc}_m`, to products of them.

    .. math::
        P = \sum_m w_m p_m, \quad \mathrm{loc} = P^{-1} \sum_m w_m \eta_m, \quad
        \mathrm{scale} = \mathrm{middle} \, P^{-1/2}

    and, with the gradients g of loc and scale,

    .. math::
        g_{\eta, m} = \sum w_m \frac{g_\mathrm{loc}}{P}, \quad
        g_{p, m} = -\sum w_m \frac{g_\mathrm{loc} \mathrm{loc} + g_\mathrm{scale} \mathrm{scale} / 2}{P}

    Tensors `(*batch, component, latent)` are the largest of an aggregation, and their memory is what it costs. A chain
    of operations would make a dozen of them; here are loc and scale, and the way back goes a few items at a time. It
    can be differentiated any number of times, forwards too, and mapped over.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, precision: Tensor, shift: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Loc and scale of each row's product."""
        total = weights @ precision
        return (weights @ shift).div_(total), total.rsqrt_().mul_(middle)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keep what there is; nothing is made for the way back."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)
        ctx.save_for_forward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients in weights, precision and shift."""
        weights, precision, _, _, loc, _ = ctx.saved_tensors
        tensors, learned = (*ctx.saved_tensors, *gradients), ctx.needs_input_grad[0]
        parts = pieces(loc.shape, loc.device)
        one = torch.is_grad_enabled() or loc.dim() < 3 or precision.shape[:-2] != loc.shape[:-2]
        if one or len(parts) == 1:  # differentiated once more, or small
            return (*_gradients(tensors, learned), None)
        found = [
            _gradients(tuple(None if t is None else piece_of(t, at, loc.shape) for t in tensors), learned)
            for at in parts
        ]
        by_weights, by_precision, by_shift = zip(*found, strict=True)
        together = torch.cat if is_divided(weights, loc.shape) else sum
        return together(by_weights) if learned else None, torch.cat(by_precision), torch.cat(by_shift), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        """How loc and scale move."""
        weights, precision, shift, middle, loc, scale = ctx.saved_tensors
        by_weights, by_precision, by_shift = (
            torch.zeros_like(value) if tangent is None else tangent
            for tangent, value in zip(tangents[:3], (weights, precision, shift), strict=True)
        )
        inverse = (scale / middle).square()
        total = (weights @ by_precision + by_weights @ precision) * inverse
        return (weights @ by_shift + by_weights @ shift) * inverse - loc * total, -0.5 * scale * total


def _gradients(tensors: tuple[Any, ...], learned: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """Of what a product was made of: in weights, if they are learned, in precision and in shift."""
    weights, precision, shift, middle, loc, scale, by_loc, by_scale = tensors
    inverse = (scale / middle).pow_(2)  # 1 / P
    more = torch.zeros_like(loc) if by_loc is None else by_loc * inverse
    less = more * loc  # minus the gradient in P
    if by_scale is not None:
        less = torch.addcmul(less, by_scale * scale, inverse, value=0.5)
    by_precision = -(weights.mT @ less).sum_to_size(precision.shape)
    by_shift = (weights.mT @ more).sum_to_size(shift.shape)
    by_weights = (more @ shift.mT - less @ precision.mT).sum_to_size(weights.shape) if learned else None
    return by_weights, by_precision, by_shift


@_folding
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
    fixed = scale.detach()  # of derivatives in any mode: the product does not depend on the unit
    least, greatest = fixed.aminmax(dim=-2, keepdim=True)
    middle = least.sqrt() * greatest.sqrt()
    precision = (middle / scale).square()
    joint_loc, joint_scale = _Product.apply(weights, precision, precision * loc, middle)
    return joint_loc, joint_scale


@_folding
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


@_folding
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
