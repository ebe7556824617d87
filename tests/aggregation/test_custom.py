"""The registry: aggregations of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pyro_mmvae
from pyro_mmvae import (
    BarycentricGuide,
    Experts,
    SubsetMixture,
    aggregate,
    aggregations,
    draw_component,
    register_aggregation,
    unregister_aggregation,
)
from pyro_mmvae.aggregation.functional import full_component, get_aggregation
from tests.strategies import NAMES, few, random_experts, wasserstein_rule
from tests.strategies import experts as any_experts

PAIRS = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]]).bool()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test registers is forgotten."""
    yield
    for name in set(aggregations()) - set(NAMES):
        unregister_aggregation(name)


def same(got: Any, wanted: Any) -> None:
    z = wanted.mean + 0.3 * wanted.stddev
    torch.testing.assert_close(
        (got.mean, got.variance, got.log_prob(z)), (wanted.mean, wanted.variance, wanted.log_prob(z)),
        rtol=1e-7, atol=1e-7,
    )  # fmt: skip


def test_registered_and_forgotten() -> None:
    def mine(experts: Experts) -> Any:
        """Be my own.

        And more.
        """
        return wasserstein_rule(experts)

    assert register_aggregation("mine")(mine) is mine
    assert aggregations() == (*NAMES, "mine")
    assert get_aggregation("mine").summary == "Be my own."
    same(aggregate(random_experts(4, 3, 2), "mine"), aggregate(random_experts(4, 3, 2), "wb"))
    unregister_aggregation("mine")
    assert aggregations() == NAMES
    with pytest.raises(ValueError, match="unknown aggregation 'mine'"):
        aggregate(random_experts(4, 3, 2), "mine")


@pytest.mark.parametrize("name", [*NAMES, "mixture:w1", "renyi:0.3", "mine"])
def test_a_name_is_taken_once(name: str) -> None:
    register_aggregation("mine")(wasserstein_rule)
    with pytest.raises(ValueError, match=rf"'{name}' is registered already; unregister_aggregation\('{name}'\)"):
        register_aggregation(name)
    assert aggregations().count(name) == (name in NAMES or name == "mine")


def test_what_cannot_be_forgotten() -> None:
    with pytest.raises(ValueError, match="'wb' is built in"):
        unregister_aggregation("wb")
    with pytest.raises(
        ValueError, match="unknown aggregation 'mine'; there are poe, moe, mopoe, wb, mwb, pool, moment"
    ):
        unregister_aggregation("mine")


