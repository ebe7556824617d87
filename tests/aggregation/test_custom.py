"""User-defined aggregations: classes, factories, modules and callables, registered or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pyro_mmvae
from pyro_mmvae import (
    Aggregation,
    BarycentricGuide,
    Experts,
    MixtureOverSubsets,
    SubsetMixture,
    aggregate,
    aggregations,
    draw_component,
    make_aggregation,
    register_aggregation,
    unregister_aggregation,
)
from pyro_mmvae.aggregation import describe_aggregation
from tests.strategies import (
    NAMES,
    WeightedWassersteinRule,
    few,
    joint_component,
    random_experts,
    wasserstein_rule,
)
from tests.strategies import experts as any_experts

PAIRS = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]]).bool()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Remove what a test registers."""
    yield
    for name in set(aggregations()) - set(NAMES):
        unregister_aggregation(name)


def same(got: Any, wanted: Any) -> None:
    z = wanted.mean + 0.3 * wanted.stddev
    torch.testing.assert_close(
        (got.mean, got.variance, got.log_prob(z)), (wanted.mean, wanted.variance, wanted.log_prob(z)),
        rtol=1e-7, atol=1e-7,
    )  # fmt: skip


def test_register_aggregation_then_unregister_restores_names() -> None:
    def mine(experts: Experts) -> Any:
        """Be my own.

        And more.
        """
        return wasserstein_rule(experts)

    assert register_aggregation("mine")(mine) is mine
    assert aggregations() == (*NAMES, "mine")
    assert describe_aggregation("mine") == "Be my own."
    same(aggregate(random_experts(4, 3, 2), "mine"), aggregate(random_experts(4, 3, 2), "wb"))
    unregister_aggregation("mine")
    assert aggregations() == NAMES
    with pytest.raises(ValueError, match="unknown aggregation 'mine'"):
        aggregate(random_experts(4, 3, 2), "mine")


@pytest.mark.parametrize("name", [*NAMES, "mixture:w1", "renyi:0.3", "mine"])
def test_register_aggregation_refuses_taken_names(name: str) -> None:
    register_aggregation("mine")(wasserstein_rule)
    with pytest.raises(ValueError, match=rf"'{name}' is registered already; unregister_aggregation\('{name}'\)"):
        register_aggregation(name)
    assert aggregations().count(name) == (name in NAMES or name == "mine")


def test_unregister_aggregation_refuses_built_in_and_unknown_names() -> None:
    with pytest.raises(ValueError, match="'wb' is built in"):
        unregister_aggregation("wb")
    with pytest.raises(
        ValueError, match="unknown aggregation 'mine'. Available: poe, moe, mopoe, wb, mwb, pool, moment"
    ):
        unregister_aggregation("mine")


