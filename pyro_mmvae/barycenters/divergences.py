"""The built-in divergences between Gaussians on the line, with the solver of the barycenter under each."""

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
    """A divergence with a fixed parameter, and the solver of its barycenter.

    Attributes:
        name: The name with the parameter, such as ``"renyi:0.5"``.
        summary: A description of one line.
        function: The divergence D(q, p) between Normals, elementwise.
        solver: A function of weights `(*batch, component, modality)` with rows that sum to 1, loc and scale
            `(*batch, modality, latent)`, the tolerance and the largest number of iterations, that returns loc, scale
            and convergence of each barycenter.
    """

    name: str
    summary: str
    function: Callable[[Normal, Normal], Tensor]
    solver: Solver

    def __call__(self, q: Normal, p: Normal) -> Tensor:
        """Return D(q, p), elementwise."""
        return self.function(q, p)


@dataclass(frozen=True)
class DivergenceFamily:
    """A family of divergences with one number as parameter, or a single divergence without a parameter.

    Attributes:
        name: The name without a parameter.
        make: A function that returns the divergence of a parameter (NaN for a family without a parameter).
        default: The parameter of the bare name; None for a family without a parameter.
        domain: The domain of the parameter in words, for error messages.
        contains: A function that returns True if a parameter is in the domain.
    """

    name: str
    make: Callable[[float], Divergence]
    default: float | None = None
    domain: str = ""
    contains: Callable[[float], bool] = math.isfinite


def closed(barycenter_fn: diagonal.BarycenterFn) -> Solver:
    """Return a solver for a barycenter in closed form, of which all finite results have converged."""

    def solve(
        weights: Tensor, loc: Tensor, scale: Tensor, _tolerance: float, _limit: int
    ) -> tuple[Tensor, Tensor, Convergence]:
        loc, scale = barycenter_fn(weights, loc, scale)
        iterations = torch.zeros_like(loc, dtype=torch.long)
        return loc, scale, Convergence(iterations, torch.zeros_like(loc), loc.detach().isfinite())

    return solve


def by_newton(terms: Terms, temper: float = 0.0) -> Solver:
    """Return a solver that applies Newton's method to the terms of a divergence.

    Args:
        terms: The function that returns the divergence and its derivatives.
        temper: The parameter of :class:`~pyro_mmvae.barycenters.newton.Objective`; 0 by default.
    """

    def solve(
        weights: Tensor, loc: Tensor, scale: Tensor, tolerance: float, limit: int
    ) -> tuple[Tensor, Tensor, Convergence]:
        return minimise(weights, loc, scale, Objective(terms, temper), tolerance, limit)

    return solve


def _hellinger(q: Normal, p: Normal) -> Tensor:
    r"""Return the squared Hellinger distance, :math:`1 - \int \sqrt{q p}`."""
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
    r"""Return the debiased entropic transport cost of the squared distance.

    With h = ε/2, :math:`D_{ab} = \sqrt{4 a b + h^2}` for variances a and b, and f = h log(D + h) - D, the cost of the
    scales is f of q and p minus the mean of f of q with itself and of p with itself. The values of D and f at a b = 0
    cancel and are left out, so that no digits are lost for large ε.
    """
    h = epsilon / 2

    def potential(a: Tensor, b: Tensor) -> Tensor:
        product = 4 * (a * b).square()
        excess = product / ((product + h * h).sqrt() + h)  # D - h
        return h * torch.log1p(excess / epsilon) - excess

    self_terms = (potential(q.scale, q.scale) + potential(p.scale, p.scale)) / 2
    return (q.loc - p.loc).square() + potential(q.scale, p.scale) - self_terms


def _renyi(order: float) -> Divergence:
    if order == 1.0:
        return replace(BUILT_IN["reverse_kl"].make(order), name="renyi:1")

    def function(q: Normal, p: Normal) -> Tensor:
        return order * _affinity(order, q, p)

    summary = f"the Rényi divergence of order {order:g} from q to q_m (renyi:α for order α)"
    return Divergence(f"renyi:{order:g}", summary, function, by_newton(partial(affinity_terms, order)))


def _alpha(alpha: float) -> Divergence:
    if abs(alpha) == 1.0:
        limit = "reverse_kl" if alpha > 0 else "forward_kl"
        return replace(BUILT_IN[limit].make(alpha), name=f"alpha:{alpha:g}")
    order = (1 + alpha) / 2
    temper = order * (1 - order)

    def function(q: Normal, p: Normal) -> Tensor:
        return -torch.expm1(-temper * _affinity(order, q, p)) / temper

    summary = f"Amari's α-divergence with α = {alpha:g} (alpha:α for any α: 1 is the pool, -1 moment matching)"
    return Divergence(f"alpha:{alpha:g}", summary, function, by_newton(partial(affinity_terms, order), temper))


def _entropic(epsilon: float) -> Divergence:
    summary = f"the debiased entropic squared W2 distance, ε = {epsilon:g} (entropic_w2:ε for any ε)"
    name = f"entropic_w2:{epsilon:g}"
    return Divergence(name, summary, partial(_entropic_w2, epsilon), partial(one_root.entropic, epsilon))


def _fixed(name: str, summary: str, function: Callable[[Normal, Normal], Tensor], solver: Solver) -> DivergenceFamily:
    divergence = Divergence(name, summary, function, solver)
    return DivergenceFamily(name, lambda _: divergence)


BUILT_IN: dict[str, DivergenceFamily] = {
    family.name: family
    for family in (
        _fixed("reverse_kl", "KL(q || q_m): the log-linear pool", _reverse_kl, closed(diagonal.natural)),
        _fixed("forward_kl", "KL(q_m || q) among Gaussians: moment matching", _forward_kl, closed(diagonal.moment)),
        _fixed("jeffreys", "the symmetric KL divergence", _jeffreys, one_root.jeffreys),
        _fixed(
            "hellinger", "the squared Hellinger distance", _hellinger, by_newton(partial(affinity_terms, 0.5), 0.25)
        ),
        DivergenceFamily("renyi", _renyi, 0.5, "between 0 and inf", lambda a: 0 < a < math.inf),
        DivergenceFamily("alpha", _alpha, 0.5, "from -1 to 1", lambda a: -1 <= a <= 1),
        _fixed("w2", "the squared 2-Wasserstein distance", _w2, closed(diagonal.wasserstein)),
        _fixed("w1", "the 1-Wasserstein distance: a geometric median", _w1, wasserstein1.median),
        _fixed("fisher_rao", "the squared Fisher-Rao distance", _fisher_rao, by_newton(fisher_rao.fisher_rao_terms)),
        DivergenceFamily("entropic_w2", _entropic, 1.0, "between 0 and inf", lambda e: 0 < e < math.inf),
    )
}