@pytest.mark.parametrize(
    ("family", "error", "match"),
    [
        ("pairs", ValueError, "unknown family of subsets 'pairs'"),
        (torch.ones(2, 2), ValueError, "bool matrix"),
        (torch.tensor([[True, False], [False, False]]), ValueError, "no empty row"),
        (3, TypeError, "not int"),
    ],
)
def test_a_family_is_checked_at_once(family: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        register_aggregation("mine", subsets=family)
    assert "mine" not in aggregations()


def test_keywords_reach_a_callable_only_if_its_signature_has_them() -> None:
    seen: dict[str, dict[str, Any]] = {}

    @register_aggregation("none")
    def none(experts: Experts) -> Any:
        return wasserstein_rule(experts)

    @register_aggregation("two")
    def two(experts: Experts, *, prior: Any, weights: Any = None) -> Any:
        seen["two"] = {"prior": prior, "weights": weights}
        return wasserstein_rule(experts)

    @register_aggregation("every")
    def every(experts: Experts, **options: Any) -> Any:
        seen["every"] = options
        return wasserstein_rule(experts)

    experts, weights = random_experts(4, 3, 2), torch.tensor([1.0, 2.0, 3.0])
    options = {"weights": weights, "prior": (0.5, 2.0), "mixture_weights": "size", "prior_expert": "all"}
    for name in ("none", "two", "every"):
        aggregate(experts, name, **options)  # type: ignore[arg-type]
    assert seen["two"] == {"prior": (0.5, 2.0), "weights": weights}
    assert seen["every"] == options
    aggregate(experts, "every")
    assert seen["every"] == {"weights": None, "prior": None, "mixture_weights": "uniform", "prior_expert": None}


def test_absent_slots_come_filled() -> None:
    @register_aggregation("mine")
    def mine(experts: Experts) -> Any:
        assert (experts.loc[~experts.mask] == 0).all()
        assert (experts.scale[~experts.mask] == 1).all()
        return wasserstein_rule(experts)

    loc = torch.full((2, 1), torch.nan)
    aggregate(Experts(loc, loc, torch.tensor([False, False])), "mine")


def test_without_subsets_there_is_no_component_bound() -> None:
    register_aggregation("mine")(wasserstein_rule)
    aggregate(random_experts(4, 3, 2), "mine")
    with pytest.raises(ValueError, match=r"'mine' has no component bound: register it with subsets=…"):
        draw_component(random_experts(4, 3, 2), "mine")
    with pytest.raises(ValueError, match="'mine' has no component bound"):
        BarycentricGuide(lambda: random_experts(4, 3, 2), "mine", bound="component")
    same(full_component(random_experts(4, 3, 2), "mine"), aggregate(random_experts(4, 3, 2), "wb"))


@few
@given(
    experts=any_experts(log10_scale=1.0),
    options=st.sampled_from([{}, {"mixture_weights": "size"}, {"mixture_weights": lambda m: 1.0 + m.sum(-1)}]),
    lam=st.sampled_from(["none", "shared", "per item", "zeros"]),
)
def test_the_wasserstein_rule_over_the_powerset_is_mwb(experts: Experts, options: dict[str, Any], lam: str) -> None:
    if "mine" not in aggregations():
        register_aggregation("mine", subsets="powerset")(wasserstein_rule)
    weights = None
    if lam != "none":
        shape = experts.mask.shape if lam == "per item" else experts.mask.shape[-1:]
        weights = torch.rand(shape, generator=torch.Generator().manual_seed(0)).double()
        weights = weights * (weights > 0.5) if lam == "zeros" else weights
    got: Any = aggregate(experts, "mine", weights=weights, **options)
    wanted: Any = aggregate(experts, "mwb", weights=weights, **options)
    assert isinstance(got, SubsetMixture)
    same(got, wanted)
    torch.testing.assert_close(got.probs, wanted.probs)
    torch.manual_seed(1)
    drawn = draw_component(experts, "mine", weights=weights, **options)
    torch.manual_seed(1)
    same(drawn, draw_component(experts, "mwb", weights=weights, **options))
    same(full_component(experts, "mine", weights=weights), full_component(experts, "mwb", weights=weights))


@pytest.mark.parametrize(("family", "built_in"), [("all", "wb"), ("singletons", "moe"), ("powerset", "mwb")])
def test_the_wasserstein_rule_over_each_family(family: str, built_in: str) -> None:
    register_aggregation("mine", subsets=family)(wasserstein_rule)
    experts = random_experts(2, 5, 3, 2)
    same(aggregate(experts, "mine"), aggregate(experts, built_in))
    assert draw_component(experts, "mine").batch_shape == (2, 5)


def test_batched_options_reach_every_component() -> None:
    """Lambda and prior of each item, beside one more dimension for the subsets."""

    @register_aggregation("mine", subsets="powerset")
    def mine(experts: Experts, weights: Any = None, prior: Any = None) -> Any:
        q: Any = wasserstein_rule(experts, weights).base_dist  # type: ignore[attr-defined]
        nothing = ~(experts.mask & (weights > 0)).any(-1, keepdim=True)
        return dist.Normal(torch.where(nothing, prior[0], q.loc), torch.where(nothing, prior[1], q.scale)).to_event(1)

    experts = random_experts(5, 3, 2).condition_on(torch.arange(5).unsqueeze(-1) != 2)
    weights = torch.rand(5, 3).double()
    for prior in ((torch.randn(5, 2).double(), torch.rand(5, 2).double() + 0.5), (torch.randn(2).double(), 2.0)):
        same(
            aggregate(experts, "mine", weights=weights, prior=prior),
            aggregate(experts, "mwb", weights=weights, prior=prior),
        )


@pytest.mark.parametrize("family", [PAIRS, lambda count: PAIRS[:, :count]])
def test_a_family_of_ones_own(family: Any) -> None:
    """Pairs of three: an item of two has one, an item of one has none and gets the prior."""
    register_aggregation("pairs", subsets=family)(wasserstein_rule)
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    random = random_experts(3, 3, 2, absent=False)
    experts = Experts(random.loc, random.scale, present)
    q: Any = aggregate(experts, "pairs")
    torch.testing.assert_close(q.probs, torch.tensor([[1 / 3] * 3, [0, 0, 1], [1 / 3] * 3]).double())
    for k, pair in enumerate(((0, 1), (1, 2), (0, 2))):
        wanted: Any = aggregate(experts.condition_on(pair), "wb")
        torch.testing.assert_close(q.components.mean[0, k], wanted.mean[0])
        torch.testing.assert_close(q.components.stddev[0, k], wanted.stddev[0])
    same(aggregate(experts.condition_on([1]), "pairs"), dist.Normal(torch.zeros(3, 2).double(), 1.0).to_event(1))
    drawn: Any = draw_component(experts, "pairs")
    torch.testing.assert_close(drawn.mean[1], q.components.mean[1, 2])
    assert drawn.mean[2].tolist() == [0.0, 0.0]
    zeros: Any = aggregate(experts, "pairs", weights=torch.tensor([1.0, 0.0, 0.0]))
    assert zeros.probs[0].tolist() == pytest.approx([1 / 2, 0, 1 / 2])


def test_a_guide_takes_a_family_of_ones_own() -> None:
    register_aggregation("pairs", subsets=PAIRS)(wasserstein_rule)
    for bound in ("mixture", "component"):
        guide = BarycentricGuide(lambda: random_experts(4, 3, 2, absent=False), "pairs", bound=bound)
        assert guide().shape == (4, 2)


def test_a_family_of_other_experts_is_refused() -> None:
    register_aggregation("pairs", subsets=PAIRS)(wasserstein_rule)
    with pytest.raises(ValueError, match="over 3 modalities, the experts 4"):
        aggregate(random_experts(4, 4, 2), "pairs")


@pytest.mark.parametrize("family", ["all", "singletons", "powerset"])
def test_a_subset_of_no_weight_is_dead_whatever_the_rule_makes_of_weights(family: str) -> None:
    """Both bounds and the full component agree that nothing is left but the prior."""

    @register_aggregation("mine", subsets=family)
    def mine(experts: Experts) -> Any:
        return wasserstein_rule(experts)

    experts, zeros = random_experts(4, 3, 2, absent=False), torch.zeros(3)
    for build in (aggregate, draw_component, full_component):
        same(build(experts, "mine", weights=zeros), dist.Normal(torch.zeros(4, 2).double(), 1.0).to_event(1))


def test_too_many_components_are_refused() -> None:
    register_aggregation("mine", subsets="powerset")(wasserstein_rule)
    with pytest.raises(ValueError, match="'mine' over 13 modalities is a mixture of 8,191 components"):
        aggregate(random_experts(2, 13, 1), "mine")
    assert draw_component(random_experts(2, 40, 1), "mine").batch_shape == (2,)


def test_the_package_exports_the_registry() -> None:
    for name in ("aggregate", "aggregations", "draw_component", "register_aggregation", "unregister_aggregation"):
        assert getattr(pyro_mmvae, name) is not None
        assert name in dir(pyro_mmvae)
