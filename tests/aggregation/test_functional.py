"""Numbers worked out by hand, and what is refused."""

from __future__ import annotations

import inspect
from typing import Any

import pyro
import pytest
import torch

from pyro_mmvae import Experts, SubsetMixture, aggregate, aggregations, draw_component
from pyro_mmvae.aggregation.functional import full_component, get_aggregation
from tests.strategies import BUILT_IN, MIXTURES, SINGLE, random_experts, two_experts

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


def test_every_aggregation_has_golden_numbers() -> None:
    assert set(BUILT_IN) == {name for name, _ in GOLDEN} == set(GOLDEN_MOMENTS)
    assert aggregations()[: len(BUILT_IN)] == BUILT_IN


@pytest.mark.parametrize(("name", "weights"), GOLDEN)
def test_golden_components(name: str, weights: tuple[int, int]) -> None:
    explicit = aggregate(two_experts(), name, weights=torch.tensor(weights).double())
    wanted = GOLDEN[name, weights]
    assert sum(components(explicit), ()) == pytest.approx(sum(wanted, ()), rel=1e-12)
    if weights == (1, 1):
        assert sum(components(aggregate(two_experts(), name)), ()) == pytest.approx(sum(wanted, ()), rel=1e-12)


@pytest.mark.parametrize("name", GOLDEN_MOMENTS)
def test_golden_moments(name: str) -> None:
    posterior: Any = aggregate(two_experts(), name)
    loc, variance = GOLDEN_MOMENTS[name]
    assert posterior.mean.item() == pytest.approx(loc, rel=1e-12)
    assert posterior.variance.item() == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "prior_expert", "wanted"),
    [  # the third expert is N(0, 1), of weight 1
        ("poe", "none", [(1, 1 / 5, 9 / 10)]),
        ("poe", "full", [(1, 2 / 19, 9 / 19)]),
        ("wb", "all", [(1, 2 / 3, 25 / 9)]),
        ("wb", "full", [(1, 2 / 3, 25 / 9)]),
        ("pool", "all", [(1, 2 / 19, 27 / 19)]),
        ("moment", "all", [(1, 2 / 3, 11 / 3 + 8 / 9)]),
        ("moe", "all", [(1 / 2, 0, 1 / 2), (1 / 2, 1 / 5, 9 / 10)]),
        ("moe", "full", [(1 / 2, 0, 1), (1 / 2, 2, 9)]),  # no singleton is all that is present
        ("mopoe", "none", [(1 / 3, 0, 1), (1 / 3, 2, 9), (1 / 3, 1 / 5, 9 / 10)]),
        ("mopoe", "all", [(1 / 3, 0, 1 / 2), (1 / 3, 1 / 5, 9 / 10), (1 / 3, 2 / 19, 9 / 19)]),
        ("mwb", "full", [(1 / 3, 0, 1), (1 / 3, 2, 9), (1 / 3, 2 / 3, 25 / 9)]),
    ],
)
def test_golden_prior_expert(name: str, prior_expert: str, wanted: list[tuple[float, ...]]) -> None:
    posterior = aggregate(two_experts(), name, prior_expert=prior_expert)
    assert sum(components(posterior), ()) == pytest.approx(sum(wanted, ()), rel=1e-12)


def test_golden_prior() -> None:
    posterior = aggregate(two_experts(), "poe", prior=(1.0, 0.5))  # 1 + 1/9 + 4 = 46/9, loc (2/9 + 4) / (46/9)
    assert sum(components(posterior), ()) == pytest.approx((1, 38 / 46, 9 / 46), rel=1e-12)