@pytest.mark.parametrize(
    ("family", "error", "match"),
    [
        (
            "trios",
            ValueError,
            "subsets must be 'all', 'singletons', 'pairs', 'powerset', a bool matrix or a function, got 'trios'",
        ),
        (torch.ones(2, 2), ValueError, "bool matrix"),
        (torch.tensor([[True, False], [False, False]]), ValueError, "no empty row"),
        (3, TypeError, "got int"),
    ],
)
def test_register_aggregation_refuses_invalid_subsets(family: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        register_aggregation("mine", subsets=family)
    assert "mine" not in aggregations()


def test_register_aggregation_of_a_class_takes_its_own_keywords_and_those_of_every_aggregation() -> None:
    @register_aggregation("tempered")
    class Tempered(Aggregation):
        """Temper the barycenter."""

        def __init__(self, tau: float = 1.0, **options: Any) -> None:
            super().__init__(**options)
            self.tau = tau

        def forward(self, experts: Experts) -> Any:
            q: Any = wasserstein_rule(experts, self.expert_weights_for(experts)).base_dist  # type: ignore[attr-defined]
            return dist.Normal(q.loc, self.tau * q.scale).to_event(1)

    register_aggregation("mixture_of_tempered", Tempered, subsets="powerset")
    experts, weights = random_experts(4, 3, 2), torch.tensor([1.0, 2.0, 3.0]).double()
    assert describe_aggregation("tempered") == "Temper the barycenter."
    wide = aggregate(experts, {"name": "tempered", "tau": 2.0}, expert_weights=weights)
    torch.testing.assert_close(wide.stddev, 2 * aggregate(experts, "wb", expert_weights=weights).stddev)
    options: dict[str, Any] = {"expert_weights": weights, "subset_weights": "by_size"}
    mixture: Any = aggregate(experts, "mixture_of_tempered", tau=2.0, **options)
    plain: Any = aggregate(experts, "mwb", **options)
    torch.testing.assert_close(mixture.probs, plain.probs)
    alive = plain.probs > 0
    torch.testing.assert_close(mixture.components.stddev[alive], 2 * plain.components.stddev[alive])
    with pytest.raises(ValueError, match="option of aggregation 'tempered' must be one of tau, .*, got 'sigma'"):
        aggregate(experts, "tempered", sigma=1.0)


def test_register_aggregation_of_a_factory_and_of_a_plain_module() -> None:
    class Shrunk(nn.Module):
        def __init__(self, factor: float = 1.0) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor).double())

        def forward(self, experts: Experts) -> Any:
            q: Any = wasserstein_rule(experts).base_dist  # type: ignore[attr-defined]
            return dist.Normal(q.loc, self.factor * q.scale).to_event(1)

    register_aggregation("shrunk", Shrunk, subsets="powerset")
    register_aggregation("made", lambda *, factor=1.0: Shrunk(factor), factory=True)
    experts = random_experts(4, 3, 2)
    expected = 0.5 * aggregate(experts, "wb").stddev
    torch.testing.assert_close(joint_component(experts, "shrunk", factor=0.5).stddev, expected)
    torch.testing.assert_close(aggregate(experts, "made", factor=0.5).stddev, expected)
    one, other = make_aggregation("shrunk"), make_aggregation("shrunk")
    assert set(one.state_dict()) == {"rule.function.factor"}
    assert not {*map(id, one.parameters())} & {*map(id, other.parameters())}


