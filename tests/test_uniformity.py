"""Exact bands and tests of uniform values, and their levels under dependence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from pyro_mmvae.uniformity import (
    cauchy_combination,
    ecdf_band,
    ecdf_p_value,
    equal_points,
    piet_c,
    pot_c,
    prit_c,
    rank_p_value,
)


def is_inside(values: np.ndarray, cells: int, level: float) -> bool:
    band = ecdf_band(len(values), cells, level)
    ecdf = np.array([(values <= point).mean() for point in band.points])
    return bool(((ecdf >= band.lower) & (ecdf <= band.upper)).all())


@pytest.mark.parametrize(("num_values", "cells", "level"), [(50, 100, 0.9), (300, 20, 0.8)])
def test_ecdf_band_coverage_matches_a_simulation(num_values: int, cells: int, level: float) -> None:
    band = ecdf_band(num_values, cells, level)
    assert level <= band.coverage < level + 0.02
    rng, trials = np.random.default_rng(1), 2500
    samples = rng.random((trials, num_values, 1))
    ecdf = np.stack([(sample <= band.points).mean(0) for sample in samples])
    inside = ((ecdf >= band.lower) & (ecdf <= band.upper)).all(1).mean()
    assert abs(inside - band.coverage) < 4 * (level * (1 - level) / trials) ** 0.5


def test_ecdf_band_of_one_point_is_a_binomial_interval() -> None:
    band = ecdf_band(20, 2, 0.9)
    assert band.points.tolist() == [0.5]
    assert band.coverage == pytest.approx(stats.binom.cdf(14, 20, 0.5) - stats.binom.cdf(5, 20, 0.5))
    assert (band.lower[0], band.upper[0]) == (6 / 20, 14 / 20)


def test_ecdf_p_value_is_at_most_alpha_just_outside_the_band() -> None:
    rng = np.random.default_rng(2)
    for power in (1.0, 1.0, 1.2, 1.5, 0.7) * 4:
        values = rng.random(60) ** power
        for level in (0.8, 0.95):
            assert (ecdf_p_value(values) <= 1 - level) == (not is_inside(values, 100, level))


def test_ecdf_p_value_is_exact_for_two_values() -> None:
    # One point at 1/2 and two values: 0, 1 or 2 of them are below it, with probabilities 1/4, 1/2 and 1/4.
    assert ecdf_p_value(np.array([0.1, 0.2]), cells=2) == pytest.approx(0.5)
    assert ecdf_p_value(np.array([0.1, 0.9]), cells=2) == pytest.approx(1.0)


def test_ecdf_p_value_of_extreme_values_does_not_vanish_in_rounding() -> None:
    assert 0 < ecdf_p_value(np.full(30, 0.001)) < 1e-20
    assert ecdf_p_value(np.full(300, 0.5)) < 1e-20


def test_rank_p_value_level_is_nominal_and_power_is_high() -> None:
    rng = np.random.default_rng(3)
    p_values = [rank_p_value(rng.integers(0, 20, 100), 19) for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.1) == pytest.approx(0.1, abs=0.064)  # three standard errors
    assert rank_p_value(rng.integers(0, 14, 100), 19) < 1e-6
    assert rank_p_value(np.repeat([0, 19], 50), 19) < 1e-20


def test_rank_p_value_equals_that_of_the_scaled_ranks() -> None:
    ranks = np.random.default_rng(4).integers(0, 10, 30)
    assert rank_p_value(ranks, 9) == ecdf_p_value((ranks + 1) / 10, cells=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ecdf_p_value(np.array([0.5, 1.5])), r"in \[0, 1\], got \(2,\) from 0.5 to 1.5"),
        (lambda: pot_c(np.array([])), r"values must be one axis of at least one number in \[0, 1\], got none"),
        (lambda: piet_c(np.array([np.nan])), r"values must be one axis"),
        (lambda: rank_p_value(np.array([3]), 2), r"ranks must be at least one integer from 0 to 2, got \(1,\) from 3"),
        (lambda: ecdf_band(0), "got 0 values, 100 cells and the level 0.95"),
        (lambda: ecdf_band(5, level=1.0), "the level 1.0"),
    ],
)
def test_uniformity_bad_values_raise(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_cauchy_combination_matches_hand_values() -> None:
    assert cauchy_combination(np.array([0.2])) == pytest.approx(0.2)
    assert cauchy_combination(np.array([0.03, 0.03, 0.03])) == pytest.approx(0.03)
    assert cauchy_combination(np.array([0.3, 0.7])) == pytest.approx(0.5)
    assert cauchy_combination(np.array([0.3, 0.7]), truncated=True) == pytest.approx(0.3)
    assert cauchy_combination(np.array([0.8]), truncated=True) == 1.0
    assert cauchy_combination(np.array([1e-200, 0.5])) == pytest.approx(2e-200)


def test_pot_c_and_prit_c_match_their_definitions() -> None:
    values = np.array([0.9, 0.05, 0.5])
    cdf = [stats.beta.cdf(u, i, 4 - i) for i, u in ((1, 0.05), (2, 0.5), (3, 0.9))]
    assert pot_c(values, truncated=False) == pytest.approx(cauchy_combination(2 * np.minimum(cdf, 1 - np.array(cdf))))
    low = np.array([stats.binom.cdf(r, 3, u) for r, u in ((1, 0.05), (2, 0.5), (3, 0.9))])
    high = np.array([1 - stats.binom.cdf(r - 1, 3, u) for r, u in ((1, 0.05), (2, 0.5), (3, 0.9))])
    expected = cauchy_combination(np.minimum(2 * np.minimum(low, high), 1))
    assert prit_c(values, truncated=False) == pytest.approx(expected)


def test_piet_c_keeps_its_level_for_repeated_values_and_pot_c_does_not() -> None:
    rng = np.random.default_rng(5)
    samples = np.repeat(rng.random((600, 40)), 5, axis=1)
    error = (0.05 * 0.95 / len(samples)) ** 0.5
    assert np.mean([piet_c(values) <= 0.05 for values in samples]) < 0.05 + 3 * error
    assert np.mean([pot_c(values) <= 0.05 for values in samples]) > 0.8


def test_piet_c_sees_tails_and_not_the_middle() -> None:
    rng = np.random.default_rng(6)
    narrow = stats.norm.cdf(2.5 * rng.normal(size=200))
    assert piet_c(narrow) < 1e-3
    assert piet_c(stats.norm.cdf(0.4 * rng.normal(size=200))) > 0.3
    assert ecdf_p_value(stats.norm.cdf(0.4 * rng.normal(size=200))) < 1e-6


def test_equal_points_are_the_inner_edges() -> None:
    np.testing.assert_allclose(equal_points(4), [0.25, 0.5, 0.75])
