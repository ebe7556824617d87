"""Learned priors in training: their start from experts, and all objectives."""

from __future__ import annotations

import pytest
import torch

from pyro_mmvae import Batch, MixturePrior, Modality, MultimodalDataset, MultimodalVAE
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.training.objectives import make_objective, objective_names
from pyro_mmvae.training.prior_start import start_prior


def make(init: str = "experts", aggregation: str = "mwb") -> MultimodalVAE:
    modalities = [Modality("a", (4,)), Modality("b", (6,))]
    network = NetworkOptions(width=4, hidden=8)
    return MultimodalVAE(modalities, 2, aggregation, prior=MixturePrior(6, init=init), network=network)


def dataset(present: torch.Tensor) -> MultimodalDataset:
    values = {"a": torch.randn(len(present), 4), "b": torch.randn(len(present), 6)}
    return MultimodalDataset(values, None, present, "some", "train")


@pytest.mark.parametrize(("init", "is_moved"), [("experts", True), ("spread", False)])
def test_start_prior_moves_the_components_if_the_prior_says_so(init: str, is_moved: bool) -> None:
    vae = make(init)
    prior = vae.model.learned_prior
    assert prior is not None
    before, data = prior.loc.detach().clone(), dataset(torch.rand(40, 2) > 0.3)
    start_prior(vae, data)
    assert torch.equal(before, prior.loc) != is_moved
    experts = vae.eval().guide.experts(Batch({n: data.modalities[n] for n in data.names}))
    distance = (prior.loc.unsqueeze(1) - experts.loc.flatten(0, 1)).norm(dim=-1).amin(-1)
    assert (distance.max().item() < 1e-5) == is_moved


def test_start_prior_of_a_model_without_a_learned_one_draws_nothing() -> None:
    vae = MultimodalVAE([Modality("a", (4,)), Modality("b", (6,))], 2)
    data = dataset(torch.ones(5, 2, dtype=torch.bool))
    before = torch.get_rng_state()
    start_prior(vae, data)
    assert torch.equal(before, torch.get_rng_state())


def test_objective_with_a_prior_of_its_own_refuses_a_learned_one() -> None:
    with pytest.raises(ValueError, match="objective 'mmvm' has a prior given the data .* choose model.prior=standard"):
        make_objective("mmvm", make("spread"))


@pytest.mark.parametrize("name", [name for name in objective_names() if name != "mmvm"])
def test_objectives_train_a_learned_prior(name: str) -> None:
    aggregation = "wb" if name == "sub_elbos" else "mwb"
    vae = make("spread", aggregation).train()
    objective = make_objective(name, vae)
    present = torch.tensor([[True, True], [False, True], [True, True], [False, False]])
    values = {"a": torch.randn(4, 4), "b": torch.randn(4, 6)}
    loss, _ = objective(Batch(values, {"a": present[:, 0], "b": present[:, 1]}))
    loss.backward()
    prior = vae.model.learned_prior
    assert prior is not None
    assert bool(loss.isfinite())
    gradients = [parameter.grad for parameter in prior.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
