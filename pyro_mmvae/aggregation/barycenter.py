"""The barycenter of experts under any divergence, as a distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, overload

from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import Normal

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.aggregation.functional import run_aggregation
from pyro_mmvae.aggregation.rules import Options, Prior, Rule
from pyro_mmvae.barycenters import Convergence, get_divergence, solve
from pyro_mmvae.barycenters.newton import MAX_ITERATIONS
from pyro_mmvae.experts import Experts


@overload
def barycenter(
    experts: Experts,
    weights: Tensor | None = ...,
    divergence: str | Callable[[Normal, Normal], Tensor] = ...,
    *,
    prior: Prior | None = ...,
    tolerance: float | None = ...,
    max_iterations: int = ...,
    return_info: Literal[False] = ...,
) -> TorchDistribution: ...


@overload
def barycenter(
    experts: Experts,
    weights: Tensor | None = ...,
    divergence: str | Callable[[Normal, Normal], Tensor] = ...,
    *,
    prior: Prior | None = ...,
    tolerance: float | None = ...,
    max_iterations: int = ...,
    return_info: Literal[True],
) -> tuple[TorchDistribution, Convergence]: ...


def barycenter(
    experts: Experts,
    weights: Float[Tensor, "*#batch modality"] | None = None,
    divergence: str | Callable[[Normal, Normal], Tensor] = "w2",
    *,
    prior: Prior | None = None,
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
    return_info: bool = False,
) -> TorchDistribution | tuple[TorchDistribution, Convergence]:
    r"""The Gaussian of which the weighted mean divergence to the present experts is least, in each latent dimension.

    .. math:: q = \arg\min_q \sum_m \lambda_m D(q, q_m), \qquad \sum_m \lambda_m = 1 \text{ over the present}

    Where D is not additive over dimensions (Hellinger, α, W₁) this is the coordinate-wise problem; where it is not
    convex (Hellinger, α, Rényi below order 1, perhaps your own) a local minimiser, found from the Wasserstein
    barycenter. See ``docs/divergences.md``.

    Args:
        experts: unimodal posteriors.
        weights: :math:`\lambda`, `(modality,)` or `(*batch, modality)`, not negative, may require gradients; equal by
            default. Those of absent modalities do not count.
        divergence: one of :func:`divergences`, with a parameter or not (``"renyi:0.5"``), or a callable ``(q, p)`` of
            elementwise ``torch.distributions.Normal`` that gives D(q, p) elementwise.
        prior: ``(loc, scale)``, each a number or a tensor that broadcasts to `(*batch, latent)`: what an item gets of
            which nothing of positive weight is present. N(0, I) by default.
        tolerance: of the relative gradient, see :class:`~pyro_mmvae.barycenters.Convergence`; 1e-10 by default.
        max_iterations: of the solver.
        return_info: give the convergence of each coordinate as well, `(*batch, latent)`.

    Returns:
        An independent Normal of batch shape `batch` and event shape `(latent,)`; with ``return_info`` the convergence.

    Raises:
        ValueError: for an unknown divergence or a parameter outside of its domain, and as :func:`aggregate` does.

    Warns:
        ConvergenceWarning: if coordinates have not converged; it says how many and how far they are off.

    Example:
        >>> import torch
        >>> experts = Experts(torch.tensor([[0.0], [2.0], [90.0]]), torch.tensor([[1.0], [3.0], [2.0]]))
        >>> robust = barycenter(experts, divergence="w1")
        >>> robust.mean.item(), robust.stddev.item()
        (2.0, 3.0)
    """
    chosen = get_divergence(divergence)
    found: list[Convergence] = []

    def chart(rows: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        *gaussian, convergence = solve(
            rows, loc, scale, chosen, tolerance=tolerance, max_iterations=max_iterations, return_info=True
        )
        found.append(convergence.map(lambda tensor: tensor.squeeze(-2)))
        return gaussian[0], gaussian[1]

    rule = Rule(chosen.name, chosen.summary, "all", chart, True)
    posterior = run_aggregation(rule, chosen.name, "mixture", experts, Options(weights, prior=prior))
    return (posterior, found[0]) if return_info else posterior
