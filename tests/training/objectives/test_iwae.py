"""The importance-weighted bound: its values, its limit, the gradients of its estimators, and what it refuses."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import Batch
from pyro_mmvae.training import local_pyro, make_objective
from tests.training.objectives.linear_models import (
    LATENT,
    NAMES,
    NOISE,
    PRIVATE,
    WEIGHTS,
    Linear,
    assert_equal_to_hand,
    log_normal,
    make,
    noise,
)

DRAWS = 3
ZEROS, ONES = torch.zeros(LATENT, dtype=torch.float64), torch.ones(LATENT, dtype=torch.float64)


def repeated(model: Linear, count: int) -> Batch:
    """Return a batch of copies of the only item of a model, so that one loss is the mean of many."""
    return Batch({name: value.expand(count, -1) for name, value in model.values.items()})


def iwae_by_hand(model: Linear, rule: str, *, stopped: bool) -> Tensor:
    """Return the bound of the whole batch; with ``stopped`` densities at draws have no gradient in their parameters."""
    count, beta = len(model.present), 0.6
    eps = noise(DRAWS, count, LATENT)
    eps_private = {name: noise(DRAWS, count, PRIVATE) for name in NAMES} if model.private else {}
    stop = (lambda t: t.detach()) if stopped else (lambda t: t)
    result = torch.zeros((), dtype=torch.float64)
    for b in range(count):
        present = [m for m in range(3) if model.present[b, m]]
        loc, scale = model.aggregate(rule, present, b)
        logs = []
        for k in range(DRAWS):
            z = loc + scale * eps[k, b]
            log_weight = -beta * (log_normal(z, stop(loc), stop(scale)) - log_normal(z, ZEROS, ONES))
            for m in present:
                u = None
                if model.private:
                    u_loc, u_scale = model.expert(m, b)[2:]
                    u = u_loc + u_scale * eps_private[NAMES[m]][k, b]
                    prior = log_normal(u, ZEROS[:PRIVATE], ONES[:PRIVATE])
                    log_weight = log_weight - beta * (log_normal(u, stop(u_loc), stop(u_scale)) - prior)
                log_weight = log_weight + WEIGHTS[NAMES[m]] * model.log_likelihood(m, b, z, u)
            logs.append(log_weight)
        result = result + torch.stack(logs).logsumexp(0) - math.log(DRAWS)
    return result


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("gradient", ["plain", "stl"])
def test_iwae_equals_the_formula_written_out(gradient: str, private: bool) -> None:
    model = make("wb", private=private)
    objective = make_objective({"name": "iwae", "samples": DRAWS, "gradient": gradient}, model.vae)
    assert_equal_to_hand(model, objective, lambda: iwae_by_hand(model, "wb", stopped=gradient == "stl"))


def gradients(model: Linear, batch: Batch, gradient: str, seed: int, samples: int = DRAWS) -> dict[str, Tensor]:
    objective = make_objective({"name": "iwae", "samples": samples, "gradient": gradient}, model.vae)
    torch.manual_seed(seed)
    with local_pyro():
        loss = objective(batch)[0] / len(batch)
    named = dict(model.vae.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def test_iwae_with_dreg_has_the_decoders_gradient_of_plain_and_its_encoders_gradient_in_the_mean() -> None:
    model = make("wb", present=[[True] * 3])  # with β = 0.6, so that the factor is not the squared weight
    batch = repeated(model, 60_000)
    plain, dreg, stl = (gradients(model, batch, name, 0) for name in ("plain", "dreg", "stl"))
    bias = []
    for name, expected in plain.items():
        if "decoders" in name:
            torch.testing.assert_close(dreg[name], expected)
        else:
            tolerance = 0.03 * float(expected.abs().max())
            torch.testing.assert_close(dreg[name], expected, rtol=0, atol=tolerance)
            bias.append(float((stl[name] - expected).abs().max()) > tolerance)
    assert any(bias)  # the biased estimator would not pass


def test_iwae_with_dreg_of_one_draw_equals_stl() -> None:
    model = make("mwb", present=[[True] * 3], private=True)
    dreg, stl = (gradients(model, repeated(model, 5), name, 0, samples=1) for name in ("dreg", "stl"))
    for name, value in stl.items():
        torch.testing.assert_close(dreg[name], value)


def log_evidence(model: Linear) -> float:
    """Return log p(x) of the only item: a Gaussian, since decoders are linear."""
    weight = torch.cat([model.decoders[name].weight for name in NAMES])
    bias = torch.cat([model.decoders[name].bias for name in NAMES])
    covariance = weight @ weight.T + NOISE**2 * torch.eye(len(weight), dtype=torch.float64)
    x = torch.cat([model.values[name][0] for name in NAMES])
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x).item()


@pytest.mark.parametrize(("aggregation", "bound"), [("wb", "component"), ("moe", "mixture")])
@torch.no_grad()
def test_iwae_tends_to_the_evidence_from_below_with_more_draws(aggregation: str, bound: str) -> None:
    model = make(aggregation, present=[[True] * 3], beta=1.0, bound=bound)
    model.vae.model.reconstruction_weights.update(dict.fromkeys(NAMES, 1.0))
    exact, values = log_evidence(model), []
    for samples, copies in ((1, 4000), (8, 1000), (4000, 20)):
        torch.manual_seed(0)
        with local_pyro():
            loss, _ = make_objective({"name": "iwae", "samples": samples}, model.vae)(repeated(model, copies))
        values.append(-loss.item() / copies)
    assert values[0] < values[1] < exact + 0.01
    assert values[2] == pytest.approx(exact, abs=0.05)


def test_iwae_of_learned_mixture_weights_has_an_unbiased_plain_gradient() -> None:
    """Compare the gradient of the weights of moe with that of the bound summed over the components of both draws."""
    model = make("moe", present=[[True] * 3], expert_weights="learned", bound="mixture", beta=1.0)
    logits, count = model.vae.guide.aggregation.expert_weights.logits, 20_000
    logits.data = torch.tensor([0.5, -0.4, 0.1]).double()
    ours = gradients(model, repeated(model, count), "plain", 0, samples=2)["guide.aggregation.expert_weights.logits"]
    experts = [tuple(t.detach() for t in model.expert(m, 0)) for m in range(3)]
    weights, value = logits.softmax(-1), torch.zeros((), dtype=torch.float64)
    torch.manual_seed(1)
    for pair in product(range(3), repeat=2):
        logs = []
        for k in pair:
            z = experts[k][0] + experts[k][1] * noise(count, LATENT)
            log_q = torch.stack([log_normal(z, *e) for e in experts]) + weights.log().unsqueeze(-1)
            log_weight = log_normal(z, ZEROS, ONES) - log_q.logsumexp(0)
            for name in NAMES:
                scale = torch.tensor(NOISE, dtype=torch.float64)
                term = log_normal(model.values[name][0], model.decoders[name](z).detach(), scale)
                log_weight = log_weight + WEIGHTS[name] * term
            logs.append(log_weight)
        bound = torch.stack(logs).logsumexp(0) - math.log(2)
        value = value + weights[pair[0]] * weights[pair[1]] * bound.mean()
    (exact,) = torch.autograd.grad(-value, logits)
    torch.testing.assert_close(ours, exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(("aggregation", "weights"), [("mwb", "learned"), ("holder", "uniform")])
def test_make_objective_of_iwae_with_mixture_weights_that_have_a_gradient_needs_plain_gradients(
    aggregation: str, weights: str
) -> None:
    model = make(aggregation, subset_weights=weights, bound="mixture")
    for gradient in ("dreg", "stl"):
        with pytest.raises(ValueError, match=r"neither learned weights nor those of holder.*: use gradient='plain'"):
            make_objective({"name": "iwae", "gradient": gradient}, model.vae)
    assert make_objective({"name": "iwae", "gradient": "plain"}, model.vae).gradient == "plain"


def test_make_objective_of_iwae_with_private_encoders_that_see_z_needs_plain_gradients() -> None:
    model = make("mwb", private=True, private_encoder="with_z")
    with pytest.raises(ValueError, match=r"must have model.private_encoder=own, .* got 'with_z': use gradient='plain'"):
        make_objective("iwae", model.vae)
    with local_pyro():
        loss, _ = make_objective({"name": "iwae", "gradient": "plain"}, model.vae)(model.batch)
    assert bool(loss.isfinite())


def test_iwae_gives_auxiliary_priors_the_plain_gradient_with_dreg() -> None:
    """Compare the gradient of learned auxiliary scales, which occur in no density of the weights."""
    model = make("mwb", private=True, private_auxiliary="learned", present=[[True] * 3] * 40)
    plain, dreg = (gradients(model, model.batch, name, 0) for name in ("plain", "dreg"))
    names = [name for name in plain if "auxiliary" in name]
    assert len(names) == 3
    for name in names:
        torch.testing.assert_close(dreg[name], plain[name])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 0}, "option 'samples' of objective 'iwae' must be a number at least 1, got 0"),
        ({"samples": 2.5}, "option 'samples' of objective 'iwae' must be an integer, got 2.5"),
        ({"gradient": "vimco"}, "option 'gradient' of objective 'iwae' must be one of dreg, stl, plain, got 'vimco'"),
    ],
)
def test_make_objective_of_iwae_with_invalid_options_raises(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_objective({"name": "iwae", **options}, make().vae)
