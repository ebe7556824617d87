"""The contract check on sound aggregations; test_testing_broken.py has broken ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch

from pyro_mmvae import Experts, aggregations, register_aggregation, unregister_aggregation
from pyro_mmvae.testing import check_aggregation
from tests.strategies import BUILT_IN, NAMES, random_experts, wasserstein_rule

PAIRS = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]).bool()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Remove what a test registers."""
    yield
    for name in set(aggregations()) - set(NAMES):
        unregister_aggregation(name)


@pytest.mark.parametrize("name", aggregations())
def test_check_aggregation_passes_built_in_aggregations(name: str) -> None:
    check_aggregation(name)


@pytest.mark.parametrize("name", BUILT_IN)
def test_check_aggregation_takes_experts(name: str) -> None:
    """Use scales from 1e-2 to 1e2, five modalities, float32, and a last item without any."""
    experts = random_experts(2, 3, 5, 2, seed=1)
    present = experts.mask.clone()
    present[-1, -1] = False
    scale = 10.0 ** torch.linspace(-2, 2, 60).reshape(2, 3, 5, 2)
    check_aggregation(name, Experts(experts.loc.float(), scale, present), samples=4000)


@pytest.mark.parametrize("experts", [
    Experts(torch.zeros(1, 1), torch.ones(1, 1)),
    Experts(torch.zeros(4, 2, 3), torch.ones(4, 2, 1), torch.zeros(4, 2).bool()),
    Experts(torch.tensor([[0.0], [1e4]]), torch.tensor([[1e-2], [1e-2]])),
], ids=["one modality", "nothing present", "far apart"])  # fmt: skip
@pytest.mark.parametrize("name", ["poe", "moe", "mwb"])
def test_check_aggregation_takes_extreme_experts(name: str, experts: Experts) -> None:
    check_aggregation(name, experts, samples=2000)


@pytest.mark.parametrize("family", ["all", "singletons", "powerset", PAIRS, lambda count: torch.eye(count).bool()])
def test_check_aggregation_passes_rules_over_subsets(family: Any) -> None:
    """Include a matrix, which tells modalities apart, so that order and removal are not checked."""
    register_aggregation("mine", subsets=family)(wasserstein_rule)
    check_aggregation("mine", samples=4000)


@pytest.mark.parametrize("family", [dist.Laplace, dist.Logistic])
def test_check_aggregation_refuses_other_family_as_prior(family: Any) -> None:
    """Check that the prior must be N(0, I) where nothing is present, whatever the family of the rule."""

    @register_aggregation("mine", subsets="powerset")
    def mine(experts: Experts) -> Any:
        base: Any = wasserstein_rule(experts).base_dist  # type: ignore[attr-defined]
        return family(base.loc, base.scale).to_event(1)

    with pytest.raises(AssertionError, match="clause 'prior'"):
        check_aggregation("mine")


def test_check_aggregation_integrates_heavy_tails() -> None:

    @register_aggregation("mine")
    def mine(experts: Experts) -> Any:
        base: Any = wasserstein_rule(experts).base_dist  # type: ignore[attr-defined]
        tails = torch.where(experts.mask.any(-1, keepdim=True), 5.0, 1e8).to(base.loc)
        return dist.StudentT(tails, base.loc, base.scale).to_event(1)

    check_aggregation("mine")


def test_check_aggregation_checks_the_component_bound() -> None:
    """Use a rule that works only with the dimension of subsets, which a drawn component does not have."""

    @register_aggregation("mine", subsets="powerset")
    def mine(experts: Experts) -> Any:
        if experts.loc.dim() < 3:
            raise RuntimeError("no dimension of subsets")
        return wasserstein_rule(experts)

    with pytest.raises(AssertionError, match="clause 'component': raised RuntimeError: no dimension of subsets"):
        check_aggregation("mine")


def test_check_aggregation_of_unknown_name_raises_value_error() -> None:
    with pytest.raises(ValueError, match="unknown aggregation 'mine'. Available: poe"):
        check_aggregation("mine")


@pytest.mark.parametrize("broken", [False, True])
def test_check_aggregation_restores_the_random_state(broken: bool) -> None:
    @register_aggregation("mine")
    def mine(experts: Experts) -> Any:
        torch.rand(3)
        return None if broken else wasserstein_rule(experts)

    torch.manual_seed(11)
    wanted = torch.rand(4)
    torch.manual_seed(11)
    if broken:
        with pytest.raises(AssertionError):
            check_aggregation("mine")
    else:
        check_aggregation("mine")
    assert torch.equal(torch.rand(4), wanted)


def test_check_aggregation_is_independent_of_the_random_state() -> None:

    @register_aggregation("mine")
    def mine(experts: Experts) -> Any:
        noise = 1e-3 * torch.randn(())
        base: Any = wasserstein_rule(experts).base_dist  # type: ignore[attr-defined]
        return dist.Normal(base.loc + noise, base.scale).to_event(1)

    said = []
    for state, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(state)
        with pytest.raises(AssertionError) as caught:
            check_aggregation("mine", seed=seed)
        said.append(str(caught.value))
    assert said[0] == said[1] != said[2]


def test_check_aggregation_with_more_samples_finds_smaller_bias() -> None:

    @register_aggregation("mine")
    def mine(experts: Experts) -> Any:
        return Biased(wasserstein_rule(experts).base_dist)  # type: ignore[attr-defined]

    check_aggregation("mine", samples=200)
    with pytest.raises(AssertionError, match=r"clause 'samples': .* over 100000 draws"):
        check_aggregation("mine", samples=100_000)


class Biased(dist.Independent):
    """A distribution whose draws are off by 3 % of a standard deviation."""

    def __init__(self, base: Any) -> None:
        super().__init__(base, 1)

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:
        return super().rsample(torch.Size(sample_shape)) + 0.03 * self.stddev

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:
        return self.rsample(sample_shape).detach()

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Biased(self.base_dist.expand(torch.Size([*batch_shape, *self.event_shape])))
