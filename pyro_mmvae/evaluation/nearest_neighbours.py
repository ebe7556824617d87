"""Precision, recall, density and coverage of generated items, by the nearest neighbours of real and generated ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyro_mmvae._typing import Float, Tensor

_ELEMENTS = 2**22  # the largest number of distances to hold at once: 32 MiB in float64
_EQUAL = 1e-10  # the squared distance, relative to the squared lengths, below which two points are equal
_TIE = 1 + 1e-9  # a radius is enlarged by this factor, so that a point on the edge of a ball is in it despite rounding


def neighbour_radii(points: Float[Tensor, "item feature"], neighbours: int = 5) -> Float[Tensor, " item"]:
    """Return the distance of each point to its k-th nearest other point.

    Args:
        points: The points, of shape `(item, feature)`, more of them than ``neighbours``.
        neighbours: The number k, 5 by default.

    Returns:
        The distances, of shape `(item,)` in float64.

    Raises:
        ValueError: If there are not more points than neighbours, or fewer than one neighbour is asked for.
    """
    if not 1 <= neighbours < len(points):
        raise ValueError(
            f"neighbours must be at least 1 and less than the number of points, got {neighbours} and {len(points)} "
            "points"
        )
    # Each point is at distance 0 of itself, so the k-th nearest other point is the one in place k + 1.
    return torch.cat([part.kthvalue(neighbours + 1, -1).values for part in _distances(points, points)])


def fidelity(
    real: Float[Tensor, "real feature"],
    generated: Float[Tensor, "generated features"],
    *,
    neighbours: int = 5,
    radii: Float[Tensor, " real"] | None = None,
) -> dict[str, float]:
    r"""Return how well generated items match real ones, and how many of the real ones they reach.

    Around each item lies a ball whose radius is the distance to its k-th nearest neighbour in its own set. With the
    real items :math:`x_i`, the generated items :math:`y_j` and their balls :math:`B`,

    .. math::
        \text{precision} &= \tfrac1M \textstyle\sum_j 1[y_j \in \bigcup_i B(x_i)], &
        \text{recall} &= \tfrac1N \textstyle\sum_i 1[x_i \in \bigcup_j B(y_j)], \\
        \text{density} &= \tfrac1{kM} \textstyle\sum_j \sum_i 1[y_j \in B(x_i)], &
        \text{coverage} &= \tfrac1N \textstyle\sum_i 1[\exists j: y_j \in B(x_i)].

    Density and coverage use the balls of real items only. An outlier among the generated items therefore does not
    raise coverage, as it raises recall, and one among the real items raises density less than precision. Real items of
    the same distribution have a density of 1 and a coverage of :math:`1 - 2^{-k}` in expectation, for N = M.
    Distances are computed for one chunk of items at a time, so that memory does not grow with the product of N and M.

    References:
        Kynkäänniemi, Karras, Laine, Lehtinen and Aila, 2019. Improved precision and recall metric for assessing
        generative models. NeurIPS 32.

        Naeem, Oh, Uh, Choi and Yoo, 2020. Reliable fidelity and diversity metrics for generative models. ICML.

    Args:
        real: Features of the N real items, `(real, feature)`. Equal items, such as repetitions of one image, should be
            left out, since they make the balls smaller.
        generated: Features of the M generated items, `(generated, feature)`.
        neighbours: The number k of neighbours, 5 by default, less than N and M.
        radii: The :func:`neighbour_radii` of the real items, `(real,)`; by default they are computed.

    Returns:
        The figures ``precision``, ``recall`` and ``coverage`` in [0, 1], and ``density``, which may exceed 1.

    Raises:
        ValueError: If the numbers of features differ, or a set does not have more items than ``neighbours``.
    """
    if real.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"real and generated must have as many features as the other, got shapes {tuple(real.shape)} and "
            f"{tuple(generated.shape)}"
        )
    radii = neighbour_radii(real, neighbours) if radii is None else radii
    own = neighbour_radii(generated, neighbours)
    reached, covered = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    precise = inside = start = 0
    for distances in _distances(generated, real):
        hits = distances <= radii * _TIE
        precise, inside = precise + int(hits.any(-1).sum()), inside + int(hits.sum())
        covered |= hits.any(0)
        reached |= (distances <= own[start : start + len(distances), None] * _TIE).any(0)
        start += len(distances)
    return {
        "precision": precise / len(generated),
        "recall": float(reached.double().mean()),
        "density": inside / (neighbours * len(generated)),
        "coverage": float(covered.double().mean()),
    }


def _distances(points: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Yield the Euclidean distances of some points to all others, `(point, other)` in float64, chunk by chunk."""
    points, others = points.double(), others.double()
    squares = others.square().sum(-1)
    for part in points.split(max(_ELEMENTS // len(others), 1)):
        lengths = part.square().sum(-1, keepdim=True) + squares
        squared = lengths - 2 * part @ others.mT
        # Equal items, such as two texts of the same letters, get features that differ by the rounding of float32. Their
        # distance must be 0, since the balls around such items have the radius 0.
        yield squared.masked_fill_(squared < _EQUAL * lengths, 0).sqrt_()
