"""Precision, recall, density and coverage against values by hand and a plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_mmvae.evaluation import fidelity as exported
from pyro_mmvae.evaluation.nearest_neighbours import fidelity, neighbour_radii


def line(*points: float) -> Tensor:
    return torch.tensor(points, dtype=torch.float64)[:, None]


def plain(real: Tensor, generated: Tensor, k: int) -> dict[str, float]:
    """Return the figures by their definitions, one pair of points at a time."""

    def radius(points: Tensor, i: int) -> float:
        return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    own_radii = [radius(generated, j) for j in range(len(generated))]
    distances = [[float((x - y).norm()) for y in generated] for x in real]
    n, m = range(len(real)), range(len(generated))
    return {
        "precision": sum(any(distances[i][j] <= real_radii[i] for i in n) for j in m) / len(m),
        "recall": sum(any(distances[i][j] <= own_radii[j] for j in m) for i in n) / len(n),
        "density": sum(distances[i][j] <= real_radii[i] for i in n for j in m) / (k * len(m)),
        "coverage": sum(any(distances[i][j] <= real_radii[i] for j in m) for i in n) / len(n),
    }


def test_neighbour_radii_points_on_a_line_match_hand_values() -> None:
    points = line(0, 1, 3, 10)
    assert neighbour_radii(points, 1).tolist() == pytest.approx([1, 1, 2, 7])
    assert neighbour_radii(points, 2).tolist() == pytest.approx([3, 2, 3, 9])


def test_fidelity_points_on_a_line_matches_hand_values() -> None:
    # The balls of the real points are [-1, 1], [0, 2] and [1, 19], those of the generated ones [-1, 2], [0.5, 3.5] and
    # [-10.5, 0.5]. The point 2 is on the edge of the second ball.
    found = fidelity(line(0, 1, 10), line(0.5, 2, -5), neighbours=1)
    assert found == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "density": 4 / 3, "coverage": 1})
    collapsed = fidelity(line(0, 1, 10, 11), line(0.2, 0.3, 0.4), neighbours=1)
    assert collapsed == pytest.approx({"precision": 1, "recall": 0, "density": 2, "coverage": 0.5})


@pytest.mark.parametrize("elements", [2**22, 40])
def test_fidelity_any_chunk_equals_a_plain_loop(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mmvae.evaluation.nearest_neighbours._ELEMENTS", elements)
    real, generated = torch.randn(23, 3, dtype=torch.float64), 1.3 * torch.randn(17, 3, dtype=torch.float64) + 0.4
    found = exported(real, generated, neighbours=3)
    assert found == pytest.approx(plain(real, generated, 3))
    assert exported(real, generated, neighbours=3, radii=neighbour_radii(real, 3)) == found
    assert 0 < found["precision"] < 1
    assert 0 < found["coverage"] < 1


def test_fidelity_items_that_are_equal_up_to_rounding_have_distance_zero() -> None:
    texts = 10 * torch.randn(4, 8)
    noisy = texts.repeat(6, 1) * (1 + 1e-7 * torch.randn(24, 8))
    assert fidelity(noisy, texts.repeat(2, 1), neighbours=1) == pytest.approx(
        {"precision": 1, "recall": 1, "density": 6, "coverage": 1}
    )
    assert fidelity(noisy, texts.repeat(2, 1) + 0.1, neighbours=1)["precision"] == 0


def test_fidelity_one_distribution_has_the_expected_coverage() -> None:
    found = fidelity(torch.randn(1500, 2), torch.randn(1500, 2), neighbours=3)
    assert found["coverage"] == pytest.approx(1 - 2**-3, abs=0.03)
    assert found["density"] == pytest.approx(1, abs=0.06)


def test_fidelity_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="as many features as the other, got shapes"):
        fidelity(torch.randn(9, 2), torch.randn(9, 3))
    with pytest.raises(ValueError, match="less than the number of points, got 5 and 5 points"):
        fidelity(torch.randn(9, 2), torch.randn(5, 2))
    with pytest.raises(ValueError, match="neighbours must be at least 1 .* got 0 and 9 points"):
        neighbour_radii(torch.randn(9, 2), 0)
