"""The contrastive penalty by hand, its gradient, and the items that it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import BarycentricGuide, Experts, Modality, MultimodalVAE, WassersteinInfoNCE, make_aggregation
from pyro_mmvae.networks import NetworkOptions

PRESENT = torch.tensor([[True] * 3, [True, False, True], [True] * 3, [False, True, False], [False] * 3])
MEMBERS = torch.tensor([[True, False, True], [False, False, True], [True, False, False], [False, True, False],
                        [False] * 3])  # fmt: skip
PAIRED = [0, 1, 2]  # the items with a complement


def make_experts(present: Tensor | None = PRESENT) -> Experts:
    generator = torch.Generator().manual_seed(3)
    loc = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64)
    scale = 0.4 + torch.rand(5, 3, 2, generator=generator, dtype=torch.float64)
    return Experts(loc, scale, present)


def contrast(experts: Experts, members: Tensor | None, rule: Any = "mwb", **options: Any) -> Tensor:
    bound = "mixture" if members is None else "component"
    penalty = WassersteinInfoNCE(**options)
    guide = BarycentricGuide(lambda: experts, rule, bound=bound, penalties=[penalty])
    return guide.penalty_terms(experts, members)["z_infonce"]


def by_hand(experts: Experts, members: Tensor, eta: float, tau: float) -> list[float]:
    """Return the penalties of the items with a complement, by loops."""

    def mean(values: Tensor, item: int, subset: Tensor) -> Tensor:
        return torch.stack([values[item, m] for m in range(3) if subset[item, m]]).mean(0)

    rest = experts.mask & ~members
    count = len(PAIRED)
    similarity = torch.zeros(count, count, dtype=torch.float64)
    for a, i in enumerate(PAIRED):
        for b, j in enumerate(PAIRED):
            square = sum((mean(v, i, members) - mean(v, j, rest)).square().sum() for v in (experts.loc, experts.scale))
            similarity[a, b] = -square / tau
    result = []
    for a in range(count):
        forward = similarity[a, a] - torch.logsumexp(similarity[a, :], 0)
        backward = similarity[a, a] - torch.logsumexp(similarity[:, a], 0)
        result.append(float(-eta / 2 * (forward + backward)))
    return result


def test_infonce_is_the_mean_of_both_directions_over_items_with_a_complement() -> None:
    experts = make_experts()
    found = contrast(experts, MEMBERS, eta=0.7, tau=1.5)
    expected = torch.tensor([*by_hand(experts, MEMBERS, 0.7, 1.5), 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_infonce_of_pairs_that_are_told_apart_is_zero() -> None:
    place = 100.0 * torch.arange(5.0)[:, None, None].expand(5, 3, 2)
    found = contrast(Experts(place, torch.ones(5, 3, 2)), MEMBERS)
    assert (found.abs() < 1e-6).all()


def test_infonce_of_items_that_are_equal_is_the_logarithm_of_their_number() -> None:
    found = contrast(Experts(torch.zeros(5, 3, 2), torch.ones(5, 3, 2)), MEMBERS, eta=2.0)
    expected = 2.0 * torch.tensor([4.0] * 4 + [0.0]).log().nan_to_num(neginf=0.0)  # the last one draws no subset
    torch.testing.assert_close(found, expected)


def test_infonce_gradient_agrees_with_finite_differences() -> None:
    def value(loc: Tensor, scale: Tensor) -> Tensor:
        return contrast(Experts(loc, scale, PRESENT), MEMBERS, tau=2.0)

    experts = make_experts()
    inputs = (experts.loc.clone().requires_grad_(), experts.scale.clone().requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


def test_infonce_gradient_of_equal_points_is_finite() -> None:
    loc = torch.zeros(5, 3, 2, requires_grad=True)
    contrast(Experts(loc, torch.ones(5, 3, 2)), MEMBERS).sum().backward()
    assert loc.grad is not None
    assert loc.grad.isfinite().all()


def test_infonce_with_nan_in_absent_slots_is_finite_with_a_finite_gradient() -> None:
    source = make_experts(None)
    loc = torch.where(PRESENT.unsqueeze(-1), source.loc, torch.nan).requires_grad_()
    found = contrast(Experts(loc, source.scale, PRESENT), MEMBERS)
    torch.testing.assert_close(found, contrast(make_experts(), MEMBERS))
    found.sum().backward()
    assert loc.grad is not None
    assert loc.grad.isfinite().all()
    assert (loc.grad[~PRESENT] == 0).all()


def test_infonce_with_permuted_modalities_is_equal() -> None:
    experts, order = make_experts(), [1, 2, 0]
    permuted = Experts(experts.loc[:, order], experts.scale[:, order], PRESENT[:, order])
    torch.testing.assert_close(contrast(permuted, MEMBERS[:, order]), contrast(experts, MEMBERS))


def test_infonce_of_one_item_is_zero() -> None:
    one = make_experts().map(lambda tensor, _event_dim: tensor[:1])
    assert contrast(one, MEMBERS[:1]) == 0


@pytest.mark.parametrize("rule", ["mwb", "wb", "poe"])
def test_infonce_without_drawn_subsets_draws_them_itself(rule: str) -> None:
    experts = Experts(torch.zeros(400, 3, 1), torch.ones(400, 3, 1))
    found = contrast(experts, None, rule)
    share = float((found > 0).float().mean())
    assert abs(share - 6 / 7) < 0.01  # one subset of seven is everything present, and leaves nothing to compare with


@pytest.mark.parametrize("rule", ["wb", "poe"])
def test_infonce_of_one_component_uses_the_subset_that_it_is_given(rule: str) -> None:
    first = contrast(make_experts(), MEMBERS, rule)
    torch.testing.assert_close(contrast(make_experts(), MEMBERS, rule), first)  # nothing is drawn
    assert (contrast(make_experts(), make_experts().mask, rule) == 0).all()  # without a complement


def test_infonce_of_moe_compares_one_expert_of_each_side() -> None:
    experts = make_experts()
    members = MEMBERS & torch.tensor([False, False, True])  # outside of it item 0 has two experts, item 1 has one
    torch.manual_seed(0)
    found = torch.stack([contrast(experts, members, "moe") for _ in range(8)])
    two = experts.map(lambda tensor, _event_dim: tensor[:2])
    each = [
        contrast(two.condition_on(torch.tensor([[m == 0, m == 1, True], [True, False, True]])), members[:2], "mwb")
        for m in (0, 1)
    ]
    rows = {tuple(row.tolist()) for row in found[:, :2].round(decimals=9)}
    assert rows == {tuple(row.round(decimals=9).tolist()) for row in each}
    assert (found[:, 2:] == 0).all()


@pytest.mark.parametrize("members", [MEMBERS, None])
def test_infonce_of_holder_compares_its_moments_with_their_gradient(members: Tensor | None) -> None:
    """The Gaussian of ``helvae`` has the moments of the pool, in closed form."""
    found = []
    for rule in ("holder", "helvae"):
        experts = make_experts()
        leaves = [experts.loc.requires_grad_(), experts.scale.requires_grad_()]
        torch.manual_seed(1)
        penalty = contrast(experts, members, rule, tau=3.0)
        assert penalty.max() > 0.1
        found.append((penalty, *torch.autograd.grad(penalty.sum(), leaves)))
    torch.testing.assert_close(found[0], found[1])


def test_infonce_of_moe_with_learned_weights_is_defined() -> None:
    rule = make_aggregation("moe", expert_weights=torch.nn.Parameter(torch.ones(3, dtype=torch.float64)))
    assert contrast(make_experts(), None, rule).isfinite().all()


def test_infonce_compares_items_along_the_plate_and_not_across_other_dimensions() -> None:
    experts = make_experts()
    other = Experts(experts.loc.flip(0), experts.scale, PRESENT)
    both = Experts(torch.stack([experts.loc, other.loc]), torch.stack([experts.scale, other.scale]), PRESENT)
    expected = torch.stack([contrast(experts, MEMBERS), contrast(other, MEMBERS)])
    torch.testing.assert_close(contrast(both, MEMBERS.expand(2, 5, 3)), expected)
    guide = BarycentricGuide(lambda: both, "mwb", bound="component", dim=-2, penalties=["infonce"])
    swapped = both.map(lambda tensor, _event_dim: tensor.transpose(0, 1))
    found = guide.penalty_terms(swapped, MEMBERS[:, None].expand(5, 2, 3))["z_infonce"]
    torch.testing.assert_close(found, expected.mT)


@pytest.mark.parametrize(("option", "value"), [("eta", 0.0), ("tau", -1.0), ("tau", float("nan"))])
def test_infonce_with_an_option_out_of_range_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"penalty 'infonce': {option} must be a positive finite number"):
        WassersteinInfoNCE(**{option: value})


def test_infonce_of_full_covariances_is_refused_at_construction_and_at_the_call() -> None:
    modalities = [Modality("a", (4,)), Modality("b", (6,))]
    with pytest.raises(ValueError, match="independent dimensions"):
        MultimodalVAE(modalities, 2, network=NetworkOptions(covariance="full"), penalties=["infonce"])
    experts = Experts(torch.zeros(4, 2, 2), scale_tril=torch.eye(2))
    with pytest.raises(ValueError, match="got kind 'full'"):
        contrast(experts, None)
