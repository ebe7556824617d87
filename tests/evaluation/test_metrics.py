"""Rows of figures, and the choice of subsets."""

from __future__ import annotations

from itertools import combinations

import pytest

from pyro_mmvae.evaluation.metrics import Metric, choose_subsets, mean_by_views
from pyro_mmvae.inference.posteriors import subset_names


def row(
    value: float, given: tuple[str, ...], metric: str = "probe", protocol: str = "joint", target: str = ""
) -> Metric:
    return Metric(metric, protocol, given, target, value, 10, 0)


def test_choose_subsets_within_limit_returns_all() -> None:
    assert choose_subsets(3) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    assert len(choose_subsets(5)) == 31
    assert choose_subsets(3, largest=2)[-1] == (1, 2)
    assert choose_subsets(3, largest=9) == choose_subsets(3)
    assert choose_subsets(1, largest=0) == []


@pytest.mark.parametrize("limit", [1, 10, 31, 60])
def test_choose_subsets_above_limit_returns_equally_many_per_size(limit: int) -> None:
    chosen = choose_subsets(10, limit=limit)
    assert chosen == choose_subsets(10, limit=limit)
    assert len(chosen) == len(set(chosen))
    assert len(chosen) <= max(limit, 10)
    every = {subset for size in range(11) for subset in combinations(range(10), size)}
    assert set(chosen) <= every
    sizes = [len(subset) for subset in chosen]
    assert sizes == sorted(sizes)
    assert set(sizes) == set(range(1, 11))
    assert all(sizes.count(size) == max(limit // 10, 1) for size in range(1, 10))


def test_choose_subsets_seed_changes_the_choice() -> None:
    assert choose_subsets(10, limit=30, seed=1) != choose_subsets(10, limit=30)


def test_mean_by_views_averages_per_number_of_modalities() -> None:
    rows = [row(1.0, ("a",)), row(0.0, ("b",)), row(0.25, ("a", "b")), row(7.0, ("a",), metric="kl"), row(9.0, ())]
    assert mean_by_views(rows, "probe") == {0: 9.0, 1: 0.5, 2: 0.25}
    assert list(mean_by_views(rows[::-1], "probe")) == [0, 1, 2]
    assert mean_by_views(rows, "ssim") == {}


def test_mean_by_views_several_protocols_raise() -> None:
    rows = [row(1.0, ("a",)), row(0.0, ("a",), protocol="per-subset")]
    assert mean_by_views(rows, "probe", "joint") == {1: 1.0}
    with pytest.raises(ValueError, match="joint; per-subset"):
        mean_by_views(rows, "probe")


def test_mean_by_views_target_selects_rows() -> None:
    rows = [row(1.0, ("a",), target="given"), row(0.0, ("a",), target="all")]
    assert mean_by_views(rows, "probe", target="all") == {1: 0.0}
    assert mean_by_views(rows, "probe") == {1: 0.5}


def test_subset_names_follow_data_order() -> None:
    assert subset_names((2, 0), ("x", "y", "z")) == ("x", "z")
    assert row(0.0, ("x", "z")).views == 2
