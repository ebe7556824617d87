"""Divergences between Gaussians on the line in numpy, by formulas that the package does not use, and brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from scipy.optimize import minimize
from scipy.special import erf
from scipy.stats import norm

Array: TypeAlias = "np.ndarray"
Oracle: TypeAlias = Callable[[float, float, Array, Array], Array]


def kl(m: Array, s: Array, n: Array, t: Array) -> Array:
    """Return KL(N(m, s²) ‖ N(n, t²))."""
    return np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5


def affinity(order: float, m: Array, s: Array, n: Array, t: Array) -> Array:
    """Return the integral of q^order p^(1 - order), from natural parameters and the log normaliser."""

    def normaliser(first: Array, second: Array) -> Array:
        return -(first**2) / (4 * second) - 0.5 * np.log(-2 * second)

    a, b, c, d = m / s**2, -0.5 / s**2, n / t**2, -0.5 / t**2
    first, second = order * a + (1 - order) * c, order * b + (1 - order) * d
    if np.any(second >= 0):
        return np.full(np.broadcast(first, second).shape, np.inf)
    return np.exp(normaliser(first, second) - order * normaliser(a, b) - (1 - order) * normaliser(c, d))


def renyi(order: float) -> Oracle:
    return lambda m, s, n, t: np.log(affinity(order, m, s, n, t)) / (order - 1)


def amari(alpha: float) -> Oracle:
    return lambda m, s, n, t: 4 / (1 - alpha**2) * (1 - affinity((1 + alpha) / 2, m, s, n, t))


def w1(m: Array, s: Array, n: Array, t: Array) -> Array:
    """Return the mean of the folded normal |m - n + |s - t| Z|."""
    mean, deviation = m - n, np.maximum(np.abs(s - t), 1e-150)
    return deviation * np.sqrt(2 / np.pi) * np.exp(-(mean**2) / (2 * deviation**2)) + mean * erf(
        mean / deviation / np.sqrt(2)
    )


def fisher_rao(m: Array, s: Array, n: Array, t: Array) -> Array:
    """Return the squared distance by the formula of Costa, Santos and Strapasson (2015), a logarithm of lengths."""
    x = (m - n) / np.sqrt(2)
    far, near = np.hypot(x, s + t), np.hypot(x, s - t)
    return 2 * np.log((far + near) ** 2 / (4 * s * t)) ** 2


def sinkhorn(epsilon: float) -> Oracle:
    """Return the divergence of Janati et al. (2020), theorem 1, with 2σ² = ε in one dimension, minus the self terms."""
    v = epsilon / 2

    def transport(a: Array, b: Array) -> Array:
        d = np.sqrt(4 * a * b + v**2)
        return a + b - d + v * (1 - np.log(2 * v)) + v * np.log(d + v)

    def divergence(m: Array, s: Array, n: Array, t: Array) -> Array:
        a, b = s**2, t**2
        return (m - n) ** 2 + transport(a, b) - (transport(a, a) + transport(b, b)) / 2

    return divergence


ORACLES: dict[str, Oracle] = {
    "reverse_kl": kl,
    "forward_kl": lambda m, s, n, t: kl(n, t, m, s),
    "jeffreys": lambda m, s, n, t: kl(m, s, n, t) + kl(n, t, m, s),
    "hellinger": lambda m, s, n, t: 1 - affinity(0.5, m, s, n, t),
    "renyi:0.5": renyi(0.5),
    "renyi:0.1": renyi(0.1),
    "renyi:2": renyi(2.0),
    "alpha:0.5": amari(0.5),
    "alpha:-0.8": amari(-0.8),
    "w2": lambda m, s, n, t: (m - n) ** 2 + (s - t) ** 2,
    "w1": w1,
    "fisher_rao": fisher_rao,
    "entropic_w2:1": sinkhorn(1.0),
    "entropic_w2:0.05": sinkhorn(0.05),
}
LOCAL = ("hellinger", "renyi:0.5", "renyi:0.1", "alpha:0.5", "alpha:-0.8")  # not convex: local minimisers
NATURAL = ("reverse_kl", "forward_kl", "jeffreys", "hellinger", "renyi", "renyi:2", "alpha", "alpha:-0.8", "fisher_rao")
"""The divergences that are invariant under affine maps of the line."""


def densities(m: float, s: float, n: float, t: float, count: int = 40_001) -> tuple[Array, Array, float]:
    """Return both log densities on a grid, and the step of the grid."""
    low, high = min(m - 14 * s, n - 14 * t), max(m + 14 * s, n + 14 * t)
    grid = np.linspace(low, high, count)
    return norm(m, s).logpdf(grid), norm(n, t).logpdf(grid), grid[1] - grid[0]


def objective(oracle: Oracle, weights: Array, loc: Array, scale: Array) -> Callable[[Array], float]:
    """Return the objective as a function of (loc, log scale)."""
    share = weights / weights.sum()
    alive = share > 0
    share, loc, scale = share[alive], loc[alive], scale[alive]

    def value(point: Array) -> float:
        with np.errstate(all="ignore"):
            total = float(np.sum(share * oracle(point[0], np.exp(point[1]), loc, scale)))
        return total if np.isfinite(total) else 1e300

    return value


def brute_minimum(oracle: Oracle, weights: Array, loc: Array, scale: Array) -> tuple[Array, float]:
    """Return (loc, log scale) and value of the minimum by simplex searches from the experts and from averages."""
    share = weights / weights.sum()
    starts = [(share @ loc, np.log(share @ scale)), (share @ loc, np.log(scale[weights > 0].min()))]
    starts += [(m, np.log(0.99 * s)) for m, s, w in zip(loc, scale, weights, strict=True) if w > 0]
    value = objective(oracle, weights, loc, scale)
    results = [
        minimize(value, start, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15, "maxiter": 2000})
        for start in starts
    ]
    best = min(results, key=lambda result: result.fun)
    return best.x, best.fun


def problem(seed: int, members: int) -> tuple[Array, Array, Array]:
    """Return random weights, locs and scales; one in five weights is 0."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.1, 1.0, members) * (rng.uniform(size=members) < 0.8)
    weights[0] += weights.sum() == 0
    return weights, 2 * rng.normal(size=members), np.exp(0.7 * rng.normal(size=members))