def test_golden_sizes() -> None:
    """Three modalities: a third for each size, singletons and pairs a ninth each."""
    posterior: Any = aggregate(random_experts(3, 2, absent=False), "mwb", mixture_weights="size")
    assert posterior.probs.tolist() == pytest.approx([1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 9, 1 / 3], rel=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_returned(name: str) -> None:
    posterior = aggregate(random_experts(2, 3, 4, 5), name)
    assert isinstance(posterior, SubsetMixture) == (name in MIXTURES)
    assert posterior.batch_shape == (2, 3)
    assert posterior.event_shape == (5,)
    drawn = draw_component(random_experts(2, 3, 4, 5), name)
    assert drawn.batch_shape == (2, 3)
    assert drawn.event_shape == (5,)
    assert not isinstance(drawn, SubsetMixture)


@pytest.mark.parametrize("name", [*SINGLE, "mopoe", "mwb"])
@pytest.mark.parametrize("prior_expert", [None, "none", "full", "all"])
def test_the_full_component_is_that_of_everything_present(name: str, prior_expert: str | None) -> None:
    weights = torch.tensor([0.5, 2.0, 0.0]).double()
    experts = random_experts(6, 3, 2)
    full = full_component(experts, name, weights=weights, prior_expert=prior_expert)
    whole: Any = aggregate(experts, name, weights=weights, prior_expert=prior_expert)
    if name in MIXTURES:
        bits = (experts.mask * torch.tensor([1, 2, 4])).sum(-1) - 1
        alive = (experts.mask & (weights > 0)).any(-1)
        chosen = whole.component(bits)
        torch.testing.assert_close(full.mean[alive], chosen.mean[alive])
        torch.testing.assert_close(full.variance[alive], chosen.variance[alive])
        assert (full.mean[~alive] == 0).all()
    else:
        torch.testing.assert_close(full.mean, whole.mean)
        torch.testing.assert_close(full.variance, whole.variance)


def test_the_mixture_of_experts_has_no_full_component() -> None:
    with pytest.raises(ValueError, match="'moe' has no component of everything present"):
        full_component(two_experts(), "moe")


@pytest.mark.parametrize("function", [aggregate, draw_component, full_component, get_aggregation])
@pytest.mark.parametrize("name", ["bop", "", None, []])
def test_an_unknown_name_lists_all_there_are(function: Any, name: Any) -> None:
    arguments = (name,) if function is get_aggregation else (two_experts(), name)
    with pytest.raises(ValueError, match="unknown aggregation.*" + ", ".join(BUILT_IN) + ".*register_aggregation"):
        function(*arguments)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prior_expert": "some"}, "prior_expert must be one of none, full, all, not 'some'"),
    ({"weights": torch.ones(3)}, r"weights must have shape \(2,\) or \(2,\) .*got \(3,\)"),
    ({"weights": torch.ones(1, 2)}, r"weights must have shape \(2,\)"),
    ({"weights": torch.tensor([1.0, -0.5])}, "weights must be finite and not negative, got -0.5"),
    ({"weights": torch.tensor([1.0, float("nan")])}, "weights must be finite and not negative"),
    ({"weights": torch.tensor([1.0, float("inf")])}, "weights must be finite and not negative"),
    ({"prior": (torch.zeros(3), 1.0)}, r"prior loc of shape \(3,\) does not broadcast to \(\*batch, latent\) = \(1,\)"),
    ({"prior": (0.0, torch.ones(4, 1))}, r"prior scale of shape \(4, 1\) does not broadcast"),
    ({"mixture_weights": "sizes"}, "mixture_weights must be 'uniform', 'size' or a function, not 'sizes'"),
]


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("function", [aggregate, draw_component])
@pytest.mark.parametrize(("options", "match"), REFUSED)
def test_options_that_do_not_fit_are_refused(function: Any, name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        function(two_experts(), name, **options)


def test_weights_of_batched_experts_are_for_all_items_or_for_each() -> None:
    experts = random_experts(4, 3, 2)
    for shape in ((3,), (4, 3)):
        aggregate(experts, "wb", weights=torch.ones(shape))
    for bad in ((4,), (1, 3), (2, 4, 3)):
        with pytest.raises(ValueError, match=r"weights must have shape \(3,\) or \(4, 3\)"):
            aggregate(experts, "wb", weights=torch.ones(bad))


def test_weights_are_checked_where_the_experts_are() -> None:
    bad = torch.tensor([2.0, -0.5]).double()
    loc, scale = two_experts().loc, two_experts().scale
    aggregate(Experts(loc, scale, validate_args=False), "wb", weights=bad)
    with pytest.raises(ValueError, match="not negative"):
        aggregate(Experts(loc, scale, validate_args=True), "wb", weights=bad)


def test_the_functions_share_one_signature() -> None:
    one, two, three = (list(inspect.signature(f).parameters) for f in (aggregate, draw_component, full_component))
    assert [*one, "members"] == two
    assert one == three


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_has_a_summary(name: str) -> None:
    assert len(get_aggregation(name).summary) > 10


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_items(name: str) -> None:
    """The last batch of a loader; without validation, since torch's own checks cannot reshape nothing."""
    experts = Experts(torch.zeros(0, 3, 2), torch.ones(0, 3, 2))
    with pyro.validation_enabled(False):
        for posterior in (aggregate(experts, name), draw_component(experts, name)):
            assert posterior.rsample((5,)).shape == (5, 0, 2)
