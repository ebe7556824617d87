"""Properties that the method promises of each aggregation, on any experts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyro_mmvae import Experts, MixtureOverSubsets, aggregate, draw_component, make_aggregation
from tests.strategies import BUILT_IN, few
from tests.strategies import experts as any_experts

IDEMPOTENT = ("moe", "wb", "mwb", "pool", "moment")
NAN = float("nan")


def points_of(posterior: Any) -> torch.Tensor:
    steps = torch.linspace(-3, 3, 5).double().reshape(-1, *(1 for _ in posterior.mean.shape))
    return posterior.mean + steps * posterior.stddev


def assert_same(got: Any, wanted: Any, rtol: float = 1e-6) -> None:
    """Compare mean, variance and density around the mean, with a tolerance that follows the scales."""
    spread = float(wanted.stddev.max()) + float(wanted.mean.abs().max())
    torch.testing.assert_close(got.mean, wanted.mean, rtol=rtol, atol=1e-8 * spread)
    torch.testing.assert_close(got.variance, wanted.variance, rtol=rtol, atol=0)
    points = points_of(wanted)
    torch.testing.assert_close(got.log_prob(points), wanted.log_prob(points), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BUILT_IN)
@few
@given(experts=any_experts(), data=st.data())
def test_aggregate_is_invariant_to_the_order_of_modalities(name: str, experts: Experts, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(experts.num_modalities)))
    weights = torch.rand(experts.num_modalities, generator=torch.Generator().manual_seed(1)).double()
    permuted = Experts(experts.loc[..., order, :], experts.scale[..., order, :], experts.mask[..., order])
    assert_same(
        aggregate(permuted, name, expert_weights=weights[order], subset_weights="by_size"),
        aggregate(experts, name, expert_weights=weights, subset_weights="by_size"),
    )


@pytest.mark.parametrize("name", BUILT_IN)
@few
@given(experts=any_experts(modalities=(2, 5)), data=st.data())
def test_aggregate_of_absent_modality_equals_removed_one(name: str, experts: Experts, data: st.DataObject) -> None:
    count = experts.num_modalities
    kept = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1)))
    options = data.draw(st.sampled_from([{}, {"subset_weights": "by_size"}, {"prior_expert": "joint_only"}]))
    if name == "mopoe":  # by default its prior expert is in the set of all modalities, present or not
        options = {"prior_expert": "joint_only", **options}
    removed = Experts(experts.loc[..., kept, :], experts.scale[..., kept, :], experts.mask[..., kept])
    assert_same(aggregate(experts.condition_on(kept), name, **options), aggregate(removed, name, **options))


@pytest.mark.parametrize("name", BUILT_IN)
@few
@given(experts=any_experts(all_present=True))
def test_aggregate_of_equal_experts_is_idempotent_or_sharper(name: str, experts: Experts) -> None:
    """Check that they give that expert back, except for products, which sharpen."""
    loc, scale = experts.loc[..., :1, :], experts.scale[..., :1, :]
    same = Experts(loc.expand(experts.loc.shape), scale.expand(experts.loc.shape))
    posterior: Any = aggregate(same, name)
    if name in IDEMPOTENT:
        assert_same(
            posterior, torch.distributions.Independent(torch.distributions.Normal(loc[..., 0, :], scale[..., 0, :]), 1)
        )
    else:
        components = posterior.components if name == "mopoe" else posterior
        narrowest = components.stddev.amin(-2) if name == "mopoe" else components.stddev
        assert (narrowest < 0.9999999 * scale[..., 0, :]).all()


@pytest.mark.parametrize("name", BUILT_IN)
@few
@given(experts=any_experts(), prior=st.tuples(st.floats(-2, 2), st.floats(0.2, 5)))
def test_aggregate_of_nothing_present_is_the_prior(name: str, experts: Experts, prior: tuple[float, float]) -> None:
    nothing = experts.condition_on([])
    shape = (*experts.batch_shape, experts.latent_size)
    cases: list[tuple[dict[str, Any], tuple[float, float]]] = [
        ({"subset_weights": "by_size"}, (0.0, 1.0)),
        ({"prior": prior, "expert_weights": torch.ones(experts.num_modalities)}, prior),
    ]
    for options, (loc, scale) in cases:
        of_prior = torch.distributions.Normal(torch.full(shape, loc).double(), torch.full(shape, scale).double())
        wanted = torch.distributions.Independent(of_prior, 1)
        assert_same(aggregate(nothing, name, **options), wanted)
        assert_same(draw_component(nothing, name, **options), wanted)


@pytest.mark.parametrize("name", BUILT_IN)
@few
@given(experts=any_experts())
def test_aggregate_with_zero_weights_is_the_prior(name: str, experts: Experts) -> None:
    posterior: Any = aggregate(experts, name, expert_weights=torch.zeros(experts.num_modalities))
    drawn: Any = draw_component(experts, name, expert_weights=torch.zeros(experts.num_modalities))
    for q in (posterior, drawn):
        torch.testing.assert_close(q.mean, torch.zeros_like(q.mean), rtol=0, atol=1e-12)
        torch.testing.assert_close(q.variance, torch.ones_like(q.mean))


@few
@given(experts=any_experts())
def test_wasserstein_barycenter_lies_between_its_experts(experts: Experts) -> None:
    """Check that its scale and loc lie between the smallest and the largest of the experts."""
    slot = experts.mask.unsqueeze(-1)
    posterior = aggregate(experts, "wb")
    some = experts.mask.any(-1)
    low, high = experts.scale.masked_fill(~slot, torch.inf).amin(-2), experts.scale.masked_fill(~slot, 0.0).amax(-2)
    assert (posterior.stddev >= low * (1 - 1e-12))[some].all()
    assert (posterior.stddev <= high * (1 + 1e-12))[some].all()
    low, high = experts.loc.masked_fill(~slot, torch.inf).amin(-2), experts.loc.masked_fill(~slot, -torch.inf).amax(-2)
    assert (posterior.mean >= low - 1e-12)[some].all()
    assert (posterior.mean <= high + 1e-12)[some].all()


@few
@given(experts=any_experts())
def test_product_is_never_wider_than_its_narrowest_expert(experts: Experts) -> None:
    narrowest = experts.scale.masked_fill(~experts.mask.unsqueeze(-1), 1.0).amin(-2).clamp(max=1.0)  # the prior's is 1
    assert (aggregate(experts, "poe").stddev <= narrowest * (1 + 1e-12)).all()


@few
@given(experts=any_experts())
def test_moment_matching_has_the_moments_of_the_mixture(experts: Experts) -> None:
    mixture, matched = aggregate(experts, "moe"), aggregate(experts, "moment")
    torch.testing.assert_close(matched.mean, mixture.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(matched.variance, mixture.variance, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("build", [aggregate, draw_component])
def test_aggregate_ignores_nan_in_absent_slots(name: str, build: Any) -> None:
    present = torch.tensor([[True, False, True], [False, False, True], [False, False, False]])
    results = []
    for filling in (0.3, NAN):
        absent = ~present.unsqueeze(-1)
        loc = torch.linspace(-1, 1, 18).double().reshape(3, 3, 2).masked_fill(absent, filling).requires_grad_()
        scale = torch.linspace(0.5, 2, 18).double().reshape(3, 3, 2).masked_fill(absent, filling).requires_grad_()
        weights = torch.tensor([1.0, 2.0, 0.5]).double().requires_grad_(build is aggregate)
        torch.manual_seed(0)
        posterior = build(Experts(loc, scale, present), name, expert_weights=weights)
        value = posterior.log_prob(torch.full((3, 2), 0.4).double())
        total = value.sum() + posterior.mean.sum() + posterior.variance.sum() + posterior.rsample().sum()
        inputs = (loc, scale, weights) if weights.requires_grad else (loc, scale)
        gradients = torch.autograd.grad(total, inputs)
        results.append((value, posterior.mean, *gradients))
        for gradient in gradients:
            assert gradient.isfinite().all()
        assert (gradients[0][absent.expand(3, 3, 2)] == 0).all()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", BUILT_IN)
@few
@given(experts=any_experts())
def test_aggregate_treats_items_independently(name: str, experts: Experts) -> None:
    flat = [t.reshape(-1, *t.shape[len(experts.batch_shape) :]) for t in (experts.loc, experts.scale, experts.mask)]
    whole: Any = aggregate(Experts(*flat), name)
    for b in range(len(flat[0])):
        alone: Any = aggregate(Experts(*(t[b] for t in flat)), name)
        torch.testing.assert_close((whole.mean[b], whole.variance[b]), (alone.mean, alone.variance))


def multivae_mopoe(loc: Tensor, scale: Tensor, present: Tensor) -> Any:
    """Return the components of MultiVae's MoPoE: products, with N(0, I) in the set of as many experts as encoders."""
    count, components = len(loc), []
    for size in range(1, count + 1):
        for subset in itertools.combinations([m for m in range(count) if present[m]], size):
            precision, shift = scale[list(subset)] ** -2, loc[list(subset)] * scale[list(subset)] ** -2
            total = precision.sum(0) + (1.0 if size == count else 0.0)
            components.append(torch.stack([shift.sum(0) / total, total**-0.5]))
    return torch.stack(components)


