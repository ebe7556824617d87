"""The bound "subsets": one drawn subset per item under aggregations of one component."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts, Modality, MultimodalVAE, register_aggregation, unregister_aggregation
from pyro_mmvae.guides import Penalty
from pyro_mmvae.networks import NetworkOptions

ITEMS, MODALITIES, LATENT = 64, 3, 2


class RecordMembers(Penalty):
    """A penalty of 0 that keeps the subsets that it is given."""

    name = "record"

    def __init__(self) -> None:
        super().__init__()
        self.members: Tensor | None = None

    def forward(self, experts: Experts, members: Tensor | None, guide: BarycentricGuide) -> Tensor:
        self.members = members
        return experts.loc.new_zeros(experts.batch_shape)


def make_experts(present: Tensor | None = None) -> Experts:
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(ITEMS, MODALITIES, LATENT, generator=generator)
    return Experts(loc, 0.2 + torch.rand(ITEMS, MODALITIES, LATENT, generator=generator), present)


def make_guide(aggregation: Any, bound: str, **options: Any) -> BarycentricGuide:
    return BarycentricGuide(lambda experts: experts, aggregation, bound=bound, **options)


def draw(guide: BarycentricGuide, experts: Experts) -> Tensor:
    pyro.set_rng_seed(3)
    return guide(experts)


@pytest.mark.parametrize("weights", ["uniform", "by_size", "singles:0.7"])
def test_subsets_bound_of_wb_draws_what_mwb_draws(weights: str) -> None:
    experts = make_experts()
    one, mixture = (make_guide(name, "subsets", subset_weights=weights) for name in ("wb", "mwb"))
    component = make_guide("mwb", "component", subset_weights=weights)
    torch.testing.assert_close(draw(one, experts), draw(mixture, experts), rtol=0, atol=0)
    torch.testing.assert_close(draw(one, experts), draw(component, experts), rtol=0, atol=0)
    assert not torch.equal(draw(one, experts), draw(make_guide("wb", "component"), experts))


@pytest.mark.parametrize("aggregation", ["wb", "poe", "moment", "hellinger", "code"])
def test_subsets_bound_posterior_is_the_aggregation_of_the_subset_alone(aggregation: str) -> None:
    guide = make_guide(aggregation, "subsets")
    present = torch.rand(ITEMS, MODALITIES, generator=torch.Generator().manual_seed(1)) < 0.7
    experts = make_experts(present)
    members = guide.draw_members(experts)
    assert members is not None
    assert not bool((members & ~present).any())
    assert bool((members.any(-1) == present.any(-1)).all())
    assert not torch.equal(members, present)
    posterior = guide.posterior(experts, members=members)
    expected = guide.aggregation(experts.condition_on(members))
    torch.testing.assert_close(posterior.mean, expected.mean)
    torch.testing.assert_close(posterior.variance, expected.variance)


def test_subsets_bound_gives_penalties_the_drawn_subset() -> None:
    experts = make_experts()
    for aggregation, bound, drawn in (("wb", "subsets", True), ("wb", "component", False), ("mwb", "component", True)):
        penalty = RecordMembers()
        draw(make_guide(aggregation, bound, penalties=[penalty]), experts)
        assert (penalty.members is not None) == drawn
        if penalty.members is not None:
            assert set(penalty.members.sum(-1).tolist()) == {1, 2, 3}


def test_subsets_bound_with_a_rule_of_everything_present_draws_subsets() -> None:
    @register_aggregation("first_mean", subsets="all")
    def first_mean(experts: Experts) -> dist.Distribution:
        loc = (experts.loc * experts.mask.unsqueeze(-1)).sum(-2) / experts.mask.sum(-1, keepdim=True).clamp_min(1)
        return dist.Normal(loc, 1.0).to_event(1)

    try:
        guide, experts = make_guide("first_mean", "subsets"), make_experts()
        members = guide.draw_members(experts)
        assert members is not None
        assert set(members.sum(-1).tolist()) == {1, 2, 3}
        mean = guide.posterior(experts, members=members).mean
        expected = (experts.loc * members.unsqueeze(-1)).sum(-2) / members.sum(-1, keepdim=True)
        torch.testing.assert_close(mean, expected)
        assert guide.aggregation(experts).batch_shape == (ITEMS,)
    finally:
        unregister_aggregation("first_mean")


def test_subsets_bound_has_no_further_parameters_and_reaches_learned_weights() -> None:
    guide = make_guide("wb", "subsets", expert_weights=torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0])))
    assert [name for name, _ in guide.named_parameters()] == ["aggregation.expert_weights"]
    draw(guide, make_experts()).sum().backward()
    gradient = guide.aggregation.expert_weights.grad
    assert gradient is not None
    assert bool((gradient != 0).all())


def test_subsets_bound_with_learned_subset_weights_fails() -> None:
    with pytest.raises(ValueError, match="subset_weights='learned' needs bound='mixture'"):
        make_guide("wb", "subsets", subset_weights="learned")


def make_vae(aggregation: str, bound: str, **options: Any) -> MultimodalVAE:
    torch.manual_seed(0)
    modalities = [Modality(name, (4,), private_size=2, likelihood="normal", scale=1.0) for name in "abc"]
    return MultimodalVAE(
        modalities, 3, aggregation, bound=bound, network=NetworkOptions(hidden=8), penalties=["infonce"], **options
    )


def test_subsets_bound_of_wb_trains_as_mwb_does() -> None:
    torch.manual_seed(1)
    batch = {name: torch.randn(ITEMS, 4) for name in "abc"}
    losses = []
    for aggregation, bound in (("wb", "subsets"), ("mwb", "component"), ("wb", "component")):
        vae = make_vae(aggregation, bound)
        pyro.set_rng_seed(5)
        with pyro.settings.context(module_local_params=True):
            losses.append(float(Trace_ELBO()(vae.model, vae.guide)(batch).detach()))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_subsets_bound_infers_private_latents_of_the_drawn_subset() -> None:
    assert make_vae("wb", "subsets").guide.private_subsets == "drawn"
    assert make_vae("poe", "component").guide.private_subsets == "all"
    assert make_vae("wb", "subsets", routing="leave_one_out").guide.routing == "leave_one_out"
