"""The linear algebra of Bures barycenters on plain tensors: symmetric matrices in their eigenbases."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pyro_mmvae._typing import Bool, Float, Int, Tensor

_MAX_STEPS = 500  # of conjugate gradients; ten or twenty are usual
_TOLERANCE = 1e-12  # of the relative residual


class Roots(NamedTuple):
    """The square roots of positive definite matrices, as eigenvalues and eigenvectors.

    Attributes:
        roots: The eigenvalues of the square roots, `(*batch, latent)`.
        vectors: The eigenvectors as columns, `(*batch, latent, latent)`.
    """

    roots: Float[Tensor, "*batch latent"]
    vectors: Float[Tensor, "*batch latent latent"]

    @classmethod
    def of(cls, factor: Float[Tensor, "*batch latent latent"]) -> Roots:
        """Return the square roots of F Fᵀ, from singular values, so that nothing is squared."""
        vectors, roots, _ = torch.linalg.svd(factor)
        return cls(roots, vectors)

    def matrix(self) -> Float[Tensor, "*batch latent latent"]:
        """Return the square roots as matrices."""
        return (self.vectors * self.roots.unsqueeze(-2)) @ self.vectors.mT

    def schur(self, matrix: Tensor, factor: Float[Tensor, "*batch latent latent"]) -> Tensor:
        """Return ``matrix`` with each of its entries in the eigenbasis multiplied by an entry of ``factor``."""
        inner = self.vectors.mT @ matrix @ self.vectors
        return self.vectors @ (factor * inner) @ self.vectors.mT

    def sums(self) -> Float[Tensor, "*batch latent latent"]:
        """Return r_i + r_j for each pair of eigenvalues."""
        return self.roots.unsqueeze(-1) + self.roots.unsqueeze(-2)

    def harmonic(self) -> Float[Tensor, "*batch latent latent"]:
        """Return r_i r_j / (r_i + r_j) for each pair of eigenvalues."""
        return self.roots.unsqueeze(-1) * self.roots.unsqueeze(-2) / self.sums()


def sylvester(roots: Roots, matrix: Float[Tensor, "*batch latent latent"]) -> Float[Tensor, "*batch latent latent"]:
    """Solve R X + X R = ``matrix`` for X, by division by sums of eigenvalues in the eigenbasis of R."""
    return roots.schur(matrix, roots.sums().reciprocal())


def triangular(factor: Float[Tensor, "*batch row latent"]) -> Float[Tensor, "*batch latent latent"]:
    """Return the lower triangular L with positive diagonal and L Lᵀ = Fᵀ F, by an orthogonal decomposition of F."""
    _, upper = torch.linalg.qr(factor)
    return (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT


@dataclass(frozen=True)
class Members:
    """The members of barycenters, one per chosen pair of row and modality, so that the others cost nothing.

    Attributes:
        row: The index of the barycenter, counted over items and components, `(member,)`.
        item: The index of the item, `(member,)`.
        modality: The index of the modality, `(member,)`.
        weight: The weight of the member, `(member,)`.
        count: The number of members of each row, `(row,)`.
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
        """Return the members for which ``chosen`` is True, with their weights."""
        item, component, modality = chosen.nonzero(as_tuple=True)
        row = item * weights.shape[1] + component
        return cls(row, item, modality, weights[item, component, modality], chosen.flatten(0, 1).sum(-1))

    def restrict(self, rows: Int[Tensor, " row"]) -> Members:
        """Return the members of a selection of rows, which are renumbered."""
        if len(rows) == len(self.count):
            return self
        position = self.row.new_full((len(self.count),), -1)
        position[rows] = torch.arange(len(rows), device=rows.device)
        row = position[self.row]
        kept = row >= 0
        return Members(row[kept], self.item[kept], self.modality[kept], self.weight[kept], self.count[rows])

    def total(self, matrices: Float[Tensor, "member latent latent"]) -> Float[Tensor, "row latent latent"]:
        """Return the weighted sum over the members of each row."""
        sums = matrices.new_zeros(len(self.count), *matrices.shape[1:])
        return sums.index_add_(0, self.row, self.weight[:, None, None] * matrices)


def solve_hessian(
    members: Members, transported: Roots, whole: Roots, right: Float[Tensor, "row latent latent"]
) -> Float[Tensor, "row latent latent"]:
    r"""Solve :math:`\sum_m w_m K_m[R_m Z R_m] = G` by conjugate gradients, with :math:`K_m` of :func:`sylvester`.

    In the eigenbasis of R_m the operator multiplies entry (i, j) by r_i r_j / (r_i + r_j). It is symmetric and positive
    definite: the second derivative of the objective of the barycenter in whitened coordinates. The preconditioner is
    the operator for members that commute, for which one step suffices.

    Args:
        members: The members of the rows.
        transported: The matrix R_m of each member, as a square root.
        whole: The square root of QᵀQ of each row, with Q the factor of the barycenter.
        right: The right-hand side G, symmetric.

    Returns:
        The solution Z, symmetric.

    Warns:
        RuntimeWarning: If the relative residual of some rows stays above 1e-12.
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
    target = _TOLERANCE * dot(right, right).sqrt()
    for _ in range(_MAX_STEPS):
        if bool((dot(residual, residual).sqrt() <= target).all()):
            return solution
        image = apply(direction)
        curvature = dot(direction, image)
        step = torch.where(curvature > 0, energy / torch.where(curvature > 0, curvature, 1.0), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        scaled = whole.schur(residual, precondition)
        before, energy = energy, dot(residual, scaled)
        direction = scaled + torch.where(before > 0, energy / torch.where(before > 0, before, 1.0), 0.0) * direction
    relative = dot(residual, residual).sqrt() / torch.where(target > 0, target / _TOLERANCE, 1.0)
    unsolved = relative[relative > _TOLERANCE]
    if len(unsolved):
        warnings.warn(
            f"Bures barycenter: the gradients of {len(unsolved)} of {len(right)} have a relative residual of up to "
            f"{float(unsolved.max()):.1e}",
            RuntimeWarning,
            stacklevel=2,
        )
    return solution
