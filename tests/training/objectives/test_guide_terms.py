"""Penalties and routing of the guide under the objectives that draw the latents themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.guides.penalties import FrechetVariance
from pyro_mmvae.training import local_pyro, make_objective, objective_names
from pyro_mmvae.vae.priors import MixturePrior
from tests.training.objectives.linear_models import NAMES, Linear, make

LATENT_OBJECTIVES = [name for name in objective_names() if name != "elbo"]
WITH_PRIOR = [name for name in LATENT_OBJECTIVES if name != "mmvm"]  # whose prior is made of the experts


def loss_of(objective: Any, model: Linear) -> tuple[torch.Tensor, Any]:
    torch.manual_seed(4)
    with local_pyro():
        return objective(model.batch)


@pytest.mark.parametrize("name", LATENT_OBJECTIVES)
@pytest.mark.parametrize("aggregation", ["mwb", "wb"])
def test_objective_adds_the_penalties_of_the_guide(name: str, aggregation: str) -> None:
    losses, models = [], [make(aggregation), make(aggregation, penalties=[FrechetVariance(0.7)])]
    for model in models:
        loss, terms = loss_of(make_objective(name, model.vae), model)
        losses.append(loss.detach())
    (site,) = [key for key in terms.penalties if "frechet" in key]
    assert terms.penalties[site] > 0
    torch.testing.assert_close(losses[1] - losses[0], terms.penalties[site])


def test_masked_penalizes_the_drawn_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("mwb", penalties=[FrechetVariance(0.7)])
    objective: Any = make_objective("masked", model.vae)
    singles = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]).bool()
    monkeypatch.setattr(objective.posteriors, "draw", lambda experts: singles)
    _, terms = loss_of(objective, model)
    assert terms.penalties["z_frechet"].item() == pytest.approx(0.0, abs=1e-9)  # a single expert has no variance


@pytest.mark.parametrize(
    "objective", [{"name": "masked"}, {"name": "masked", "delta": 0.4}, {"name": "mvtcae"}], ids=str
)
@pytest.mark.parametrize("private", [False, True])
def test_objective_with_leave_one_out_routing_cuts_a_decoder_from_its_own_encoder(
    objective: dict[str, Any], private: bool
) -> None:
    losses, gradients = [], []
    for routing in ("all", "leave_one_out"):
        model = make("wb", routing=routing, private=private, beta=1e-12, present=[[True] * 3] * 4)
        model.vae.model.reconstruction_weights.update({"b": 0.0, "c": 0.0})  # the only decoder left is that of a
        loss, _ = loss_of(make_objective(objective, model.vae), model)
        losses.append(loss.detach())
        shared = [model.encoders[name].linear.bias for name in NAMES]
        size = 2  # the locations of the shared latents
        gradients.append([g[:size].norm().item() for g in torch.autograd.grad(loss, shared)])
    assert torch.equal(*losses)
    assert min(gradients[0]) > 1e-3
    assert gradients[1][0] < 1e-9
    assert gradients[1][1:] == pytest.approx(gradients[0][1:])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("iwae", "its estimators weight the gradient that reaches the draws"),
        ("sub_elbos", "its bounds of single modalities decode each from its own expert alone"),
        ("mmvm", "it decodes each modality from its own expert alone"),
    ],
)
def test_make_objective_that_cannot_be_routed_raises_with_its_name_and_the_reason(name: str, reason: str) -> None:
    model = make("wb", routing="leave_one_out")
    match = f"^objective '{name}' must have a model with routing 'all', since {reason}.*, got 'leave_one_out', which"
    with pytest.raises(ValueError, match=match):
        make_objective(name, model.vae)


@pytest.mark.parametrize("name", [name for name in LATENT_OBJECTIVES if name != "iwae"])
def test_make_objective_with_one_modality_raises_with_its_name_and_the_reason(name: str) -> None:
    vae = MultimodalVAE([Modality("a", (3,))], 2)
    match = (
        f"^objective '{name}' must have a model of at least 2 modalities, since its terms are about posteriors of "
        "different subsets of them, got 1: with one modality use the objective 'elbo'$"
    )
    with pytest.raises(ValueError, match=match):
        make_objective(name, vae)


@pytest.mark.parametrize("name", WITH_PRIOR)
@pytest.mark.parametrize("aggregation", ["mwb", "moe"])
def test_objective_with_a_learned_prior_estimates_its_divergences_from_the_draws(name: str, aggregation: str) -> None:
    model = make(aggregation, prior=MixturePrior(3), present=[[True] * 3, [True, False, True]])
    loss, terms = loss_of(make_objective(name, model.vae), model)
    gradients = torch.autograd.grad(loss, list(model.vae.model.learned_prior.parameters()), allow_unused=True)
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients)
    assert bool(loss.isfinite())
    assert bool(terms.kl.isfinite())


@pytest.mark.parametrize("name", WITH_PRIOR)
def test_objective_with_a_learned_prior_has_no_term_for_items_without_a_modality(name: str) -> None:
    model = make("mwb", prior=MixturePrior(3), present=[[False] * 3] * 4)
    loss, terms = loss_of(make_objective(name, model.vae), model)
    assert loss.item() == pytest.approx(0.0, abs=1e-9)
    assert terms.kl.item() == pytest.approx(0.0, abs=1e-9)
