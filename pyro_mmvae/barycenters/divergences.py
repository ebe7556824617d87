"""The built-in divergences of Gaussians on the line, and how the barycenter under each is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch.distributions import Normal, kl_divergence

from pyro_mmvae._typing import Tensor
from pyro_mmvae.barycenters import diagonal, fisher_rao, one_root, wasserstein1
from pyro_mmvae.barycenters.implicit import minimise
from pyro_mmvae.barycenters.newton import Convergence, Objective, Terms
from pyro_mmvae.barycenters.renyi import affinity_terms, scaled_log_affinity

Solver: TypeAlias = Callable[[Tensor, Tensor, Tensor, float, int], tuple[Tensor, Tensor, Convergence]]


@dataclass(frozen=True)
class Divergence:
    """A divergence, its parameter fixed, and how its barycenter is found.

    Attributes:
        name: with the parameter, ``"renyi:0.5"``.
        summary: one line.
        function: D(q, p), elementwise, of Normals.
        solver: (weights `(*batch, component, modality)` of rows that sum to 1, loc, scale `(*batch, modality, latent)`,
            tolerance, iterations at the most) to loc, scale and the convergence of each.
    """

    name: str
    summary: str
    function: Callable[[Normal, Normal], Tensor]
    solver: Solver

    def __call__(self, q: Normal, p: Normal) -> Tensor:
        """D(q, p), elementwise."""
        return self.function(q, p)


@dataclass(frozen=True)
class Family:
    """Divergences of one name, one for each parameter, or one without any.

    Attributes:
        name: without a parameter.
        make: the divergence of a parameter (None where there is none).
        default: the parameter where none is given; None if it takes none.
        domain: of the parameter, as the error says it.
        inside: whether a parameter is in it.
        built_in: whether it can be unregistered.
    """

    name: str
    make: Callable[[float], Divergence]
    default: float | None = None
    domain: str = ""
    inside: Callable[[float], bool] = math.isfinite
    built_in: bool = True


def closed(chart: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Solver:
    """A chart, (weights, loc, scale) to loc and scale, as a solver that has always converged."""

    def solve(
        weights: Tensor, loc: Tensor, scale: Tensor, _tolerance: float, _limit: int
    ) -> tuple[Tensor, Tensor, Convergence]:
        found, spread = chart(weights, loc, scale)
        nothing = torch.zeros_like(found, dtype=torch.long)
        return found, spread, Convergence(nothing, torch.zeros_like(found), found.detach().isfinite())

    return solve


def by_newton(terms: Terms, temper: float = 0.0) -> Solver:
    """Newton's method on the terms of a divergence; see :mod:`~pyro_mmvae.barycenters.newton`."""

    def solve(
        weights: Tensor, loc: Tensor, scale: Tensor, tolerance: float, limit: int
    ) -> tuple[Tensor, Tensor, Convergence]:
        return minimise(weights, loc, scale, Objective(terms, temper), tolerance, limit)

    return solve


def _hellinger(q: Normal, p: Normal) -> Tensor:
    r"""The squared Hellinger distance, :math:`1 - \int \sqrt{q p}`."""
    return -torch.expm1(-_affinity(0.5, q, p) / 4)


def _affinity(order: float, q: Normal, p: Normal) -> Tensor:
    return scaled_log_affinity(order, (q.loc - p.loc) / q.scale, q.scale.log() - p.scale.log())


def _reverse_kl(q: Normal, p: Normal) -> Tensor:
    return kl_divergence(q, p)


def _forward_kl(q: Normal, p: Normal) -> Tensor:
    return kl_divergence(p, q)


def _jeffreys(q: Normal, p: Normal) -> Tensor:
    return kl_divergence(q, p) + kl_divergence(p, q)


def _w2(q: Normal, p: Normal) -> Tensor:
    return (q.loc - p.loc).square() + (q.scale - p.scale).square()


def _w1(q: Normal, p: Normal) -> Tensor:
    return wasserstein1.folded_norm(q.loc - p.loc, q.scale - p.scale)


