"""Barycenters of experts under any divergence: as an aggregation, and as one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, overload

from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import Normal

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.aggregation.kinds import FusionRules, diagonal_rule
from pyro_mmvae.aggregation.rules import MatrixRule
from pyro_mmvae.aggregation.values import Prior
from pyro_mmvae.barycenters import Convergence, Divergence, get_divergence, solve
from pyro_mmvae.barycenters.newton import MAX_ITERATIONS
from pyro_mmvae.experts import Experts

DivergenceLike: TypeAlias = str | Callable[[Normal, Normal], Tensor]


class DivergenceBarycenter(MatrixRule):
    r"""The Gaussian with the least weighted mean divergence to the present experts, in each latent dimension.

    .. math:: q = \arg\min_q \sum_m \lambda_m D(q, q_m), \qquad \sum_m \lambda_m = 1 \text{ over the present}

    Where D is not additive over dimensions (Hellinger, α, W₁) this is the coordinate-wise problem; where it is not
    convex (Hellinger, α, Rényi below order 1) it is a local minimiser, found from the Wasserstein barycenter. See
    ``docs/divergences.md``.

    Args:
        divergence: One of :func:`pyro_mmvae.divergences`, with a parameter or not (``"renyi:0.5"``), or a callable
            ``(q, p)`` of elementwise ``torch.distributions.Normal`` that returns D(q, p) elementwise.
        parameter: The parameter of a divergence by name, in place of one after the colon: the order of ``renyi``, the
            α of ``alpha``, the ε of ``entropic_w2``; by default the divergence's own default.
        tolerance: The relative gradient at which a coordinate has converged, see
            :class:`~pyro_mmvae.barycenters.Convergence`; 1e-10 by default.
        max_iterations: The largest number of iterations of the solver.
        **options: The keywords of :class:`Aggregation`.

    Raises:
        ValueError: If the divergence is unknown, or its parameter is outside of its domain.

    Example:
        >>> import torch
        >>> experts = Experts(torch.tensor([[0.0], [2.0], [90.0]]), torch.tensor([[1.0], [3.0], [2.0]]))
        >>> DivergenceBarycenter("w1")(experts).mean.item()
        2.0
    """

    fusion_rules: FusionRules = {"normal": diagonal_rule(solve)}  # replaced by that of the divergence at each call

    def __init__(
        self,
        divergence: DivergenceLike = "w2",
        *,
        parameter: float | None = None,
        tolerance: float | None = None,
        max_iterations: int = MAX_ITERATIONS,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if parameter is not None:
            if not isinstance(divergence, str) or ":" in divergence:
                raise ValueError(f"parameter must be given to a divergence by name without one, got {divergence!r}")
            divergence = f"{divergence}:{parameter!r}"
        self.name = get_divergence(divergence).name
        # A built-in divergence holds closures, which cannot be pickled; its name can.
        self.divergence = divergence
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def fuse(self, experts: Experts, rows: Tensor, *, single: bool) -> TorchDistribution:
        """Return the components of a matrix W."""
        return self._fuse(experts, rows, single, [])

    def forward_with_convergence(self, experts: Experts) -> tuple[TorchDistribution, Convergence]:
        """Return the posterior, and the convergence of each coordinate, `(*batch, latent)`.

        Args:
            experts: The unimodal posteriors of the items.
        """
        convergences: list[Convergence] = []
        with self.prepared(experts) as ready:
            view = self.with_values(self.values_for(ready))
            posterior = view._fuse(ready, view._rows_of_present(ready), True, convergences)
        return posterior, convergences[0].map(lambda tensor: tensor.squeeze(-2))

    def _fuse(self, experts: Experts, rows: Tensor, single: bool, convergences: list[Convergence]) -> TorchDistribution:
        divergence: Divergence = get_divergence(self.divergence)

        def barycenter_fn(weights: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            joint_loc, joint_scale, convergence = solve(
                weights, loc, scale, divergence,
                tolerance=self.tolerance, max_iterations=self.max_iterations, return_info=True,
            )  # fmt: skip
            convergences.append(convergence)
            return joint_loc, joint_scale

        loc, scale = self.prior_for(experts)
        return diagonal_rule(barycenter_fn)(experts, (loc.unsqueeze(-2), scale.unsqueeze(-2)), rows, single=single)


@overload
def barycenter(
    experts: Experts,
    weights: Tensor | None = ...,
    divergence: DivergenceLike = ...,
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
    divergence: DivergenceLike = ...,
    *,
    prior: Prior | None = ...,
    tolerance: float | None = ...,
    max_iterations: int = ...,
    return_info: Literal[True],
) -> tuple[TorchDistribution, Convergence]: ...


def barycenter(
    experts: Experts,
    weights: Float[Tensor, "*#batch modality"] | None = None,
    divergence: DivergenceLike = "w2",
    *,
    prior: Prior | None = None,
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
    return_info: bool = False,
) -> TorchDistribution | tuple[TorchDistribution, Convergence]:
    r"""Return the barycenter of the present experts under a divergence, see :class:`DivergenceBarycenter`.

    Args:
        experts: The unimodal posteriors, diagonal Gaussians.
        weights: The weights :math:`\lambda`, `(modality,)` or `(*batch, modality)`, not negative; they may require
            gradients, and those of absent modalities do not count. Equal by default.
        divergence: One of :func:`pyro_mmvae.divergences`, with a parameter or not (``"renyi:0.5"``), or a callable
            ``(q, p)`` of elementwise ``torch.distributions.Normal`` that returns D(q, p) elementwise.
        prior: The pair ``(loc, scale)``, each a number or a tensor that broadcasts to `(*batch, latent)`: the result
            for an item of which nothing of positive weight is present. N(0, I) by default.
        tolerance: The relative gradient at which a coordinate has converged, see
            :class:`~pyro_mmvae.barycenters.Convergence`; 1e-10 by default.
        max_iterations: The largest number of iterations of the solver.
        return_info: If True, return the convergence of each coordinate as well, `(*batch, latent)`.

    Returns:
        An independent Normal of batch shape `batch` and event shape `(latent,)`; with ``return_info`` the convergence.

    Raises:
        ValueError: If the divergence is unknown or its parameter outside of its domain, or weights or prior do not fit.

    Warns:
        ConvergenceWarning: If coordinates have not converged; it says how many and how far they are off.

    Example:
        >>> import torch
        >>> experts = Experts(torch.tensor([[0.0], [2.0], [90.0]]), torch.tensor([[1.0], [3.0], [2.0]]))
        >>> robust = barycenter(experts, divergence="w1")
        >>> robust.mean.item(), robust.stddev.item()
        (2.0, 3.0)
    """
    rule = DivergenceBarycenter(
        divergence, tolerance=tolerance, max_iterations=max_iterations, expert_weights=weights, prior=prior
    )
    return rule.forward_with_convergence(experts) if return_info else rule(experts)
