"""MultimodalVAE with an aggregation by name, as a mapping, as an object or as a callable."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_mmvae import (
    Aggregation,
    Experts,
    MixtureOfExperts,
    MixtureOverSubsets,
    Modality,
    MultimodalVAE,
    ProductOfExperts,
    WassersteinBarycenter,
)
from pyro_mmvae.aggregation.weights import GateWeights, LearnedSubsetWeights, LearnedWeights, PrecisionWeights
from pyro_mmvae.networks import NetworkOptions

MODALITIES = [Modality("a", (3,)), Modality("b", (2,)), Modality("c", (4,))]


class Tempered(Aggregation):
    """The Wasserstein barycenter with a learned factor of its scale."""

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(tau).log())

    def forward(self, experts: Experts) -> Any:
        q: Any = WassersteinBarycenter()(experts).base_dist  # type: ignore[attr-defined]
        present, (loc, scale) = experts.mask.any(-1, keepdim=True), self.prior_for(experts)
        return dist.Normal(
            torch.where(present, q.loc, loc), torch.where(present, self.log_tau.exp() * q.scale, scale)
        ).to_event(1)


def make(aggregation: Any, **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    options.setdefault("bound", "mixture")
    return MultimodalVAE(MODALITIES, 2, aggregation, network=NetworkOptions(hidden=8), **options)


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {m.name: torch.randn(6, *m.shape) for m in MODALITIES}


@pytest.mark.parametrize(("described", "named"), [
    (lambda: MixtureOverSubsets(WassersteinBarycenter()), "mwb"),
    (lambda: MixtureOverSubsets(ProductOfExperts(prior_expert="complete")), "mopoe"),
    (MixtureOfExperts, "moe"),
    (lambda: {"name": "wb"}, "wb"),
    (lambda: WassersteinBarycenter().forward, "wb"),
])  # fmt: skip
def test_vae_with_an_object_equals_the_named_one(described: Any, named: str, batch: dict[str, Tensor]) -> None:
    losses = []
    for aggregation in (described(), named):
        vae = make(aggregation)
        torch.manual_seed(1)
        losses.append(Trace_ELBO().loss(vae.model, vae.guide, batch))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_vae_trains_and_saves_the_parameter_of_an_aggregation(bound: str, batch: dict[str, Tensor]) -> None:
    vae = make(MixtureOverSubsets(Tempered(0.5)), bound=bound)
    name = "guide.aggregation.rule.log_tau"
    assert name in vae.state_dict()
    elbo = Trace_ELBO()(vae.model, vae.guide)
    optimiser = torch.optim.Adam(vae.parameters(), lr=0.1)
    elbo(batch).backward()
    optimiser.step()
    assert vae.state_dict()[name] != torch.tensor(0.5).log()
    twin = make(MixtureOverSubsets(Tempered(0.5)), bound=bound)
    twin.load_state_dict(vae.state_dict())
    for other in (twin, copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):
        posterior = other.posterior(batch, "mixture")
        torch.testing.assert_close(posterior.stddev, vae.posterior(batch, "mixture").stddev)


@pytest.mark.parametrize(("name", "kind"), [("learned", LearnedWeights), ("precision", PrecisionWeights),
                                            ("gate", GateWeights)])  # fmt: skip
def test_vae_builds_weights_by_name_for_names_and_objects(name: str, kind: type, batch: dict[str, Tensor]) -> None:
    for vae in (make("wb", expert_weights=name), make(WassersteinBarycenter(expert_weights=name)),
                make(MixtureOverSubsets(WassersteinBarycenter(), expert_weights=name))):  # fmt: skip
        assert isinstance(vae.guide.aggregation.expert_weights, kind)
        weights = vae.guide.expert_weights(vae.guide.experts(batch))
        assert weights is not None
        torch.testing.assert_close(weights.sum(-1), torch.full((6,), 3.0))
    inner = make(MixtureOverSubsets(WassersteinBarycenter(expert_weights=name), subset_weights="learned"))
    assert isinstance(inner.guide.aggregation.rule.expert_weights, kind)
    assert inner.guide.aggregation.learns_expert_weights
    assert isinstance(inner.guide.aggregation.subset_weights, LearnedSubsetWeights)
    assert len(inner.guide.aggregation.subset_weights.logits) == 7


def test_vae_takes_the_prior_of_the_object_for_its_model() -> None:
    vae = make(WassersteinBarycenter(prior=(0.5, 2.0)))
    assert vae.model.prior_loc.tolist() == [0.5, 0.5]
    assert vae.model.prior_scale.tolist() == [2.0, 2.0]
    assert not [name for name in vae.guide.state_dict() if "prior" in name]
    with pytest.raises(ValueError, match="has another prior than its guide"):
        make(WassersteinBarycenter(prior=(0.5, 2.0)), prior=(0.0, 1.0))


def test_vae_refuses_options_and_bounds_that_an_object_does_not_have() -> None:
    for option in ({"expert_weights": "gate"}, {"subset_weights": "by_size"}, {"prior_expert": "all"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} must be given to the aggregation"):
            make(MixtureOverSubsets(Tempered()), **option)
    with pytest.raises(ValueError, match="'Tempered' has no component bound"):
        make(Tempered(), bound="component")
    with pytest.raises(ValueError, match="'Tempered' has no rule for experts of kind 'laplace'; it accepts normal"):
        MultimodalVAE(MODALITIES, 2, Tempered(), bound="mixture", network=NetworkOptions(family="laplace"))


def test_vae_refuses_a_mixture_of_too_many_components_at_construction() -> None:
    many = [Modality(f"m{m}", (2,)) for m in range(13)]
    with pytest.raises(ValueError, match="8,191 components.*bound='component'"):
        MultimodalVAE(many, 2, MixtureOverSubsets(Tempered()), bound="mixture")
    MultimodalVAE(many, 2, MixtureOverSubsets(Tempered()), bound="component")
