r"""Closed-form aggregation of diagonal Gaussians: tensors in, tensors out.

A diagonal barycenter is a weighted mean of transformed parameters,
:math:`q_S = \varphi^{-1}(W \varphi(q_1, …, q_M))` with :math:`\varphi` a function of (loc, scale). All subsets are
computed by one matrix product, with one row of ``W`` per subset. The functions do not handle presence, priors or
subsets: a member that must not count has weight 0 and any finite loc and positive scale. Each has the signature

    (weights `(*batch, component, modality)`, loc, scale `(*batch, modality, latent)`)
        -> loc, scale `(*batch, component, latent)`

with at least one positive weight in each row. The rows are not normalised here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias, cast

import torch

from pyro_mmvae._overrides import overridable
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.chunks import chunks, has_first_dimension, select_chunk

Gaussians: TypeAlias = tuple[Float[Tensor, "*batch component latent"], Float[Tensor, "*batch component latent"]]
BarycenterFn: TypeAlias = Callable[[Tensor, Tensor, Tensor], Gaussians]


def _fold_items(max_elements: int) -> Callable[[BarycenterFn], BarycenterFn]:
    """Decorate a barycenter function to treat items that share their weights as further latent dimensions.

    One wide matrix product then replaces one small product per item.

    Args:
        max_elements: The largest result, in elements, for which the wide product is faster. A larger one leaves the
            processor's cache.
    """

    def decorate(barycenter_fn: BarycenterFn) -> BarycenterFn:
        @wraps(barycenter_fn)
        def fold(weights: Tensor, loc: Tensor, scale: Tensor) -> Gaussians:
            if not _can_fold(weights, loc, max_elements):
                return barycenter_fn(weights, loc, scale)
            shape = loc.movedim(-2, 0).shape[1:]
            loc, scale = barycenter_fn(weights, loc.movedim(-2, 0).flatten(1), scale.movedim(-2, 0).flatten(1))
            return loc.unflatten(1, shape).movedim(0, -2), scale.unflatten(1, shape).movedim(0, -2)

        return fold

    return decorate


def _can_fold(weights: Tensor, loc: Tensor, max_elements: int) -> bool:
    return weights.dim() <= 2 and loc.dim() >= 3 and len(weights) * loc[..., 0, :].numel() <= max_elements


class _Product(torch.autograd.Function):
    r"""The product of members with precisions :math:`p_m` and shifts :math:`\eta_m = p_m \, \mathrm{loc}_m`.

    .. math::
        P = \sum_m w_m p_m, \quad \mathrm{loc} = P^{-1} \sum_m w_m \eta_m, \quad
        \mathrm{scale} = \mathrm{unit} \, P^{-1/2}

    and, with the gradients g of loc and scale,

    .. math::
        g_{\eta, m} = \sum w_m \frac{g_\mathrm{loc}}{P}, \quad
        g_{p, m} = -\sum w_m \frac{g_\mathrm{loc} \mathrm{loc} + g_\mathrm{scale} \mathrm{scale} / 2}{P}

    Tensors `(*batch, component, latent)` are the largest of an aggregation and determine its memory. Autograd would
    keep a dozen of them for a chain of operations. This function keeps loc and scale only, and its backward pass
    processes a few items at a time. It supports derivatives of any order, forward-mode derivatives and ``vmap``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weights: Tensor, precision: Tensor, shift: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return loc and scale of the product of each row."""
        total = weights @ precision
        return (weights @ shift).div_(total), total.rsqrt_().mul_(unit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        """Keep inputs and outputs; nothing else is stored for the backward pass."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)
        ctx.save_for_forward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to weights, precision and shift."""
        weights, precision, _, _, loc, _ = ctx.saved_tensors
        tensors, needs_weights = (*ctx.saved_tensors, *gradients), ctx.needs_input_grad[0]
        slices = chunks(loc.shape, loc.device)
        # With gradients enabled this pass is differentiated once more, and autograd has to see it as a whole.
        is_whole = torch.is_grad_enabled() or loc.dim() < 3 or precision.shape[:-2] != loc.shape[:-2]
        if is_whole or len(slices) == 1:
            return (*_gradients(tensors, needs_weights), None)
        results = [
            _gradients(tuple(None if t is None else select_chunk(t, chunk, loc.shape) for t in tensors), needs_weights)
            for chunk in slices
        ]
        by_weights, by_precision, by_shift = zip(*results, strict=True)
        combine = torch.cat if has_first_dimension(weights, loc.shape) else sum
        return combine(by_weights) if needs_weights else None, torch.cat(by_precision), torch.cat(by_shift), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tangents of loc and scale."""
        weights, precision, shift, unit, loc, scale = ctx.saved_tensors
        by_weights, by_precision, by_shift = (
            torch.zeros_like(value) if tangent is None else tangent
            for tangent, value in zip(tangents[:3], (weights, precision, shift), strict=True)
        )
        inverse = (scale / unit).square()
        total = (weights @ by_precision + by_weights @ precision) * inverse
        return (weights @ by_shift + by_weights @ shift) * inverse - loc * total, -0.5 * scale * total


