"""The minimiser of each coordinate as a differentiable function of weights, locs and scales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.newton import (
    MAX_ITERATIONS,
    Convergence,
    Objective,
    Problem,
    evaluate,
    newton,
    solve_symmetric,
)

_ENTRIES = 2**18  # of (member, coordinate) at a time, so that memory does not grow with the number of subsets


def pieces_of(members_first: Tensor) -> Iterator[slice]:
    """Slices of the coordinates of a tensor `(member, coordinate)`, so that the memory at work has a bound."""
    members, coordinates = members_first.shape
    size = max(1, _ENTRIES // members)
    return (slice(begin, begin + size) for begin in range(0, max(1, coordinates), size))


class _Minimiser(torch.autograd.Function):
    r"""The minimiser z of F(z, θ), and by the implicit function theorem :math:`dz = -F_{zz}^{-1} F_{zθ} dθ`."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, loc: Tensor, scale: Tensor, objective: Objective, tolerance: float, limit: int
    ) -> tuple[Tensor, ...]:
        everything = Problem(weights, loc, scale)
        results = []
        for piece in pieces_of(weights):
            problem = _without_dead_members(Problem(*(tensor[:, piece] for tensor in everything)))
            state, convergence = newton(objective, problem, tolerance, limit)
            results.append((state.loc, state.log_scale, *convergence))
        found, log_scale, *convergence_ = (torch.cat(parts) for parts in zip(*results, strict=True))
        ctx.save_for_backward(weights, loc, scale, found, log_scale)
        ctx.objective = objective
        ctx.mark_non_differentiable(*convergence_)
        return found, log_scale.exp(), *convergence_

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loc: Tensor, by_scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        weights, loc, scale, found, log_scale = ctx.saved_tensors
        gradients = [torch.empty_like(tensor) for tensor in (weights, loc, scale)]
        for piece in pieces_of(weights):
            problem = Problem(*(tensor[:, piece] for tensor in (weights, loc, scale)))
            at = found[piece], log_scale[piece]
            problem, dead = _without_infinite_members(ctx.objective, problem, *at)
            with torch.enable_grad():
                leaves = Problem(*(tensor.detach().requires_grad_() for tensor in problem))
                state = evaluate(ctx.objective, leaves, *at)
            unit = at[1].exp()
            tt, ts, ss = state.tt.detach(), state.ts.detach(), state.ss.detach()
            t, s = solve_symmetric(tt, ts, ss, -unit * by_loc[piece], -unit * by_scale[piece])
            parts = torch.autograd.grad((state.t, state.s), leaves, (t, s), allow_unused=True)
            for gradient, part in zip(gradients, parts, strict=True):
                gradient[:, piece] = 0.0 if part is None else part.masked_fill(dead, 0.0)
        return *gradients, None, None, None


def _without_dead_members(problem: Problem) -> Problem:
    """Members of no weight made equal to the heaviest one, so that no infinity of theirs is multiplied by 0."""
    weights, loc, scale = problem
    heaviest = weights.argmax(0, keepdim=True)
    alive = weights > 0
    return Problem(weights, *(torch.where(alive, tensor, tensor.gather(0, heaviest)) for tensor in (loc, scale)))


def _without_infinite_members(
    objective: Objective, problem: Problem, loc: Tensor, log_scale: Tensor
) -> tuple[Problem, Tensor]:
    """The same for those alone whose pull is infinite where the barycenter is; the others have a derivative in λ."""
    with torch.no_grad():
        terms = objective.terms(loc, log_scale, problem.loc, problem.scale)
        alive = problem.weights > 0
        finite = torch.stack([term.isfinite() for term in terms]).all(0)
        if objective.temper:
            least = torch.where(alive, terms[0], torch.inf).amin(0)
            finite = finite & (-objective.temper * (terms[0] - least)).exp().isfinite()
    dead = ~alive & ~finite
    replaced = _without_dead_members(problem)
    chosen = (torch.where(dead, a, b) for a, b in zip(replaced[1:], problem[1:], strict=True))
    return Problem(problem.weights, *chosen), dead


def to_coordinates(weights: Tensor, loc: Tensor, scale: Tensor) -> tuple[Problem, torch.Size]:
    """From the shapes of a chart to `(member, coordinate)`, and the shape of the results."""
    batch = torch.broadcast_shapes(weights.shape[:-2], loc.shape[:-2])
    members, latent = loc.shape[-2:]
    shape = torch.Size((*batch, weights.shape[-2], latent))
    weights = weights.unsqueeze(-2).expand(*shape, members)
    loc, scale = (tensor.mT.unsqueeze(-3).expand(*shape, members) for tensor in (loc, scale))
    return Problem(*(t.movedim(-1, 0).reshape(members, -1) for t in (weights, loc, scale))), shape


def minimise(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
    objective: Objective,
    tolerance: float,
    max_iterations: int = MAX_ITERATIONS,
) -> tuple[Float[Tensor, "*batch component latent"], Float[Tensor, "*batch component latent"], Convergence]:
    """The minimiser of each coordinate, started at the Wasserstein barycenter.

    Newton's method in (loc, log scale), each coordinate with its own step length, so that the objective never rises
    but by rounding. Where the curvature is negative its absolute value steers downhill, and a saddle is left. Where the
    objective is not convex the result is a local minimiser.

    References:
        Nocedal and Wright, 2006. Numerical optimization, 2nd edition, chapters 3 and 4. Springer.
        Dauphin et al., 2014. Identifying and attacking the saddle point problem. NeurIPS. (the absolute Hessian)

    Args:
        weights: rows that sum to 1.
        loc: means.
        scale: standard deviations.
        objective: what to minimise.
        tolerance: of the residual, see :class:`Convergence`.
        max_iterations: at the most.

    Returns:
        loc and scale of each row's barycenter, differentiable once, by the implicit function theorem, in the first
        three arguments; and the convergence of each.
    """
    problem, shape = to_coordinates(weights, loc, scale)
    results = _Minimiser.apply(*problem, objective, tolerance, max_iterations)
    found, spread, *convergence = (result.reshape(shape) for result in results)
    return found, spread, Convergence(*convergence)
