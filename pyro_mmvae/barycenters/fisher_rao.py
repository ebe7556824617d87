r"""The Fisher-Rao geometry of Gaussians on the line: a hyperbolic plane, metric (dμ² + 2 dσ²) / σ².

.. math::
    D = d^2 = 2 \operatorname{arcosh}^2(1 + x), \qquad
    x = \frac{(\mu_q - \mu_p)^2}{4 \sigma_q \sigma_p} + \cosh\log\frac{\sigma_q}{\sigma_p} - 1

(Costa, Santos and Strapasson, 2015. Fisher information distance: a geometrical reading. Discrete Applied Mathematics
197.) The curvature is -1/2, so the mean of squared distances is geodesically convex and has one stationary point.
"""

from __future__ import annotations

import math

import torch

from pyro_mmvae._typing import Float, Tensor

_NEAR = 0.05  # below this x the series is used, in which nothing cancels
# 2 arcosh²(1 + x) = 4 Σ (-1)^(n-1) (2x)^n / (n² C(2n, n)), |x| < 2
_SERIES = [4 * (-1) ** (n - 1) * 2**n / (n * n * math.comb(2 * n, n)) for n in range(1, 14)]


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total


def squared_arcosh(x: Float[Tensor, "*shape"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return 2 arcosh²(1 + x) for x ≥ 0 with its first and second derivative, all of them smooth at 0."""
    near = x < _NEAR
    small, large = torch.where(near, x, 0.0), torch.where(near, 1.0, x)
    angle, sinh = 2 * torch.asinh((large / 2).sqrt()), (large * (large + 2)).sqrt()
    first = [n * c for n, c in enumerate(_SERIES, 1)]
    second = [n * c for n, c in enumerate(first[1:], 1)]
    return (
        torch.where(near, small * _polynomial(_SERIES, small), 2 * angle.square()),
        torch.where(near, _polynomial(first, small), 4 * angle / sinh),
        torch.where(near, _polynomial(second, small), 4 * (1 / sinh - angle * (1 + large) / sinh.square()) / sinh),
    )


def fisher_rao_terms(
    loc: Float[Tensor, "*#shape"],
    log_scale: Float[Tensor, "*#shape"],
    member_loc: Float[Tensor, "*shape"],
    member_scale: Float[Tensor, "*shape"],
) -> tuple[Tensor, ...]:
    """Return the squared distance and its derivatives, in the order of :data:`~.newton.Terms`.

    Args:
        loc: The loc of q.
        log_scale: The logarithm of the scale of q.
        member_loc: The loc of p.
        member_scale: The scale of p.
    """
    scale, log_ratio = log_scale.exp(), log_scale - member_scale.log()
    z = (loc - member_loc) / member_scale
    q = z * (loc - member_loc) / (4 * scale)
    x_t, x_s, x_tt, x_ss = z / 2, torch.sinh(log_ratio) - q, scale / (2 * member_scale), torch.cosh(log_ratio) + q
    value, first, second = squared_arcosh(q + 2 * torch.sinh(log_ratio / 2).square())
    return (
        value,
        first * x_t,
        first * x_s,
        first * x_tt + second * x_t.square(),
        first * -x_t + second * x_t * x_s,
        first * x_ss + second * x_s.square(),
    )
