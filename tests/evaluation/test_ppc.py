"""Draws of the posterior predictive distribution: their source, conditioning, absent observations and seeds."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine import runtime
from torch import Tensor

from pyro_mmvae import Batch, Modality, MultimodalVAE
from pyro_mmvae.evaluation.ppc import PredictiveCheck, choose_conditions, posterior_predictive, predictive_check
from pyro_mmvae.evaluation.statistic_registry import STATISTICS
from pyro_mmvae.evaluation.statistics import register_statistic

ITEMS = 12
MODALITIES = [
    Modality("m0", (1, 4, 4), scale=0.3),
    Modality("v", (6,), likelihood="normal", scale=0.5, reconstruction_weight=0.0),
    Modality("t", (5,), likelihood="categorical", classes=3, reconstruction_weight=40.0),
]


def make_vae(aggregation: str = "mwb", **options: Any) -> MultimodalVAE:
    torch.manual_seed(1)
    return MultimodalVAE(MODALITIES, 2, aggregation, **options).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    present = torch.ones(ITEMS, 3, dtype=torch.bool)
    present[0] = torch.tensor([True, False, True])
    present[1] = torch.tensor([False, True, True])
    return {
        "m0": torch.rand(ITEMS, 1, 4, 4),
        "v": torch.randn(ITEMS, 6).masked_fill(~present[:, 1:2], math.nan),
        "t": torch.randint(0, 3, (ITEMS, 5)),
        "present": present,
    }


def test_posterior_predictive_shapes_keys_and_protocol(batch: dict[str, Tensor]) -> None:
    check = posterior_predictive(make_vae(), batch, ["t", "m0"], samples=5, seed=3, ids=range(100, 100 + ITEMS))
    assert check.z.shape == (5, ITEMS, 2)
    keys = {f"m0.{s}" for s in ("mean", "contrast", "sparsity", "edge_energy")}
    keys |= {f"v.{s}" for s in ("mean", "contrast", "sparsity")} | {f"t.token_frequency.{c}" for c in range(3)}
    assert set(check.replicated) == set(check.observed) == keys  # v is included although its training weight is 0
    assert all(array.shape == (5, ITEMS) for array in check.replicated.values())
    assert all(array.shape == (5, ITEMS) for array in check.log_likelihood.values())
    assert check.given == ("m0", "t")  # in the model's order
    assert (check.samples, check.seed, check.density) == (5, 3, "mixture")
    assert check.ids.tolist() == list(range(100, 112))
    assert check.in_sample("m0.mean")
    assert not check.in_sample("v.mean")
    assert check.protocol == "posterior predictive, draws of the likelihood, mixture density, 5 samples"
    assert not check.raw


def test_posterior_predictive_only_absent_observations_are_nan(batch: dict[str, Tensor]) -> None:
    check = posterior_predictive(make_vae(), batch, ["m0"], samples=4)
    for key, values in check.replicated.items():
        absent = {"m0": 1, "v": 0}.get(key.split(".")[0])
        expected = np.arange(ITEMS) == absent
        assert (np.isnan(values) == expected).all()
        assert (np.isnan(check.observed[key]) == expected).all()
    assert np.isnan(check.log_likelihood["v"][:, 0]).all()
    assert np.isfinite(check.log_likelihood["v"][:, 1:]).all()
    assert not check.present["m0"][1]


def test_posterior_predictive_z_has_the_moments_of_the_posterior(batch: dict[str, Tensor]) -> None:
    vae = make_vae("mopoe", bound="component", beta=7.0)
    for given in (("v",), ("m0", "v", "t")):
        check = posterior_predictive(vae, batch, given, samples=200, statistics=["mean"])
        with torch.no_grad():
            experts = vae.guide.experts(Batch.of(batch, vae.names).select(given), num_items=ITEMS)
            posterior = vae.guide.posterior(experts, "mixture")
        error = (posterior.variance / 200).sqrt().numpy()
        assert (np.abs(check.z.mean(0) - posterior.mean.numpy()) < 5 * error).all()
        np.testing.assert_allclose(check.z.var(0), posterior.variance.numpy(), rtol=0.6)
    assert check.density == "mixture"


def test_posterior_predictive_given_nothing_draws_from_the_prior(batch: dict[str, Tensor]) -> None:
    vae = make_vae(prior=(3.0, 0.1))
    check = posterior_predictive(vae, batch, samples=60)
    assert check.protocol.startswith("prior predictive")
    assert check.z.mean() == pytest.approx(3, abs=0.03)
    assert check.z.std() == pytest.approx(0.1, rel=0.1)


def test_posterior_predictive_replicates_have_the_noise_of_the_likelihood(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    check = posterior_predictive(vae, batch, ["m0", "v", "t"], samples=100, keep_raw=True)
    with torch.no_grad():
        means = vae.decode(torch.as_tensor(check.z))
    noise = check.raw["m0"] - means["m0"].numpy()
    assert noise.shape == (100, ITEMS, 1, 4, 4)
    assert noise.std() == pytest.approx(0.3 * 2**0.5, rel=0.05)  # the noise of a Laplace distribution
    assert np.abs(noise.mean(0)).max() < 5 * noise.std() / 100**0.5
    assert set(np.unique(check.raw["t"])) == {0, 1, 2}
    np.testing.assert_allclose(
        check.replicated["v.mean"][:, 1:], check.raw["v"].mean(-1, dtype=np.float64)[:, 1:], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(check.observed["m0.mean"][2:], batch["m0"][2:].mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(check.observed_raw["m0"][2:], batch["m0"][2:])


def test_posterior_predictive_log_likelihood_ignores_training_weights(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    check = posterior_predictive(vae, batch, ["m0", "t"], samples=3)
    with torch.no_grad():
        parameters = vae.model.decoders(torch.as_tensor(check.z), vae.names)
        expected = dist.Normal(parameters["v"], 0.5).log_prob(batch["v"].nan_to_num()).sum(-1)
        tokens = dist.Categorical(logits=parameters["t"]).log_prob(batch["t"]).sum(-1)
    np.testing.assert_allclose(check.log_likelihood["v"][:, 1:], expected[:, 1:], rtol=1e-5)
    np.testing.assert_allclose(check.log_likelihood["t"], tokens, rtol=1e-5)


def equal_draws(first: PredictiveCheck, second: PredictiveCheck, samples: int) -> bool:
    pairs = [(first.z, second.z), *((first.replicated[k], second.replicated[k]) for k in first.replicated)]
    return all(np.array_equal(a[:samples], b[:samples], equal_nan=True) for a, b in pairs)


def test_posterior_predictive_handlers_do_not_accumulate(batch: dict[str, Tensor]) -> None:
    heights = []
    vae = make_vae()
    sample = vae.guide.sample_posterior

    def counting(posterior: Any, **options: Any) -> Tensor:
        heights.append(len(runtime._PYRO_STACK))
        return sample(posterior, **options)

    vae.guide.sample_posterior = counting  # type: ignore[method-assign]
    posterior_predictive(vae, batch, samples=10)
    assert heights[-1] == heights[-10]  # the last and the first of the ten draws; Pyro may trace the guide before


def test_posterior_predictive_seed_fixes_each_draw_and_is_local(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    state = torch.get_rng_state()
    first = posterior_predictive(vae, batch, ["m0"], samples=4, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    many = posterior_predictive(vae, batch, ["m0"], samples=9, seed=2, keep_raw=True)
    assert equal_draws(first, many, 4)
    assert not equal_draws(first, posterior_predictive(vae, batch, ["m0"], samples=4, seed=3), 4)
    assert len(np.unique(many.replicated["m0.mean"][:, 0])) == 9
    noise = many.raw["v"] - many.raw["v"].mean(0)
    assert np.abs(np.corrcoef(noise[:, 1, 0], many.z[:, 1, 0])[0, 1]) < 0.999  # z and noise have independent seeds


def test_posterior_predictive_holds_one_draw_at_a_time(
    batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STATISTICS, "_parts", STATISTICS.snapshot())
    alive: list[weakref.ref[Tensor]] = []
    counts = []

    @register_statistic("watch")
    def watch(images: Tensor) -> Tensor:
        alive.append(weakref.ref(images))
        counts.append(sum(ref() is not None for ref in alive))
        return images.mean((-3, -2, -1))

    posterior_predictive(make_vae(), batch, samples=30, statistics=["watch"])
    assert len(counts) >= 30
    assert max(counts) <= 4


def test_posterior_predictive_user_defined_statistic_is_computed(
    batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STATISTICS, "_parts", STATISTICS.snapshot())

    @register_statistic("largest", kinds=("vector",))
    def largest(values: Tensor) -> Tensor:
        return values.amax(-1)

    check = posterior_predictive(make_vae(), batch, samples=3, statistics=["largest", "edge_energy"], keep_raw=True)
    assert set(check.observed) == {"m0.edge_energy", "v.largest"}
    np.testing.assert_allclose(check.replicated["v.largest"][:, 1:], check.raw["v"].max(-1)[:, 1:], rtol=1e-6)


def test_posterior_predictive_invalid_arguments_raise(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    with pytest.raises(ValueError, match=r"given must name modalities of the batch \(m0, v, t\), got 'x'"):
        posterior_predictive(vae, batch, ["x"])
    with pytest.raises(ValueError, match=r"unknown statistic 'x'.* Available: mean"):
        posterior_predictive(vae, batch, statistics=["x"])
    with pytest.raises(ValueError, match="ids must have one entry for each of the 12 items, got 2"):
        posterior_predictive(vae, batch, ids=[1, 2])
    with pytest.raises(ValueError, match="statistics must fit at least one modality, got mean"):
        posterior_predictive(vae, {"t": batch["t"]}, statistics=["mean"])


def test_choose_conditions_returns_nothing_each_size_and_everything() -> None:
    names = ("a", "b", "c", "d")
    assert [len(given) for given in choose_conditions(names)] == [0, 1, 2, 3, 4]
    two = choose_conditions(names, per_size=2)
    assert [len(given) for given in two] == [0, 1, 1, 2, 2, 3, 3, 4]
    assert len(set(two)) == len(two)
    assert choose_conditions(("a", "b"), per_size=9) == [(), ("a",), ("b",), ("a", "b")]


def test_predictive_check_user_defined_model_with_masks() -> None:
    x, y = torch.randn(6, 2), torch.randn(6)
    present = torch.tensor([1, 1, 0, 1, 1, 1]).bool()

    def model(x: Tensor, y: Tensor, *, noise: float) -> None:
        with pyro.plate("data", 6):
            z = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.deterministic("double", 2 * z, event_dim=1)
            pyro.sample("x", dist.Normal(z, noise).to_event(1), obs=x)
            with pyro.poutine.mask(mask=present):
                pyro.sample("y", dist.Normal(z.sum(-1), noise), obs=y)

    def guide(x: Tensor, *_: Tensor, noise: float) -> None:
        with pyro.plate("data", 6):
            pyro.sample("u", dist.Normal(x, 1e-4).to_event(1))

    check = predictive_check(model, guide, x, y, guide_args=[x + 5], given=["x"], latent="u", samples=50, noise=0.1)
    np.testing.assert_allclose(check.z.mean(0), x + 5, atol=1e-3)  # the guide received guide_args
    assert set(check.observed) == {f"{n}.{s}" for n in "xy" for s in ("mean", "contrast", "sparsity")}
    np.testing.assert_allclose(check.observed["y.mean"][present], y[present], rtol=1e-6)
    np.testing.assert_allclose(check.replicated["y.mean"].mean(0)[present], (x + 5).sum(-1)[present], atol=0.08)
    assert check.replicated["y.mean"].std(0)[0] == pytest.approx(0.1, rel=0.35)
    assert np.isnan(check.observed["y.mean"][2])
    assert check.given == ("x",)
    assert check.density == "guide"
    assert predictive_check(model, guide, x, y, latent="u", samples=2, noise=0.1).given == ("x", "y")
    with pytest.raises(ValueError, match=r"given must name observed sites of the model \(x, y\), got 'w'"):
        predictive_check(model, guide, x, y, given=["w"], latent="u", noise=0.1)
    with pytest.raises(ValueError, match="must observe at least one site"):
        predictive_check(pyro.poutine.uncondition(model), guide, x, y, latent="u", noise=0.1)


def test_predictive_check_factors_are_not_checked() -> None:
    x = torch.randn(6, 2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("penalty", -z.square().sum(-1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
            pyro.factor("term", z.sum(-1), has_rsample=True)

    check = predictive_check(model, guide, x, samples=3)
    assert set(check.present) == {"x"}
    assert check.given == ("x",)
    assert all(np.isfinite(values).all() for values in check.observed.values())
