"""Aggregations by name: numbers worked out by hand, options, and errors."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch

from pyro_mmvae import (
    Experts,
    MixtureOverSubsets,
    ProductOfExperts,
    SubsetMixture,
    WassersteinBarycenter,
    aggregate,
    aggregations,
    draw_component,
)
from pyro_mmvae.aggregation import (
    Aggregation,
    describe_aggregation,
    make_aggregation,
    register_aggregation,
    unregister_aggregation,
)
from tests.strategies import BUILT_IN, MIXTURES, SINGLE, joint_component, random_experts, two_experts

# Of N(0, 1) and N(2, 9), with weights (1, 1) and (3, 1): mixture weight, loc, variance of each component, in order.
GOLDEN = {
    ("poe", (1, 1)): [(1, 2 / 19, 9 / 19)],  # 1 + 1/9 + the prior's 1 = 19/9
    ("poe", (3, 1)): [(1, 2 / 37, 9 / 37)],  # 3 + 1/9 + 1
    ("moe", (1, 1)): [(1 / 2, 0, 1), (1 / 2, 2, 9)],
    ("moe", (3, 1)): [(3 / 4, 0, 1), (1 / 4, 2, 9)],
    ("mopoe", (1, 1)): [(1 / 3, 0, 1), (1 / 3, 2, 9), (1 / 3, 2 / 19, 9 / 19)],
    ("mopoe", (3, 1)): [(1 / 3, 0, 1 / 3), (1 / 3, 2, 9), (1 / 3, 2 / 37, 9 / 37)],
    ("wb", (1, 1)): [(1, 1, 4)],  # standard deviations average: (1 + 3) / 2
    ("wb", (3, 1)): [(1, 1 / 2, 9 / 4)],
    ("mwb", (1, 1)): [(1 / 3, 0, 1), (1 / 3, 2, 9), (1 / 3, 1, 4)],
    ("mwb", (3, 1)): [(1 / 3, 0, 1), (1 / 3, 2, 9), (1 / 3, 1 / 2, 9 / 4)],
    ("pool", (1, 1)): [(1, 1 / 5, 9 / 5)],  # (1 + 1/9) / 2 = 5/9
    ("pool", (3, 1)): [(1, 1 / 14, 9 / 7)],  # (3 + 1/9) / 4 = 7/9
    ("moment", (1, 1)): [(1, 1, 6)],  # (1 + 9) / 2 + 1
    ("moment", (3, 1)): [(1, 1 / 2, 15 / 4)],  # (3 + 9) / 4 + (3/4 + 9/4) / 4
}
GOLDEN_MOMENTS = {
    "poe": (2 / 19, 9 / 19), "moe": (1, 6), "mopoe": (40 / 57, 14087 / 3249), "wb": (1, 4), "mwb": (1, 16 / 3),
    "pool": (1 / 5, 9 / 5), "moment": (1, 6),
}  # fmt: skip


def components(posterior: Any) -> list[tuple[float, float, float]]:
    """(mixture weight, loc, variance) of each component."""
    if not isinstance(posterior, SubsetMixture):
        return [(1.0, posterior.mean.item(), posterior.variance.item())]
    inner = posterior.components
    return list(
        zip(posterior.probs.tolist(), inner.mean.flatten().tolist(), inner.variance.flatten().tolist(), strict=True)
    )


def test_golden_numbers_cover_every_built_in_aggregation() -> None:
    assert set(BUILT_IN) == {name for name, _ in GOLDEN} == set(GOLDEN_MOMENTS)
    assert aggregations()[: len(BUILT_IN)] == BUILT_IN


@pytest.mark.parametrize(("name", "weights"), GOLDEN)
def test_aggregate_components_match_hand_calculation(name: str, weights: tuple[int, int]) -> None:
    explicit = aggregate(two_experts(), name, expert_weights=torch.tensor(weights).double())
    wanted = GOLDEN[name, weights]
    assert sum(components(explicit), ()) == pytest.approx(sum(wanted, ()), rel=1e-12)
    if weights == (1, 1):
        assert sum(components(aggregate(two_experts(), name)), ()) == pytest.approx(sum(wanted, ()), rel=1e-12)


@pytest.mark.parametrize("name", GOLDEN_MOMENTS)
def test_aggregate_moments_match_hand_calculation(name: str) -> None:
    posterior: Any = aggregate(two_experts(), name)
    loc, variance = GOLDEN_MOMENTS[name]
    assert posterior.mean.item() == pytest.approx(loc, rel=1e-12)
    assert posterior.variance.item() == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "prior_expert", "wanted"),
    [  # the third expert is N(0, 1), of weight 1
        ("poe", "none", [(1, 1 / 5, 9 / 10)]),
        ("poe", "joint_only", [(1, 2 / 19, 9 / 19)]),
        ("wb", "all", [(1, 2 / 3, 25 / 9)]),
        ("wb", "joint_only", [(1, 2 / 3, 25 / 9)]),
        ("pool", "all", [(1, 2 / 19, 27 / 19)]),
        ("moment", "all", [(1, 2 / 3, 11 / 3 + 8 / 9)]),
        ("moe", "all", [(1 / 2, 0, 1 / 2), (1 / 2, 1 / 5, 9 / 10)]),
        ("moe", "joint_only", [(1 / 2, 0, 1), (1 / 2, 2, 9)]),  # no singleton is all that is present
        ("mopoe", "none", [(1 / 3, 0, 1), (1 / 3, 2, 9), (1 / 3, 1 / 5, 9 / 10)]),
        ("mopoe", "all", [(1 / 3, 0, 1 / 2), (1 / 3, 1 / 5, 9 / 10), (1 / 3, 2 / 19, 9 / 19)]),
        ("mwb", "joint_only", [(1 / 3, 0, 1), (1 / 3, 2, 9), (1 / 3, 2 / 3, 25 / 9)]),
    ],
)
def test_aggregate_with_prior_expert_matches_hand_calculation(
    name: str, prior_expert: str, wanted: list[tuple[float, ...]]
) -> None:
    posterior = aggregate(two_experts(), name, prior_expert=prior_expert)
    assert sum(components(posterior), ()) == pytest.approx(sum(wanted, ()), rel=1e-12)


def test_aggregate_with_prior_matches_hand_calculation() -> None:
    posterior = aggregate(two_experts(), "poe", prior=(1.0, 0.5))  # 1 + 1/9 + 4 = 46/9, loc (2/9 + 4) / (46/9)
    assert sum(components(posterior), ()) == pytest.approx((1, 38 / 46, 9 / 46), rel=1e-12)


def test_aggregate_weighted_by_size_matches_hand_calculation() -> None:
    """Give each size a third: singletons and pairs a ninth each."""
    posterior: Any = aggregate(random_experts(3, 2, absent=False), "mwb", subset_weights="by_size")
    assert posterior.probs.tolist() == pytest.approx([1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 3], rel=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_returns_batch_and_event_shapes(name: str) -> None:
    posterior = aggregate(random_experts(2, 3, 4, 5), name)
    assert isinstance(posterior, SubsetMixture) == (name in MIXTURES)
    assert posterior.batch_shape == (2, 3)
    assert posterior.event_shape == (5,)
    drawn = draw_component(random_experts(2, 3, 4, 5), name)
    assert drawn.batch_shape == (2, 3)
    assert drawn.event_shape == (5,)
    assert not isinstance(drawn, SubsetMixture)


@pytest.mark.parametrize("name", [*SINGLE, "mopoe", "mwb"])
@pytest.mark.parametrize("prior_expert", [None, "none", "complete", "joint_only", "all"])
def test_joint_is_the_component_of_everything_present(name: str, prior_expert: str | None) -> None:
    weights = torch.tensor([0.5, 2.0, 0.0]).double()
    experts = random_experts(6, 3, 2)
    full = joint_component(experts, name, expert_weights=weights, prior_expert=prior_expert)
    whole: Any = aggregate(experts, name, expert_weights=weights, prior_expert=prior_expert)
    if name in MIXTURES:
        bits = ((experts.mask & (weights > 0)) * torch.tensor([1, 2, 4])).sum(-1) - 1
        alive = (experts.mask & (weights > 0)).any(-1)
        chosen = whole.component(bits)
        torch.testing.assert_close(full.mean[alive], chosen.mean[alive])
        torch.testing.assert_close(full.variance[alive], chosen.variance[alive])
        assert (full.mean[~alive] == 0).all()
    else:
        torch.testing.assert_close(full.mean, whole.mean)
        torch.testing.assert_close(full.variance, whole.variance)


def test_joint_of_mixture_of_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="'moe' has no component of everything present"):
        joint_component(two_experts(), "moe")


@pytest.mark.parametrize("function", [aggregate, draw_component, joint_component, make_aggregation])
@pytest.mark.parametrize("name", ["bop", "", None, []])
def test_unknown_aggregation_lists_the_names(function: Any, name: Any) -> None:
    arguments = (name,) if function is make_aggregation else (two_experts(), name)
    with pytest.raises(ValueError, match="unknown aggregation.*" + ", ".join(BUILT_IN) + ".*register_aggregation"):
        function(*arguments)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prior_expert": "some"}, "prior_expert must be one of none, complete, joint_only, all, got 'some'"),
    ({"expert_weights": torch.ones(3)}, r"expert_weights must have shape \(2,\) or \(2,\) .*got \(3,\)"),
    ({"expert_weights": torch.ones(1, 2)}, r"expert_weights must have shape \(2,\)"),
    ({"expert_weights": torch.tensor([1.0, -0.5])}, "expert_weights must be finite and not negative, got -0.5"),
    ({"expert_weights": torch.tensor([1.0, float("nan")])}, "expert_weights must be finite and not negative"),
    ({"expert_weights": torch.tensor([1.0, float("inf")])}, "expert_weights must be finite and not negative"),
    ({"prior": (torch.zeros(3), 1.0)}, r"prior loc must broadcast to \(\*batch, latent\) = \(1,\), got shape \(3,\)"),
    ({"prior": (0.0, torch.ones(4, 1))}, r"prior scale must broadcast .*, got shape \(4, 1\)"),
    (
        {"subset_weights": "sizes"},
        "subset_weights must be 'uniform', 'by_size', 'learned', 'singles:SHARE' or a function, got 'sizes'",
    ),
]


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("function", [aggregate, draw_component])
@pytest.mark.parametrize(("options", "match"), REFUSED)
def test_aggregate_refuses_invalid_options(function: Any, name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        function(two_experts(), name, **options)


def test_expert_weights_are_shared_or_per_item() -> None:
    experts = random_experts(4, 3, 2)
    for shape in ((3,), (4, 3)):
        aggregate(experts, "wb", expert_weights=torch.ones(shape))
    for bad in ((4,), (1, 3), (2, 4, 3)):
        with pytest.raises(ValueError, match=r"expert_weights must have shape \(3,\) or \(4, 3\)"):
            aggregate(experts, "wb", expert_weights=torch.ones(bad))


def test_expert_weights_are_validated_where_experts_are() -> None:
    bad = torch.tensor([2.0, -0.5]).double()
    loc, scale = two_experts().loc, two_experts().scale
    aggregate(Experts(loc, scale, validate_args=False), "wb", expert_weights=bad)
    with pytest.raises(ValueError, match="not negative"):
        aggregate(Experts(loc, scale, validate_args=True), "wb", expert_weights=bad)


def test_aggregate_takes_names_mappings_objects_and_callables() -> None:
    experts, weights = random_experts(4, 3, 2), torch.tensor([1.0, 2.0, 3.0]).double()
    expected = aggregate(experts, "mwb", expert_weights=weights)
    mixture = MixtureOverSubsets(WassersteinBarycenter(expert_weights=weights))
    for aggregation in ({"name": "mwb", "expert_weights": weights}, mixture, mixture.forward):
        q = aggregate(experts, aggregation)
        torch.testing.assert_close((q.mean, q.variance), (expected.mean, expected.variance))
    torch.manual_seed(0)
    drawn = draw_component(experts, mixture)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn.mean, draw_component(experts, "mwb", expert_weights=weights).mean)
    members = mixture.draw(experts)
    torch.testing.assert_close(
        draw_component(experts, mixture, members=members).mean, aggregate(experts.condition_on(members), "wb",
                                                                          expert_weights=weights).mean
    )  # fmt: skip


def test_make_aggregation_refuses_options_beside_an_object_and_unknown_options() -> None:
    with pytest.raises(
        ValueError, match=r"prior_expert must be given to the aggregation.*WassersteinBarycenter\(prior"
    ):
        make_aggregation(WassersteinBarycenter(), prior_expert="all")
    with pytest.raises(ValueError, match="option of aggregation 'wb' must be one of expert_weights, .*, got 'tau'$"):
        make_aggregation("wb", tau=0.5)
    with pytest.raises(ValueError, match="aggregation 'wb': prior_expert must be given once"):
        make_aggregation({"name": "wb", "prior_expert": "all"}, prior_expert="all")
    with pytest.raises(ValueError, match=r"unknown aggregation <class .*WassersteinBarycenter'>"):
        make_aggregation(WassersteinBarycenter)  # a class is not an object


@pytest.mark.parametrize(("name", "parameter", "same"), [("renyi", 0.3, "renyi:0.3"),
                                                         ("mixture:alpha", -0.5, "mixture:alpha:-0.5")])  # fmt: skip
def test_make_aggregation_takes_the_parameter_of_a_divergence(name: str, parameter: float, same: str) -> None:
    experts = random_experts(4, 3, 2)
    got, expected = make_aggregation({"name": name, "parameter": parameter}), make_aggregation(same)
    assert got.name == expected.name == same
    torch.testing.assert_close(got(experts).mean, expected(experts).mean, rtol=0, atol=0)
    with pytest.raises(ValueError, match="parameter must be given to a divergence by name without one"):
        make_aggregation(same, parameter=parameter)


def test_mixture_over_subsets_takes_each_option_from_itself_or_its_rule() -> None:
    experts, weights = random_experts(4, 3, 2), [1.0, 2.0, 0.0]
    inner = ProductOfExperts(expert_weights=weights, prior=(0.5, 2.0), prior_expert="complete")
    outer = MixtureOverSubsets(ProductOfExperts(), expert_weights=weights, prior=(0.5, 2.0), prior_expert="complete")
    expected = aggregate(experts, "mopoe", expert_weights=weights, prior=(0.5, 2.0))
    for mixture in (MixtureOverSubsets(inner), outer):
        assert mixture.prior == (0.5, 2.0)
        q, joint = mixture(experts), mixture.joint(experts)
        torch.testing.assert_close((q.mean, q.variance), (expected.mean, expected.variance))
        wanted = joint_component(experts, "mopoe", expert_weights=weights, prior=(0.5, 2.0))
        torch.testing.assert_close((joint.mean, joint.variance), (wanted.mean, wanted.variance))
    for option in ({"expert_weights": weights}, {"prior": (0.5, 2.0)}, {"prior_expert": "all"}):
        with pytest.raises(ValueError, match="must be given to MixtureOverSubsets or to its rule, got both"):
            MixtureOverSubsets(inner, **option)
    with pytest.raises(ValueError, match="rule must be a rule for one subset, got the mixture"):
        MixtureOverSubsets(outer)


def test_set_prior_refuses_another_prior_than_the_first() -> None:
    rule = WassersteinBarycenter()
    rule.set_prior((0.5, torch.tensor([2.0, 3.0])))
    rule.set_prior((torch.tensor(0.5), torch.tensor([2.0, 3.0])))
    assert not rule.state_dict()
    with pytest.raises(ValueError, match="has another prior than its guide"):
        rule.set_prior((0.0, 1.0))
    assert rule(random_experts(4, 3, 2).condition_on([])).stddev[0].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("name", BUILT_IN)
def test_describe_aggregation_of_built_ins_is_a_sentence(name: str) -> None:
    assert len(describe_aggregation(name)) > 10


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_of_no_items_gives_no_draws(name: str) -> None:
    """Aggregate an empty batch; without validation, since torch's checks cannot reshape empty tensors."""
    experts = Experts(torch.zeros(0, 3, 2), torch.ones(0, 3, 2))
    with pyro.validation_enabled(False):
        for posterior in (aggregate(experts, name), draw_component(experts, name)):
            assert posterior.rsample((5,)).shape == (5, 0, 2)


