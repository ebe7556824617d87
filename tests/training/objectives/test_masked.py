"""The masked objective: its value and gradient against plain formulas, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import SubsetMixture
from pyro_mmvae.training import Terms, local_pyro, make_objective
from pyro_mmvae.training.objectives import masked
from tests.training.objectives.linear_models import (
    LATENT,
    NAMES,
    NOISE,
    PRIVATE,
    WEIGHTS,
    Linear,
    assert_equal_to_hand,
    kl_normal,
    log_normal,
    make,
    noise,
)

MEMBERS = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]]).bool()


def fix_draws(monkeypatch: pytest.MonkeyPatch, objective: Any, members: Tensor = MEMBERS) -> None:
    monkeypatch.setattr(objective.posteriors, "draw", lambda experts: members)


def masked_by_hand(model: Linear, rule: str, delta: float) -> Tensor:
    """Return the objective of the whole batch, item by item, modality by modality."""
    beta, count = 0.6, len(model.present)
    first, second = noise(count, LATENT), noise(count, LATENT)
    draws = 2 if delta else 1
    private_noise = {n: noise(*([2] * (draws - 1)), count, PRIVATE) for n in NAMES} if model.private else {}
    total: Any = 0.0
    for b in range(count):
        inside = [m for m in range(3) if MEMBERS[b, m]]
        present = [m for m in range(3) if model.present[b, m]]
        rest = [m for m in present if m not in inside]
        q_s, q_p = model.aggregate(rule, inside, b), model.aggregate(rule, present, b)
        z_s, z_p = q_s[0] + q_s[1] * first[b], q_p[0] + q_p[1] * second[b]

        def term(m: int, z: Tensor, draw: int, b: int = b, *, seen: bool = True) -> Any:
            name, u, kl = NAMES[m], None, 0.0
            if model.private:
                loc, scale = model.expert(m, b)[2:] if seen else (torch.zeros(PRIVATE), torch.ones(PRIVATE))
                eps = private_noise[name][draw, b] if draws == 2 else private_noise[name][b]
                u, kl = loc + scale * eps, kl_normal(loc, scale)  # type: ignore[assignment]
            return WEIGHTS[name] * model.log_likelihood(m, b, z, u) - beta * kl

        total = total + sum(term(m, z_s, 0) for m in inside) - beta * kl_normal(*q_s)
        if rest:
            second_bound = sum(term(m, z_p, 1) for m in rest) - beta * kl_normal(*q_p, *q_s)
            total = total + (1 - delta) * second_bound
        if delta:
            total = total + delta * sum(term(m, z_s, 0, seen=False) for m in rest)
    return total


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("delta", [0.0, 0.4])
@pytest.mark.parametrize(("aggregation", "rule"), [("wb", "wb"), ("mwb", "wb"), ("poe", "poe")])
def test_masked_equals_the_formula_written_out(
    aggregation: str, rule: str, delta: float, private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(aggregation, private=private)
    objective = make_objective({"name": "masked", "delta": delta}, model.vae)
    fix_draws(monkeypatch, objective)
    assert_equal_to_hand(model, objective, lambda: masked_by_hand(model, rule, delta))


def test_masked_of_moe_holds_the_whole_mixture_to_the_drawn_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("moe", present=[[True, True, True], [True, False, True]])
    members = torch.tensor([[0, 1, 0], [0, 0, 1]]).bool()
    objective = make_objective("masked", model.vae)
    fix_draws(monkeypatch, objective, members)
    monkeypatch.setattr(
        masked, "draw_reparameterised", lambda q: q.mean + 0.3 if isinstance(q, SubsetMixture) else q.rsample()
    )

    def by_hand() -> Tensor:
        first, total = noise(2, LATENT), torch.zeros(())
        for b, (inside, present) in enumerate([(1, [0, 1, 2]), (2, [0, 2])]):
            loc, scale = model.expert(inside, b)
            z = loc + scale * first[b]
            experts = [model.expert(m, b) for m in present]
            z_p = sum(e[0] for e in experts) / len(experts) + 0.3
            log_q = (
                torch.stack([log_normal(z_p, *e) for e in experts]).logsumexp(0)
                - torch.tensor(len(experts)).double().log()
            )
            kl = log_q - log_normal(z_p, loc, scale)
            rest = sum(WEIGHTS[NAMES[m]] * model.log_likelihood(m, b, z_p) for m in present if m != inside)
            own = WEIGHTS[NAMES[inside]] * model.log_likelihood(inside, b, z)
            total = total + own + rest - 0.6 * (kl_normal(loc, scale) + kl)
        return total

    assert_equal_to_hand(model, objective, by_hand)


def expected_log_likelihood(model: Linear, m: int, item: int, loc: Tensor, scale: Tensor) -> Tensor:
    """Return the mean of log p(x_m | z) under a Gaussian, in closed form since the decoder is linear."""
    weight = model.decoders[NAMES[m]].weight
    return model.log_likelihood(m, item, loc) - ((weight * scale) ** 2).sum() / (2 * NOISE**2)


@torch.no_grad()
def test_masked_has_the_closed_form_as_its_mean_over_subsets_and_draws() -> None:
    model = make("wb", present=[[True, True, True]], subset_weights="singles:0.5")
    exact = 0.0
    for bits in range(1, 8):
        inside = [m for m in range(3) if bits >> m & 1]
        q_s, q_p = model.aggregate("wb", inside, 0), model.aggregate("wb", [0, 1, 2], 0)
        value = -0.6 * (kl_normal(*q_s) + kl_normal(*q_p, *q_s))
        for m in range(3):
            value = value + WEIGHTS[NAMES[m]] * expected_log_likelihood(model, m, 0, *(q_s if m in inside else q_p))
        exact += float(value) * (0.5 / 3 if len(inside) == 1 else 0.5 / 4)
    count = 40_000
    batch = type(model.batch)({name: value.expand(count, -1) for name, value in model.values.items()})
    with local_pyro():
        loss, _ = make_objective("masked", model.vae)(batch)
    assert -loss.item() / count == pytest.approx(exact, abs=0.1)


def test_masked_terms_add_up_to_the_objective() -> None:
    model = make("mwb", beta=0.6)
    for options in ({}, {"delta": 0.3}):
        torch.manual_seed(1)
        with local_pyro():
            loss, terms = make_objective({"name": "masked", **options}, model.vae)(model.batch)
        assert isinstance(terms, Terms)
        weighted = sum(WEIGHTS[name] * value for name, value in terms.log_likelihood.items())
        torch.testing.assert_close(-loss.detach(), weighted - 0.6 * terms.kl)


def test_masked_follows_the_warm_up_of_beta() -> None:
    model, losses = make("wb"), []
    objective = make_objective("masked", model.vae)
    for beta in (0.5, 1.0):
        model.vae.guide.beta = model.vae.model.beta = beta
        torch.manual_seed(1)
        with local_pyro():
            loss, terms = objective(model.batch)
        losses.append(loss.detach())
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * terms.kl)


def test_masked_adds_the_entropy_of_learned_expert_weights() -> None:
    model = make("wb", expert_weights="learned", expert_weights_entropy=0.3)
    with local_pyro():
        _, terms = make_objective("masked", model.vae)(model.batch)
    entropy = torch.tensor([3.0, 2.0, 1.0, 3.0, 1.0]).log().sum()
    assert terms.penalties["z_weights_entropy"].item() == pytest.approx(-0.3 * entropy.item())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"delta": 1.5}, "option 'delta' of objective 'masked' must be a number between 0 and 1, got 1.5"),
        ({"delta": True}, "must be a number between 0 and 1, got True"),
        ({"gamma": 1.0}, "option of objective 'masked' must be one of delta, got 'gamma'"),
    ],
)
def test_make_objective_of_masked_with_invalid_options_raises(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_objective({"name": "masked", **options}, make().vae)


@pytest.mark.parametrize(
    ("aggregation", "options"), [("mwb", {"subset_weights": "learned"}), ("moe", {"expert_weights": "learned"})]
)
def test_make_objective_of_masked_with_learned_subset_weights_raises(aggregation: str, options: Any) -> None:
    model = make(aggregation, bound="mixture", **options)
    with pytest.raises(ValueError, match="objective 'masked' must have an aggregation whose subsets it can draw"):
        make_objective("masked", model.vae)
