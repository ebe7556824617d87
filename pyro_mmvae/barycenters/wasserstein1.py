r"""The barycenter under W₁, a geometric median of (loc, scale) in the norm that W₁ induces on the line.

The quantiles of Gaussians on the line differ by :math:`\Delta\mu + \Delta\sigma \, \Phi^{-1}`, so that

.. math::
    W_1(q, p) = E |\Delta\mu + \Delta\sigma Z|
    = |\Delta\sigma| \sqrt{2/\pi} \, e^{-r^2/2} + \Delta\mu \operatorname{erf}(r / \sqrt 2),
    \qquad r = \Delta\mu / |\Delta\sigma|, \quad Z \sim N(0, 1)

(the mean of a folded normal), a norm N of :math:`(\Delta\mu, \Delta\sigma)` that is not the Euclidean one. The
objective :math:`F(v) = \sum_m w_m N(v - v_m)` is convex, and not smooth at the experts :math:`v_m`. An outlier of less
than half the weight moves the minimiser by a bounded distance only.

**At an expert.** v_k is a minimiser if and only if 0 is a subgradient there, that is if the sum R of the gradients of
the other experts lies in the dual ball of radius w_k (Vardi and Zhang's condition, in this norm). The gradients of N
form the boundary of the dual ball, :math:`(\operatorname{erf}(r/\sqrt2), \pm\sqrt{2/\pi} e^{-r^2/2})`. The condition is
:math:`|R_\sigma| \le w_k \sqrt{2/\pi} \exp(-\operatorname{erfinv}^2(|R_\mu| / w_k))`. Every expert is tried. If several
experts are minimisers, so are all points between them, and the result is their weighted mean.

**Between experts** F is smooth. Weiszfeld's step, :math:`v - \nabla F / (L \sum_m w_m / N_m)`, minimises a quadratic
upper bound of F and so never raises it; L is the largest eigenvalue of the Hessian of :math:`N^2/2` (1 for the
Euclidean norm, about 1.468 here). Cauchy's or Newton's step replaces it where F is lower still. Vardi and Zhang's step
leaves an expert that is not a minimiser in the direction of steepest descent.

**Derivatives.** At an expert the result is that expert, so its derivatives with respect to the loc and scale of that
expert are 1 and all others, including those with respect to the weights, are 0 (at the ends of such a region this is
one of the subgradients). Between experts the implicit function theorem gives the derivatives.

References:
    Weiszfeld, 1937. Sur le point pour lequel la somme des distances de n points donnés est minimum. Tôhoku Math. J. 43.
    Vardi and Zhang, 2000. The multivariate L1-median and associated data depth. PNAS 97(4).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch.autograd.function import once_differentiable

from pyro_mmvae._overrides import overridable
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.implicit import coordinate_chunks, to_coordinates
from pyro_mmvae.barycenters.newton import Convergence, solve_symmetric

_LIPSCHITZ = 1.468  # the largest eigenvalue of the Hessian of N² / 2 is 1.46790, at r = 1.615
_NOISE = 1e-14  # a smaller relative difference between values of F is rounding error
_FRACTIONS = [4.0**-n for n in range(20, -1, -1)]  # of a direction of descent, tried where F is almost flat
_PEAK = math.sqrt(2 / math.pi)


class _Norm(NamedTuple):
    """The norm N of (x, y) with its gradient and its Hessian, h · (1, -r)(1, -r)ᵀ; all are 0 at the origin.

    Attributes:
        value: The value of the norm.
        x: The first derivative by x.
        y: The first derivative by y.
        xx: The second derivative by x.
        xy: The mixed second derivative.
        yy: The second derivative by y.
    """

    value: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor


def folded_norm(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the norm E|x + y Z| with Z standard normal, which is differentiable except at 0."""
    size = y.abs()
    ratio = x / torch.where(size > 0, size, 1.0)
    folded = size * _PEAK * torch.exp(-ratio.square() / 2) + x * torch.erf(ratio / math.sqrt(2))
    return torch.where(size == 0, x.abs(), folded)


