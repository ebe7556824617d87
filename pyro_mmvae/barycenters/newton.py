r"""The barycenter under any divergence, by a batched, safeguarded Newton method.

Coordinate-wise: every item, subset and latent dimension is one problem in two unknowns, loc and log scale, and all of
them are solved at once. Members stand first, `(member, coordinate)`, and everything is elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch

from pyro_mmvae._typing import Bool, Float, Int, Tensor

Terms: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""(loc, log scale, member loc, member scale), elementwise, to a divergence and its derivatives: itself, by loc / scale,
by log scale, and the second ones, twice loc, loc and log scale, twice log scale. Those by loc are times the scale."""

MAX_ITERATIONS = 200
_LARGEST_STEP = 2.0  # in log scale


@dataclass(frozen=True)
class Convergence:
    """How each coordinate was solved.

    Attributes:
        iterations: of the solver; 0 for a closed form.
        residual: the norm of the gradient relative to the members' own pulls and the curvature, without units.
        converged: whether it is below the tolerance, where the curvature is not negative.
    """

    iterations: Int[Tensor, "*coordinate"]
    residual: Float[Tensor, "*coordinate"]
    converged: Bool[Tensor, "*coordinate"]

    def __iter__(self) -> Iterator[Tensor]:
        """The three, in this order."""
        return iter((self.iterations, self.residual, self.converged))

    def map(self, function: Callable[[Tensor], Tensor]) -> Convergence:
        """The same in another shape."""
        return Convergence(*map(function, self))


@dataclass(frozen=True)
class Objective:
    r"""What is minimised over q, with weights :math:`\lambda` that sum to 1.

    It is :math:`\sum_m \lambda_m D_m` for ``temper`` 0 and :math:`-c^{-1} \log \sum_m \lambda_m e^{-c D_m}` for a
    ``temper`` c > 0, which has the minimisers of :math:`\sum_m \lambda_m (1 - e^{-c D_m})` and does not underflow.
    """

    terms: Terms
    temper: float = 0.0


class Problem(NamedTuple):
    """Weights, locs and scales of members, each `(member, coordinate)`."""

    weights: Tensor
    loc: Tensor
    scale: Tensor

    def take(self, index: Tensor) -> Problem:
        """Some of the coordinates."""
        return Problem(*(tensor[:, index] for tensor in self))


class State(NamedTuple):
    """The objective at a point, `(coordinate,)` each; derivatives by (loc / scale, log scale)."""

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

    def take(self, index: Tensor) -> State:
        """Some of the coordinates."""
        return State(*(tensor[index] for tensor in self))

    def where(self, condition: Tensor, other: State) -> State:
        """This one where the condition holds, else the other one."""
        return State(*(torch.where(condition, a, b) for a, b in zip(self, other, strict=True)))


def evaluate(objective: Objective, problem: Problem, loc: Tensor, log_scale: Tensor) -> State:
    """The objective, its derivatives and the residual at a point, differentiable in the problem as well."""
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
    """The lesser and the greater eigenvalue of symmetric matrices, the lesser one without cancellation."""
    middle, half = (tt + ss) / 2, torch.hypot((tt - ss) / 2, ts)
    far = middle + torch.where(middle < 0, -half, half)
    near = torch.where(far == 0, 0.0, (tt * ss - ts.square()) / torch.where(far == 0, 1.0, far))
    return torch.minimum(near, far), torch.maximum(near, far)


def solve_symmetric(tt: Tensor, ts: Tensor, ss: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`|H|^{-1} v` for symmetric 2 × 2 matrices, where |H| has the absolute eigenvalues of H.

    The pseudo-inverse where the matrix is singular, but for rounding: nothing happens in a direction that is flat.
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
    regular = determinant > 8 * torch.finfo(tt.dtype).eps * tt * ss  # less is rounding
    determinant = torch.where(regular, determinant, 1.0)
    trace = torch.where(tt + ss > 0, tt + ss, 1.0)  # of rank 1, H is its trace times a projection
    return (
        torch.where(regular, (ss * t - ts * s) / determinant, (tt * t + ts * s) / trace.square()),
        torch.where(regular, (tt * s - ts * t) / determinant, (ts * t + ss * s) / trace.square()),
    )


def _flat(state: State) -> Tensor:
    """How far the curvature is from negative, relative to its size: not below 0 but for rounding at a minimum."""
    least, greatest = _eigenvalues(state.tt, state.ts, state.ss)
    size = torch.maximum(least.abs(), greatest.abs())
    return least / torch.where(size > 0, size, 1.0)


def _step(state: State, fraction: Tensor, stationary: Tensor) -> tuple[Tensor, Tensor]:
    """A fraction of Newton's step; along the direction of negative curvature where the gradient says nothing."""
    t, s = solve_symmetric(state.tt, state.ts, state.ss, -state.t, -state.s)
    none = (t == 0) & (s == 0)  # a singular matrix: down the gradient
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
    """The Wasserstein barycenter; where the divergence is not finite there, the pool, or the narrowest scale."""
    weights, loc, scale = problem
    mean, spread = (weights * loc).sum(0), (weights * scale).sum(0)
    state = evaluate(objective, problem, mean, spread.log())
    precision = weights * (scale.amin(0) / scale).square()
    narrow = torch.where(weights > 0, scale, torch.inf).amin(0)
    pool = (precision * loc).sum(0) / precision.sum(0), scale.amin(0) * precision.sum(0).rsqrt()
    for other in (pool, (mean, narrow)):
        wrong = ~(state.value.isfinite() & state.residual.isfinite())
        if not bool(wrong.any()):
            break
        state = evaluate(objective, problem, other[0], other[1].log()).where(wrong, state)
    return state


def newton(objective: Objective, problem: Problem, tolerance: float, max_iterations: int) -> tuple[State, Convergence]:
    """Newton's method with a step length for each coordinate; a step that raises the objective is not taken."""
    state = _start(objective, problem)
    iterations = torch.zeros_like(state.residual, dtype=torch.long)
    length = torch.ones_like(state.residual)
    eps = torch.finfo(length.dtype).eps
    index = torch.arange(len(length), device=length.device)  # of what is still at work
    whole = state
    for _ in range(max_iterations):
        saddle = _flat(state) < -(eps**0.5)
        open_ = ((state.residual > tolerance) | saddle) & state.value.isfinite()
        if not bool(open_.any()):
            break
        keep = open_.nonzero().squeeze(-1)
        index, state, problem, length = index[keep], state.take(keep), problem.take(keep), length[keep]
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
    converged = (residual <= tolerance) & (_flat(whole) >= -(eps**0.5)) & whole.value.isfinite()
    t, s = solve_symmetric(whole.tt, whole.ts, whole.ss, -whole.t, -whole.s)  # one more, as small as the tolerance
    last = converged & (torch.hypot(t, s) < tolerance**0.5)
    whole = whole._replace(
        loc=torch.where(last, whole.loc + whole.log_scale.exp() * t, whole.loc),
        log_scale=torch.where(last, whole.log_scale + s, whole.log_scale),
    )
    return whole, Convergence(iterations, residual, converged)
