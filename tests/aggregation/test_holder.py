"""The Hölder pool against its definition by quadrature, and the Gaussian with its moments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import (
    BarycentricGuide,
    Experts,
    HellingerMoments,
    HolderPool,
    MixtureOverSubsets,
    SubsetMixture,
    aggregate,
)
from pyro_mmvae.barycenters.bhattacharyya import pair_log_affinities
from pyro_mmvae.testing import check_aggregation
from tests.strategies import random_experts, random_full_experts

GRID = torch.linspace(-14, 14, 281, dtype=torch.float64)
STEP = 0.1


def density(experts: Experts, weights: list[float]) -> tuple[Tensor, Tensor]:
    """Return points `(point, latent)` and (Σ λ √q)², normalised by quadrature, of one item with two dimensions."""
    z = torch.cartesian_prod(GRID, GRID)
    log_q = torch.distributions.Normal(experts.loc, experts.scale).log_prob(z.unsqueeze(-2)).sum(-1)
    roots = (0.5 * log_q).exp() * torch.tensor(weights).double() * experts.mask
    square = roots.sum(-1).square()
    return z, square / (square.sum() * STEP**2)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, 1.0], [1.0, 0.0, 3.0]])
@pytest.mark.parametrize("absent", [False, True])
def test_holder_density_is_the_normalised_square_of_the_sum_of_roots(weights: list[float], absent: bool) -> None:
    whole = random_experts(3, 2, absent=False)
    experts = whole.condition_on([0, 1]) if absent else whole
    z, expected = density(experts, weights)
    pool = HolderPool(expert_weights=weights)(experts)
    torch.testing.assert_close(pool.log_prob(z).exp(), expected, rtol=1e-6, atol=1e-9)
    mean = (expected.unsqueeze(-1) * z).sum(0) * STEP**2
    variance = (expected.unsqueeze(-1) * (z - mean).square()).sum(0) * STEP**2
    moments: Any = HellingerMoments(expert_weights=weights)(experts)
    torch.testing.assert_close((moments.mean, moments.variance), (mean, variance), rtol=1e-6, atol=1e-8)


def test_holder_has_the_least_mean_squared_hellinger_distance_of_perturbed_densities() -> None:
    experts = random_experts(3, 2, absent=False)
    z, best = density(experts, [1.0, 1.0, 1.0])
    roots = (0.5 * torch.distributions.Normal(experts.loc, experts.scale).log_prob(z.unsqueeze(-2)).sum(-1)).exp()

    def affinity(q: Tensor) -> float:
        return float((q.sqrt().unsqueeze(-1) * roots).sum() * STEP**2)

    for k in range(3):
        for step in (0.05, -0.05):
            other = best * (1 + step * (z[:, 0] * (k + 1)).sin())
            assert affinity(other / (other.sum() * STEP**2)) < affinity(best)


def test_pair_log_affinities_match_quadrature() -> None:
    loc, scale = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([0.8, 1.5, 0.4]).double()
    roots = (0.5 * torch.distributions.Normal(loc, scale).log_prob(GRID.unsqueeze(-1))).exp()
    expected = [float((roots[:, i] * roots[:, j]).sum() * STEP) for i, j in ((0, 1), (0, 2), (1, 2))]
    got = pair_log_affinities(loc.unsqueeze(-1), scale.unsqueeze(-1)).exp()
    assert got.tolist() == pytest.approx(expected, rel=1e-6)


def test_pair_log_affinities_of_extreme_scales_are_finite_in_float32() -> None:
    loc = torch.tensor([[0.0], [1e4]]).requires_grad_()
    scale = torch.tensor([[1e-15], [1e15]]).requires_grad_()
    got = pair_log_affinities(loc, scale)
    assert got.item() == pytest.approx(0.5 * math.log(2e-30), rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(got.sum(), (loc, scale)))


def test_pair_log_affinities_gradients_match_finite_differences() -> None:
    experts = random_experts(2, 3, 2, absent=False)
    inputs = (experts.loc.requires_grad_(), experts.scale.clone().requires_grad_())
    assert torch.autograd.gradcheck(pair_log_affinities, inputs)


def test_helvae_gradients_match_finite_differences() -> None:
    experts = random_experts(2, 3, 2)
    weights = torch.tensor([1.0, 0.5, 2.0]).double()

    def fused(loc: Tensor, scale: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        posterior: Any = HellingerMoments(expert_weights=weights)(Experts(loc, scale, experts.mask))
        return posterior.mean, posterior.stddev

    inputs = (experts.loc.clone(), experts.scale.clone(), weights)
    assert torch.autograd.gradcheck(fused, tuple(tensor.requires_grad_() for tensor in inputs))


@pytest.mark.parametrize("name", ["holder", "helvae"])
def test_check_aggregation_passes_hoelder_pools(name: str) -> None:
    check_aggregation(name, samples=4000)


@pytest.mark.parametrize("name", ["holder", "helvae"])
def test_hoelder_pool_of_equal_experts_is_that_expert(name: str) -> None:
    one = random_experts(4, 1, 2, absent=False)
    experts = Experts(one.loc.expand(4, 3, 2), one.scale.expand(4, 3, 2))
    got = aggregate(experts, name)
    torch.testing.assert_close((got.mean, got.stddev), (one.loc.squeeze(1), one.scale.squeeze(1)))


def test_holder_weights_have_a_gradient_in_the_experts_by_the_score_function() -> None:
    experts = random_experts(4, 3, 2, absent=False)
    loc = experts.loc.clone().requires_grad_()
    posterior: Any = HolderPool()(Experts(loc, experts.scale))
    assert isinstance(posterior, SubsetMixture)
    assert not posterior.has_rsample
    z = posterior()
    (gradient,) = torch.autograd.grad(posterior.score_parts(z).score_function.sum(), loc)
    assert (gradient != 0).any()


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 3.0]])
def test_holder_component_and_joint_are_the_pool_of_everything_present(weights: Any) -> None:
    experts, pool = random_experts(6, 3, 2), HolderPool(expert_weights=weights)
    z = torch.randn(6, 2).double()
    for posterior in (pool.component(experts), pool.joint(experts)):
        assert isinstance(posterior, SubsetMixture)
        torch.testing.assert_close(posterior.log_prob(z), pool(experts).log_prob(z))


def test_holder_component_of_given_members_is_the_pool_of_these() -> None:
    experts = random_experts(3, 3, 2, absent=False)
    members = torch.tensor([[True, True, False], [False, True, False], [True, True, True]])
    z, posterior = torch.randn(3, 2).double(), HolderPool().component(experts, members)
    for item in range(3):
        one = experts.map(lambda tensor, _, item=item: tensor[item : item + 1]).condition_on(members[item : item + 1])
        torch.testing.assert_close(posterior.log_prob(z)[item], HolderPool()(one).log_prob(z[item])[0])


def test_holder_with_the_bound_subsets_follows_the_pool_of_the_drawn_subset() -> None:
    experts = random_experts(70, 3, 2, absent=False)
    guide = BarycentricGuide(lambda: experts, "holder", bound="subsets")
    members: Any = guide.draw_members(experts)
    assert len({tuple(row) for row in members.tolist()}) == 7
    z = torch.randn(70, 2).double()
    expected = HolderPool()(experts.condition_on(members)).log_prob(z)
    torch.testing.assert_close(guide.posterior(experts, members=members).log_prob(z), expected)
    assert guide().shape == (70, 2)
    assert guide.draw_members(experts.condition_on([1])).sum(-1).eq(1).all()  # type: ignore[union-attr]


def test_holder_refuses_use_as_a_rule_and_too_many_modalities() -> None:
    with pytest.raises(ValueError, match="rule must be a rule for one subset, got the mixture 'HolderPool'"):
        MixtureOverSubsets(HolderPool())
    HolderPool().check_bound("component", 90)
    for bound in ("component", "mixture"):
        with pytest.raises(ValueError, match="'HolderPool'.*4,186"):
            HolderPool().check_bound(bound, 91)


@pytest.mark.parametrize("name", ["holder", "helvae"])
def test_hoelder_pools_refuse_a_prior_expert_and_other_kinds_of_experts(name: str) -> None:
    with pytest.raises(ValueError, match="prior_expert must be 'none' for a Hölder pool.*got 'all'"):
        aggregate(random_experts(2, 3, 2), name, prior_expert="all")
    with pytest.raises(ValueError, match=f"'{name}' has no rule for experts of kind 'full'; it accepts normal"):
        aggregate(random_full_experts(2, 3, 2), name)


def test_mixture_over_subsets_of_helvae_has_the_moments_of_each_subset() -> None:
    experts = random_experts(4, 3, 2, absent=False)
    weights = torch.rand(4, 3).double() + 0.1
    mixture: Any = MixtureOverSubsets(HellingerMoments(), expert_weights=weights)(experts)
    for component in range(7):
        members = [m for m in range(3) if (component + 1) >> m & 1]
        alone: Any = aggregate(experts.condition_on(members), "helvae", expert_weights=weights)
        torch.testing.assert_close(mixture.components.base_dist.loc[:, component], alone.mean)
        torch.testing.assert_close(mixture.components.base_dist.scale[:, component], alone.stddev)
