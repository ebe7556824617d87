"""The benchmarks of the Bures barycenter against POT and against an unrolled fixed-point loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Row, compare, in_turn
from pyro_mmvae.barycenters import bures

TOLERANCE = 1e-7


def random_factors(items: int, members: int, size: int) -> Tensor:
    """Return lower triangular factors of random covariances, `(item, member, size, size)`."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(items, members, size, 2 * size, generator=generator, dtype=torch.float64)
    return torch.linalg.cholesky(noise @ noise.mT / (2 * size))


def square_root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def unrolled(factors: Tensor, *, gradient: bool) -> Tensor:
    """Compute the barycenters item by item on covariances, with autograd through every step.

    Args:
        factors: Lower triangular factors of the covariances, `(item, member, size, size)`.
        gradient: If True, run the backward pass as well.
    """
    results = []
    for item in factors:
        covariances = item @ item.mT
        current = covariances.mean(0)
        for _ in range(500):
            half = square_root(current)
            mean = torch.stack([square_root(half @ covariance @ half) for covariance in covariances]).mean(0)
            inverse = torch.linalg.inv(half)
            following = inverse @ mean @ mean @ inverse
            step = (following - current).norm() / current.norm()
            current = following
            if step < TOLERANCE:
                break
        results.append(current)
    result = torch.stack(results)
    if gradient:
        result.sum().backward()
    return result


def ours(factors: Tensor, *, gradient: bool) -> Tensor:
    """Compute the barycenters of all items at once by this package.

    Args:
        factors: Lower triangular factors of the covariances, `(item, member, size, size)`.
        gradient: If True, run the backward pass as well.
    """
    weights = torch.full((1, factors.shape[1]), 1 / factors.shape[1], dtype=torch.float64)
    tril = bures.barycenter(weights, factors, tolerance=TOLERANCE).scale_tril.squeeze(1)
    result = tril @ tril.mT
    if gradient:
        result.sum().backward()
    return result


def rows(rounds: int) -> Iterator[Row]:
    """Yield one row per opponent and size."""
    try:
        from ot.gaussian import bures_wasserstein_barycenter  # noqa: PLC0415
    except ModuleNotFoundError:
        bures_wasserstein_barycenter = None
    for items, members, size in ((64, 3, 8), (64, 3, 32)):
        factors = random_factors(items, members, size)
        note = f"{items} items, {members} members, {size} dimensions, to {TOLERANCE:g}"
        covariances = (factors @ factors.mT).numpy()
        reference = ours(factors, gradient=False)

        def pot(covariances: np.ndarray = covariances, members: int = members, size: int = size) -> Tensor:
            means = np.zeros((members, size))
            return torch.from_numpy(
                np.stack([bures_wasserstein_barycenter(means, c, eps=TOLERANCE)[1] for c in covariances])
            )

        if bures_wasserstein_barycenter is not None:
            torch.testing.assert_close(pot(), reference, rtol=1e-4, atol=1e-6)
            seconds = in_turn({"POT": pot, "ours": lambda f=factors: ours(f, gradient=False)}, rounds=rounds)
            yield compare(f"Bures barycenter, D = {size}: POT item by item / ours", seconds, "POT", "ours", note)
        leaf = factors.clone().requires_grad_()
        torch.testing.assert_close(unrolled(factors, gradient=False), reference, rtol=1e-4, atol=1e-6)
        seconds = in_turn(
            {
                "unrolled": lambda f=leaf: unrolled(f, gradient=True),
                "ours": lambda f=leaf: ours(f, gradient=True),
            },
            rounds=rounds,
        )
        yield compare(
            f"Bures barycenter with gradient, D = {size}: unrolled loop / ours", seconds, "unrolled", "ours", note
        )
