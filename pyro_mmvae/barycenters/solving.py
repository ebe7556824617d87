"""One way to every barycenter: by name or by anyone's callable, checked, in double precision, with its convergence."""

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
    """Some coordinates of a barycenter are not minimisers to the tolerance."""


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
    r"""Barycenters of diagonal Gaussians: :math:`\arg\min_q \sum_m w_m D(q, q_m)` in each coordinate.

    All rows of all items are one batch. Derivatives in the three tensors are exact, by the implicit function theorem;
    a second derivative is refused but of closed forms, ``jeffreys`` and ``entropic_w2``. Iterative solvers work in
    float64, whatever the arguments are (in their own type on a device without it), and read one value from the device
    an iteration.

    Args:
        weights: not negative, at least one positive in each row; rows are normalised.
        loc: means.
        scale: standard deviations, positive.
        divergence: one of :func:`divergences`, with its parameter or not; or a callable ``(q, p)`` of elementwise
            Normals that gives D(q, p) elementwise, twice differentiable in q and once more in p.
        tolerance: of the residual, see :class:`Convergence`; 1e-10 in float64.
        max_iterations: at the most.
        return_info: give the convergence as well.

    Returns:
        loc and scale, `(*batch, component, latent)`, in the type of ``loc``; and the convergence of each, if asked.

    Raises:
        ValueError: for an unknown divergence, a parameter outside of its domain, weights that are negative or not
            finite, a row without a positive weight, or a callable that does not give what it must.

    Warns:
        ConvergenceWarning: if a coordinate has not converged, which is also one of whose members something is not
            finite.

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
    found, spread, convergence = chosen.solver(shares, locs, scales, tolerance, max_iterations)
    finite = found.detach().isfinite() & spread.detach().isfinite()
    convergence = replace(convergence, converged=convergence.converged & finite)
    wrong = ~convergence.converged
    if bool(wrong.any()):
        worst = convergence.residual.nan_to_num(nan=torch.inf).masked_fill(~wrong, 0.0).max()
        warnings.warn(
            f"barycenter under {chosen.name!r}: {int(wrong.sum())} of {wrong.numel()} coordinates have not converged "
            f"in {max_iterations} iterations, the largest residual is {float(worst):.1e} (tolerance {tolerance:.0e})",
            ConvergenceWarning,
            stacklevel=2,
        )
    found, spread = found.to(loc.dtype), spread.to(loc.dtype)
    return (found, spread, convergence) if return_info else (found, spread)


def _check(weights: Tensor, tolerance: float | None, max_iterations: int) -> None:
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError("weights must be finite and not negative")
    if not bool((weights > 0).any(-1).all()):
        raise ValueError("each row of weights needs a positive one")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    if max_iterations < 0:
        raise ValueError(f"max_iterations must not be negative, not {max_iterations}")