@overridable
def _product(weights: Tensor, precision: Tensor, shift: Tensor, unit: Tensor) -> Gaussians:
    return cast("Gaussians", _Product.apply(weights, precision, shift, unit))


def _gradients(tensors: tuple[Any, ...], needs_weights: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients with respect to the weights, if needed, the precision and the shift of a product."""
    weights, precision, shift, unit, loc, scale, by_loc, by_scale = tensors
    inverse = (scale / unit).pow_(2)  # 1 / P
    by_sum = torch.zeros_like(loc) if by_loc is None else by_loc * inverse  # the gradient of Σ w η
    minus_by_total = by_sum * loc  # minus the gradient of P
    if by_scale is not None:
        minus_by_total = torch.addcmul(minus_by_total, by_scale * scale, inverse, value=0.5)
    by_precision = -(weights.mT @ minus_by_total).sum_to_size(precision.shape)
    by_shift = (weights.mT @ by_sum).sum_to_size(shift.shape)
    by_weights = (
        (by_sum @ shift.mT - minus_by_total @ precision.mT).sum_to_size(weights.shape) if needs_weights else None
    )
    return by_weights, by_precision, by_shift


@_fold_items(2**18)
def natural(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
) -> Gaussians:
    r"""Return the normalised product :math:`\prod_m q_m^{w_m}`, whose natural parameters are weighted sums.

    .. math::
        P = \sum_m w_m \sigma_m^{-2}, \quad \mathrm{loc} = P^{-1} \sum_m w_m \sigma_m^{-2} \mathrm{loc}_m, \quad
        \mathrm{scale} = P^{-1/2}

    Weights of 1 give the product of experts, weights that sum to 1 the log-linear pool, which minimises
    :math:`\sum_m w_m KL(q \| q_m)`. Precisions are measured relative to the geometric mean of the least and the
    greatest scale, so that in float32 the scales of an item may differ by a factor of 10^15 before anything under- or
    overflows.

    References:
        Hinton, 2002. Training products of experts by minimizing contrastive divergence. Neural Computation 14(8).
        Genest and Zidek, 1986. Combining probability distributions. Statistical Science 1(1).

    Args:
        weights: Non-negative weights, at least one positive in each row.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.

    Returns:
        loc and scale of the product of each row.
    """
    fixed = scale.detach()  # the product does not depend on the unit, so neither does any derivative
    least, greatest = fixed.aminmax(dim=-2, keepdim=True)
    unit = least.sqrt() * greatest.sqrt()
    precision = (unit / scale).square()
    joint_loc, joint_scale = _product(weights, precision, precision * loc, unit)
    return joint_loc, joint_scale


@_fold_items(2**21)
def wasserstein(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
) -> Gaussians:
    r"""Return the 2-Wasserstein barycenter, which minimises :math:`\sum_m w_m W_2^2(q, q_m)` and averages quantiles.

    .. math:: \mathrm{loc} = \sum_m w_m \mathrm{loc}_m, \qquad \mathrm{scale} = \sum_m w_m \mathrm{scale}_m

    Standard deviations are averaged; an average of variances or of log-variances is a different rule.

    References:
        Agueh and Carlier, 2011. Barycenters in the Wasserstein space. SIAM J. Math. Anal. 43(2).
        Qiu et al., 2025. Multimodal variational autoencoder: a barycentric view. AAAI 39(19), arXiv 2412.20487.

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.

    Returns:
        loc and scale of the barycenter of each row.
    """
    return weights @ loc, weights @ scale


@_fold_items(2**18)
def moment(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
) -> Gaussians:
    r"""Return the Gaussian with the moments of the mixture, which minimises :math:`\sum_m w_m KL(q_m \| q)`.

    .. math::
        \mathrm{loc} = \sum_m w_m \mathrm{loc}_m, \qquad
        \mathrm{scale}^2 = \sum_m w_m \left(\mathrm{scale}_m^2 + (\mathrm{loc}_m - \mathrm{loc})^2\right)

    Deviations from the mean are summed, since the difference of raw second moments cancels in float32.

    References:
        Minka, 2001. Expectation propagation for approximate Bayesian inference. UAI.

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.

    Returns:
        loc and scale of the Gaussian of each row.
    """
    mean = weights @ loc
    centred = loc.unsqueeze(-3) - mean.unsqueeze(-2)
    between = (weights.unsqueeze(-1) * centred.square()).sum(-2)
    return mean, (weights @ scale.square() + between).sqrt()
