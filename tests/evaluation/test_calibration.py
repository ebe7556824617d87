"""p-values, PIT and coverage of hand-made replicates and of a model whose posterior is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.evaluation.calibration import (
    DETERMINED,
    IN_SAMPLE,
    Calibration,
    bayesian_p_value,
    calibrate,
    interval_coverage,
    nominal_scores,
    pit_values,
)
from pyro_mmvae.evaluation.ppc import PredictiveCheck, posterior_predictive, predictive_check
from pyro_mmvae.evaluation.sbc import simulation_calibration
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.uniformity import ecdf_p_value, piet_c

ITEMS, NOISE = 400, (0.5, 1.0)


def model(a: Tensor, b: Tensor) -> None:
    with pyro.plate("data", len(a)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("a", dist.Normal(z, NOISE[0]).to_event(1), obs=a)
        pyro.sample("b", dist.Normal(z, NOISE[1]).to_event(1), obs=b)


def guide_given_a(scale: float = 1.0, shift: float = 0.0) -> Callable[..., None]:
    """Return the exact posterior given a alone (precision 1 + 1/0.25 = 5, mean 4/5 a), or a wrong one."""

    def guide(a: Tensor, b: Tensor) -> None:
        with pyro.plate("data", len(a)):
            pyro.sample("z", dist.Normal(0.8 * a + shift, scale * 0.2**0.5).to_event(1))

    return guide


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    z, *noise = torch.randn(3, ITEMS, 2, generator=generator)
    return z + NOISE[0] * noise[0], z + NOISE[1] * noise[1]


def rows(data: tuple[Tensor, Tensor], guide: Callable[..., None]) -> dict[str, Calibration]:
    check = predictive_check(model, guide, *data, given=["a"], samples=99, statistics=["mean", "contrast"])
    return {row.statistic: row for row in calibrate(check)}


def test_calibrate_exact_posterior_held_out_modality_is_calibrated(data: tuple[Tensor, Tensor]) -> None:
    calibrations = rows(data, guide_given_a())
    for key in ("b.mean", "b.contrast"):
        row = calibrations[key]
        assert not row.in_sample
        assert row.pit_p_value is not None
        assert row.pit_p_value > 0.02
        assert row.verdict.startswith("no departure")
        assert row.p_value > 0.02
        assert (row.n, row.samples, row.given, row.density) == (ITEMS, 99, ("a",), "guide")
        for c in row.coverage:
            assert abs(c.value - c.level) < 3 * c.error
            assert c.error == pytest.approx((c.level * (1 - c.level) / ITEMS) ** 0.5)
        assert ecdf_p_value(row.pit) == row.pit_p_value
        assert row.piet_c_p_value == piet_c(row.pit)
        assert row.independent.all()


def test_calibrate_in_sample_modality_is_not_judged(data: tuple[Tensor, Tensor]) -> None:
    row = rows(data, guide_given_a())["a.mean"]
    assert row.in_sample
    assert row.pit_p_value is None
    assert row.verdict == IN_SAMPLE
    assert all(c.value > c.level + 3 * c.error for c in row.coverage if c.level <= 0.8)
    assert not any(metric.metric in {"ppc_pit_p_value", "ppc_piet_c_p_value"} for metric in row.metrics())
    assert all("in-sample" in metric.protocol for metric in row.metrics())


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.5), (4.0, 0.0)])
def test_calibrate_wrong_posterior_is_miscalibrated(data: tuple[Tensor, Tensor], scale: float, shift: float) -> None:
    row = rows(data, guide_given_a(scale, shift))["b.mean"]
    assert row.pit_p_value is not None
    assert row.pit_p_value < 1e-4
    assert row.verdict.startswith("miscalibrated")
    assert any(abs(c.value - c.level) > 4 * c.error for c in row.coverage)
    if shift:
        assert row.p_value < 0.03


def test_calibrate_narrow_posterior_covers_too_little() -> None:
    # Little noise in b, so that its predictive distribution is as narrow as the guide.
    generator = torch.Generator().manual_seed(3)
    z, *noise = torch.randn(3, ITEMS, 2, generator=generator)
    a, b = z + 0.5 * noise[0], z + 0.05 * noise[1]

    def sharp(a: Tensor, b: Tensor) -> None:
        with pyro.plate("data", len(a)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("b", dist.Normal(z, 0.05).to_event(1), obs=b)

    for scale, calibrated in ((1.0, True), (0.5, False)):
        check = predictive_check(sharp, guide_given_a(scale), a, b, given=[], samples=99, statistics=["mean"])
        (row,) = calibrate(check)
        assert row.verdict.startswith("no departure" if calibrated else "miscalibrated")
        assert all((c.value > c.level - 3 * c.error) == calibrated for c in row.coverage)


def test_bayesian_p_value_matches_hand_values() -> None:
    replicated = np.arange(10.0)
    assert bayesian_p_value(replicated, 4.5) == 1
    assert bayesian_p_value(replicated, 7.5) == pytest.approx(0.4)
    assert bayesian_p_value(replicated, 1.5) == pytest.approx(0.4)  # two-sided
    assert bayesian_p_value(replicated, 99.0) == 0
    assert bayesian_p_value(replicated, 9.0) == pytest.approx(0.1)  # 0 above, 1 tie that counts half
    assert bayesian_p_value(np.ones(10), 1.0) == 1  # all ties


def test_pit_values_match_hand_values() -> None:
    replicated = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    v = np.random.default_rng((5, 1)).random(3)
    pit = pit_values(np.c_[replicated, replicated[:, 1]], np.array([1.5, 1.0, np.nan]), seed=5)
    np.testing.assert_allclose(pit[:2], [(2 + v[0]) / 4, (0 + v[1] * 4) / 4])
    assert np.isnan(pit[2])


@pytest.mark.parametrize("samples", [3, 50])
def test_pit_values_discrete_statistics_are_uniform(samples: int) -> None:
    coins = np.random.default_rng(0).binomial(2, 0.3, (samples + 1, 4000)).astype(float)
    assert stats.kstest(pit_values(coins[1:], coins[0]), "uniform").pvalue > 0.02
    assert stats.kstest(pit_values(coins[1:], coins[0] + 1), "uniform").pvalue < 1e-9


def test_interval_coverage_matches_hand_values() -> None:
    pit = np.array([0.1, 0.3, 0.5, 0.74, 0.9])
    half, most = interval_coverage(pit, [0.5, 0.81])
    assert (half.value, most.value) == (0.6, 1.0)
    assert half.error == pytest.approx((0.25 / 5) ** 0.5)


def test_nominal_scores_are_frequencies_in_the_pool() -> None:
    replicated = np.array([[7.0, 0.0], [7.0, 1.0], [3.0, 2.0]])
    scores, observed = nominal_scores(replicated, np.array([7.0, 5.0]))
    np.testing.assert_allclose(scores, [[0.75, 0.25], [0.75, 0.25], [0.25, 0.25]])
    np.testing.assert_allclose(observed, [0.75, 0.25])


def test_calibrate_renamed_classes_give_equal_results() -> None:
    def check(rename: list[float]) -> Calibration:
        classes = np.random.default_rng(1).choice(3, (81, 300), p=[0.7, 0.2, 0.1])
        named = np.array(rename)[classes]
        predictive = PredictiveCheck(
            np.zeros((80, 300, 1)), {"m.c": named[1:]}, {"m.c": named[0]}, {}, {"m": np.ones(300, dtype=bool)},
            np.arange(300), (), "guide", 0, frozenset({"m.c"}),
        )  # fmt: skip
        return calibrate(predictive)[0]

    first, second = check([0.0, 1.0, 2.0]), check([1.0, 9.0, 0.0])
    assert first.coverage == second.coverage
    assert (first.p_value, first.pit_p_value) == (second.p_value, second.pit_p_value)
    assert first.p_value > 0.02
    assert first.pit_p_value is not None
    assert first.pit_p_value > 0.02


def test_calibrate_items_without_the_modality_are_left_out() -> None:
    replicated, observed = np.random.default_rng(0).normal(size=(50, 6)), np.zeros(6)
    observed[[1, 4]] = replicated[:, [1, 4]] = np.nan
    check = PredictiveCheck(
        np.zeros((50, 6, 1)), {"m.mean": replicated, "n.mean": np.full((50, 6), np.nan)},
        {"m.mean": observed, "n.mean": np.full(6, np.nan)}, {}, {}, np.arange(6), (), "guide", 0,
    )  # fmt: skip
    (row,) = calibrate(check)  # nothing of n
    assert row.n == 4
    assert np.isnan(row.pit[[1, 4]]).all()
    assert np.isfinite(row.pit[[0, 2, 3, 5]]).all()
    kept = [0, 2, 3, 5]
    assert row.p_value == bayesian_p_value(replicated[:, kept].mean(1), 0.0)


def counts_model() -> tuple[MultimodalVAE, dict[str, Tensor]]:
    """Return a model of two modalities of counts, and items drawn from it with totals that the model does not know."""
    torch.manual_seed(0)
    modalities = [
        Modality("a", (20,), likelihood="poisson", reference_total=400.0),
        Modality("b", (12,), likelihood="negative_binomial", reference_total=300.0),
    ]
    vae = MultimodalVAE(modalities, 2, network=NetworkOptions(hidden=8)).eval()
    sizes, values = (torch.randn(300, 1) * 0.4 + math.log(300.0)).exp(), {}
    with torch.no_grad():
        for name, parameters in vae.model.parameters_given(torch.randn(300, 2), ["a", "b"]).items():
            as_observed = sizes.expand(parameters.shape) / parameters.shape[-1]
            values[name] = vae.model.likelihoods[name](parameters, as_observed).sample()
    return vae, values


@pytest.mark.parametrize("given", [(), ("a",)])
def test_calibrate_counts_not_given_of_a_correct_model_are_not_rejected(given: tuple[str, ...]) -> None:
    vae, values = counts_model()
    check = posterior_predictive(vae, values, given, samples=100, seed=1)
    rows = {row.statistic: row for row in calibrate(check)}
    assert rows["b.mean"].verdict == DETERMINED
    assert rows["b.mean"].pit_p_value is None
    for statistic in ("b.contrast", "b.sparsity"):
        p_value = rows[statistic].pit_p_value
        assert p_value is not None
        assert p_value > 1e-3
    not_given = "b" if given else "a, b"
    assert check.protocol.endswith(f"; size factors of {not_given} drawn from observed totals")


def test_posterior_predictive_replicates_of_counts_not_given_do_not_depend_on_their_own_totals() -> None:
    vae, values = counts_model()
    check = posterior_predictive(vae, values, ("a",), samples=30, seed=1)
    means = {name: check.replicated[f"{name}.mean"].mean(0) for name in ("a", "b")}
    correlation = {name: np.corrcoef(means[name], check.observed[f"{name}.mean"])[0, 1] for name in means}
    assert correlation["a"] > 0.9  # the total of what was given is its size factor
    assert abs(correlation["b"]) < 0.2
    changed = {"a": values["a"], "b": values["b"].flip(0)}  # items exchange their counts, the totals stay
    other = posterior_predictive(vae, changed, ("a",), samples=30, seed=1)
    np.testing.assert_allclose(other.replicated["b.mean"].mean(), check.replicated["b.mean"].mean(), rtol=0.05)
    with torch.no_grad():  # the log likelihood is evaluated with an item's own total
        parameters = vae.model.parameters_given(torch.as_tensor(check.z), ["b"])["b"]
        expected = vae.model.likelihoods["b"](parameters, values["b"]).log_prob(values["b"])
    np.testing.assert_allclose(check.log_likelihood["b"], expected, rtol=1e-4)


def test_calibrate_statistic_equal_in_every_replicate_is_not_judged() -> None:
    observed = np.arange(6.0)
    check = PredictiveCheck(
        np.zeros((50, 6, 1)), {"m.total": np.tile(observed, (50, 1)), "m.other": np.zeros((50, 6))},
        {"m.total": observed, "m.other": observed}, {}, {}, np.arange(6), (), "guide", 0,
    )  # fmt: skip
    total, other = calibrate(check)
    assert (total.verdict, total.pit_p_value) == (DETERMINED, None)
    assert other.verdict.startswith("miscalibrated")


def test_simulation_calibration_of_counts_names_their_size_factors() -> None:
    vae, _ = counts_model()
    assert "reference totals" in simulation_calibration(vae, ["a"], simulations=100, draws=19).protocol


def repeated_check(repeats: int, seed: int, given: tuple[str, ...] = ()) -> PredictiveCheck:
    """Return an exact check of 200 items whose observations of ``m`` are shared by several items each."""
    draws = np.random.default_rng(seed).normal(size=(100, 200 // repeats))
    observed = np.repeat(draws[0], repeats)
    replicated = np.repeat(draws[1:], repeats, axis=1)
    return PredictiveCheck(
        np.zeros((99, 200, 1)), {"m.mean": replicated}, {"m.mean": observed}, {}, {"m": np.ones(200, dtype=bool)},
        np.arange(200), given, "guide", seed, shared={"m": np.arange(200) // repeats},
    )  # fmt: skip


def test_calibrate_shared_observations_are_tested_once() -> None:
    (row,) = calibrate(repeated_check(4, seed=0))
    assert row.independent.sum() == 50
    assert row.pit_p_value == ecdf_p_value(row.pit[row.independent])
    assert {m.metric: m.n for m in row.metrics()}["ppc_pit_p_value"] == 50
    assert row.coverage[0].error == pytest.approx((0.25 / 50) ** 0.5)


def test_calibrate_shared_observations_keep_the_level_that_kolmogorov_smirnov_exceeds() -> None:
    checks = [calibrate(repeated_check(4, seed))[0] for seed in range(150)]
    rejected = np.mean([row.pit_p_value is not None and row.pit_p_value <= 0.05 for row in checks])
    naive = np.mean([stats.kstest(row.pit, "uniform").pvalue <= 0.05 for row in checks])
    assert rejected < 0.11  # three standard errors above 0.05
    assert naive > 0.4


def test_calibrate_modalities_that_are_neither_given_nor_checked_do_not_matter() -> None:
    check = repeated_check(4, seed=0)
    codes = np.zeros(200, dtype=np.int64)
    other = replace(check, shared={"other": codes})
    assert calibrate(other)[0].independent.all()
    assert calibrate(replace(other, given=("other",)))[0].independent.sum() == 1
    assert calibrate(replace(other, shared={"": codes}))[0].independent.sum() == 1  # groups matter everywhere