def _fisher_rao(q: Normal, p: Normal) -> Tensor:
    log_ratio = q.scale.log() - p.scale.log()
    x = (q.loc - p.loc).square() / (4 * q.scale * p.scale) + 2 * torch.sinh(log_ratio / 2).square()
    return fisher_rao.squared_arcosh(x)[0]


def _entropic_w2(epsilon: float, q: Normal, p: Normal) -> Tensor:
    r"""Debiased entropic transport of the squared distance.

    With h = ε/2, :math:`D_{ab} = \sqrt{4 a b + h^2}` of variances and f = h log(D + h) - D, less the mean of f of
    each with itself; what D and f have at a b = 0 cancels and is left out, so that nothing is lost for large ε.
    """
    h = epsilon / 2

    def potential(a: Tensor, b: Tensor) -> Tensor:
        product = 4 * (a * b).square()
        more = product / ((product + h * h).sqrt() + h)  # D - h
        return h * torch.log1p(more / epsilon) - more

    own = (potential(q.scale, q.scale) + potential(p.scale, p.scale)) / 2
    return (q.loc - p.loc).square() + potential(q.scale, p.scale) - own


def _renyi(order: float) -> Divergence:
    if order == 1.0:
        return replace(BUILT_IN["reverse_kl"].make(order), name="renyi:1")

    def function(q: Normal, p: Normal) -> Tensor:
        return order * _affinity(order, q, p)

    summary = f"the Rényi divergence of order {order:g} from q to q_m (renyi:α for another)"
    return Divergence(f"renyi:{order:g}", summary, function, by_newton(partial(affinity_terms, order)))


def _alpha(alpha: float) -> Divergence:
    if abs(alpha) == 1.0:
        limit = "reverse_kl" if alpha > 0 else "forward_kl"
        return replace(BUILT_IN[limit].make(alpha), name=f"alpha:{alpha:g}")
    order = (1 + alpha) / 2
    temper = order * (1 - order)

    def function(q: Normal, p: Normal) -> Tensor:
        return -torch.expm1(-temper * _affinity(order, q, p)) / temper

    summary = f"Amari's α-divergence of α = {alpha:g} (alpha:α for another: 1 is the pool, -1 moment matching)"
    return Divergence(f"alpha:{alpha:g}", summary, function, by_newton(partial(affinity_terms, order), temper))


def _entropic(epsilon: float) -> Divergence:
    summary = f"debiased entropic W2², ε = {epsilon:g} (entropic_w2:ε for another)"
    name = f"entropic_w2:{epsilon:g}"
    return Divergence(name, summary, partial(_entropic_w2, epsilon), partial(one_root.entropic, epsilon))


def _fixed(name: str, summary: str, function: Callable[[Normal, Normal], Tensor], solver: Solver) -> Family:
    divergence = Divergence(name, summary, function, solver)
    return Family(name, lambda _: divergence)


BUILT_IN: dict[str, Family] = {
    family.name: family
    for family in (
        _fixed("reverse_kl", "KL(q || q_m): the log-linear pool", _reverse_kl, closed(diagonal.natural)),
        _fixed("forward_kl", "KL(q_m || q) among Gaussians: moment matching", _forward_kl, closed(diagonal.moment)),
        _fixed("jeffreys", "the symmetric KL divergence", _jeffreys, one_root.jeffreys),
        _fixed(
            "hellinger", "the squared Hellinger distance", _hellinger, by_newton(partial(affinity_terms, 0.5), 0.25)
        ),
        Family("renyi", _renyi, 0.5, "0 < α < inf", lambda a: 0 < a < math.inf),
        Family("alpha", _alpha, 0.5, "-1 <= α <= 1", lambda a: -1 <= a <= 1),
        _fixed("w2", "the squared 2-Wasserstein distance", _w2, closed(diagonal.wasserstein)),
        _fixed("w1", "the 1-Wasserstein distance: a geometric median", _w1, wasserstein1.median),
        _fixed("fisher_rao", "the squared Fisher-Rao distance", _fisher_rao, by_newton(fisher_rao.fisher_rao_terms)),
        Family("entropic_w2", _entropic, 1.0, "0 < ε < inf", lambda e: 0 < e < math.inf),
    )
}
