r"""Gaussians with full covariance in the 2-Wasserstein geometry: distance and barycenter.

The Bures–Wasserstein barycenter of covariances :math:`\Sigma_m` is the one positive definite solution of

.. math:: S = \sum_m w_m \left(S^{1/2} \Sigma_m S^{1/2}\right)^{1/2}

Covariances are passed and returned as factors, :math:`\Sigma_m = L_m L_m^\top`, and are never formed, since the squares
in a covariance lose half of the digits of its standard deviations. All barycenters of a batch are iterated at once in
float64; those that have converged are left out of further iterations, and a member of weight 0 costs nothing.

References:
    Agueh and Carlier, 2011. Barycenters in the Wasserstein space. SIAM J. Math. Anal. 43(2).
    Álvarez-Esteban, del Barrio, Cuesta-Albertos and Matrán, 2016. A fixed-point approach to barycenters in Wasserstein
    space. J. Math. Anal. Appl. 441(2).
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, cast

import torch

from pyro_mmvae._overrides import overridable
from pyro_mmvae._typing import Float, Int, Tensor
from pyro_mmvae.barycenters.operators import Members, Roots, solve_hessian, sylvester, triangular

MAX_ITERATIONS = 500
"""The limit on iterations. Ten or twenty are usual; many are needed if members are narrow in different directions."""

TOLERANCES = {torch.float64: 1e-12}
"""Tolerances of the relative step by the type of the input; rounding leaves about 1e-15."""

TOLERANCE = 1e-8
"""The tolerance for all other types, which have at most seven digits."""


class Barycenter(NamedTuple):
    r"""A batch of barycenters with their convergence.

    Attributes:
        scale_tril: Lower triangular factors Q of the barycenters S = Q Qᵀ, `(*batch, component, latent, latent)`,
            float64.
        step: The last step relative to Q in the Frobenius norm, `(*batch, component)`; 0 at the solution.
        iterations: The number of iterations, `(*batch, component)`; 0 for a single member.
    """

    scale_tril: Float[Tensor, "*batch component latent latent"]
    step: Float[Tensor, "*batch component"]
    iterations: Int[Tensor, "*batch component"]


def squared_distance(
    loc: Float[Tensor, "*batch latent"],
    scale_tril: Float[Tensor, "*batch latent latent"],
    other_loc: Float[Tensor, "*batch latent"],
    other_scale_tril: Float[Tensor, "*batch latent latent"],
) -> Float[Tensor, "*batch"]:
    r"""Return the squared 2-Wasserstein distance between Gaussians.

    .. math::
        \lVert loc - loc' \rVert^2 + \mathrm{tr}\left(\Sigma + \Sigma' - 2 (\Sigma^{1/2} \Sigma' \Sigma^{1/2})^{1/2}
        \right), \qquad \mathrm{tr}\, (\Sigma^{1/2} \Sigma' \Sigma^{1/2})^{1/2} = \lVert L^\top L' \rVert_*

    References:
        Dowson and Landau, 1982. The Fréchet distance between multivariate normal distributions. J. Multivar. Anal. 12.

    Args:
        loc: The means of the first Gaussians.
        scale_tril: Lower triangular factors of the covariances of the first Gaussians.
        other_loc: The means of the second Gaussians.
        other_scale_tril: Lower triangular factors of the covariances of the second Gaussians.
    """
    squares = scale_tril.square().sum((-2, -1)) + other_scale_tril.square().sum((-2, -1))
    cross = torch.linalg.svdvals(scale_tril.mT @ other_scale_tril).sum(-1)
    return (loc - other_loc).square().sum(-1) + squares - 2 * cross


def barycenter(
    weights: Float[Tensor, "*#batch component modality"],
    scale_tril: Float[Tensor, "*batch modality latent latent"],
    *,
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> Barycenter:
    r"""Compute Bures–Wasserstein barycenters by the iteration of Álvarez-Esteban et al., on factors.

    .. math::
        S \leftarrow S^{-1/2} \left( \sum_m w_m (S^{1/2} \Sigma_m S^{1/2})^{1/2} \right)^2 S^{-1/2}

    With S = Q Qᵀ and :math:`U_m` the orthogonal polar factor of :math:`L_m^\top Q` this is
    :math:`Q \leftarrow \sum_m w_m L_m U_m`, in which nothing is inverted and S stays positive definite. It starts from
    :math:`Q = \sum_m w_m \Sigma_m^{1/2}`, which is the solution if the members commute.

    The gradient is that of the solution of the equation, by the implicit function theorem. It does not differentiate
    the iteration, so that no step is stored, and it does not divide by differences of eigenvalues. The result can be
    differentiated once.

    Args:
        weights: Non-negative weights, with rows that sum to 1.
        scale_tril: Lower triangular factors L with positive diagonal.
        tolerance: The tolerance of the relative step; by default 1e-12 for float64 and 1e-8 for other types.
        max_iterations: The largest number of iterations.

    Returns:
        The barycenters with their last steps and numbers of iterations.

    Warns:
        RuntimeWarning: If some barycenters do not reach the tolerance.
    """
    if tolerance is None:
        tolerance = TOLERANCES.get(scale_tril.dtype, TOLERANCE)
    batch = torch.broadcast_shapes(weights.shape[:-2], scale_tril.shape[:-3])
    member_shape = scale_tril.shape[-3:]
    flat_weights = weights.double().expand(*batch, *weights.shape[-2:]).reshape(-1, *weights.shape[-2:])
    flat = scale_tril.double().expand(*batch, *member_shape).reshape(-1, *member_shape)
    result, step, iterations = _barycenter(flat_weights, flat, tolerance, max_iterations)
    shape = (*batch, weights.shape[-2])
    return Barycenter(result.reshape(*shape, *member_shape[1:]), step.reshape(shape), iterations.reshape(shape))


@overridable
def _barycenter(
    weights: Tensor, scale_tril: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor, Tensor]", _Barycenter.apply(weights, scale_tril, tolerance, max_iterations))


class _Barycenter(torch.autograd.Function):
    """The barycenters of tensors `(item, component, …)` and `(item, modality, …)`, float64."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, scale_tril: Tensor, tolerance: float, max_iterations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        result, step, iterations = _iterate(weights, scale_tril, tolerance, max_iterations)
        ctx.save_for_backward(weights, scale_tril, result)
        ctx.mark_non_differentiable(step, iterations)
        return result, step, iterations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, scale_tril, result = ctx.saved_tensors
        by_weights, by_scale_tril = _pull_back(weights, scale_tril, result, gradient, ctx.needs_input_grad[0])
        return by_weights, by_scale_tril, None, None


def _iterate(
    weights: Tensor, scale_tril: Tensor, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Iterate to the barycenters of one flat list of rows, with their members of positive weight."""
    members = Members.of(weights, weights > 0)
    current = members.total(Roots.of(scale_tril).matrix()[members.item, members.modality])
    alone = (members.count == 1)[members.row]  # the barycenter of one member is that member, to the last digit
    current[members.row[alone]] = scale_tril[members.item[alone], members.modality[alone]]
    step = current.new_zeros(len(current))
    iterations = torch.zeros_like(members.count)
    active = (members.count > 1).nonzero().squeeze(-1)
    for count in range(1, max_iterations + 1):
        if not len(active):
            break
        active_members, before = members.restrict(active), current[active]
        factors = scale_tril[active_members.item, active_members.modality]
        left, _, right = torch.linalg.svd(factors.mT @ before[active_members.row])
        after = active_members.total(factors @ (left @ right))
        current[active] = after
        step[active] = torch.linalg.matrix_norm(after - before) / torch.linalg.matrix_norm(after)
        iterations[active] = count
        active = active[~(step[active] <= tolerance)]
    if len(active):
        warnings.warn(
            f"Bures barycenter: {len(active)} of {len(current)} did not converge in {max_iterations} iterations, the "
            f"largest relative step was {float(step[active].max()):.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    shape = weights.shape[:-1]
    result = triangular(current.mT).reshape(*shape, *current.shape[1:])
    return result, step.reshape(shape), iterations.reshape(shape)


def _pull_back(
    weights: Tensor, scale_tril: Tensor, result: Tensor, gradient: Tensor, needs_weights: bool
) -> tuple[Tensor | None, Tensor]:
    r"""Return the gradients by the implicit function theorem, in coordinates whitened by the result Q.

    With :math:`R_m = (Q^\top \Sigma_m Q)^{1/2}` and :math:`X = Q^{-1} dS Q^{-\top}`, the equation
    :math:`\sum_m w_m (R_m - Q^\top Q) = 0` has the differential
    :math:`H[X] = \sum_m w_m K_m[Q^\top d\Sigma_m Q] + \sum_m dw_m (R_m - Q^\top Q)`, where :math:`K_m[G]` solves
    :math:`R_m Y + Y R_m = G` and :math:`H[X] = \sum_m w_m K_m[R_m X R_m]`. Both are self-adjoint, and
    :math:`Q^{-1} dQ` is the lower triangle of X with half of its diagonal.
    """
    factor = result.flatten(0, 1)
    lower = (factor.mT @ gradient.flatten(0, 1)).tril()
    lower = lower - 0.5 * torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1))
    members = Members.of(weights, torch.ones_like(weights, dtype=torch.bool) if needs_weights else weights > 0)
    outer = factor[members.row]
    member = scale_tril[members.item, members.modality]
    transported = Roots.of(outer.mT @ member)
    z = solve_hessian(members, transported, Roots.of(factor.mT), (lower + lower.mT) / 2)[members.row]
    by_member = 2 * members.weight[:, None, None] * (outer @ sylvester(transported, z) @ outer.mT @ member).tril()
    by_scale_tril = torch.zeros_like(scale_tril)
    by_scale_tril.index_put_((members.item, members.modality), by_member, accumulate=True)
    if not needs_weights:
        return None, by_scale_tril
    slopes = (z * (transported.matrix() - outer.mT @ outer)).sum((-2, -1))
    by_weights = torch.zeros_like(weights)
    by_weights.flatten(0, 1)[members.row, members.modality] = slopes
    return by_weights, by_scale_tril