@pytest.mark.parametrize("prior", [1.0, (0.0,), (0.0, 1.0, 2.0), ("a", "b"), (0.0, -1.0), (0.0, 0.0)])
def test_make_aggregation_with_an_invalid_prior_raises(prior: Any) -> None:
    with pytest.raises(ValueError, match="prior must (be a pair|have a positive scale).*, got "):
        make_aggregation("poe", prior=prior)


def test_make_aggregation_with_a_prior_expert_of_wrong_type_raises() -> None:
    with pytest.raises(
        ValueError, match=r"prior_expert must be one of none, complete, joint_only, all, got \['none'\]"
    ):
        make_aggregation("poe", prior_expert=["none"])


@pytest.mark.parametrize("function", [aggregate, draw_component])
@pytest.mark.parametrize("weights", [[-1.0, -1.0, -1.0], [1.0, -1.0, 1.0], [1.0, math.nan, 1.0]])
def test_aggregate_with_a_negative_subset_weight_raises(function: Any, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="subset_weights must return weights that are not negative, got (-1|nan)$"):
        function(two_experts(), "mwb", subset_weights=lambda matrix: torch.tensor(weights))


def test_make_aggregation_whose_constructor_fails_names_the_options() -> None:
    class Tempered(Aggregation):
        def __init__(self, tau: Any = 1.0, **options: Any) -> None:
            super().__init__(**options)
            self.log_tau = torch.tensor(tau).log()

    register_aggregation("failing", Tempered)
    try:
        with pytest.raises(ValueError, match=r"aggregation 'failing' cannot be made with tau=\{'x': 1\}: "):
            make_aggregation("failing", tau={"x": 1})
        with pytest.raises(ValueError, match="must be one of tau, .*, got 'taus'; did you mean 'tau'"):
            make_aggregation("failing", taus=1)
    finally:
        unregister_aggregation("failing")
