"""Every aggregation against a loop over subsets in numpy, with scipy's densities, and torch's own mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae import Experts, SubsetMixture, aggregate
from tests.strategies import (
    BUILT_IN,
    MIXTURES,
    brute_force,
    few,
    items,
    log_density,
    moments,
    random_experts,
    subset_of,
)
from tests.strategies import experts as any_experts

LAMBDAS = st.sampled_from(["none", "shared", "per item", "some zero", "all zero"])


def make_weights(kind: str, experts: Experts) -> torch.Tensor | None:
    if kind == "none":
        return None
    shape = experts.mask.shape if kind in {"per item", "some zero"} else experts.mask.shape[-1:]
    weights = 2.0 * torch.rand(shape, generator=torch.Generator().manual_seed(3)).double()
    if kind == "some zero":
        weights = weights * (torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.6)
    return torch.zeros_like(weights) if kind == "all zero" else weights


def check_against_brute_force(
    experts: Experts, name: str, weights: torch.Tensor | None, rtol: float = 1e-10, **options: Any
) -> None:
    """Compare components, subset weights, mean, variance and density of every item."""
    oracle_options = {k: v for k, v in options.items() if k in {"prior", "prior_expert"}}
    if "subset_weights" in options:
        subset_weights = options["subset_weights"]
        oracle_options["size_of"] = subset_weights if isinstance(subset_weights, str) else lambda s: len(s) ** 2 + s[0]
    posterior: Any = aggregate(experts, name, expert_weights=weights, **options)
    steps = torch.linspace(-3, 3, 5).double().reshape(-1, *(1 for _ in posterior.mean.shape))
    points = posterior.mean + steps * posterior.stddev
    densities = posterior.log_prob(points)
    for index, loc, scale, present in items(experts):
        lam = None if weights is None else weights.expand(experts.mask.shape)[index].tolist()
        wanted = brute_force(name, loc, scale, present, lam, **oracle_options)
        mean, variance = moments(wanted)
        size = float(np.abs(loc).max()) + 1.0
        np.testing.assert_allclose(posterior.mean[index], mean, rtol=rtol, atol=rtol * size)
        np.testing.assert_allclose(posterior.variance[index], variance, rtol=rtol)
        point = points[(slice(None), *index)].numpy()
        got = densities[(slice(None), *index)].numpy()
        np.testing.assert_allclose(got, log_density(wanted, point), rtol=100 * rtol, atol=100 * rtol)
        if name in MIXTURES:
            check_components(posterior, index, wanted, name, experts.num_modalities, size, rtol)


def check_components(
    posterior: Any,
    index: tuple[int, ...],
    wanted: dict[Any, Any],
    name: str,
    num_modalities: int,
    size: float,
    rtol: float,
) -> None:
    for k, probability in enumerate(posterior.probs[index].tolist()):
        subset = subset_of(k, num_modalities, name)
        if subset in wanted:
            component = wanted[subset]
            assert probability == pytest.approx(component.probability, rel=rtol)
            got = posterior.components.mean[index][k], posterior.components.stddev[index][k]
            np.testing.assert_allclose(got[0], component.loc, rtol=rtol, atol=rtol * size)
            np.testing.assert_allclose(got[1], component.scale, rtol=rtol)
        elif () not in wanted:
            assert probability == 0, f"{subset} is dead"


@pytest.mark.parametrize("name", BUILT_IN)
@few
@given(
    experts=any_experts(), lam=LAMBDAS, prior_expert=st.sampled_from([None, "none", "complete", "joint_only", "all"])
)
def test_aggregate_matches_brute_force(name: str, experts: Experts, lam: str, prior_expert: str | None) -> None:
    check_against_brute_force(experts, name, make_weights(lam, experts), prior_expert=prior_expert)


@pytest.mark.parametrize("name", MIXTURES)
@few
@given(experts=any_experts(log10_scale=1.0), lam=LAMBDAS, by_function=st.booleans())
def test_aggregate_with_subset_weights_matches_brute_force(
    name: str, experts: Experts, lam: str, by_function: bool
) -> None:
    def by_members(matrix: torch.Tensor) -> torch.Tensor:
        assert matrix.dtype == torch.bool
        return matrix.sum(-1).double().square() + matrix.int().argmax(-1)

    check_against_brute_force(
        experts, name, make_weights(lam, experts), 1e-6, subset_weights=by_members if by_function else "by_size"
    )


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("prior_expert", [None, "none", "complete", "joint_only", "all"])
def test_aggregate_with_prior_matches_brute_force(name: str, prior_expert: str | None) -> None:
    prior = (0.7, 2.5)
    experts = random_experts(6, 3, 2)
    experts = experts.condition_on(torch.arange(6).unsqueeze(-1) > 0)  # of the first item nothing is left
    check_against_brute_force(experts, name, None, prior=prior, prior_expert=prior_expert)
    check_against_brute_force(experts, name, make_weights("some zero", experts), prior=prior, prior_expert=prior_expert)


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_with_prior_per_item_treats_items_independently(name: str) -> None:
    experts = random_experts(4, 3, 2).condition_on(torch.arange(4).unsqueeze(-1) > 0)
    prior = torch.randn(4, 2).double(), torch.rand(2).double() + 0.5
    posterior: Any = aggregate(experts, name, prior=prior, prior_expert="all")
    torch.testing.assert_close(posterior.mean[0], prior[0][0])
    torch.testing.assert_close(posterior.stddev[0], prior[1])
    for b in range(4):
        alone: Any = aggregate(
            Experts(experts.loc[b], experts.scale[b], experts.mask[b]), name, prior=(prior[0][b], prior[1]),
            prior_expert="all",
        )  # fmt: skip
        torch.testing.assert_close(posterior.mean[b], alone.mean)
        torch.testing.assert_close(posterior.variance[b], alone.variance)


@pytest.mark.parametrize("name", MIXTURES)
@few
@given(experts=any_experts(log10_scale=1.5))
def test_mixture_density_and_moments_match_torch(name: str, experts: Experts) -> None:
    posterior: Any = aggregate(experts, name)
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(probs=posterior.probs), posterior.components
    )
    z = reference.sample((3,))
    torch.testing.assert_close(posterior.log_prob(z), reference.log_prob(z))
    torch.testing.assert_close(posterior.mean, reference.mean)
    torch.testing.assert_close(posterior.variance, reference.variance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
def test_posterior_density_integrates_to_one(name: str) -> None:
    experts = random_experts(5, 4, 1)
    posterior: Any = aggregate(experts, name)
    z = torch.linspace(-40, 40, 80_001).double().unsqueeze(-1).expand(-1, 5)
    density = posterior.log_prob(z.unsqueeze(-1)).exp()
    total, first, second = (torch.trapezoid(density * z**k, z, dim=0) for k in range(3))
    torch.testing.assert_close(total, torch.ones(5).double(), rtol=1e-9, atol=0)
    torch.testing.assert_close(first, posterior.mean.squeeze(-1), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(second - first.square(), posterior.variance.squeeze(-1), rtol=1e-7, atol=0)


def test_subset_weights_by_size_keep_float64() -> None:
    posterior: Any = aggregate(random_experts(3, 2, absent=False), "mwb", subset_weights="by_size")
    wanted = torch.tensor([1 / 9] * 6 + [1 / 3], dtype=torch.float64)
    torch.testing.assert_close(posterior.probs, wanted, rtol=1e-13, atol=0)


def test_subset_weights_function_keeps_float64() -> None:
    def function(matrix: torch.Tensor) -> torch.Tensor:
        return 1.0 / (2.0 + torch.arange(len(matrix)).double())

    posterior: Any = aggregate(random_experts(3, 2, absent=False), "mwb", subset_weights=function)
    wanted = 1.0 / (2.0 + torch.arange(7).double())
    torch.testing.assert_close(posterior.probs, wanted / wanted.sum(), rtol=1e-13, atol=0)


def test_subset_weights_function_may_return_weights_per_item() -> None:
    table = torch.rand(4, 7).double()
    posterior: Any = aggregate(random_experts(4, 3, 2, absent=False), "mopoe", subset_weights=lambda _: table)
    torch.testing.assert_close(posterior.probs, table / table.sum(-1, keepdim=True), rtol=1e-6, atol=0)


def test_subset_weights_function_of_wrong_shape_is_refused() -> None:
    for wrong, got in ((torch.ones(3), r"\(3,\)"), ([1.0] * 7, "list")):
        with pytest.raises(ValueError, match=r"subset_weights must return a tensor \(…, 7\), got " + got):
            aggregate(random_experts(3, 2), "mwb", subset_weights=lambda _, wrong=wrong: wrong)


def test_mixture_components_are_in_the_documented_order() -> None:
    loc = torch.tensor([[1.0], [10.0], [100.0]]).double()
    posterior = aggregate(Experts(loc, torch.ones(3, 1).double()), "mwb")
    assert isinstance(posterior, SubsetMixture)
    assert posterior.components.mean.flatten().tolist() == pytest.approx([1, 10, 11 / 2, 100, 101 / 2, 55, 37])
