"""The family of single modalities and pairs, and the mixture of Wasserstein barycenters over it."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from pyro_mmvae import (
    LogLinearPool,
    MixtureOfPairs,
    MixtureOverSubsets,
    aggregate,
    aggregations,
    make_aggregation,
    register_aggregation,
    unregister_aggregation,
)
from pyro_mmvae.aggregation import subsets
from pyro_mmvae.testing import check_aggregation
from tests.strategies import random_experts, random_full_experts


def live_subsets(present: list[bool]) -> set[tuple[int, ...]]:
    observed = [m for m, is_present in enumerate(present) if is_present]
    return {s for size in (1, 2) for s in combinations(observed, size)}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_membership_of_pairs_has_singles_then_pairs_in_order(count: int) -> None:
    matrix = subsets.membership("pairs", count)
    found = [tuple(row.nonzero().flatten().tolist()) for row in matrix]
    assert found == [(m,) for m in range(count)] + list(combinations(range(count), 2))
    assert matrix.dtype == torch.bool
    assert subsets.count_components("pairs", count) == len(matrix)


@pytest.mark.parametrize("rule", ["wb", "pool"])
@pytest.mark.parametrize("weighted", [False, True])
def test_mixture_over_pairs_has_the_posterior_of_each_live_subset(rule: str, weighted: bool) -> None:
    experts, weights = random_experts(6, 4, 2), [1.0, 0.0, 3.0, 0.5] if weighted else None
    single = make_aggregation(rule)
    mixture: Any = MixtureOverSubsets(single, "pairs", expert_weights=weights)(experts)
    matrix = subsets.membership("pairs", 4)
    for item in range(6):
        present = experts.mask[item] & torch.tensor(weights or [1.0] * 4).bool()
        live = live_subsets(present.tolist())
        for component, row in enumerate(matrix):
            subset = tuple(row.nonzero().flatten().tolist())
            share = 1 / len(live) if subset in live else 0.0
            assert mixture.probs[item, component].item() == pytest.approx(share)
            if subset in live:
                alone: Any = aggregate(experts.condition_on(row), rule, expert_weights=weights)
                base = mixture.components.base_dist
                torch.testing.assert_close(base.loc[item, component], alone.mean[item])
                torch.testing.assert_close(base.scale[item, component], alone.stddev[item])


def test_pairs_of_two_modalities_are_the_mixture_over_all_subsets() -> None:
    experts = random_experts(5, 2, 3)
    z = torch.randn(5, 3).double()
    torch.testing.assert_close(aggregate(experts, "pairs").log_prob(z), aggregate(experts, "mwb").log_prob(z))


def test_pairs_of_full_covariance_experts_have_the_bures_barycenter_of_each_pair() -> None:
    experts = random_full_experts(3, 3, 2, absent=False)
    mixture: Any = aggregate(experts, "pairs")
    for component, pair in enumerate(combinations(range(3), 2), 3):
        alone: Any = aggregate(experts.condition_on(pair), "wb")
        torch.testing.assert_close(mixture.components.covariance_matrix[:, component], alone.covariance_matrix)


def test_draw_of_pairs_is_uniform_over_the_live_subsets() -> None:
    torch.manual_seed(0)
    present = torch.tensor([True, False, True, True]).expand(12_000, 4)
    drawn = subsets.draw_subset("pairs", present)
    rows, counts = drawn.unique(dim=0, return_counts=True)
    assert {tuple(row.nonzero().flatten().tolist()) for row in rows} == live_subsets([True, False, True, True])
    assert counts.tolist() == pytest.approx([2000] * 6, abs=2)  # stratified over the items


def test_mixture_over_pairs_serves_ninety_modalities_and_refuses_more() -> None:
    pairs = MixtureOfPairs()
    assert pairs(random_experts(1, 90, 1, absent=False)).num_components == 4095  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="4,186 components, more than 4,096"):
        pairs(random_experts(1, 91, 1, absent=False))


def test_register_aggregation_with_pairs_mixes_over_them() -> None:
    register_aggregation("paired", LogLinearPool, subsets="pairs")
    try:
        assert "paired" in aggregations()
        assert aggregate(random_experts(2, 4, 1, absent=False), "paired").num_components == 10  # type: ignore[attr-defined]
    finally:
        unregister_aggregation("paired")


def test_learned_subset_weights_of_pairs_have_one_weight_per_subset() -> None:
    aggregation = make_aggregation("pairs", subset_weights="learned")
    aggregation.build_weights(4, 2)
    assert aggregation.subset_weights.logits.shape == (10,)
    posterior = aggregation(random_experts(3, 4, 2).map(lambda tensor, event_dim: tensor))
    assert not posterior.has_rsample


@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_check_aggregation_passes_pairs(kind: str) -> None:
    check_aggregation("pairs", kind=kind, samples=4000)
