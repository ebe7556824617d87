"""Barycenters that come down to one root of one equation: symmetric KL, and debiased entropic transport."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.newton import Convergence

Solved = tuple[Tensor, Tensor, Convergence]


def _root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    lower: Tensor,
    upper: Tensor,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Convergence]:
    """The root of an increasing function between two bounds: Newton from above, or halving where that leaves them."""
    with torch.no_grad():
        root, iterations = upper.clone(), torch.zeros_like(upper, dtype=torch.long)
        residual = torch.full_like(upper, torch.inf)
        for _ in range(max_iterations):
            value, slope = function(root)
            lower, upper = torch.where(value <= 0, root, lower), torch.where(value >= 0, root, upper)
            following = root - value / slope
            outside = ~((following >= lower) & (following <= upper))
            following = torch.where(outside, (lower + upper) / 2, following)
            open_ = residual > tolerance
            iterations += open_
            residual = torch.where(open_, (following - root).abs(), residual)
            root = torch.where(open_, following, root)
            if not bool((residual > tolerance).any()):
                break
        converged = residual <= tolerance
    for _ in range(2):  # Newton's steps from a root carry its first and second derivatives in what the function holds
        value, slope = function(root)
        root = root - value / slope
    return root, Convergence(iterations, residual, converged)


def _middle(scale: Tensor) -> Tensor:
    """A unit in which no square of a scale at hand leaves the floating type."""
    return (scale.amin(-2, keepdim=True).sqrt() * scale.amax(-2, keepdim=True).sqrt()).detach()


def jeffreys(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
    tolerance: float,
    max_iterations: int,
) -> Solved:
    r"""The minimiser of :math:`\sum_m w_m (KL(q \| q_m) + KL(q_m \| q))`, between the pool and moment matching.

    With the pool's loc a and precision P, the mean b of the locs and :math:`S = \sum_m w_m (\sigma_m^2 + (\mu_m -
    b)^2)`, setting both derivatives to 0 leaves, for :math:`x = P \, \mathrm{scale}^2`,

    .. math:: \mathrm{loc} = \frac{x a + b}{x + 1}, \qquad x^2 = P S + P (a - b)^2 \left(\frac{x}{x + 1}\right)^2

    a quartic whose coefficients change sign once: one positive root (Descartes), so one stationary point, the minimum.
    In log x the slope of the equation is between 1/2 and 1.

    Args:
        weights: rows that sum to 1.
        loc: means.
        scale: standard deviations.
        tolerance: of the last step in log x.
        max_iterations: at the most.

    Returns:
        loc, scale and convergence of each row.
    """
    unit = _middle(scale)
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
) -> Solved:
    r"""The minimiser of :math:`\sum_m w_m S_\varepsilon(q, q_m)`, the Sinkhorn divergence of the squared distance.

    The locs average. The variance b solves the fixed-point equation of the debiased barycenter, on the line

    .. math:: \sqrt{4 b^2 + \varepsilon^2/4} = \sum_m w_m \sqrt{4 \sigma_m^2 b + \varepsilon^2/4}

    and the derivative of the objective in b increases: one minimum. For ε → 0 scales average, as in W₂, for ε → ∞
    variances do.

    References:
        Janati et al., 2020. Entropic optimal transport between unbalanced Gaussian measures has a closed form. NeurIPS,
        theorem 1 and 2, with their 2σ² for ε.

    Args:
        epsilon: weight of KL(plan ‖ product), in squared units of the latent.
        weights: rows that sum to 1.
        loc: means.
        scale: standard deviations.
        tolerance: of the last step in log b.
        max_iterations: at the most.

    Returns:
        loc, scale and convergence of each row.
    """
    unit = _middle(scale)
    ratio = scale / unit
    variance = ratio.square().unsqueeze(-3)
    half = epsilon / (2 * unit.square())  # ε / 2 in these units
    blur = half.unsqueeze(-3)

    def equation(y: Tensor) -> tuple[Tensor, Tensor]:
        b = y.exp()
        own, mixed = torch.hypot(2 * b, half), (4 * variance * b.unsqueeze(-2) + blur.square()).sqrt()
        left, parts = 2 * b / (own + half), weights.unsqueeze(-1) * 2 * variance / (mixed + blur)
        right = parts.sum(-2)
        slope = half / own + (parts * 2 * variance * b.unsqueeze(-2) / (mixed * (mixed + blur))).sum(-2) / right
        return left.log() - right.log(), slope

    lower, upper = 2 * (weights @ ratio).detach().log(), (weights @ ratio.square()).detach().log()
    y, convergence = _root(equation, lower, upper, tolerance, max_iterations)
    return weights @ loc, unit * (y / 2).exp(), convergence
