r"""The barycenter under any divergence, by a batched, safeguarded Newton method.

Every item, subset and latent dimension is a coordinate: one problem in two unknowns, loc and log scale. All of them are
solved at once by elementwise operations on tensors whose first dimension is the members, `(member, coordinate)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch

from pyro_mmvae._typing import Bool, Float, Int, Tensor

Terms: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""A function of (loc, log scale, member loc, member scale), elementwise, that returns a divergence and its derivatives.

With t = loc / scale and s = log scale these are D, D_t, D_s, D_tt, D_ts and D_ss, where a derivative by t is the one by
loc times the scale.
"""

MAX_ITERATIONS = 200
_LARGEST_STEP = 2.0  # in log scale


@dataclass(frozen=True)
class Convergence:
    """The convergence of each coordinate of a barycenter.

    Attributes:
        iterations: The number of iterations of the solver; 0 for a closed form.
        residual: The norm of the gradient relative to the gradients of the members and the curvature, without units.
        converged: True where the residual is below the tolerance and the curvature is not negative.
    """

    iterations: Int[Tensor, "*coordinate"]
    residual: Float[Tensor, "*coordinate"]
    converged: Bool[Tensor, "*coordinate"]

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over the three tensors, in this order."""
        return iter((self.iterations, self.residual, self.converged))

    def map(self, function: Callable[[Tensor], Tensor]) -> Convergence:
        """Return a convergence with ``function`` applied to each of the three tensors."""
        return Convergence(*map(function, self))


@dataclass(frozen=True)
class Objective:
    r"""The function that is minimised over q, with weights :math:`\lambda` that sum to 1.

    The objective is :math:`\sum_m \lambda_m D_m` for ``temper`` 0 and
    :math:`-c^{-1} \log \sum_m \lambda_m e^{-c D_m}` for a ``temper`` c > 0. The latter has the minimisers of
    :math:`\sum_m \lambda_m (1 - e^{-c D_m})` and does not underflow.

    Attributes:
        terms: The function that returns the divergence from a member and its derivatives.
        temper: The parameter c; 0 for a weighted sum of divergences.
    """

    terms: Terms
    temper: float = 0.0


class Problem(NamedTuple):
    """The weights, locs and scales of members, each `(member, coordinate)`."""

    weights: Tensor
    loc: Tensor
    scale: Tensor

    def select(self, index: Tensor) -> Problem:
        """Return the problem of the coordinates with the given indices."""
        return Problem(*(tensor[:, index] for tensor in self))


class State(NamedTuple):
    """The objective at one point per coordinate, each `(coordinate,)`, with derivatives by t and s of :data:`Terms`.

    Attributes:
        loc: The loc of the point.
        log_scale: The log scale of the point.
        value: The value of the objective.
        noise: The size of the terms of the objective, to which its rounding error is proportional.
        t: The first derivative by t.
        s: The first derivative by s.
        tt: The second derivative by t.
        ts: The mixed second derivative.
        ss: The second derivative by s.
        residual: The residual of :class:`Convergence`.
    """

    loc: Tensor
    log_scale: Tensor
    value: Tensor
    noise: Tensor
    t: Tensor
    s: Tensor
    tt: Tensor
    ts: Tensor
    ss: Tensor
    residual: Tensor

    def select(self, index: Tensor) -> State:
        """Return the state of the coordinates with the given indices."""
        return State(*(tensor[index] for tensor in self))

    def where(self, condition: Tensor, other: State) -> State:
        """Return a state with the entries of ``self`` where the condition holds, and of ``other`` elsewhere."""
        return State(*(torch.where(condition, a, b) for a, b in zip(self, other, strict=True)))


def evaluate(objective: Objective, problem: Problem, loc: Tensor, log_scale: Tensor) -> State:
    """Return the state at a point, which is differentiable with respect to the problem."""
    weights = problem.weights
    value, t, s, tt, ts, ss = objective.terms(loc, log_scale, problem.loc, problem.scale)
    c = objective.temper
    total = (weights * value).sum(0)
    share = weights
    if c:
        least = torch.where(weights > 0, value, torch.inf).amin(0).detach()
        excess = torch.expm1(-c * (value - least))
        share = weights * (excess + 1)
        share, total = share / share.sum(0), least - torch.log1p((weights * excess).sum(0)) / c
    by_t, by_s = (share * t).sum(0), (share * s).sum(0)
    from_t, from_s = t - by_t, s - by_s
    by_tt = (share * (tt - c * from_t.square())).sum(0)
    by_ts = (share * (ts - c * from_t * from_s)).sum(0)
    by_ss = (share * (ss - c * from_s.square())).sum(0)
    pull_t, pull_s = ((share * pull.abs()).sum(0) for pull in (t, s))
    relative = [g.abs() / (pull + h.abs()) for g, pull, h in ((by_t, pull_t, by_tt), (by_s, pull_s, by_ss))]
    noise = (weights * value.abs()).sum(0) + total.abs() + by_tt.abs() + by_ss.abs()
    residual = torch.maximum(*(torch.where(g == 0, 0.0, r) for g, r in zip((by_t, by_s), relative, strict=True)))
    return State(loc, log_scale, total, noise, by_t, by_s, by_tt, by_ts, by_ss, residual)


def _eigenvalues(tt: Tensor, ts: Tensor, ss: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smaller and the larger eigenvalue of symmetric 2 × 2 matrices, the former without cancellation."""
    middle, half = (tt + ss) / 2, torch.hypot((tt - ss) / 2, ts)
    far = middle + torch.where(middle < 0, -half, half)
    near = torch.where(far == 0, 0.0, (tt * ss - ts.square()) / torch.where(far == 0, 1.0, far))
    return torch.minimum(near, far), torch.maximum(near, far)