def _norm(x: Tensor, y: Tensor) -> _Norm:
    size, origin = y.abs(), (x == 0) & (y == 0)
    flat = size == 0
    divisor = torch.where(flat, 1.0, size)
    ratio = torch.where(flat, 0.0, x / divisor)
    bell = torch.where(flat, 0.0, _PEAK * torch.exp(-ratio.square() / 2))
    side = torch.where(flat, x.sign(), torch.erf(ratio / math.sqrt(2)))
    curvature = bell / divisor
    signed = ratio * y.sign()
    return _Norm(
        torch.where(origin, 0.0, size * bell + x * side),
        side,
        y.sign() * bell,
        curvature,
        -signed * curvature,
        signed.square() * curvature,
    )


def _optimal_experts(weights: Tensor, x: Tensor, y: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return which experts satisfy the condition for a minimiser, and F at each expert, `(member, coordinate)`."""
    dx, dy = x.unsqueeze(1) - x, y.unsqueeze(1) - y  # (expert, other, coordinate)
    norm = _norm(dx, dy)
    here = torch.where(norm.value == 0, weights, 0.0).sum(1)  # the weights of equal experts add
    pull_x, pull_y = ((weights * g).sum(1).abs() for g in (norm.x, norm.y))
    ratio = (pull_x / torch.where(here > 0, here, 1.0)).clamp(max=1.0)
    room = here * _PEAK * torch.exp(-torch.erfinv(ratio).square())
    optimal = (pull_x <= here * (1 + tolerance)) & (pull_y <= room + tolerance * here) & (weights > 0)
    return optimal, (weights * norm.value).sum(1)


def _way_out(pull_x: Tensor, pull_y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the direction h of steepest descent from an expert, and its slope -F'(h) / N(h) = N*(R) - w > 0."""
    low, high = torch.ones_like(weight), torch.ones_like(weight) * 4 / weight
    for _ in range(60):  # the dual norm of R divided by w, by bisection
        middle = (low + high) / 2
        ratio = pull_x.abs() / (middle * weight)
        room = _PEAK * torch.exp(-torch.erfinv(ratio.clamp(max=1.0)).square())
        inside = (ratio <= 1) & (pull_y.abs() / (middle * weight) <= room)
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    ratio = (pull_x / (high * weight)).clamp(-1.0, 1.0)
    slant = -math.sqrt(2) * torch.erfinv(ratio)
    flat = ~slant.isfinite() | (pull_y == 0)
    x, y = torch.where(flat, -pull_x.sign(), slant), torch.where(flat, 0.0, -pull_y.sign())
    return x, y, (high - 1) * weight


def _start(weights: Tensor, x: Tensor, y: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return the starting point: the Wasserstein barycenter, or the best expert where F is lower there."""
    at_x, at_y = (weights * x).sum(0), (weights * y).sum(0)
    least, best = total.min(0, keepdim=True)
    expert = least.squeeze(0) < _total(weights, x, y, at_x, at_y)
    return tuple(torch.where(expert, tensor.gather(0, best).squeeze(0), at) for tensor, at in ((x, at_x), (y, at_y)))  # type: ignore[return-value]


def _total(weights: Tensor, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor) -> Tensor:
    return (weights * folded_norm(at_x - x, at_y - y)).sum(0)


def _descend(weights: Tensor, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, slow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next point.

    The step is Weiszfeld's, or at an expert Vardi and Zhang's; Cauchy's or Newton's step replaces it where F is lower.
    Where neither applies or progress is slow, many fractions of these steps are tried, down to 4^-20 of the distance
    between experts.

    Args:
        weights: The weights of the members, `(member, coordinate)`.
        x: The locs of the members.
        y: The scales of the members.
        at_x: The loc of the current point, `(coordinate,)`.
        at_y: The scale of the current point, `(coordinate,)`.
        slow: True where the last step made little progress, `(coordinate,)`.
    """
    norm = _norm(at_x - x, at_y - y)
    g_x, g_y, xx, xy, yy = ((weights * part).sum(0) for part in norm[1:])
    origin = norm.value == 0
    here = torch.where(origin, weights, 0.0).sum(0)
    steepness = (weights / torch.where(origin, torch.inf, norm.value)).sum(0) * _LIPSCHITZ
    way_x, way_y = -g_x / steepness, -g_y / steepness
    step_x, step_y = way_x, way_y
    if bool((here > 0).any()):
        out_x, out_y, fall = _way_out(g_x, g_y, torch.where(here > 0, here, 1.0))
        reach = fall * folded_norm(out_x, out_y) / (steepness * (out_x.square() + out_y.square()))
        way_x, way_y = torch.where(here > 0, out_x, way_x), torch.where(here > 0, out_y, way_y)
        step_x, step_y = torch.where(here > 0, reach * out_x, step_x), torch.where(here > 0, reach * out_y, step_y)
    newton_x, newton_y = solve_symmetric(xx, xy, yy, -g_x, -g_y)
    bend = xx * g_x.square() + 2 * xy * g_x * g_y + yy * g_y.square()
    cauchy = torch.where(bend > 0, (g_x.square() + g_y.square()) / torch.where(bend > 0, bend, 1.0), 0.0)
    least = _total(weights, x, y, at_x + step_x, at_y + step_y)
    is_better = torch.zeros_like(here, dtype=torch.bool)
    for trial_x, trial_y in ((-cauchy * g_x, -cauchy * g_y), (newton_x, newton_y)):
        value = _total(weights, x, y, at_x + trial_x, at_y + trial_y)
        is_better = (here == 0) & ((trial_x != 0) | (trial_y != 0)) & (value <= least * (1 + _NOISE))
        least = torch.where(is_better, value, least)
        step_x, step_y = torch.where(is_better, trial_x, step_x), torch.where(is_better, trial_y, step_y)
    # The last of these is Newton's step: without it, or where progress is slow, a search over many lengths pays.
    index = (~is_better | slow).nonzero().squeeze(-1)
    if len(index):
        extent = torch.where(weights > 0, norm.value, 0.0).amax(0) / torch.hypot(way_x, way_y)
        ways = (
            (extent * way_x)[index],
            (extent * way_y)[index],
            torch.where(here == 0, newton_x, 0.0)[index],  # where curvature underflows, the step is infinite
            torch.where(here == 0, newton_y, 0.0)[index],
        )
        step = step_x[index], step_y[index]
        step_x[index], step_y[index] = _search(
            weights[:, index], x[:, index], y[:, index], at_x[index], at_y[index], ways, step
        )
    return at_x + step_x, at_y + step_y


def _search(
    weights: Tensor,
    x: Tensor,
    y: Tensor,
    at_x: Tensor,
    at_y: Tensor,
    ways: tuple[Tensor, ...],
    step: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor]:
    """Return the best of the given step and many fractions of the direction of descent and of Newton's step."""
    way_x, way_y, newton_x, newton_y = ways
    step_x, step_y = step
    trials = [(fraction * way_x, fraction * way_y) for fraction in _FRACTIONS]
    trials += [(fraction * newton_x, fraction * newton_y) for fraction in _FRACTIONS[-9:]]
    least = _total(weights, x, y, at_x + step_x, at_y + step_y)
    for trial_x, trial_y in trials:
        value = _total(weights, x, y, at_x + trial_x, at_y + trial_y)
        is_better = value < least * (1 - _NOISE)
        least = torch.where(is_better, value, least)
        step_x, step_y = torch.where(is_better, trial_x, step_x), torch.where(is_better, trial_y, step_y)
    return step_x, step_y


def _between(
    weights: Tensor, x: Tensor, y: Tensor, at_x: Tensor, at_y: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Convergence]:
    """Return the minimiser where no expert is one, with its convergence."""
    whole_x, whole_y = at_x.clone(), at_y.clone()
    iterations = torch.zeros_like(at_x, dtype=torch.long)
    residual = torch.full_like(at_x, torch.inf)
    index = torch.arange(len(at_x), device=x.device)
    for iteration in range(max_iterations + 1):
        norm = _norm(at_x - x, at_y - y)
        g_x, g_y = (weights * norm.x).sum(0), (weights * norm.y).sum(0)
        at_expert = ((norm.value == 0) & (weights > 0)).any(0)
        size = torch.where(at_expert, torch.inf, torch.maximum(g_x.abs(), g_y.abs()))
        slow = size > residual[index] / 4
        whole_x[index], whole_y[index], residual[index] = at_x, at_y, size
        keep = (size > tolerance).nonzero().squeeze(-1)
        if iteration == max_iterations or not len(keep):
            break
        index, weights, x, y = index[keep], weights[:, keep], x[:, keep], y[:, keep]
        at_x, at_y = _descend(weights, x, y, at_x[keep], at_y[keep], slow[keep])
        iterations[index] += 1
    return whole_x, whole_y, Convergence(iterations, residual, residual <= tolerance)


def _solve(weights: Tensor, x: Tensor, y: Tensor, tolerance: float, limit: int) -> tuple[Tensor, ...]:
    """Return the shares of experts that are minimisers, the minimisers, and the parts of their convergence."""
    finite = (x.isfinite() & y.isfinite()).all(0)
    optimal, total = _optimal_experts(weights, x, y, tolerance)
    share = torch.where(optimal, weights, 0.0)
    mass = share.sum(0)
    at_expert = mass > 0
    share = share / torch.where(at_expert, mass, 1.0)
    results = [
        (share * x).sum(0).masked_fill(~finite, torch.nan),
        (share * y).sum(0).masked_fill(~finite, torch.nan),
        torch.zeros_like(mass, dtype=torch.long),
        torch.zeros_like(mass).masked_fill(~finite, torch.nan),
        at_expert & finite,
    ]
    rest = (~at_expert & finite).nonzero().squeeze(-1)
    start = _start(*(tensor[:, rest] for tensor in (weights, x, y, total)))
    between_x, between_y, convergence = _between(weights[:, rest], x[:, rest], y[:, rest], *start, tolerance, limit)
    for whole, part in zip(results, (between_x, between_y, *convergence), strict=True):
        whole[rest] = part
    return share, *results


@overridable
def _median(weights: Tensor, x: Tensor, y: Tensor, tolerance: float, limit: int) -> tuple[Tensor, ...]:
    return cast("tuple[Tensor, ...]", _Median.apply(weights, x, y, tolerance, limit))


class _Median(torch.autograd.Function):
    """The minimiser as a function with the derivatives described in the docstring of this module."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, y: Tensor, tolerance: float, limit: int) -> tuple[Tensor, ...]:
        results = [_solve(weights[:, c], x[:, c], y[:, c], tolerance, limit) for c in coordinate_chunks(weights)]
        share = torch.cat([result[0] for result in results], -1)
        parts = zip(*(result[1:] for result in results), strict=True)
        median_x, median_y, *convergence = (torch.cat(part) for part in parts)
        ctx.save_for_backward(weights, x, y, share, median_x, median_y)
        ctx.mark_non_differentiable(*convergence)
        return median_x, median_y, *convergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_x: Tensor, by_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        weights, x, y, share, median_x, median_y = ctx.saved_tensors
        at_expert = share.sum(0) > 0
        norm = _norm(median_x - x, median_y - y)
        xx, xy, yy = ((weights * part).sum(0) for part in norm[3:])
        t, s = solve_symmetric(xx, xy, yy, by_x, by_y)
        t, s = (torch.where(at_expert, 0.0, part) for part in (t, s))
        return (
            -(norm.x * t + norm.y * s),
            weights * (norm.xx * t + norm.xy * s) + share * by_x,
            weights * (norm.xy * t + norm.yy * s) + share * by_y,
            None,
            None,
        )


def median(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
    tolerance: float,
    max_iterations: int,
) -> tuple[Float[Tensor, "*batch component latent"], Float[Tensor, "*batch component latent"], Convergence]:
    r"""Minimise :math:`\sum_m w_m W_1(q, q_m)`, which gives a geometric median.

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.
        tolerance: The tolerance of the gradient, whose entries are at most 1.
        max_iterations: The largest number of iterations.

    Returns:
        loc, scale and convergence of the barycenter of each row.
    """
    problem, shape = to_coordinates(weights, loc, scale)
    result_loc, result_scale, *convergence = (
        result.reshape(shape) for result in _median(*problem, tolerance, max_iterations)
    )
    return result_loc, result_scale, Convergence(*convergence)
