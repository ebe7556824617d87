"""Learned expert weights and subset weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import SVI, Trace_ELBO

from pyro_mmvae import BarycentricGuide, Experts, Modality, MultimodalVAE, aggregate, load, make_aggregation
from pyro_mmvae.aggregation.weights import (
    EXPERT_WEIGHTS,
    LearnedSubsetWeights,
    LearnedWeights,
    PrecisionWeights,
    balanced,
    make_expert_weights,
    weights_entropy,
)
from pyro_mmvae.reports import draw_run
from pyro_mmvae.run_files import read_metrics
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import train
from pyro_mmvae.training.learned_weights import learned_weights
from tests.strategies import few, random_experts


@few
@given(st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_balanced_is_one_on_average_over_present_modalities(num_modalities: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, num_modalities, generator=generator, dtype=torch.float64)
    present = torch.rand(5, num_modalities, generator=generator) < 0.6
    weights = balanced(logits, present)
    assert (weights >= 0).all()
    assert (weights[~present] == 0).all()
    torch.testing.assert_close(weights.sum(-1), present.sum(-1).double())
    shares = (logits.exp() * present) / (logits.exp() * present).sum(-1, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(weights, shares * present.sum(-1, keepdim=True))


@pytest.mark.parametrize("name", EXPERT_WEIGHTS)
def test_learned_weights_ignore_nan_in_absent_slots(name: str) -> None:
    experts = random_experts(6, 3, 2)
    present = experts.mask.clone()
    present[0], present[1] = False, torch.tensor([True, False, True])
    module = make_expert_weights(name, 3, 2)
    torch.nn.init.normal_(module.logits)
    if name == "gate":
        torch.nn.init.normal_(module.out)
    values = []
    for filling in (0.5, torch.nan):
        loc = experts.loc.masked_fill(~present[..., None], filling).requires_grad_()
        scale = experts.scale.masked_fill(~present[..., None], filling).requires_grad_()
        weights = module(Experts(loc, scale, present, validate_args=False))
        assert weights.dtype == torch.float64
        gradients = torch.autograd.grad(
            (weights * torch.arange(3.0)).sum(), [*module.parameters(), loc, scale], allow_unused=True
        )
        values.append([weights, *(g for g in gradients if g is not None)])
    for one, other in zip(*values, strict=True):
        assert other.isfinite().all()
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["learned", "gate"])
def test_learned_weights_start_from_equal_weights(name: str) -> None:
    experts = random_experts(7, 3, 2)
    for rule in ("poe", "wb", "mopoe", "pool"):
        plain, weighted = (
            aggregate(experts, rule),
            aggregate(experts, rule, expert_weights=make_expert_weights(name, 3, 2)(experts)),
        )
        torch.testing.assert_close(weighted.mean, plain.mean)
        torch.testing.assert_close(weighted.variance, plain.variance)


def test_precision_weights_follow_the_precision() -> None:
    scale = torch.tensor([[0.5, 0.5], [1.0, 1.0], [0.1, 10.0]])
    weights = PrecisionWeights(3)(Experts(torch.zeros(3, 2), scale))
    torch.testing.assert_close(weights, 3 * torch.tensor([4.0, 1.0, 1.0]) / 6)


def test_weights_entropy_matches_hand_calculation() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 2.0, 0.0]], requires_grad=True)
    entropy = weights_entropy(weights)
    torch.testing.assert_close(entropy, torch.tensor([math.log(3), 0.0, 0.0, math.log(2)]))
    (gradient,) = torch.autograd.grad(entropy.sum(), weights)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[0], torch.zeros(3))  # the largest there is


def test_learned_subset_weights_are_one_per_subset() -> None:
    module = LearnedSubsetWeights(7)
    with torch.no_grad():
        module.logits.copy_(torch.arange(7.0).log1p())
    experts = random_experts(4, 3, 2, absent=False)
    posterior = aggregate(experts, "mwb", subset_weights=module)
    torch.testing.assert_close(posterior.probs[0], torch.arange(1.0, 8.0).double() / 28)
    with pytest.raises(ValueError, match="subset_weights must be for 3 subsets, as the family has, got 7"):
        aggregate(experts, "moe", subset_weights=module)


def test_make_expert_weights_refuses_unknown_names() -> None:
    assert isinstance(make_expert_weights("learned", 2, 1), LearnedWeights)
    with pytest.raises(
        ValueError,
        match="expert_weights must be 'learned', 'precision', 'gate', or one number per modality, got 'softmax'",
    ):
        make_expert_weights("softmax", 2, 1)


def linear_model(x: torch.Tensor) -> None:
    """Draw z and two sensors, the second of which is independent of z."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("a", dist.Normal(z, 0.3).to_event(1), obs=x[:, :1])
        pyro.sample("b", dist.Normal(torch.zeros(1), 1.0).to_event(1).expand([len(x)]), obs=x[:, 1:])


