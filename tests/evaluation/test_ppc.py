"""Draws of the posterior predictive: whose they are, what is given, what is absent, and what a seed fixes."""

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
from pyro_mmvae.evaluation import statistics
from pyro_mmvae.evaluation.ppc import PredictiveCheck, choose_given, posterior_predictive, predictive_check
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


def test_shapes_names_and_provenance(batch: dict[str, Tensor]) -> None:
    check = posterior_predictive(make_vae(), batch, ["t", "m0"], samples=5, seed=3, ids=range(100, 100 + ITEMS))
    assert check.z.shape == (5, ITEMS, 2)
    keys = {f"m0.{s}" for s in ("mean", "contrast", "sparsity", "edge_energy")}
    keys |= {f"v.{s}" for s in ("mean", "contrast", "sparsity")} | {f"t.token_frequency.{c}" for c in range(3)}
    assert set(check.replicated) == set(check.observed) == keys  # v too, though its weight in training is 0
    assert all(array.shape == (5, ITEMS) for array in check.replicated.values())
    assert all(array.shape == (5, ITEMS) for array in check.log_likelihood.values())
    assert check.given == ("m0", "t")  # in the model's order
    assert (check.samples, check.seed, check.bound) == (5, 3, "mixture")
    assert check.ids.tolist() == list(range(100, 112))
    assert check.in_sample("m0.mean")
    assert not check.in_sample("v.mean")
    assert check.protocol == "posterior predictive, draws of the likelihood, bound mixture, 5 samples"
    assert not check.raw


def test_absent_observations_are_nan_and_nothing_else_is(batch: dict[str, Tensor]) -> None:
    check = posterior_predictive(make_vae(), batch, ["m0"], samples=4)
    for key, values in check.replicated.items():
        absent = {"m0": 1, "v": 0}.get(key.split(".")[0])
        expected = np.arange(ITEMS) == absent
        assert (np.isnan(values) == expected).all()
        assert (np.isnan(check.observed[key]) == expected).all()
    assert np.isnan(check.log_likelihood["v"][:, 0]).all()
    assert np.isfinite(check.log_likelihood["v"][:, 1:]).all()
    assert not check.present["m0"][1]


def test_z_comes_from_the_whole_posterior_of_what_is_given(batch: dict[str, Tensor]) -> None:
    vae = make_vae("mopoe", bound="component", beta=7.0)
    for given in (("v",), ("m0", "v", "t")):
        check = posterior_predictive(vae, batch, given, samples=200, statistics=["mean"])
        with torch.no_grad():
            experts = vae.guide.experts(Batch.of(batch, vae.names).given(given), num_items=ITEMS)
            posterior = vae.guide.posterior(experts, "mixture")
        error = (posterior.variance / 200).sqrt().numpy()
        assert (np.abs(check.z.mean(0) - posterior.mean.numpy()) < 5 * error).all()
        np.testing.assert_allclose(check.z.var(0), posterior.variance.numpy(), rtol=0.6)
    assert check.bound == "mixture"


def test_given_nothing_is_the_prior_predictive(batch: dict[str, Tensor]) -> None:
    vae = make_vae(prior=(3.0, 0.1))
    check = posterior_predictive(vae, batch, samples=60)
    assert check.protocol.startswith("prior predictive")
    assert check.z.mean() == pytest.approx(3, abs=0.03)
    assert check.z.std() == pytest.approx(0.1, rel=0.1)


