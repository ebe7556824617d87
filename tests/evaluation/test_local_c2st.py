"""The local classifier two-sample test on guides that are wrong everywhere, somewhere and nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pyro_mmvae.evaluation.local_c2st import local_test_of_check, local_two_sample_test
from pyro_mmvae.evaluation.ppc import PredictiveCheck
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration


def draw(x: NDArray[np.float64], rng: np.random.Generator, *, draws: int, shift: float) -> NDArray[np.float64]:
    """Return draws of N(x / 2, 1 / 2), the posterior of z ~ N(0, 1) and x ~ N(z, 1), shifted where x is positive."""
    loc = x / 2 + shift * (x > 0)
    return loc + 0.5**0.5 * rng.normal(size=(draws, *x.shape))


def simulated(shift: float, seed: int, count: int = 300) -> SimulationCalibration:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(count, 1))
    drawn = draw(truth + rng.normal(size=(count, 1)), rng, draws=30, shift=shift)
    return SimulationCalibration(("z[0]",), np.zeros((count, 1), int), 30, ("x",), "guide", 0, "", (), truth, drawn)


def test_local_two_sample_test_finds_the_items_where_a_guide_is_wrong() -> None:
    rng = np.random.default_rng(1)
    items = np.concatenate([np.full((20, 1), 1.5), np.full((20, 1), -1.5)])
    result = local_two_sample_test(simulated(1.0, seed=0), draw(items, rng, draws=40, shift=1.0), seed=2)
    assert result.p_value <= 0.01
    assert np.median(result.p_values[:20]) <= 0.01
    assert np.median(result.p_values[20:]) > 0.05
    assert np.median(result.statistics[:20]) > 3 * np.median(result.statistics[20:])
    rows = {row.metric: row for row in result.metrics()}
    assert rows["lc2st_p_value"].value == result.p_value
    assert rows["lc2st_rejected_share"].value == (result.p_values <= 0.05).mean()
    assert (rows["lc2st_p_value"].n, rows["lc2st_p_value"].given) == (40, ("x",))


def test_local_two_sample_test_exact_guide_has_the_level() -> None:
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        items = draw(rng.normal(size=(10, 1)) * 2**0.5, rng, draws=12, shift=0.0)
        test = local_two_sample_test(simulated(0.0, seed, count=60), items, permutations=99, seed=seed)
        p_values.append(test.p_value)
    assert np.mean(np.array(p_values) <= 0.2) == pytest.approx(0.2, abs=0.16)  # three standard errors
    assert min(p_values) >= 0.01


def test_local_test_of_check_leaves_out_items_without_a_given_modality() -> None:
    z = np.random.default_rng(0).normal(size=(10, 6, 1))
    present = {"x": np.array([True, True, False, True, True, True])}
    check = PredictiveCheck(z, {}, {}, {}, present, np.arange(6), ("x",), "guide", 0)
    sbc = simulated(0.0, seed=0, count=50)
    result = local_test_of_check(sbc, check, permutations=19)
    assert result is not None
    assert np.isnan(result.p_values).tolist() == [False, False, True, False, False, False]
    assert result.metrics()[0].n == 5
    absent = PredictiveCheck(z, {}, {}, {}, {"x": np.zeros(6, dtype=bool)}, np.arange(6), ("x",), "guide", 0)
    assert local_test_of_check(sbc, absent) is None
    other = PredictiveCheck(z, {}, {}, {}, {"y": np.ones(6, dtype=bool)}, np.arange(6), ("y",), "guide", 0)
    with pytest.raises(ValueError, match="must be given what the check is given, y, got x"):
        local_test_of_check(sbc, other)


def test_local_two_sample_test_too_few_draws_raise() -> None:
    with pytest.raises(ValueError, match=r"at least 3 draws .* got \(2, 4, 1\) at the items"):
        local_two_sample_test(simulated(0.0, 0, count=10), np.zeros((2, 4, 1)))
