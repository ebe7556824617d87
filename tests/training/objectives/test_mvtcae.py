"""The objective of MVTCAE: the published formula written out, mixtures, private latents, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae.training import local_pyro, make_objective
from pyro_mmvae.training.objectives import mvtcae
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


def mvtcae_by_hand(model: Linear, rule: str, alpha: float, beta: float) -> Tensor:
    count = len(model.present)
    first = noise(count, LATENT)
    eps = {name: noise(count, PRIVATE) for name in NAMES} if model.private else {}
    total: Any = 0.0
    for b in range(count):
        present = [m for m in range(3) if model.present[b, m]]
        views = max(len(present), 1)
        loc, scale = model.aggregate(rule, present, b)
        z = loc + scale * first[b]
        for m in present:
            u, kl = None, 0.0
            if model.private:
                expert = model.expert(m, b)
                u, kl = expert[2] + expert[3] * eps[NAMES[m]][b], kl_normal(*expert[2:])  # type: ignore[assignment]
            reconstruction = WEIGHTS[NAMES[m]] * model.log_likelihood(m, b, z, u)
            total = total + (views - alpha) / views * (reconstruction - beta * kl)
        joint = kl_normal(loc, scale)
        each = sum(kl_normal(loc, scale, *model.expert(m, b)[:2]) for m in present)
        total = total - beta * ((1 - alpha) * joint + alpha / views * each)
    return total


def test_mvtcae_of_poe_without_prior_expert_equals_the_published_model() -> None:
    """Write out equation (13) of Hwang et al. for complete items, with the published α = 5/6 and β = 2.5."""
    model = make("poe", present=[[True] * 3] * 4, prior_expert="none", beta=1.0)
    objective = make_objective("mvtcae", model.vae)
    assert_equal_to_hand(model, objective, lambda: mvtcae_by_hand(model, "product", 5 / 6, 2.5))


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("aggregation", "rule"), [("wb", "wb"), ("mwb", "wb"), ("poe", "poe")])
def test_mvtcae_with_absent_modalities_equals_the_formula_written_out(
    aggregation: str, rule: str, private: bool
) -> None:
    model = make(aggregation, private=private)
    objective = make_objective({"name": "mvtcae", "alpha": 0.7, "beta": 2.0}, model.vae)
    assert_equal_to_hand(model, objective, lambda: mvtcae_by_hand(model, rule, 0.7, 2.0 * 0.6))


def test_mvtcae_of_moe_estimates_its_divergences_from_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("moe", present=[[True] * 3] * 2)
    monkeypatch.setattr(mvtcae, "draw_reparameterised", lambda q: q.mean + 0.3)
    objective = make_objective({"name": "mvtcae", "alpha": 0.7, "beta": 2.0}, model.vae)

    def by_hand() -> Tensor:
        total = torch.zeros(())
        for b in range(2):
            experts = [model.expert(m, b) for m in range(3)]
            z = sum(e[0] for e in experts) / 3 + 0.3
            logs = torch.stack([log_normal(z, *e) for e in experts])
            log_q = logs.logsumexp(0) - torch.tensor(3.0).double().log()
            joint = log_q - log_normal(z, torch.zeros(LATENT), torch.ones(LATENT))
            reconstruction = sum(WEIGHTS[NAMES[m]] * model.log_likelihood(m, b, z) for m in range(3))
            total = total + (3 - 0.7) / 3 * reconstruction - 1.2 * (0.3 * joint + 0.7 * (log_q - logs.mean()))
        return total

    assert_equal_to_hand(model, objective, by_hand)


def test_mvtcae_terms_add_up_to_the_objective_of_complete_items() -> None:
    model = make("wb", present=[[True] * 3] * 4)
    with local_pyro():
        loss, terms = make_objective({"name": "mvtcae", "alpha": 0.6, "beta": 2.0}, model.vae)(model.batch)
    weighted = sum(WEIGHTS[name] * value for name, value in terms.log_likelihood.items())
    expected = 0.8 * weighted - 1.2 * (0.4 * terms.kl + 0.6 * terms.penalties["conditional_kl"])
    torch.testing.assert_close(-loss.detach(), expected)


def test_mvtcae_of_learned_mixture_weights_has_an_unbiased_gradient() -> None:
    """Compare the mean gradient of the weights of moe with that of the objective summed over its components."""
    model = make("moe", present=[[True] * 3], expert_weights="learned", bound="mixture", beta=1.0)
    objective = make_objective({"name": "mvtcae", "alpha": 0.5, "beta": 1.0}, model.vae)
    logits = model.vae.guide.aggregation.expert_weights.logits
    logits.data = torch.tensor([0.5, -0.4, 0.1]).double()
    count = 20_000
    batch = type(model.batch)({name: value.expand(count, -1) for name, value in model.values.items()})
    torch.manual_seed(0)
    with local_pyro():
        (ours,) = torch.autograd.grad(objective(batch)[0] / count, logits)
    torch.manual_seed(1)
    experts = [model.expert(m, 0) for m in range(3)]
    weights, value = logits.softmax(-1), torch.zeros(())
    for k, (loc, scale) in enumerate(experts):  # each component by itself: its weight has a gradient of its own
        z = (loc + scale * noise(count, LATENT)).detach()
        logs = torch.stack([log_normal(z, *(t.detach() for t in e)) for e in experts])
        log_q = (logs + weights.log().unsqueeze(-1)).logsumexp(0)
        joint = log_q - log_normal(z, torch.zeros(LATENT), torch.ones(LATENT))
        parts = []
        for name in NAMES:
            mean = model.decoders[name](z)
            parts.append(
                WEIGHTS[name] * log_normal(model.values[name][0], mean, torch.tensor(0.7, dtype=torch.float64))
            )
        each = (2.5 / 3) * sum(parts) - 0.5 * joint - 0.5 * (log_q - logs.mean(0))
        value = value + weights[k] * each.mean()
    (exact,) = torch.autograd.grad(-value, logits)
    torch.testing.assert_close(ours, exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 1.2}, "option 'alpha' of objective 'mvtcae' must be a number between 0 and 1, got 1.2"),
        ({"beta": -1.0}, "option 'beta' of objective 'mvtcae' must be a number at least 0, got -1.0"),
        ({"beta": float("nan")}, "must be a number at least 0, got nan"),
    ],
)
def test_make_objective_of_mvtcae_with_invalid_options_raises(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_objective({"name": "mvtcae", **options}, make().vae)
