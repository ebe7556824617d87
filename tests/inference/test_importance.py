"""Importance weights against evidences that are known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts
from pyro_mmvae.data import make_batch
from pyro_mmvae.evaluation.psis import psis_khat
from pyro_mmvae.inference.importance import (
    effective_sample_size,
    importance_weights,
    log_mean_exp,
    sample_importance,
)
from pyro_mmvae.inference.posteriors import encode_dataset
from tests.evaluation.exact_models import Linear, X, guide_of, model


def test_log_mean_exp_and_effective_sample_size_match_hand_values() -> None:
    weights = torch.tensor([[1.0, 1.0, 5.0], [3.0, 1.0, 0.0]]).log()
    torch.testing.assert_close(log_mean_exp(weights).exp(), torch.tensor([2.0, 1.0, 2.5]))
    torch.testing.assert_close(effective_sample_size(weights), torch.tensor([1.6, 2.0, 1.0]))
    torch.testing.assert_close(effective_sample_size(weights - 1e4), torch.tensor([1.6, 2.0, 1.0]), rtol=2e-3, atol=0)


@pytest.mark.parametrize("draws_at_once", [1, 10, 10_000])
def test_sample_importance_exact_posterior_has_constant_weights(draws_at_once: int) -> None:
    linear = Linear()
    experts, batch = encode_dataset(linear.vae, linear.data), make_batch(linear.data, slice(None))
    drawn = sample_importance(linear.vae, experts, batch, [0, 1], 5, at_once=draws_at_once)
    weights = drawn.log_weights(("a", "b"))
    assert weights.shape == (5, 7)
    assert weights.dtype == torch.float64
    exact = torch.tensor([linear.evidence(i, ("a", "b")) for i in range(7)], dtype=torch.float64)
    torch.testing.assert_close(weights, exact.expand(5, 7), atol=1e-4, rtol=0)


def test_importance_weights_exact_guide_equal_the_evidence() -> None:
    weights = importance_weights(model, guide_of(), X, samples=100)
    evidence = dist.Normal(torch.zeros(4, dtype=torch.float64), math.sqrt(2)).log_prob(X)
    torch.testing.assert_close(log_mean_exp(weights), evidence)
    torch.testing.assert_close(effective_sample_size(weights), torch.full_like(X, 100))
    assert (psis_khat(weights) == 0).all()


def test_importance_weights_respect_masks_and_ignore_scales() -> None:
    plain = importance_weights(model, guide_of(), X, samples=2)
    scaled = importance_weights(poutine.scale(model, 3.0), poutine.scale(guide_of(), 3.0), X, samples=2)
    torch.testing.assert_close(scaled, plain)
    mask = torch.tensor([True, False, True, True])
    masked = importance_weights(poutine.mask(model, mask=mask), poutine.mask(guide_of(), mask=mask), X, samples=2)
    torch.testing.assert_close(masked, plain * mask)


def test_importance_weights_subsampled_plate_keeps_one_subsample() -> None:
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


def test_importance_weights_other_plates_are_summed_and_model_latents_cancel() -> None:
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


def test_importance_weights_site_outside_the_plate_raises() -> None:
    def shared(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))
        model(x)

    with pytest.raises(ValueError, match="plate 'data' .*; site 'w' does not"):
        importance_weights(shared, guide_of(), X, samples=1)
    with pytest.raises(ValueError, match="plate 'items' .*; site 'z' does not"):
        importance_weights(model, guide_of(), X, samples=1, plate="items")


def test_importance_weights_factors_in_model_and_guide_are_left_out() -> None:
    def penalised(program: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            result = program(*args)
            with pyro.plate("more", len(X), dim=-1):
                pyro.factor("penalty", torch.arange(4.0), **options)
            pyro.factor("outside", torch.tensor(7.0), **options)
            return result

        return run

    exact = guide_of()
    weights = importance_weights(penalised(model), penalised(exact, has_rsample=True), X, samples=3)
    evidence = dist.Normal(torch.zeros(4, dtype=torch.float64), math.sqrt(2)).log_prob(X)
    torch.testing.assert_close(weights, evidence.expand(3, 4))


def test_importance_weights_expert_weights_entropy_has_no_effect() -> None:
    x = torch.randn(5, 2, 1)

    def pair(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.unsqueeze(-2).expand(len(x), 2, 1), 1.0).to_event(2), obs=x)

    def weights(**options: Any) -> Tensor:
        learned = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
        guide = BarycentricGuide(lambda x: Experts(x / 2, torch.ones_like(x)), "wb", expert_weights=learned, **options)
        with pyro.poutine.seed(rng_seed=1):
            return importance_weights(pair, guide, x, samples=3)

    torch.testing.assert_close(weights(expert_weights_entropy=1.0), weights())
