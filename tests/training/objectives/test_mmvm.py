"""The objective with a latent per modality: mixtures and barycenters as priors by hand, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import Batch, Modality, MultimodalVAE
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.training import local_pyro, make_objective
from tests.training.objectives.linear_models import (
    LATENT,
    NAMES,
    PRIVATE,
    WEIGHTS,
    Linear,
    assert_equal_to_hand,
    kl_normal,
    log_normal,
    make,
    noise,
)


def mmvm_by_hand(model: Linear, prior: str) -> Tensor:
    count = len(model.present)
    eps = noise(3, count, LATENT)
    eps_private = {name: noise(count, PRIVATE) for name in NAMES} if model.private else {}
    total: Any = 0.0
    for b in range(count):
        present = [m for m in range(3) if model.present[b, m]]
        for m in present:
            loc, scale, *private = model.expert(m, b)
            z, u = loc + scale * eps[m, b], None
            if prior == "mixture":
                logs = torch.stack([log_normal(z, *model.expert(k, b)[:2]) for k in present])
                kl = log_normal(z, loc, scale) - logs.logsumexp(0) + torch.tensor(len(present)).double().log()
            else:
                kl = kl_normal(loc, scale, *model.aggregate(prior, present, b))
            if private:
                u = private[0] + private[1] * eps_private[NAMES[m]][b]
                kl = kl + kl_normal(*private)
            total = total + WEIGHTS[NAMES[m]] * model.log_likelihood(m, b, z, u) - 0.6 * kl
    return total


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(
    ("aggregation", "prior", "rule"),
    [
        ("wb", "mixture", "mixture"),
        ("poe", "barycenter", "wb"),
        ("poe", "aggregation", "poe"),
        ("moe", "aggregation", "mixture"),
    ],
)
def test_mmvm_equals_the_formula_written_out(aggregation: str, prior: str, rule: str, private: bool) -> None:
    model = make(aggregation, private=private)
    objective = make_objective({"name": "mmvm", "prior": prior}, model.vae)
    assert_equal_to_hand(model, objective, lambda: mmvm_by_hand(model, rule))


@torch.no_grad()
def test_mmvm_of_equal_experts_has_no_divergence() -> None:
    model = make("wb", present=[[True] * 3] * 4)
    for encoder in model.encoders.values():
        encoder.linear.weight.zero_()
        encoder.linear.bias.fill_(0.3)
    for prior in ("mixture", "barycenter"):
        with local_pyro():
            _, terms = make_objective({"name": "mmvm", "prior": prior}, model.vae)(model.batch)
        assert terms.kl.item() == pytest.approx(0.0, abs=1e-9)


def test_mmvm_uses_the_expert_weights_of_the_aggregation() -> None:
    model = make("wb", present=[[True] * 3] * 4, expert_weights=[1.0, 0.0, 0.0])
    with local_pyro():
        _, terms = make_objective({"name": "mmvm", "prior": "barycenter"}, model.vae)(model.batch)
    pairs = [[model.expert(m, b) for m in range(3)] for b in range(4)]
    expected = sum(kl_normal(*own, *experts[0]) for experts in pairs for own in experts)
    torch.testing.assert_close(terms.kl, torch.as_tensor(expected).detach())


def test_make_objective_of_mmvm_with_an_unknown_prior_raises() -> None:
    with pytest.raises(ValueError, match="'prior' of objective 'mmvm' must be one of mixture, barycenter, aggregation"):
        make_objective({"name": "mmvm", "prior": "vamp"}, make().vae)


def test_mmvm_of_laplace_experts_has_a_finite_gradient() -> None:
    modalities = [Modality(name, (3,)) for name in ("a", "b")]
    vae = MultimodalVAE(modalities, 2, "wb", network=NetworkOptions(hidden=8, family="laplace"))
    batch = Batch({"a": torch.randn(4, 3), "b": torch.randn(4, 3)}, {"b": torch.tensor([True, False, True, True])})
    for prior in ("mixture", "barycenter"):
        with local_pyro():
            make_objective({"name": "mmvm", "prior": prior}, vae)(batch)[0].backward()
        assert all(bool(p.grad.isfinite().all()) for p in vae.parameters() if p.grad is not None)