def solve_symmetric(tt: Tensor, ts: Tensor, ss: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute :math:`|H|^{-1} v` for symmetric 2 × 2 matrices, where |H| has the absolute eigenvalues of H.

    Where the matrix is singular up to rounding, its pseudo-inverse is used, so that a flat direction gives no step.

    Args:
        tt: The first diagonal entry of H.
        ts: The off-diagonal entry of H.
        ss: The second diagonal entry of H.
        t: The first entry of v.
        s: The second entry of v.

    Returns:
        The two entries of the result.
    """
    determinant = tt * ss - ts.square()
    definite = (determinant > 0) & (tt + ss > 0)
    root = determinant.abs()
    norm = (tt.square() + 2 * ts.square() + ss.square() + 2 * root).sqrt()
    norm = torch.where(norm > 0, norm, 1.0)
    absolute = (
        (tt.square() + ts.square() + root) / norm,
        ts * (tt + ss) / norm,
        (ss.square() + ts.square() + root) / norm,
    )
    tt, ts, ss = (torch.where(definite, h, a) for h, a in zip((tt, ts, ss), absolute, strict=True))
    determinant = tt * ss - ts.square()
    regular = determinant > 8 * torch.finfo(tt.dtype).eps * tt * ss  # a smaller determinant is rounding error
    determinant = torch.where(regular, determinant, 1.0)
    trace = torch.where(tt + ss > 0, tt + ss, 1.0)  # a matrix of rank 1 is its trace times a projection
    return (
        torch.where(regular, (ss * t - ts * s) / determinant, (tt * t + ts * s) / trace.square()),
        torch.where(regular, (tt * s - ts * t) / determinant, (ts * t + ss * s) / trace.square()),
    )


def _relative_curvature(state: State) -> Tensor:
    """Return the smaller eigenvalue of the Hessian relative to its norm, which is negative at a saddle or maximum."""
    least, greatest = _eigenvalues(state.tt, state.ts, state.ss)
    size = torch.maximum(least.abs(), greatest.abs())
    return least / torch.where(size > 0, size, 1.0)


def _step(state: State, fraction: Tensor, stationary: Tensor) -> tuple[Tensor, Tensor]:
    """Return a fraction of Newton's step.

    Args:
        state: The state at the current point.
        fraction: The fraction of the step to take, `(coordinate,)`.
        stationary: True where the gradient vanishes at negative curvature, whose direction the step then takes.
    """
    t, s = solve_symmetric(state.tt, state.ts, state.ss, -state.t, -state.s)
    none = (t == 0) & (s == 0)  # a Hessian of 0 gives no step, so the negative gradient is followed
    size = torch.hypot(state.t, state.s)
    size = torch.where(size > 0, size, 1.0)
    t, s = torch.where(none, -state.t / size, t), torch.where(none, -state.s / size, s)
    if bool(stationary.any()):
        least, _ = _eigenvalues(state.tt, state.ts, state.ss)
        first = (state.ss - least).abs() > (state.tt - least).abs()
        along_t = torch.where(first, state.ss - least, -state.ts)
        along_s = torch.where(first, -state.ts, state.tt - least)
        length = torch.hypot(along_t, along_s)
        length = torch.where(along_t * state.t + along_s * state.s > 0, -length, length)
        t, s = torch.where(stationary, along_t / length, t), torch.where(stationary, along_s / length, s)
    shrink = fraction * (_LARGEST_STEP / s.abs()).clamp(max=1.0)
    return t * shrink, s * shrink


def _start(objective: Objective, problem: Problem) -> State:
    """Return the state at the starting point.

    It is the Wasserstein barycenter. Where the divergence is not finite there, the log-linear pool is tried, and then
    the mean of the locs with the smallest scale.
    """
    weights, loc, scale = problem
    mean, mean_scale = (weights * loc).sum(0), (weights * scale).sum(0)
    state = evaluate(objective, problem, mean, mean_scale.log())
    precision = weights * (scale.amin(0) / scale).square()
    narrow = torch.where(weights > 0, scale, torch.inf).amin(0)
    pool = (precision * loc).sum(0) / precision.sum(0), scale.amin(0) * precision.sum(0).rsqrt()
    for start_loc, start_scale in (pool, (mean, narrow)):
        infinite = ~(state.value.isfinite() & state.residual.isfinite())
        if not bool(infinite.any()):
            break
        state = evaluate(objective, problem, start_loc, start_scale.log()).where(infinite, state)
    return state


def newton(objective: Objective, problem: Problem, tolerance: float, max_iterations: int) -> tuple[State, Convergence]:
    """Minimise the objective by Newton's method with one step length per coordinate.

    A step that raises the objective is rejected. Coordinates that have converged are left out of further iterations.

    Args:
        objective: The function to minimise.
        problem: The weights, locs and scales of the members.
        tolerance: The tolerance of the residual of :class:`Convergence`.
        max_iterations: The largest number of iterations.

    Returns:
        The state at the minimisers, and the convergence of each coordinate.
    """
    state = _start(objective, problem)
    iterations = torch.zeros_like(state.residual, dtype=torch.long)
    length = torch.ones_like(state.residual)
    eps = torch.finfo(length.dtype).eps
    index = torch.arange(len(length), device=length.device)  # of the coordinates still iterated
    whole = state
    for _ in range(max_iterations):
        saddle = _relative_curvature(state) < -(eps**0.5)
        is_open = ((state.residual > tolerance) | saddle) & state.value.isfinite()
        if not bool(is_open.any()):
            break
        keep = is_open.nonzero().squeeze(-1)
        index, state, problem, length = index[keep], state.select(keep), problem.select(keep), length[keep]
        t, s = _step(state, length, (state.residual <= tolerance) & saddle[keep])
        trial = evaluate(objective, problem, state.loc + state.log_scale.exp() * t, state.log_scale + s)
        slack = 8 * eps * state.noise
        better = (trial.value < state.value) | (
            (trial.value <= state.value + slack) & (trial.residual < state.residual)
        )
        better = better & trial.residual.isfinite()
        length = torch.where(better, (3 * length).clamp(max=1.0), length / 4)
        state = trial.where(better, state)
        iterations[index] += 1
        whole = State(*(a.index_copy(0, index, b) for a, b in zip(whole, state, strict=True)))
    residual = whole.residual
    converged = (residual <= tolerance) & (_relative_curvature(whole) >= -(eps**0.5)) & whole.value.isfinite()
    # Converged coordinates take one more step if it is short, which makes their error smaller than the tolerance.
    t, s = solve_symmetric(whole.tt, whole.ts, whole.ss, -whole.t, -whole.s)
    last = converged & (torch.hypot(t, s) < tolerance**0.5)
    whole = whole._replace(
        loc=torch.where(last, whole.loc + whole.log_scale.exp() * t, whole.loc),
        log_scale=torch.where(last, whole.log_scale + s, whole.log_scale),
    )
    return whole, Convergence(iterations, residual, converged)
