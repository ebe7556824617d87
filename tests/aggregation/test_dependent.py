"""The consensus of dependent experts against dense algebra, quadrature and its limits."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import ConsensusOfExperts, Experts, MixtureOverSubsets, aggregate, make_aggregation
from pyro_mmvae.barycenters.consensus import consensus
from pyro_mmvae.testing import check_aggregation
from tests.strategies import random_experts, random_full_experts

RHOS = [0.0, 0.3, 0.95]


def covariance(scale: Tensor, rho: float) -> Tensor:
    """Return the covariance of the errors of experts of scales `(modality,)`."""
    correlation = torch.full((len(scale), len(scale)), rho, dtype=scale.dtype).fill_diagonal_(1.0)
    return correlation * scale * scale.unsqueeze(-1)


@pytest.mark.parametrize("rho", RHOS)
def test_consensus_matches_dense_algebra(rho: float) -> None:
    experts = random_experts(5, 4, 2)
    got: Any = ConsensusOfExperts(rho)(experts)
    for item in range(5):
        members = experts.mask[item]
        for i in range(2):
            inverse = torch.linalg.inv(covariance(experts.scale[item, members, i], rho))
            precision = inverse.sum()
            loc = inverse.sum(0) @ experts.loc[item, members, i] / precision
            assert got.mean[item, i].item() == pytest.approx(loc.item(), rel=1e-9)
            assert got.variance[item, i].item() == pytest.approx(1 / precision.item(), rel=1e-9)


@pytest.mark.parametrize("rho", RHOS)
def test_consensus_matches_quadrature_of_the_likelihood_of_the_locs(rho: float) -> None:
    loc, scale = torch.tensor([0.3, -1.1, 0.8]).double(), torch.tensor([0.7, 1.5, 1.1]).double()
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    errors = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance(scale, rho))
    density = errors.log_prob(loc - z.unsqueeze(-1)).exp()
    density = density / density.sum()
    mean = (density * z).sum()
    got: Any = ConsensusOfExperts(rho)(Experts(loc.unsqueeze(-1), scale.unsqueeze(-1)))
    assert got.mean.item() == pytest.approx(mean.item(), rel=1e-9)
    assert got.variance.item() == pytest.approx((density * (z - mean) ** 2).sum().item(), rel=1e-9)


@pytest.mark.parametrize("prior_expert", ["none", "all", "joint_only", "complete"])
def test_consensus_without_correlation_is_the_product_of_experts(prior_expert: str) -> None:
    experts = random_experts(6, 3, 2)
    options: dict[str, Any] = {
        "prior_expert": prior_expert, "expert_weights": [0.5, 2.0, 0.0], "prior": (0.4, 1.7),
    }  # fmt: skip
    one, other = aggregate(experts, "code:0", **options), aggregate(experts, "poe", **options)
    torch.testing.assert_close((one.mean, one.stddev), (other.mean, other.stddev))


def test_consensus_by_default_has_no_prior_expert() -> None:
    experts = random_experts(4, 3, 2)
    one, other = aggregate(experts, "code:0"), aggregate(experts, "poe", prior_expert="none")
    torch.testing.assert_close(one.mean, other.mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_consensus_of_full_correlation_and_equal_scales_is_the_wasserstein_barycenter(
    dtype: torch.dtype, weights: list[float] | None
) -> None:
    plain = random_experts(6, 3, 2)
    scale = (0.1 + torch.rand(6, 1, 2)).expand(6, 3, 2)
    experts = Experts(plain.loc.to(dtype), scale.to(dtype), plain.mask)
    expected = aggregate(experts, "wb", expert_weights=weights)
    for rho in (1, 1 - 1e-9):
        got = ConsensusOfExperts(rho, expert_weights=weights)(experts)
        torch.testing.assert_close(got.mean, expected.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got.stddev, expected.stddev, rtol=1e-5, atol=1e-6)


def test_consensus_of_full_correlation_refuses_unequal_scales_of_present_experts() -> None:
    loc, scale = torch.zeros(1, 3, 1), torch.tensor([1.0, 1.0, 2.0]).reshape(1, 3, 1)
    with pytest.raises(ValueError, match=r"rho must be below 1 for experts of different scales.*got rho=1"):
        ConsensusOfExperts(1.0)(Experts(loc, scale))
    absent = Experts(loc, scale, torch.tensor([True, True, False]))
    assert ConsensusOfExperts(1.0)(absent).stddev.item() == pytest.approx(1.0)  # type: ignore[attr-defined]


def test_consensus_of_nearly_equal_scales_is_accurate_in_float32() -> None:
    loc = torch.tensor([1000.0, 1001.0, 1000.5]).reshape(3, 1)
    scale = torch.tensor([1.0, 1.0001, 0.9999]).reshape(3, 1)
    got, exact = (ConsensusOfExperts(0.9999)(Experts(loc.to(d), scale.to(d))) for d in (torch.float32, torch.float64))
    assert got.mean.item() == pytest.approx(exact.mean.item(), rel=1e-6)
    assert got.stddev.item() == pytest.approx(exact.stddev.item(), rel=1e-5)


def test_consensus_weight_two_counts_an_expert_twice_and_weight_zero_never() -> None:
    experts = random_experts(4, 3, 2, absent=False)
    index = torch.tensor([0, 1, 1])
    twice = experts.map(lambda tensor, event_dim: tensor.index_select(-event_dim, index))
    got, expected = aggregate(experts, "code:0.4", expert_weights=[1.0, 2.0, 0.0]), aggregate(twice, "code:0.4")
    torch.testing.assert_close((got.mean, got.stddev), (expected.mean, expected.stddev))


def test_consensus_multiplies_with_an_independent_prior_expert() -> None:
    experts = random_experts(4, 3, 2, absent=False)
    alone: Any = aggregate(experts, "code:0.4")
    got: Any = aggregate(experts, "code:0.4", prior_expert="all", prior=(0.5, 2.0))
    precision = alone.variance.reciprocal() + 0.25
    torch.testing.assert_close(got.variance, precision.reciprocal())
    torch.testing.assert_close(got.mean, (alone.mean / alone.variance + 0.125) / precision)


def test_consensus_gradients_match_finite_differences() -> None:
    experts = random_experts(3, 3, 2)
    inputs = (torch.tensor([1.0, 0.5, 2.0]).double(), experts.loc.clone(), experts.scale.clone())

    def fused(weights: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        rows = (weights * experts.mask).unsqueeze(-2)
        return consensus(rows, loc, scale, rho=0.6)

    assert torch.autograd.gradcheck(fused, tuple(tensor.requires_grad_() for tensor in inputs))


@pytest.mark.parametrize("aggregation", ["code", "code:0.9", "mixture:code:0.3"])
def test_check_aggregation_passes_consensus(aggregation: str) -> None:
    check_aggregation(aggregation, samples=4000)
    check_aggregation(make_aggregation(aggregation, prior_expert="all", prior=(0.5, 2.0)), samples=4000)


def test_mixture_of_code_has_the_consensus_of_each_subset() -> None:
    experts = random_experts(4, 3, 2, absent=False)
    mixture: Any = aggregate(experts, "mixture:code:0.3")
    for component in range(7):
        members = [m for m in range(3) if (component + 1) >> m & 1]
        alone: Any = aggregate(experts.condition_on(members), "code:0.3")
        torch.testing.assert_close(mixture.components.base_dist.loc[:, component], alone.mean)
        torch.testing.assert_close(mixture.components.base_dist.scale[:, component], alone.stddev)


def test_code_over_pairs_mixes_singles_and_pairs() -> None:
    experts = random_experts(4, 4, 2, absent=False)
    mixture: Any = MixtureOverSubsets(ConsensusOfExperts(0.3), "pairs")(experts)
    for component, pair in enumerate(combinations(range(4), 2), 4):
        alone: Any = aggregate(experts.condition_on(pair), "code:0.3")
        torch.testing.assert_close(mixture.components.base_dist.loc[:, component], alone.mean)


def test_make_aggregation_by_parameter_or_option_is_equal() -> None:
    experts = random_experts(4, 3, 2)
    for one, other in (("code:0.3", "code"), ("mixture:code:0.3", "mixture:code")):
        first, second = aggregate(experts, one), aggregate(experts, other, rho=0.3)
        torch.testing.assert_close((first.mean, first.variance), (second.mean, second.variance))
        assert make_aggregation(one).name == one


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("code:x", {}, "'code:x' must have a number after the colon, as in 'code:0.5'"),
        ("code:1.5", {}, "rho must be a number from 0 to 1, got 1.5"),
        ("mixture:code:-0.1", {}, "rho must be a number from 0 to 1, got -0.1"),
        ("code:nan", {}, "rho must be a number from 0 to 1, got nan"),
        ("code", {"rho": True}, "rho must be a number from 0 to 1, got True"),
        ("code", {"rho": "high"}, "rho must be a number from 0 to 1, got 'high'"),
        ("code:0.3", {"rho": 0.2}, "option of aggregation 'code:0.3' must be one of"),
        ("code", {"roh": 0.2}, "option of aggregation 'code' must be one of rho, .* got 'roh'"),
    ],
)
def test_make_aggregation_refuses_a_wrong_correlation(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_aggregation(name, **options)


@pytest.mark.parametrize("experts", [random_full_experts(2, 2, 2), Experts(torch.zeros(2, 2, 1), torch.ones(1),
                                                                          family="laplace")])  # fmt: skip
def test_consensus_refuses_experts_that_are_not_diagonal_gaussians(experts: Experts) -> None:
    with pytest.raises(ValueError, match=r"'code' has no rule for experts of kind '.*'; it accepts normal"):
        aggregate(experts, "code")
