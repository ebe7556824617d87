"""Symmetric matrices in their eigenbases, and the linear algebra of Bures barycenters: tensors in, tensors out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pyro_mmvae._typing import Bool, Float, Int, Tensor

_MAX_STEPS = 500  # of conjugate gradients; ten or twenty are the rule
_RELATIVE = 1e-12  # residual of their solution


class Roots(NamedTuple):
    """Square roots of positive definite matrices, in eigenbases.

    Attributes:
        roots: their eigenvalues, `(*batch, latent)`.
        vectors: their eigenvectors, `(*batch, latent, latent)`, columns.
    """

    roots: Float[Tensor, "*batch latent"]
    vectors: Float[Tensor, "*batch latent latent"]

    @classmethod
    def of(cls, factor: Float[Tensor, "*batch latent latent"]) -> Roots:
        """The square roots of F Fᵀ, by singular values, which squares nothing."""
        vectors, roots, _ = torch.linalg.svd(factor)
        return cls(roots, vectors)

    def matrix(self) -> Float[Tensor, "*batch latent latent"]:
        """The square roots themselves."""
        return (self.vectors * self.roots.unsqueeze(-2)) @ self.vectors.mT

    def schur(self, matrix: Tensor, factor: Float[Tensor, "*batch latent latent"]) -> Tensor:
        """``matrix`` with its entries in the eigenbasis multiplied by a factor each."""
        inner = self.vectors.mT @ matrix @ self.vectors
        return self.vectors @ (factor * inner) @ self.vectors.mT

    def sums(self) -> Float[Tensor, "*batch latent latent"]:
        """r_i + r_j."""
        return self.roots.unsqueeze(-1) + self.roots.unsqueeze(-2)

    def harmonic(self) -> Float[Tensor, "*batch latent latent"]:
        """r_i r_j / (r_i + r_j)."""
        return self.roots.unsqueeze(-1) * self.roots.unsqueeze(-2) / self.sums()


def sylvester(roots: Roots, matrix: Float[Tensor, "*batch latent latent"]) -> Float[Tensor, "*batch latent latent"]:
    """The solution X of R X + X R = matrix, by division by sums of roots in the eigenbasis of R."""
    return roots.schur(matrix, roots.sums().reciprocal())


def triangular(factor: Float[Tensor, "*batch row latent"]) -> Float[Tensor, "*batch latent latent"]:
    """The lower triangular L with positive diagonal and L Lᵀ = Fᵀ F, by an orthogonal decomposition of F."""
    _, upper = torch.linalg.qr(factor)
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT


@dataclass(frozen=True)
class Members:
    """Members of barycenters, one a (row, modality) pair, so that those that do not count cost nothing.

    Attributes:
        row: which barycenter, counted over items and components, `(member,)`.
        item: of which item.
        modality: of which modality.
        weight: with which weight, `(member,)`.
        count: how many members each row has, `(row,)`.
    """

    row: Int[Tensor, " member"]
    item: Int[Tensor, " member"]
    modality: Int[Tensor, " member"]
    weight: Float[Tensor, " member"]
    count: Int[Tensor, " row"]

    @classmethod
    def of(
        cls, weights: Float[Tensor, "item component modality"], chosen: Bool[Tensor, "item component modality"]
    ) -> Members:
        """The pairs that are chosen."""
        item, component, modality = chosen.nonzero(as_tuple=True)
        row = item * weights.shape[1] + component
        return cls(row, item, modality, weights[item, component, modality], chosen.flatten(0, 1).sum(-1))

    def restricted(self, rows: Int[Tensor, " row"]) -> Members:
        """The members of some rows, which are counted anew."""
        if len(rows) == len(self.count):
            return self
        place = self.row.new_full((len(self.count),), -1)
        place[rows] = torch.arange(len(rows), device=rows.device)
        row = place[self.row]
        kept = row >= 0
        return Members(row[kept], self.item[kept], self.modality[kept], self.weight[kept], self.count[rows])

    def total(self, matrices: Float[Tensor, "member latent latent"]) -> Float[Tensor, "row latent latent"]:
        """The weighted sums over the members of each row."""
        sums = matrices.new_zeros(len(self.count), *matrices.shape[1:])
        return sums.index_add_(0, self.row, self.weight[:, None, None] * matrices)


def solve_hessian(
    members: Members, transported: Roots, whole: Roots, right: Float[Tensor, "row latent latent"]
) -> Float[Tensor, "row latent latent"]:
    r"""Solve :math:`\sum_m w_m K_m[R_m Z R_m] = G`, K_m as in :func:`sylvester`, by conjugate gradients.

    In the eigenbasis of R_m the operator multiplies entry (i, j) by r_i r_j / (r_i + r_j): it is symmetric and positive
    definite, the second derivative of the barycenter's objective in whitened coordinates. What it would be if all
    members commuted is the preconditioner, so that it then takes one step.

    Args:
        members: of the rows.
        transported: R_m of each member.
        whole: the root of QᵀQ of each row, Q the barycenter's factor.
        right: G, symmetric.

    Returns:
        Z, symmetric. Rows whose relative residual stays above 1e-12 are announced by a RuntimeWarning.
    """
    factor = members.weight[:, None, None] * transported.harmonic()
    spectrum = whole.roots.square()
    precondition = (spectrum.unsqueeze(-1) + spectrum.unsqueeze(-2)) / (spectrum.unsqueeze(-1) * spectrum.unsqueeze(-2))

    def apply(matrix: Tensor) -> Tensor:
        image = torch.zeros_like(matrix)
        return image.index_add_(0, members.row, transported.schur(matrix[members.row], factor))

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum((-2, -1), keepdim=True)

    solution, residual = torch.zeros_like(right), right
    direction = whole.schur(residual, precondition)
    energy = dot(residual, direction)
    wanted = _RELATIVE * dot(right, right).sqrt()
    for _ in range(_MAX_STEPS):
        if bool((dot(residual, residual).sqrt() <= wanted).all()):
            return solution
        image = apply(direction)
        curvature = dot(direction, image)
        step = torch.where(curvature > 0, energy / torch.where(curvature > 0, curvature, 1.0), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        scaled = whole.schur(residual, precondition)
        before, energy = energy, dot(residual, scaled)
        direction = scaled + torch.where(before > 0, energy / torch.where(before > 0, before, 1.0), 0.0) * direction
    relative = dot(residual, residual).sqrt() / torch.where(wanted > 0, wanted / _RELATIVE, 1.0)
    bad = relative[relative > _RELATIVE]
    if len(bad):
        warnings.warn(
            f"Bures barycenter: the gradients of {len(bad)} of {len(right)} have a relative residual of up to "
            f"{float(bad.max()):.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    return solution
