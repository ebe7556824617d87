"""The minimiser of each coordinate as a differentiable function of weights, locs and scales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from pyro_mmvae._overrides import overridable
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

_ENTRIES = 2**18  # pairs of member and coordinate at a time, so that memory does not grow with the number of subsets


def coordinate_chunks(members_first: Tensor) -> Iterator[slice]:
    """Return slices of the coordinates of a tensor `(member, coordinate)`, which bound the memory in use."""
    members, coordinates = members_first.shape
    size = max(1, _ENTRIES // members)
    return (slice(begin, begin + size) for begin in range(0, max(1, coordinates), size))


@overridable
def _minimiser(
    weights: Tensor, loc: Tensor, scale: Tensor, objective: Objective, tolerance: float, limit: int
) -> tuple[Tensor, ...]:
    return cast("tuple[Tensor, ...]", _Minimiser.apply(weights, loc, scale, objective, tolerance, limit))


class _Minimiser(torch.autograd.Function):
    r"""The minimiser z of F(z, θ), with :math:`dz = -F_{zz}^{-1} F_{zθ} dθ` by the implicit function theorem."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, loc: Tensor, scale: Tensor, objective: Objective, tolerance: float, limit: int
    ) -> tuple[Tensor, ...]:
        results = []
        for chunk in coordinate_chunks(weights):
            problem = _replace_weightless(Problem(*(tensor[:, chunk] for tensor in (weights, loc, scale))))
            state, convergence = newton(objective, problem, tolerance, limit)
            results.append((state.loc, state.log_scale, *convergence))
        result_loc, log_scale, *convergence_ = (torch.cat(parts) for parts in zip(*results, strict=True))
        ctx.save_for_backward(weights, loc, scale, result_loc, log_scale)
        ctx.objective = objective
        ctx.mark_non_differentiable(*convergence_)
        return result_loc, log_scale.exp(), *convergence_

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loc: Tensor, by_scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        weights, loc, scale, result_loc, log_scale = ctx.saved_tensors
        gradients = [torch.empty_like(tensor) for tensor in (weights, loc, scale)]
        for chunk in coordinate_chunks(weights):
            problem = Problem(*(tensor[:, chunk] for tensor in (weights, loc, scale)))
            point = result_loc[chunk], log_scale[chunk]
            problem, dead = _replace_infinite(ctx.objective, problem, *point)
            with torch.enable_grad():
                leaves = Problem(*(tensor.detach().requires_grad_() for tensor in problem))
                state = evaluate(ctx.objective, leaves, *point)
            unit = point[1].exp()
            tt, ts, ss = state.tt.detach(), state.ts.detach(), state.ss.detach()
            t, s = solve_symmetric(tt, ts, ss, -unit * by_loc[chunk], -unit * by_scale[chunk])
            parts = torch.autograd.grad((state.t, state.s), leaves, (t, s), allow_unused=True)
            for gradient, part in zip(gradients, parts, strict=True):
                gradient[:, chunk] = 0.0 if part is None else part.masked_fill(dead, 0.0)
        return *gradients, None, None, None


def _replace_weightless(problem: Problem) -> Problem:
    """Replace members of weight 0 by the one of largest weight, so that no infinite divergence is multiplied by 0."""
    weights, loc, scale = problem
    heaviest = weights.argmax(0, keepdim=True)
    alive = weights > 0
    return Problem(weights, *(torch.where(alive, tensor, tensor.gather(0, heaviest)) for tensor in (loc, scale)))


def _replace_infinite(objective: Objective, problem: Problem, loc: Tensor, log_scale: Tensor) -> tuple[Problem, Tensor]:
    """Replace members of weight 0 whose divergence from the barycenter, or a derivative of it, is infinite.

    Other members of weight 0 are kept, since the barycenter has a derivative with respect to their weight.

    Returns:
        The problem with replacements, and a tensor that is True where a member was replaced.
    """
    with torch.no_grad():
        terms = objective.terms(loc, log_scale, problem.loc, problem.scale)
        alive = problem.weights > 0
        finite = torch.stack([term.isfinite() for term in terms]).all(0)
        if objective.temper:
            least = torch.where(alive, terms[0], torch.inf).amin(0)
            finite = finite & (-objective.temper * (terms[0] - least)).exp().isfinite()
    dead = ~alive & ~finite
    replaced = _replace_weightless(problem)
    chosen = (torch.where(dead, a, b) for a, b in zip(replaced[1:], problem[1:], strict=True))
    return Problem(problem.weights, *chosen), dead


def to_coordinates(weights: Tensor, loc: Tensor, scale: Tensor) -> tuple[Problem, torch.Size]:
    """Return the arguments of a barycenter function as `(member, coordinate)`, and the shape of its results."""
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
    """Minimise the objective of each coordinate from the Wasserstein barycenter.

    Newton's method works in (loc, log scale) with one step length per coordinate, so that the objective never rises
    except by rounding. Negative eigenvalues of the Hessian are replaced by their absolute values, which makes each step
    a descent and leaves saddles. If the objective is not convex, the result is a local minimiser.

    References:
        Nocedal and Wright, 2006. Numerical optimization, 2nd edition, chapters 3 and 4. Springer.
        Dauphin et al., 2014. Identifying and attacking the saddle point problem. NeurIPS. (the absolute Hessian)

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.
        objective: The function to minimise.
        tolerance: The tolerance of the residual of :class:`Convergence`.
        max_iterations: The largest number of iterations.

    Returns:
        loc and scale of the barycenter of each row, and the convergence of each coordinate. loc and scale can be
        differentiated once with respect to the first three arguments, by the implicit function theorem.
    """
    problem, shape = to_coordinates(weights, loc, scale)
    results = _minimiser(*problem, objective, tolerance, max_iterations)
    result_loc, result_scale, *convergence = (result.reshape(shape) for result in results)
    return result_loc, result_scale, Convergence(*convergence)
