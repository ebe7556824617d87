"""Importance-weighted figures against linear-Gaussian evidences, which are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_mmvae import Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.data import make_batch
from pyro_mmvae.evaluation import likelihood
from pyro_mmvae.evaluation.likelihood import (
    effective_sample_size,
    held_out_log_likelihood,
    importance_weights,
    khat_threshold,
    log_mean_exp,
    psis_khat,
    sample_importance,
)
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.posteriors import encode_dataset
from pyro_mmvae.networks import NetworkOptions

SIZES, NOISE, LATENT = {"a": 4, "b": 6}, {"a": 0.5, "b": 0.8}, 2


class Linear:
    """A MultimodalVAE with linear networks set by hand, whose product of experts is the exact posterior."""

    def __init__(self, items: int = 7, seed: int = 0) -> None:
        torch.manual_seed(seed)
        modalities = [Modality(n, (s,), likelihood="normal", scale=NOISE[n]) for n, s in SIZES.items()]
        self.vae = MultimodalVAE(modalities, LATENT, "poe", network=NetworkOptions(depth=0)).eval()
        self.maps: dict[str, tuple[Tensor, Tensor]] = {}
        z = torch.randn(items, LATENT)
        values = {}
        for i, (name, size) in enumerate(SIZES.items()):
            a = torch.linalg.qr(torch.randn(size, LATENT))[0] * torch.tensor([1.5, 0.7])
            b = torch.randn(size)
            self.maps[name] = (a, b)
            self._set(i, name, a, b)
            values[name] = z @ a.T + b + NOISE[name] * torch.randn(items, size)
        self.data = MultimodalDataset(values, None, torch.ones(items, 2, dtype=torch.bool), "linear", "test")

    def _set(self, index: int, name: str, a: Tensor, b: Tensor) -> None:
        squares = a.square().sum(0)
        decoder: Any = self.vae.model.decoders.networks[index]
        head: Any = self.vae.guide.encode.networks[index].head.linear
        with torch.no_grad():
            decoder.body[0].weight.copy_(a.T)
            decoder.body[0].bias.copy_(b)
            head.weight.zero_()
            head.weight[0, :, :LATENT] = a / squares
            head.bias[0, 0, :LATENT] = -b @ a / squares
            head.bias[0, 0, LATENT:] = (NOISE[name] / squares.sqrt() - 1e-4).log()

    def evidence(self, item: int, names: tuple[str, ...]) -> float:
        """Log p(x_names) of an item, by dense linear algebra."""
        a = torch.cat([self.maps[n][0] for n in names]).double()
        b = torch.cat([self.maps[n][1] for n in names]).double()
        x = torch.cat([self.data.modalities[n][item] for n in names]).double()
        noise = torch.cat([torch.full((SIZES[n],), NOISE[n] ** 2, dtype=torch.float64) for n in names])
        return float(dist.MultivariateNormal(b, a @ a.T + torch.diag(noise)).log_prob(x))

    def rows(self, **options: Any) -> dict[tuple[str, tuple[str, ...], str], Metric]:
        subsets = options.pop("subsets", [(0,), (1,), (0, 1)])
        found = held_out_log_likelihood(
            self.vae, encode_dataset(self.vae, self.data), self.data, subsets=subsets, **options
        )
        assert len({(r.metric, r.given, r.target) for r in found}) == len(found)
        return {(r.metric, r.given, r.target): r for r in found}


def test_mean_of_weights_and_effective_sample_size() -> None:
    weights = torch.tensor([[1.0, 1.0, 5.0], [3.0, 1.0, 0.0]]).log()
    torch.testing.assert_close(log_mean_exp(weights).exp(), torch.tensor([2.0, 1.0, 2.5]))
    torch.testing.assert_close(effective_sample_size(weights), torch.tensor([1.6, 2.0, 1.0]))
    torch.testing.assert_close(effective_sample_size(weights - 1e4), torch.tensor([1.6, 2.0, 1.0]), rtol=2e-3, atol=0)


def test_exact_posterior_gives_the_evidence_with_every_draw() -> None:
    linear = Linear()
    rows = linear.rows(samples=16, batch_size=3)
    for given in (("a",), ("b",), ("a", "b")):
        exact = np.mean([linear.evidence(i, given) for i in range(7)])
        assert rows["log_likelihood", given, "given"].value == pytest.approx(exact, abs=1e-4)
        assert rows["ess", given, "given"].value == pytest.approx(16, abs=1e-3)
        assert rows["log_likelihood", given, "given"].n == 7
    both = ("a", "b")
    assert rows["log_likelihood", both, "all"].value == rows["log_likelihood", both, "given"].value
    # Given one, the other surprises: the proposal is too wide, and the estimate is short of the evidence.
    assert rows["ess", ("a",), "all"].value < 13
    many = linear.rows(samples=4000, subsets=[(0,)])["log_likelihood", ("a",), "all"]
    assert many.value == pytest.approx(np.mean([linear.evidence(i, both) for i in range(7)]), abs=0.05)
    assert "K=4000" in many.protocol
    assert "full posterior" in many.protocol


def test_draws_of_different_items_are_never_averaged() -> None:
    linear = Linear(items=6)
    for name in SIZES:
        linear.data.modalities[name][::2] += 20
    evidences = [linear.evidence(i, ("a", "b")) for i in range(6)]
    assert max(evidences) - min(evidences) > 1000
    for samples in (6, 5):
        row = linear.rows(samples=samples)["log_likelihood", ("a", "b"), "given"]
        assert row.value == pytest.approx(np.mean(evidences), rel=1e-5)


def test_items_that_lack_a_modality_of_the_subset_are_left_out() -> None:
    linear = Linear()
    complete = linear.data
    present = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1], [0, 1]], dtype=torch.bool)
    values = {n: v.clone() for n, v in complete.modalities.items()}
    for m, name in enumerate(SIZES):
        values[name][~present[:, m]] = torch.nan
    linear.data = MultimodalDataset(values, None, present, "linear", "test")
    rows = linear.rows(samples=8, batch_size=2)
    for given, items in ((("a",), [0, 1, 3, 5]), (("b",), [0, 2, 3, 5, 6]), (("a", "b"), [0, 3, 5])):
        row = rows["log_likelihood", given, "given"]
        assert row.n == len(items)
        assert row.value == pytest.approx(np.mean([linear.evidence(i, given) for i in items]), abs=1e-4)
        assert rows["ess", given, "given"].value == pytest.approx(8, abs=1e-3)
    linear.data = MultimodalDataset(values, None, present & torch.tensor([True, False]), "linear", "test")
    assert {given for _, given, _ in linear.rows()} == {("a",)}


def test_seeds_are_local_and_belong_to_the_subset() -> None:
    linear = Linear()
    before = torch.get_rng_state()
    rows = linear.rows(samples=4, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    key = ("log_likelihood", ("b",), "all")
    assert linear.rows(samples=4, seed=3, subsets=[(1,)])[key] == rows[key]
    assert linear.rows(samples=4, seed=4)[key].value != rows[key].value


def test_large_mixtures_fall_back_to_one_component_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    linear = Linear()
    monkeypatch.setattr(type(linear.vae.guide), "has_mixture", lambda self, count: False)
    assert {"full component" in row.protocol for row in linear.rows(samples=2).values()} == {True}


def test_training_weights_do_not_count() -> None:
    linear = Linear()
    plain = linear.rows(samples=4)
    linear.vae.model.beta = linear.vae.guide.beta = 2.5
    linear.vae.model.reconstruction_weights = {"a": 3.0, "b": 0.0}
    assert linear.rows(samples=4) == plain


@pytest.mark.parametrize("draws_at_once", [1, 10, 10_000])
def test_importance_samples_have_the_draws_first(draws_at_once: int) -> None:
    linear = Linear()
    experts, batch = encode_dataset(linear.vae, linear.data), make_batch(linear.data, slice(None))
    drawn = sample_importance(linear.vae, experts, batch, [0, 1], 5, at_once=draws_at_once)
    weights = drawn.log_weights(("a", "b"))
    assert weights.shape == (5, 7)
    assert weights.dtype == torch.float64
    exact = torch.tensor([linear.evidence(i, ("a", "b")) for i in range(7)], dtype=torch.float64)
    torch.testing.assert_close(weights, exact.expand(5, 7), atol=1e-4, rtol=0)


# Anyone's model and guide: z ~ N(0, 1), x | z ~ N(z, 1), so x ~ N(0, 2) and z | x ~ N(x / 2, 1 / 2).

X = torch.tensor([0.0, 1.0, -3.0, 40.0], dtype=torch.float64)


def model(x: Tensor, size: int | None = None) -> None:
    with pyro.plate("data", size or len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_of(factor: float = 1.0, shift: float = 0.0) -> Callable[..., None]:
    def guide(x: Tensor, size: int | None = None) -> None:
        with pyro.plate("data", size or len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift, factor * math.sqrt(0.5)))

    return guide


def test_weights_of_an_exact_guide_are_the_evidence() -> None:
    weights = importance_weights(model, guide_of(), X, samples=100)
    evidence = dist.Normal(torch.zeros(4, dtype=torch.float64), math.sqrt(2)).log_prob(X)
    torch.testing.assert_close(log_mean_exp(weights), evidence)
    torch.testing.assert_close(effective_sample_size(weights), torch.full_like(X, 100))
    assert (psis_khat(weights) == 0).all()


@pytest.mark.parametrize(("factor", "shift"), [(0.3, 0.0), (0.5, 1.0)])
def test_wrong_guides_are_found_out(factor: float, shift: float) -> None:
    weights = importance_weights(model, guide_of(factor, shift), X.repeat(5), samples=1000)
    assert (effective_sample_size(weights) < 500).all()
    assert np.mean(psis_khat(weights) > khat_threshold(1000)) > 0.6


def test_guides_that_are_too_wide_do_no_harm() -> None:
    weights = importance_weights(model, guide_of(1.3), X, samples=1000)
    assert (effective_sample_size(weights) > 500).all()
    assert (psis_khat(weights) < 0.5).all()


def test_masks_count_and_scales_do_not() -> None:
    plain = importance_weights(model, guide_of(), X, samples=2)
    scaled = importance_weights(poutine.scale(model, 3.0), poutine.scale(guide_of(), 3.0), X, samples=2)
    torch.testing.assert_close(scaled, plain)
    mask = torch.tensor([True, False, True, True])
    masked = importance_weights(poutine.mask(model, mask=mask), poutine.mask(guide_of(), mask=mask), X, samples=2)
    torch.testing.assert_close(masked, plain * mask)


def test_a_subsample_is_drawn_once() -> None:
    def subsampled(kind: str) -> Callable[..., None]:
        def program() -> None:
            with pyro.plate("data", 4, subsample_size=2) as index:
                if kind == "guide":
                    pyro.sample("z", dist.Normal(X[index] / 2, math.sqrt(0.5)))
                else:
                    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
                    pyro.sample("x", dist.Normal(z, 1.0), obs=X[index])

        return program

    weights = importance_weights(subsampled("model"), subsampled("guide"), samples=20)
    assert weights.shape == (20, 2)
    torch.testing.assert_close(weights, weights[:1].expand(20, 2))
    evidence = dist.Normal(torch.zeros(4, dtype=torch.float64), math.sqrt(2)).log_prob(X)
    assert all((value - evidence).abs().min() < 1e-9 for value in weights[0])


def test_other_plates_are_summed_and_latents_of_the_model_alone_cancel() -> None:
    def more(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("free", dist.Normal(z, 0.1))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            with pyro.plate("twice", 2, dim=-2):
                pyro.sample("y", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0), obs=torch.stack([x, 2 * x]))

    normal = dist.Normal(torch.zeros(4, dtype=torch.float64), 1.0)
    expected = importance_weights(model, guide_of(), X, samples=1) + normal.log_prob(X) + normal.log_prob(2 * X)
    torch.testing.assert_close(importance_weights(more, guide_of(), X, samples=1), expected)


def test_sites_outside_the_plate_are_refused() -> None:
    def shared(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))
        model(x)

    with pytest.raises(ValueError, match="'w' lies outside plate 'data'"):
        importance_weights(shared, guide_of(), X, samples=1)
    with pytest.raises(ValueError, match="'z' lies outside plate 'items'"):
        importance_weights(model, guide_of(), X, samples=1, plate="items")


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_is_the_shape_of_a_pareto_tail(shape: float) -> None:
    uniform = torch.rand(4000, 20, dtype=torch.float64)
    assert np.mean(psis_khat(-shape * uniform.log())) == pytest.approx(shape, abs=0.08)


def test_khat_of_weights_that_are_flat_or_broken() -> None:
    columns = torch.stack([torch.randn(2000, dtype=torch.float64) * s for s in (0.0, 1e-3, 0.3, 0.3, 0.3)], 1)
    columns[0, 3], columns[:9, 4] = torch.nan, -torch.inf
    found = psis_khat(columns - 3000)
    assert found[:2].tolist() == [0, 0]
    assert found[2] < 0.5
    assert found[3] == np.inf
    assert found[4] < 0.5
    assert likelihood.FLAT < 0.3


def test_khat_threshold() -> None:
    assert khat_threshold(100) == 0.5
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(10**6) == 0.7
