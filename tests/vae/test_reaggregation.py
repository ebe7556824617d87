"""Models that are read with another aggregation than they were trained with."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mmvae import (
    Aggregation,
    Experts,
    MixturePrior,
    Modality,
    MultimodalVAE,
    NetworkOptions,
    WassersteinBarycenter,
    aggregate,
    with_aggregation,
)

NAMES, LATENT = ("a", "b", "c"), 2
BATCH = {name: torch.linspace(-1, 1, 8).reshape(4, 2) + m for m, name in enumerate(NAMES)}


def vae_of(aggregation: Any = "mwb", **options: Any) -> MultimodalVAE:
    modalities = [Modality(name, (2,), private_size=options.pop("private_size", 0)) for name in NAMES]
    return MultimodalVAE(modalities, LATENT, aggregation, **options).eval()


def moments(vae: MultimodalVAE, density: str = "mixture") -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        posterior = vae.posterior(BATCH, density)
        return posterior.mean, posterior.variance


@pytest.mark.parametrize("name", ["poe", "moe", "mopoe", "wb", "pool", "moment", "hellinger", "holder", "pairs"])
def test_with_aggregation_combines_the_experts_of_the_model_by_the_other_rule(name: str) -> None:
    vae = vae_of()
    read = with_aggregation(vae, name)
    experts = vae.guide.experts(BATCH)
    expected = aggregate(experts, name)
    torch.testing.assert_close(moments(read), (expected.mean.detach(), expected.variance.detach()))
    other = MultimodalVAE([Modality(n, (2,)) for n in NAMES], LATENT, name, bound=read.guide.bound)
    other.load_state_dict(vae.state_dict())
    torch.testing.assert_close(moments(read), moments(other.eval()))


def test_with_aggregation_leaves_the_model_as_it_is_and_shares_its_networks() -> None:
    vae = vae_of()
    before, state = moments(vae), {name: value.clone() for name, value in vae.state_dict().items()}
    read = with_aggregation(vae, "poe")
    assert not torch.equal(moments(read)[0], before[0])
    assert torch.equal(moments(vae)[0], before[0])
    assert vae.guide.aggregation.name == "mwb"
    assert {id(p) for p in read.parameters()} == {id(p) for p in vae.parameters()}
    assert read.model is vae.model
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert not read.training


def test_with_aggregation_own_name_is_the_model_itself() -> None:
    vae = vae_of({"name": "renyi", "parameter": 0.3})
    assert with_aggregation(vae, "renyi:0.3") is vae
    assert with_aggregation(vae_of("code:0.3"), "code:0.3").guide.aggregation.name


def test_with_aggregation_keeps_the_weights_and_the_prior_of_the_model() -> None:
    vae = vae_of("wb", expert_weights=[3.0, 1.0, 0.0], prior=(1.0, 2.0))
    mixture = with_aggregation(vae, "moe").posterior(BATCH, "mixture")
    torch.testing.assert_close(mixture.probs[0], torch.tensor([0.75, 0.25, 0.0]))  # type: ignore[attr-defined]
    product = with_aggregation(vae, {"name": "poe", "expert_weights": [1.0, 1.0, 1.0]})
    expected = aggregate(vae.guide.experts(BATCH), "poe", prior=(1.0, 2.0))
    torch.testing.assert_close(moments(product)[0], expected.mean.detach())
    learned = vae_of("wb", expert_weights="learned")
    assert (
        with_aggregation(learned, "pool").guide.aggregation.expert_weights is learned.guide.aggregation.expert_weights
    )
    singles = with_aggregation(vae_of("mopoe", subset_weights="by_size"), "mwb")
    assert singles.guide.aggregation.subset_weights == "by_size"


def test_with_aggregation_copies_an_object_and_takes_a_callable() -> None:
    vae, rule = vae_of(), WassersteinBarycenter()
    read = with_aggregation(vae, rule)
    assert rule.prior is None
    torch.testing.assert_close(moments(read), moments(with_aggregation(vae, "wb")))

    def first(experts: Experts) -> dist.TorchDistribution:
        return dist.Normal(experts.loc[..., 0, :], experts.scale[..., 0, :]).to_event(1)

    torch.testing.assert_close(moments(with_aggregation(vae, first))[0], vae.guide.experts(BATCH).loc[:, 0].detach())


def test_with_aggregation_of_private_latents_reads_the_shared_one() -> None:
    vae = vae_of("mwb", private_size=2)
    torch.testing.assert_close(
        moments(with_aggregation(vae, "poe"))[0], aggregate(vae.guide.experts(BATCH), "poe").mean.detach()
    )


class Tempered(Aggregation):
    """A rule with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.log_tau = torch.nn.Parameter(torch.zeros(()))

    def forward(self, experts: Experts) -> dist.TorchDistribution:
        return WassersteinBarycenter()(experts)


class Gaussian(Aggregation):
    """A rule whose posterior is Gaussian for Laplace experts."""

    accepts = ("normal", "laplace")

    def forward(self, experts: Experts) -> dist.TorchDistribution:
        return dist.Normal(experts.loc[..., 0, :], experts.scale[..., 0, :]).to_event(1)

    def posterior_family(self, expert_kind: str) -> str:
        return "normal"


@pytest.mark.parametrize(
    ("options", "aggregation", "message"),
    [
        ({}, "mwbb", "unknown aggregation 'mwbb'"),
        ({"network": NetworkOptions(family="laplace")}, "poe", "laplace"),
        ({"network": NetworkOptions(family="laplace")}, Gaussian(), "prior, 'laplace', got 'normal'"),
        ({}, Tempered(), "parameters of its own, which this model was not trained with, got log_tau"),
        ({}, {"name": "wb", "expert_weights": "learned"}, "must not have parameters of its own"),
        ({"prior": MixturePrior(3)}, "poe", "a mixture cannot be an expert of aggregation 'poe'"),
        (
            {"bound": "mixture", "subset_weights": "learned"}, "moe",
            "'moe' must be a mixture over the subsets of 'mwb', whose weights were learned",
        ),
    ],
)  # fmt: skip
def test_with_aggregation_that_does_not_fit_the_model_raises(
    options: dict[str, Any], aggregation: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        with_aggregation(vae_of(**options), aggregation)


def test_with_aggregation_learned_subset_weights_fit_equal_subsets_and_single_components() -> None:
    vae = vae_of(bound="mixture", subset_weights="learned")
    assert with_aggregation(vae, "mopoe").guide.aggregation.subset_weights is vae.guide.aggregation.subset_weights
    assert with_aggregation(vae, "wb").guide.aggregation.name == "wb"