def test_replicates_are_draws_of_the_likelihood_at_each_z(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    check = posterior_predictive(vae, batch, ["m0", "v", "t"], samples=100, keep_raw=True)
    with torch.no_grad():
        means = vae.decode(torch.as_tensor(check.z))
    noise = check.raw["m0"] - means["m0"].numpy()
    assert noise.shape == (100, ITEMS, 1, 4, 4)
    assert noise.std() == pytest.approx(0.3 * 2**0.5, rel=0.05)  # Laplace, and not its mean
    assert np.abs(noise.mean(0)).max() < 5 * noise.std() / 100**0.5
    assert set(np.unique(check.raw["t"])) == {0, 1, 2}
    np.testing.assert_allclose(
        check.replicated["v.mean"][:, 1:], check.raw["v"].mean(-1, dtype=np.float64)[:, 1:], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(check.observed["m0.mean"][2:], batch["m0"][2:].mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(check.observed_raw["m0"][2:], batch["m0"][2:])


def test_log_likelihood_is_of_the_observation_at_each_z_without_weights(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    check = posterior_predictive(vae, batch, ["m0", "t"], samples=3)
    with torch.no_grad():
        parameters = vae.model.decoders(torch.as_tensor(check.z), vae.names)
        expected = dist.Normal(parameters["v"], 0.5).log_prob(batch["v"].nan_to_num()).sum(-1)
        tokens = dist.Categorical(logits=parameters["t"]).log_prob(batch["t"]).sum(-1)
    np.testing.assert_allclose(check.log_likelihood["v"][:, 1:], expected[:, 1:], rtol=1e-5)
    np.testing.assert_allclose(check.log_likelihood["t"], tokens, rtol=1e-5)


def same(first: PredictiveCheck, second: PredictiveCheck, samples: int) -> bool:
    pairs = [(first.z, second.z), *((first.replicated[k], second.replicated[k]) for k in first.replicated)]
    return all(np.array_equal(a[:samples], b[:samples], equal_nan=True) for a, b in pairs)


def test_the_guides_own_handlers_do_not_pile_up(batch: dict[str, Tensor]) -> None:
    heights = []
    vae = make_vae()
    sample = vae.guide.sample_posterior

    def counting(posterior: Any, **options: Any) -> Tensor:
        heights.append(len(runtime._PYRO_STACK))
        return sample(posterior, **options)

    vae.guide.sample_posterior = counting  # type: ignore[method-assign]
    posterior_predictive(vae, batch, samples=10)
    assert heights[-1] == heights[2]


def test_a_seed_fixes_each_draw_whatever_their_number_and_is_local(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    state = torch.get_rng_state()
    few = posterior_predictive(vae, batch, ["m0"], samples=4, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    many = posterior_predictive(vae, batch, ["m0"], samples=9, seed=2, keep_raw=True)
    assert same(few, many, 4)
    assert not same(few, posterior_predictive(vae, batch, ["m0"], samples=4, seed=3), 4)
    assert len(np.unique(many.replicated["m0.mean"][:, 0])) == 9
    noise = many.raw["v"] - many.raw["v"].mean(0)
    assert np.abs(np.corrcoef(noise[:, 1, 0], many.z[:, 1, 0])[0, 1]) < 0.999  # z and noise have seeds of their own


def test_only_one_draw_of_the_pixels_is_alive_at_a_time(
    batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_REGISTRY", dict(statistics._REGISTRY))
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


def test_a_users_statistic_and_a_choice_of_them(batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_REGISTRY", dict(statistics._REGISTRY))

    @register_statistic("largest", kinds=("vector",))
    def largest(values: Tensor) -> Tensor:
        return values.amax(-1)

    check = posterior_predictive(make_vae(), batch, samples=3, statistics=["largest", "edge_energy"], keep_raw=True)
    assert set(check.observed) == {"m0.edge_energy", "v.largest"}
    np.testing.assert_allclose(check.replicated["v.largest"][:, 1:], check.raw["v"].max(-1)[:, 1:], rtol=1e-6)


def test_mistakes_are_named(batch: dict[str, Tensor]) -> None:
    vae = make_vae()
    with pytest.raises(ValueError, match="given modality 'x' is not in the batch, which has m0, v, t"):
        posterior_predictive(vae, batch, ["x"])
    with pytest.raises(ValueError, match="unknown statistic 'x'; there are mean"):
        posterior_predictive(vae, batch, statistics=["x"])
    with pytest.raises(ValueError, match="2 ids for 12 items"):
        posterior_predictive(vae, batch, ids=[1, 2])
    with pytest.raises(ValueError, match="no statistic fits"):
        posterior_predictive(vae, {"t": batch["t"]}, statistics=["mean"])


def test_what_to_condition_on() -> None:
    names = ("a", "b", "c", "d")
    assert [len(given) for given in choose_given(names)] == [0, 1, 2, 3, 4]
    two = choose_given(names, per_size=2)
    assert [len(given) for given in two] == [0, 1, 1, 2, 2, 3, 3, 4]
    assert len(set(two)) == len(two)
    assert choose_given(("a", "b"), per_size=9) == [(), ("a",), ("b",), ("a", "b")]


def test_anyones_model_with_masks_and_a_number_an_item() -> None:
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
    np.testing.assert_allclose(check.z.mean(0), x + 5, atol=1e-3)  # the guide saw its own arguments
    assert set(check.observed) == {f"{n}.{s}" for n in "xy" for s in ("mean", "contrast", "sparsity")}
    np.testing.assert_allclose(check.observed["y.mean"][present], y[present], rtol=1e-6)
    np.testing.assert_allclose(check.replicated["y.mean"].mean(0)[present], (x + 5).sum(-1)[present], atol=0.08)
    assert check.replicated["y.mean"].std(0)[0] == pytest.approx(0.1, rel=0.35)
    assert np.isnan(check.observed["y.mean"][2])
    assert check.given == ("x",)
    assert check.bound == "guide"
    assert predictive_check(model, guide, x, y, latent="u", samples=2, noise=0.1).given == ("x", "y")
    with pytest.raises(ValueError, match="given site 'w' is not observed, the model observes x, y"):
        predictive_check(model, guide, x, y, given=["w"], latent="u", noise=0.1)
    with pytest.raises(ValueError, match="observes nothing"):
        predictive_check(pyro.poutine.uncondition(model), guide, x, y, latent="u", noise=0.1)
