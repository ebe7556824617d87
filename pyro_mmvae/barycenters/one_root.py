"""The barycenters that reduce to the root of one equation: symmetric KL, and debiased entropic transport."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.newton import Convergence

Solution = tuple[Tensor, Tensor, Convergence]


def _root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    lower: Tensor,
    upper: Tensor,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Convergence]:
    """Find the root of an increasing function between two bounds.

    Newton's method starts at the upper bound; a step that would leave the bounds is replaced by bisection.

    Args:
        function: A function that returns the value and the derivative at a point, elementwise.
        lower: The lower bounds of the roots.
        upper: The upper bounds of the roots.
        tolerance: The tolerance of the last step.
        max_iterations: The largest number of iterations.

    Returns:
        The roots, differentiable twice with respect to the tensors that ``function`` refers to, and their convergence.
    """
    with torch.no_grad():
        root, iterations = upper.clone(), torch.zeros_like(upper, dtype=torch.long)
        residual = torch.full_like(upper, torch.inf)
        for _ in range(max_iterations):
            value, slope = function(root)
            lower, upper = torch.where(value <= 0, root, lower), torch.where(value >= 0, root, upper)
            following = root - value / slope
            outside = ~((following >= lower) & (following <= upper))
            following = torch.where(outside, (lower + upper) / 2, following)
            is_open = residual > tolerance
            iterations += is_open
            residual = torch.where(is_open, (following - root).abs(), residual)
            root = torch.where(is_open, following, root)
            if not bool((residual > tolerance).any()):
                break
        converged = residual <= tolerance
    # Two of Newton's steps from the root have the first and second derivatives of the root as an implicit function.
    for _ in range(2):
        value, slope = function(root)
        root = root - value / slope
    return root, Convergence(iterations, residual, converged)


def _unit(scale: Tensor) -> Tensor:
    """Return a unit per item in which the squares of its scales neither under- nor overflow."""
    return (scale.amin(-2, keepdim=True).sqrt() * scale.amax(-2, keepdim=True).sqrt()).detach()


def jeffreys(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
    tolerance: float,
    max_iterations: int,
) -> Solution:
    r"""Minimise :math:`\sum_m w_m (KL(q \| q_m) + KL(q_m \| q))`, between the pool and moment matching.

    With the pool's loc a and precision P, the mean b of the locs and :math:`S = \sum_m w_m (\sigma_m^2 + (\mu_m -
    b)^2)`, setting both derivatives to 0 leaves, for :math:`x = P \, \mathrm{scale}^2`,

    .. math:: \mathrm{loc} = \frac{x a + b}{x + 1}, \qquad x^2 = P S + P (a - b)^2 \left(\frac{x}{x + 1}\right)^2

    a quartic whose coefficients change sign once. It has one positive root (Descartes), so the objective has one
    stationary point, the minimum. The slope of the equation in log x is between 1/2 and 1.

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.
        tolerance: The tolerance of the last step in log x.
        max_iterations: The largest number of iterations.

    Returns:
        loc, scale and convergence of the barycenter of each row.
    """
    unit = _unit(scale)
    precision = (unit / scale).square()
    total = weights @ precision
    pool, mean = (weights @ (precision * loc)) / total, weights @ loc
    centred = (loc.unsqueeze(-3) - mean.unsqueeze(-2)) / unit.unsqueeze(-3)
    second = weights @ (scale / unit).square() + (weights.unsqueeze(-1) * centred.square()).sum(-2)
    c, e = total * second, total * ((pool - mean) / unit).square()

    def equation(y: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.sigmoid(y)  # x / (x + 1)
        q = e * share.square()
        return y - (c + q).log() / 2, 1 - q / (c + q) * (1 - share)

    y, convergence = _root(equation, c.detach().log() / 2, (c + e).detach().log() / 2, tolerance, max_iterations)
    share = torch.sigmoid(y)
    return mean + share * (pool - mean), unit * (y / 2).exp() * total.rsqrt(), convergence


def entropic(
    epsilon: float,
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
    tolerance: float,
    max_iterations: int,
) -> Solution:
    r"""Minimise :math:`\sum_m w_m S_\varepsilon(q, q_m)`, with the Sinkhorn divergence of the squared distance.

    The loc is the mean of the locs. The variance b solves the fixed-point equation of the debiased barycenter, which on
    the line is

    .. math:: \sqrt{4 b^2 + \varepsilon^2/4} = \sum_m w_m \sqrt{4 \sigma_m^2 b + \varepsilon^2/4}

    and the derivative of the objective in b increases, so that there is one minimum. For ε → 0 the scale is the mean of
    the scales, as under W₂; for ε → ∞ the variance is the mean of the variances.

    References:
        Janati et al., 2020. Entropic optimal transport between unbalanced Gaussian measures has a closed form. NeurIPS,
        theorem 1 and 2, with their 2σ² for ε.

    Args:
        epsilon: The weight of KL(plan ‖ product), in squared units of the latent.
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.
        tolerance: The tolerance of the last step in log b.
        max_iterations: The largest number of iterations.

    Returns:
        loc, scale and convergence of the barycenter of each row.
    """
    unit = _unit(scale)
    ratio = scale / unit
    variance = ratio.square().unsqueeze(-3)
    half = epsilon / (2 * unit.square())  # ε / 2 in these units
    blur = half.unsqueeze(-3)

    def equation(y: Tensor) -> tuple[Tensor, Tensor]:
        b = y.exp()
        left_root, right_roots = torch.hypot(2 * b, half), (4 * variance * b.unsqueeze(-2) + blur.square()).sqrt()
        left, parts = 2 * b / (left_root + half), weights.unsqueeze(-1) * 2 * variance / (right_roots + blur)
        right = parts.sum(-2)
        curvature = (parts * 2 * variance * b.unsqueeze(-2) / (right_roots * (right_roots + blur))).sum(-2)
        slope = half / left_root + curvature / right
        return left.log() - right.log(), slope

    lower, upper = 2 * (weights @ ratio).detach().log(), (weights @ ratio.square()).detach().log()
    y, convergence = _root(equation, lower, upper, tolerance, max_iterations)
    return weights @ loc, unit * (y / 2).exp(), convergence
