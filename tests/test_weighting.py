"""Learned weights of modalities and subsets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae import Experts, aggregate
from pyro_mmvae.weighting import (
    MODALITY_WEIGHTS,
    LearnedMixtureWeights,
    LearnedWeights,
    PrecisionWeights,
    balanced,
    make_weights,
    weights_entropy,
)
from tests.strategies import few, random_experts


@few
@given(st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_weights_are_one_on_average_over_what_is_present(num_modalities: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, num_modalities, generator=generator, dtype=torch.float64)
    present = torch.rand(5, num_modalities, generator=generator) < 0.6
    weights = balanced(logits, present)
    assert (weights >= 0).all()
    assert (weights[~present] == 0).all()
    torch.testing.assert_close(weights.sum(-1), present.sum(-1).double())
    shares = (logits.exp() * present) / (logits.exp() * present).sum(-1, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(weights, shares * present.sum(-1, keepdim=True))


@pytest.mark.parametrize("name", MODALITY_WEIGHTS)
def test_nothing_of_an_absent_modality_reaches_weights_or_gradients(name: str) -> None:
    experts = random_experts(6, 3, 2)
    present = experts.mask.clone()
    present[0], present[1] = False, torch.tensor([True, False, True])
    module = make_weights(name, 3, 2)
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
def test_training_starts_from_the_default(name: str) -> None:
    experts = random_experts(7, 3, 2)
    for rule in ("poe", "wb", "mopoe", "pool"):
        plain, weighted = aggregate(experts, rule), aggregate(experts, rule, weights=make_weights(name, 3, 2)(experts))
        torch.testing.assert_close(weighted.mean, plain.mean)
        torch.testing.assert_close(weighted.variance, plain.variance)


def test_precision_weights_follow_the_precision() -> None:
    scale = torch.tensor([[0.5, 0.5], [1.0, 1.0], [0.1, 10.0]])
    weights = PrecisionWeights(3)(Experts(torch.zeros(3, 2), scale))
    torch.testing.assert_close(weights, 3 * torch.tensor([4.0, 1.0, 1.0]) / 6)


def test_entropy() -> None:
    weights = torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 2.0, 0.0]], requires_grad=True)
    entropy = weights_entropy(weights)
    torch.testing.assert_close(entropy, torch.tensor([math.log(3), 0.0, 0.0, math.log(2)]))
    (gradient,) = torch.autograd.grad(entropy.sum(), weights)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[0], torch.zeros(3))  # the largest there is


def test_mixture_weights_are_of_the_subsets() -> None:
    module = LearnedMixtureWeights(7)
    with torch.no_grad():
        module.logits.copy_(torch.arange(7.0).log1p())
    experts = random_experts(4, 3, 2, absent=False)
    posterior = aggregate(experts, "mwb", mixture_weights=module)
    torch.testing.assert_close(posterior.probs[0], torch.arange(1.0, 8.0).double() / 28)
    with pytest.raises(ValueError, match="mixture weights of 7 subsets, the family has 3"):
        aggregate(experts, "moe", mixture_weights=module)


def test_names() -> None:
    assert isinstance(make_weights("learned", 2, 1), LearnedWeights)
    with pytest.raises(ValueError, match="unknown weights 'softmax'; there are learned, precision, gate"):
        make_weights("softmax", 2, 1)
