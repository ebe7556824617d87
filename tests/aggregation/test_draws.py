"""Component posteriors that are expanded: every entry of the new batch shape draws a subset of its own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, RenyiELBO, Trace_ELBO

from pyro_mmvae import BarycentricGuide, Experts, MixtureOverSubsets, aggregate, draw_component, make_aggregation
from pyro_mmvae.aggregation.rules import WassersteinBarycenter

ITEMS = 4
LOC = torch.tensor([-5.0, 0.0, 5.0])


def apart() -> Experts:
    """Return three sharp experts so far apart that a draw tells its subset."""
    return Experts(LOC[None, :, None].expand(ITEMS, 3, 1), torch.full((ITEMS, 3, 1), 0.05))


def model(experts: Experts) -> None:
    with pyro.plate("data", ITEMS):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 4.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 2.0).to_event(1), obs=torch.ones(ITEMS, 1))


def shares(draws: torch.Tensor) -> torch.Tensor:
    """Return how often each expert was drawn, `(expert, item)`."""
    return torch.stack([((draws - loc).abs() < 1).double().mean(0) for loc in LOC])


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("bound", ["mixture", "component"])
def test_predictive_draws_each_expert_with_its_weight(bound: str, parallel: bool) -> None:
    guide = BarycentricGuide(lambda experts: experts, "moe", bound=bound, expert_weights=[1.0, 2.0, 1.0])
    predictive = Predictive(model, guide=guide, num_samples=400, parallel=parallel, return_sites=["z"])
    draws = predictive(apart())["z"].reshape(400, ITEMS)
    expected = torch.tensor([[0.25], [0.5], [0.25]]).double().expand(3, ITEMS)
    torch.testing.assert_close(shares(draws), expected, rtol=0, atol=0.11)  # 4.4 standard errors


@pytest.mark.parametrize("elbo", [Trace_ELBO, RenyiELBO])
def test_vectorised_particles_estimate_the_bound_of_looped_ones(elbo: Any) -> None:
    guide = BarycentricGuide(lambda experts: experts, "moe", bound="component")
    options: list[dict[str, Any]] = [{}, {"vectorize_particles": True, "max_plate_nesting": 1}]
    losses = []
    for option in options:
        estimator = elbo(num_particles=3, **option)
        losses.append(torch.tensor([estimator.loss(model, guide, apart()) for _ in range(150)]))
    error = (losses[0].var() / 150 + losses[1].var() / 150).sqrt()
    assert abs(losses[0].mean() - losses[1].mean()) < 4 * error
    # Particles that share their subsets vary more together; stratification over them makes them vary less.
    assert losses[1].std() < 1.3 * losses[0].std()


@pytest.mark.parametrize(
    "aggregation", ["mwb", "mopoe", MixtureOverSubsets(lambda experts: aggregate(experts, "moment"))]
)
@pytest.mark.parametrize("per_item", [False, True])
def test_expanded_component_has_one_posterior_per_entry(aggregation: Any, per_item: bool) -> None:
    weights = torch.rand(ITEMS, 3) + 0.1 if per_item else None
    options = {} if not per_item or not isinstance(aggregation, str) else {"expert_weights": weights}
    posterior: Any = draw_component(apart(), aggregation, **options)
    expanded = posterior.expand((200, ITEMS)).expand((200, ITEMS))
    assert type(expanded) is type(posterior)
    assert expanded.batch_shape == (200, ITEMS)
    assert all(len(column.unique()) >= 5 for column in expanded.mean[..., 0].mT.round(decimals=4))
    further = expanded.expand((2, 200, ITEMS))
    assert not torch.equal(further.mean[0], further.mean[1])
    assert posterior.expand((ITEMS,)) is posterior


def test_unexpanded_component_draws_as_its_members_do() -> None:
    rule, experts = make_aggregation("mwb"), apart()
    torch.manual_seed(1)
    posterior = rule.component(experts)
    after = torch.rand(1)
    torch.manual_seed(1)
    members = rule.draw(experts)
    torch.testing.assert_close(torch.rand(1), after, rtol=0, atol=0)
    torch.testing.assert_close(posterior.mean, rule.component(experts, members).mean, rtol=0, atol=0)


def test_expanded_component_of_members_keeps_them() -> None:
    members = torch.tensor([[True, False, False]]).expand(ITEMS, 3)
    posterior = make_aggregation("mwb").component(apart(), members)
    assert (posterior.expand((50, ITEMS)).mean == -5).all()
    alone = WassersteinBarycenter().component(apart())
    assert (alone.expand((50, ITEMS)).mean == 0).all()


def test_component_can_be_copied_and_pickled() -> None:
    posterior = draw_component(apart(), "mwb")
    for twin in (copy.copy(posterior), copy.deepcopy(posterior), pickle.loads(pickle.dumps(posterior))):
        torch.testing.assert_close(twin.expand((ITEMS,)).mean, posterior.mean)
        assert twin.expand((7, ITEMS)).batch_shape == (7, ITEMS)


def test_component_in_two_plates_draws_in_both() -> None:
    def guide() -> torch.Tensor:
        with pyro.plate("particles", 100, dim=-2), pyro.plate("data", ITEMS, dim=-1):
            return pyro.sample("z", draw_component(apart(), "moe"))

    fn: Any = poutine.trace(guide).get_trace().nodes["z"]["fn"]
    assert fn.batch_shape == (100, ITEMS)
    assert (shares(fn.mean[..., 0]) > 0.1).all()
