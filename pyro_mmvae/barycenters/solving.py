"""The entry point for barycenters under any divergence, with checks, in double precision, and with convergence."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, overload

import torch
from torch.distributions import Normal

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.diagonal import Gaussians
from pyro_mmvae.barycenters.newton import MAX_ITERATIONS, Convergence
from pyro_mmvae.barycenters.registry import get_divergence


class ConvergenceWarning(UserWarning):
    """A warning that some coordinates of a barycenter are not minimisers within the tolerance."""


@overload
def solve(
    weights: Tensor,
    loc: Tensor,
    scale: Tensor,
    divergence: str | Callable[[Normal, Normal], Tensor] = ...,
    *,
    tolerance: float | None = ...,
    max_iterations: int = ...,
    return_info: Literal[False] = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def solve(
    weights: Tensor,
    loc: Tensor,
    scale: Tensor,
    divergence: str | Callable[[Normal, Normal], Tensor] = ...,
    *,
    tolerance: float | None = ...,
    max_iterations: int = ...,
    return_info: Literal[True],
) -> tuple[Tensor, Tensor, Convergence]: ...


def solve(
    weights: Float[Tensor, "*#batch component modality"],
    loc: Float[Tensor, "*batch modality latent"],
    scale: Float[Tensor, "*batch modality latent"],
    divergence: str | Callable[[Normal, Normal], Tensor] = "w2",
    *,
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
    return_info: bool = False,
) -> Gaussians | tuple[Tensor, Tensor, Convergence]:
    r"""Compute barycenters of diagonal Gaussians, :math:`\arg\min_q \sum_m w_m D(q, q_m)` in each coordinate.

    All rows of all items are solved as one batch. Derivatives with respect to the three tensors are exact, by the
    implicit function theorem. Second derivatives are available for closed forms, ``jeffreys`` and ``entropic_w2`` only.
    Solvers work in float64 for all types of the arguments (in float32 on MPS, which does not have float64); an
    iterative one reads one value per iteration from the device.

    Args:
        weights: Non-negative weights, at least one positive in each row; rows are normalised.
        loc: The means of the members.
        scale: The standard deviations of the members, positive.
        divergence: The name of one of :func:`divergences`, with or without a parameter; or a callable ``(q, p)`` of
            elementwise Normals that returns D(q, p) elementwise, twice differentiable in q and once more in p.
        tolerance: The tolerance of the residual of :class:`Convergence`; by default 1e-10 in float64.
        max_iterations: The largest number of iterations.
        return_info: If True, return the convergence as well.

    Returns:
        loc and scale, `(*batch, component, latent)`, in the type of ``loc``; with ``return_info`` also their
        convergence.

    Raises:
        ValueError: If the divergence is unknown, its parameter is outside of the domain, weights are negative or not
            finite, a row has no positive weight, or a callable returns anything but one value per element.

    Warns:
        ConvergenceWarning: If a coordinate has not converged, for instance because a member is not finite.

    Example:
        >>> loc, scale = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])
        >>> solve(torch.ones(1, 2), loc, scale, "w2")
        (tensor([[1.]]), tensor([[2.]]))
        >>> solve(torch.ones(1, 2), loc, scale, "renyi:0.5", return_info=True)[2].converged
        tensor([[True]])
    """
    chosen = get_divergence(divergence)
    _check(weights, tolerance, max_iterations)
    dtype = torch.float32 if loc.device.type == "mps" else torch.float64
    if tolerance is None:
        tolerance = 1e-10 if dtype == torch.float64 else 1e3 * torch.finfo(dtype).eps
    shares, locs, scales = (tensor.to(dtype) for tensor in (weights, loc, scale))
    shares = shares / shares.sum(-1, keepdim=True)
    result_loc, result_scale, convergence = chosen.solver(shares, locs, scales, tolerance, max_iterations)
    finite = result_loc.detach().isfinite() & result_scale.detach().isfinite()
    convergence = replace(convergence, converged=convergence.converged & finite)
    unsolved = ~convergence.converged
    if bool(unsolved.any()):
        worst = convergence.residual.nan_to_num(nan=torch.inf).masked_fill(~unsolved, 0.0).max()
        warnings.warn(
            f"barycenter under {chosen.name!r}: {int(unsolved.sum())} of {unsolved.numel()} coordinates have not "
            f"converged in {max_iterations} iterations, the largest residual is {float(worst):.1e} "
            f"(tolerance {tolerance:.0e})",
            ConvergenceWarning,
            stacklevel=2,
        )
    result_loc, result_scale = result_loc.to(loc.dtype), result_scale.to(loc.dtype)
    return (result_loc, result_scale, convergence) if return_info else (result_loc, result_scale)


def _check(weights: Tensor, tolerance: float | None, max_iterations: int) -> None:
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        invalid = weights[~((weights >= 0) & weights.isfinite())]
        raise ValueError(f"weights must be finite and non-negative, got {float(invalid[0])}")
    if not bool((weights > 0).any(-1).all()):
        raise ValueError("weights must have a positive entry in each row, got a row of zeros")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if max_iterations < 0:
        raise ValueError(f"max_iterations must be non-negative, got {max_iterations}")