def test_callable_aggregation_refuses_options_it_would_not_see() -> None:
    register_aggregation("mine")(wasserstein_rule)
    register_aggregation("mine_over_subsets", subsets="powerset")(wasserstein_rule)
    experts, weights = random_experts(4, 3, 2), torch.ones(3)
    for options in ({"expert_weights": weights}, {"subset_weights": "by_size"}, {"prior_expert": "all"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be left out for an aggregation that is a c"):
            aggregate(experts, "mine", **options)
    with pytest.raises(ValueError, match="prior_expert must be left out for a rule that is a callable"):
        aggregate(experts, "mine_over_subsets", prior_expert="all")
    with pytest.raises(ValueError, match="option of aggregation 'mine' must be one of prior, got 'tau'"):
        aggregate(experts, "mine", tau=0.5)


def test_custom_rule_gets_absent_slots_filled() -> None:
    @register_aggregation("mine")
    def mine(experts: Experts) -> Any:
        assert (experts.loc[~experts.mask] == 0).all()
        assert (experts.scale[~experts.mask] == 1).all()
        return wasserstein_rule(experts)

    loc = torch.full((2, 1), torch.nan)
    aggregate(Experts(loc, loc, torch.tensor([False, False])), "mine")


def test_custom_rule_without_subsets_has_no_component_bound() -> None:
    register_aggregation("mine")(wasserstein_rule)
    aggregate(random_experts(4, 3, 2), "mine")
    with pytest.raises(
        ValueError, match=r"'mine' has no component bound, since .* MixtureOverSubsets\(rule\) or register_aggregation"
    ):
        draw_component(random_experts(4, 3, 2), "mine")
    with pytest.raises(ValueError, match="'mine' has no component bound"):
        BarycentricGuide(lambda: random_experts(4, 3, 2), "mine", bound="component")
    same(joint_component(random_experts(4, 3, 2), "mine"), aggregate(random_experts(4, 3, 2), "wb"))


@few
@given(
    experts=any_experts(log10_scale=1.0),
    options=st.sampled_from([{}, {"subset_weights": "by_size"}, {"subset_weights": lambda m: 1.0 + m.sum(-1)}]),
    lam=st.sampled_from(["none", "shared", "per item", "zeros"]),
)
def test_custom_wasserstein_rule_over_powerset_equals_mwb(experts: Experts, options: dict[str, Any], lam: str) -> None:
    if "mine" not in aggregations():
        register_aggregation("mine", WeightedWassersteinRule, subsets="powerset")
    weights = None
    if lam != "none":
        shape = experts.mask.shape if lam == "per item" else experts.mask.shape[-1:]
        weights = torch.rand(shape, generator=torch.Generator().manual_seed(0)).double()
        weights = weights * (weights > 0.5) if lam == "zeros" else weights
    got: Any = aggregate(experts, "mine", expert_weights=weights, **options)
    wanted: Any = aggregate(experts, "mwb", expert_weights=weights, **options)
    assert isinstance(got, SubsetMixture)
    same(got, wanted)
    torch.testing.assert_close(got.probs, wanted.probs)
    torch.manual_seed(1)
    drawn = draw_component(experts, "mine", expert_weights=weights, **options)
    torch.manual_seed(1)
    same(drawn, draw_component(experts, "mwb", expert_weights=weights, **options))
    same(
        joint_component(experts, "mine", expert_weights=weights),
        joint_component(experts, "mwb", expert_weights=weights),
    )


@pytest.mark.parametrize(("family", "built_in"), [("all", "wb"), ("singletons", "moe"), ("powerset", "mwb")])
def test_custom_wasserstein_rule_over_named_families_equals_built_ins(family: str, built_in: str) -> None:
    register_aggregation("mine", subsets=family)(wasserstein_rule)
    experts = random_experts(2, 5, 3, 2)
    same(aggregate(experts, "mine"), aggregate(experts, built_in))
    assert draw_component(experts, "mine").batch_shape == (2, 5)


def test_mixture_over_subsets_hands_weights_and_prior_of_each_item_to_an_aggregation() -> None:
    class Mine(Aggregation):
        def forward(self, experts: Experts) -> Any:
            weights, prior = self.expert_weights_for(experts), self.prior_for(experts)
            assert weights is not None
            assert prior[0].shape == (*experts.batch_shape, experts.latent_size)
            q: Any = wasserstein_rule(experts, weights).base_dist  # type: ignore[attr-defined]
            nothing = ~(experts.mask & (weights > 0)).any(-1, keepdim=True)
            return dist.Normal(torch.where(nothing, prior[0], q.loc), torch.where(nothing, prior[1], q.scale)).to_event(
                1
            )

    experts = random_experts(7, 3, 2).condition_on(torch.arange(7).unsqueeze(-1) != 2)  # as many items as subsets
    weights = torch.rand(7, 3).double()
    for prior in ((torch.randn(7, 2).double(), torch.rand(7, 2).double() + 0.5), (torch.randn(2).double(), 2.0)):
        expected = aggregate(experts, "mwb", expert_weights=weights, prior=prior)
        same(MixtureOverSubsets(Mine(), expert_weights=weights, prior=prior)(experts), expected)
        same(MixtureOverSubsets(Mine(expert_weights=weights, prior=prior))(experts), expected)


@pytest.mark.parametrize("family", [PAIRS, lambda count: PAIRS[:, :count]])
def test_register_aggregation_with_membership_matrix_mixes_its_rows(family: Any) -> None:
    """Mix pairs of three: an item of two modalities has one pair, an item of one has none and gets the prior."""
    register_aggregation("neighbours", subsets=family)(wasserstein_rule)
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    random = random_experts(3, 3, 2, absent=False)
    experts = Experts(random.loc, random.scale, present)
    q: Any = aggregate(experts, "neighbours")
    torch.testing.assert_close(q.probs, torch.tensor([[1 / 3] * 3, [0, 0, 1], [1 / 3] * 3]).double())
    for k, pair in enumerate(((0, 1), (1, 2), (0, 2))):
        wanted: Any = aggregate(experts.condition_on(pair), "wb")
        torch.testing.assert_close(q.components.mean[0, k], wanted.mean[0])
        torch.testing.assert_close(q.components.stddev[0, k], wanted.stddev[0])
    same(aggregate(experts.condition_on([1]), "neighbours"), dist.Normal(torch.zeros(3, 2).double(), 1.0).to_event(1))
    drawn: Any = draw_component(experts, "neighbours")
    torch.testing.assert_close(drawn.mean[1], q.components.mean[1, 2])
    assert drawn.mean[2].tolist() == [0.0, 0.0]
    zeros: Any = aggregate(experts, "neighbours", expert_weights=torch.tensor([1.0, 0.0, 1.0]))
    assert zeros.probs[0].tolist() == pytest.approx([0, 0, 1])


def test_guide_takes_aggregation_over_membership_matrix() -> None:
    register_aggregation("neighbours", subsets=PAIRS)(wasserstein_rule)
    for bound in ("mixture", "component"):
        guide = BarycentricGuide(lambda: random_experts(4, 3, 2, absent=False), "neighbours", bound=bound)
        assert guide().shape == (4, 2)


def test_membership_matrix_of_other_size_is_refused() -> None:
    register_aggregation("neighbours", subsets=PAIRS)(wasserstein_rule)
    with pytest.raises(ValueError, match="over the 4 modalities of the experts, got 3"):
        aggregate(random_experts(4, 4, 2), "neighbours")


@pytest.mark.parametrize("family", ["all", "singletons", "powerset"])
def test_custom_rule_with_zero_weights_gives_the_prior(family: str) -> None:
    """Check that both bounds and the joint component are the prior."""

    @register_aggregation("mine", subsets=family)
    def mine(experts: Experts) -> Any:
        return wasserstein_rule(experts)

    experts, zeros = random_experts(4, 3, 2, absent=False), torch.zeros(3)
    for build in (aggregate, draw_component, joint_component):
        same(build(experts, "mine", expert_weights=zeros), dist.Normal(torch.zeros(4, 2).double(), 1.0).to_event(1))


def test_custom_rule_over_thirteen_modalities_refuses_mixture() -> None:
    register_aggregation("mine", subsets="powerset")(wasserstein_rule)
    with pytest.raises(ValueError, match="'mine' over 13 modalities is a mixture of 8,191 components"):
        aggregate(random_experts(2, 13, 1), "mine")
    assert draw_component(random_experts(2, 40, 1), "mine").batch_shape == (2,)


def test_package_exports_the_registry() -> None:
    for name in (
        "Aggregation",
        "aggregate",
        "aggregations",
        "draw_component",
        "make_aggregation",
        "register_aggregation",
    ):
        assert getattr(pyro_mmvae, name) is not None
        assert name in dir(pyro_mmvae)


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        (3, wasserstein_rule, "the name of an aggregation must be a string.*got 3"),
        (Aggregation, None, "the name of an aggregation must be a string.*Aggregation"),  # @register_aggregation bare
        ("mine", 3, "aggregation 'mine' must be a class, a factory or a callable of experts, got 3"),
    ],
)
def test_registering_anything_else_is_an_error(name: Any, part: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register_aggregation(name, part)
    assert "mine" not in aggregations()


def test_aggregate_callable_with_an_option_raises() -> None:
    with pytest.raises(ValueError, match="tau must be left out: the aggregation is a callable without options"):
        make_aggregation(wasserstein_rule, tau=0.5)