def encode(x: torch.Tensor) -> Experts:
    """Return a good expert of the first sensor, and a bad one that takes the second for z."""
    loc = torch.stack([x[:, :1] / 1.09, x[:, 1:]], 1)
    return Experts(loc, torch.full_like(loc, 0.29))


@pytest.mark.parametrize("name", EXPERT_WEIGHTS)
def test_guide_learns_to_ignore_a_noisy_expert(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    weights = make_expert_weights(name, 2, 1)
    assert isinstance(weights, torch.nn.Module)
    guide = BarycentricGuide(encode, "wb", expert_weights=weights)
    svi = SVI(linear_model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(60):
        svi.step(x)
    first, second = weights(encode(x)).mean(0).tolist()
    assert first > 1.6
    assert second < 0.4


def test_expert_weights_entropy_is_added_to_the_elbo() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    weights = LearnedWeights(2)
    guide = BarycentricGuide(encode, "wb", expert_weights=weights, expert_weights_entropy=100.0)
    svi = SVI(linear_model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(60):
        svi.step(x)
    assert weights(encode(x)).min() > 0.8
    with torch.no_grad():
        weights.logits.copy_(torch.tensor([1.0, -1.0]))
    torch.manual_seed(0)
    with_entropy = Trace_ELBO().loss(linear_model, guide, x)
    guide.expert_weights_entropy = 0.0
    torch.manual_seed(0)
    without = Trace_ELBO().loss(linear_model, guide, x)
    entropy = weights_entropy(weights(encode(x))).sum().item()
    assert without - with_entropy == pytest.approx(100.0 * entropy, rel=1e-4)


def test_vae_learns_expert_weights_and_subset_weights() -> None:
    modalities = [Modality("a", (3,)), Modality("b", (2,))]
    x = {"a": torch.randn(6, 3), "b": torch.randn(6, 2)}
    vae = MultimodalVAE(modalities, 2, "wb", expert_weights="gate", expert_weights_entropy=0.5, beta=2.0)
    assert len(list(vae.guide.aggregation.expert_weights.parameters())) == 4
    values = []
    for coefficient in (0.5, 0.0):
        vae.guide.expert_weights_entropy = coefficient
        torch.manual_seed(0)
        values.append([Trace_ELBO().loss(vae.model, vae.guide, x, weighted=w) for w in (True, False)])
    entropy = weights_entropy(vae.guide.expert_weights(vae.guide.experts(x))).sum().item()
    assert values[1][0] - values[0][0] == pytest.approx(0.5 * entropy, abs=1e-3)  # whatever β is
    assert values[1][1] - values[0][1] == pytest.approx(0.0, abs=1e-6)  # the ELBO itself has no such term
    learned = MultimodalVAE(modalities, 2, "mwb", subset_weights="learned", bound="mixture")
    assert learned.guide.aggregation.subset_weights.logits.shape == (3,)
    with pytest.raises(ValueError, match="needs bound='mixture'"):
        MultimodalVAE(modalities, 2, "mwb", subset_weights="learned", bound="component")
    with pytest.raises(ValueError, match="a mixture over subsets"):
        MultimodalVAE(modalities, 2, "wb", subset_weights="learned", bound="mixture")


def test_train_records_learned_weights(toy_config: Callable[..., Config], tmp_path: Path) -> None:
    config = toy_config(
        model__aggregation="mwb",
        model__bound="mixture",
        model__expert_weights="learned",
        model__subset_weights="learned",
    )
    run = train(config, tmp_path / "run", progress=False)
    rows = read_metrics(run.path)
    assert sum(rows[-1]["expert_weights"].values()) == pytest.approx(3, rel=1e-5)
    assert list(rows[-1]["subset_weights"]) == ["m0", "m1", "m0+m1", "m2", "m0+m2", "m1+m2", "m0+m1+m2"]
    assert sum(rows[-1]["subset_weights"].values()) == pytest.approx(1)
    assert rows[0]["expert_weights"] != rows[-1]["expert_weights"]
    assert rows[0]["subset_weights"] != rows[-1]["subset_weights"]
    assert tmp_path / "run" / "plots" / "weights.png" in draw_run(run.path)
    assert learned_weights(load(run.path).vae, run.data("val"))["expert_weights"].keys() == {"m0", "m1", "m2"}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([-1.0, 1.0], "finite and not negative, got .-1.0, 1.0."),
        ([math.nan, 1.0], "finite and not negative, got "),
        (["a", "b"], "numbers, one per modality, got "),
        ({"a": 1.0}, "numbers, one per modality, got "),
    ],
)
def test_expert_weights_that_are_not_weights_are_an_error_at_construction(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"expert_weights must be {message}"):
        make_aggregation("wb", expert_weights=weights)


def test_expert_weights_function_without_a_tensor_raises() -> None:
    experts = Experts(torch.zeros(4, 2, 3), torch.ones(4, 2, 3))
    with pytest.raises(ValueError, match="expert_weights must be or return a tensor, got list"):
        aggregate(experts, "wb", expert_weights=lambda _: [1.0, 1.0])