@pytest.mark.parametrize("present", [[True, True, True], [True, True, False], [False, True, False]])
def test_mopoe_has_the_prior_expert_in_the_set_of_all_modalities_only(present: list[bool]) -> None:
    torch.manual_seed(0)
    experts = Experts(torch.randn(3, 2).double(), torch.rand(3, 2).double() + 0.2)
    expected = multivae_mopoe(experts.loc, experts.scale, torch.tensor(present))
    masked = Experts(experts.loc, experts.scale, torch.tensor(present))
    for cut in (masked, experts.condition_on(torch.tensor(present))):
        posterior: Any = aggregate(cut, "mopoe")
        alive = posterior.probs > 0
        torch.testing.assert_close(posterior.probs[alive], torch.full((len(expected),), 1 / len(expected)).double())
        parts = torch.stack([posterior.components.mean, posterior.components.stddev], 1)[alive]
        assert {tuple(p) for p in parts.flatten(1).round(decimals=9).tolist()} == {
            tuple(p) for p in expected.flatten(1).round(decimals=9).tolist()
        }
        joint = make_aggregation("mopoe").joint(cut)
        torch.testing.assert_close(torch.stack([joint.mean, joint.stddev]), expected[-1])


def test_mopoe_of_absent_modality_differs_from_removed_one() -> None:
    experts = Experts(torch.tensor([[1.0], [2.0], [3.0]]), torch.ones(3, 1))
    removed = Experts(experts.loc[:2], experts.scale[:2])
    absent: Any = make_aggregation("mopoe").joint(experts.condition_on([0, 1]))
    assert absent.mean.item() == pytest.approx(3 / 2)
    assert make_aggregation("mopoe").joint(removed).mean.item() == pytest.approx(1.0)  # the prior pulls it to 0


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("subset_weights", ["uniform", "by_size", lambda matrix: 1.0 + matrix.sum(-1).square()])
@pytest.mark.parametrize("prior_expert", [None, "complete", "joint_only", "all"])
@pytest.mark.parametrize("per_item", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_aggregate_with_zero_weight_equals_absent_modality(
    name: str, subset_weights: Any, prior_expert: str | None, per_item: bool, masked: bool
) -> None:
    torch.manual_seed(0)
    present = torch.rand(6, 4) < 0.7 if masked else None
    experts = Experts(torch.randn(6, 4, 2).double(), torch.rand(6, 4, 2).double() + 0.2, present)
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0]).double().expand(*((6,) if per_item else ()), 4)
    if per_item:
        weights = weights.clone()
        weights[2:, 3], weights[0, 1] = 0.0, 1.0
    options: Any = {"subset_weights": subset_weights, "prior_expert": prior_expert}
    rule = make_aggregation(name, expert_weights=weights, **options)
    other = make_aggregation(name, expert_weights=weights.masked_fill(weights == 0, 1.0), **options)
    absent = experts.condition_on(weights > 0)
    assert_same(rule(experts), other(absent))
    results = []
    for aggregation, given_experts in ((rule, experts), (other, absent)):
        torch.manual_seed(5)
        members = aggregation.draw(given_experts)
        posterior: Any = aggregation.component(given_experts, members)
        joint: Any = posterior if name == "moe" else aggregation.joint(given_experts)
        results.append((members, posterior.mean, posterior.stddev, posterior.rsample(), joint.mean, joint.stddev))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_custom_rule_with_zero_weight_equals_absent_modality() -> None:
    torch.manual_seed(0)
    experts = Experts(torch.randn(6, 3, 2).double(), torch.rand(6, 3, 2).double() + 0.2)
    weights = torch.tensor([1.0, 0.0, 1.0])
    rule = MixtureOverSubsets(lambda cut: aggregate(cut, "wb"), expert_weights=weights)
    assert_same(rule(experts), aggregate(experts.condition_on([0, 2]), "mwb"))
    assert_same(rule.joint(experts), aggregate(experts.condition_on([0, 2]), "wb"))
