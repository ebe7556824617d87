"""Tests of posteriors in Pyro's inference, vectorised, masked, scaled and replayed."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO

from pyro_mmvae import BarycentricGuide, SubsetMixture, aggregate
from tests.strategies import BUILT_IN, MIXTURES, SINGLE, random_experts

ITEMS, LATENT = 4, 2
X = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
posteriors = {name: aggregate(random_experts(ITEMS, 3, LATENT), name) for name in BUILT_IN}


def model(x: torch.Tensor | None = X, observe: bool = True) -> None:
    with pyro.plate("data", ITEMS):
        z = pyro.sample("z", dist.Normal(torch.zeros(LATENT).double(), 1.0).to_event(1))
        if observe:
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def guide_of(name: str) -> Any:
    def guide(*_: Any, **__: Any) -> torch.Tensor:
        with pyro.plate("data", ITEMS):
            return pyro.sample("z", posteriors[name])

    return guide


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("parallel", [True, False])
def test_predictive_draws_have_posterior_means(name: str, parallel: bool) -> None:
    torch.manual_seed(0)
    count = 4000 if parallel else 3
    draws = Predictive(model, guide=guide_of(name), num_samples=count, parallel=parallel)(None)
    assert draws["x"].shape[0] == count
    assert draws["x"].shape[-1] == ITEMS
    if parallel:
        expected = posteriors[name].mean.sum(-1)
        bound = (posteriors[name].variance.sum(-1) * 3 + 1).sqrt()  # correlations are bounded
        assert ((draws["x"].reshape(count, ITEMS).mean(0) - expected).abs() < 5 * bound / count**0.5).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_parallel_predictive_of_guide_has_right_shape(name: str) -> None:
    guide = BarycentricGuide(lambda *_, **__: random_experts(ITEMS, 3, LATENT), name)
    draws = Predictive(model, guide=guide, num_samples=7, parallel=True)(None)
    assert draws["x"].reshape(7, ITEMS).isfinite().all()


def monte_carlo(name: str, particles: int) -> tuple[float, float]:
    """Return the ELBO by hand from draws of the posterior, and its standard error."""
    torch.manual_seed(5)
    q = posteriors[name]
    z = q.sample((particles,))
    log_p = dist.Normal(0.0, 1.0).expand((LATENT,)).to_event(1).log_prob(z) + dist.Normal(z.sum(-1), 1.0).log_prob(X)
    terms = (log_p - q.log_prob(z)).sum(-1)
    return terms.mean().item(), (terms.std() / particles**0.5).item()


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_elbo_with_vectorised_particles_equals_monte_carlo(name: str, elbo: Any) -> None:
    torch.manual_seed(0)
    vectorised = elbo(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    expected, error = monte_carlo(name, 20_000)
    assert abs(-vectorised.loss(model, guide_of(name)) - expected) < 5 * (error**2 + 5 * error**2) ** 0.5


@pytest.mark.parametrize("name", BUILT_IN)
def test_trace_elbo_of_one_draw_equals_log_ratio(name: str) -> None:
    guide = guide_of(name)
    torch.manual_seed(2)
    z = poutine.trace(guide).get_trace().nodes["z"]["value"]
    torch.manual_seed(2)
    loss = Trace_ELBO().loss(model, guide)
    log_p = dist.Normal(0.0, 1.0).expand((LATENT,)).to_event(1).log_prob(z) + dist.Normal(z.sum(-1), 1.0).log_prob(X)
    assert loss == pytest.approx((posteriors[name].log_prob(z) - log_p).sum().item(), rel=1e-9)


@pytest.mark.parametrize("name", BUILT_IN)
def test_trace_log_prob_is_scaled_and_masked(name: str) -> None:
    mask = torch.tensor([True, False, True, True])

    def guide() -> None:
        with pyro.plate("data", ITEMS), poutine.scale(scale=3.0), poutine.mask(mask=mask):
            pyro.sample("z", posteriors[name])

    trace = poutine.trace(guide).get_trace()
    z = trace.nodes["z"]["value"]
    expected = 3.0 * (posteriors[name].log_prob(z) * mask).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)
    trace.compute_score_parts()
    torch.testing.assert_close(trace.nodes["z"]["score_parts"].entropy_term.sum(), expected)
    assert trace.nodes["z"]["score_parts"].score_function == 0


def test_score_parts_of_sample_with_learned_weights_is_log_prob() -> None:
    weights = torch.ones(3).double().requires_grad_()
    q = aggregate(random_experts(ITEMS, 3, LATENT), "moe", expert_weights=weights)
    z = q.sample()
    parts = q.score_parts(z)
    torch.testing.assert_close(parts.score_function, q.log_prob(z))
    assert parts.entropy_term == 0


def prior_only() -> None:
    model(observe=False)


@pytest.mark.parametrize("name", SINGLE)
def test_mean_field_elbo_of_one_component_is_exact(name: str) -> None:
    """Without a likelihood the loss is the KL divergence, which does not depend on the draw."""
    losses = []
    for seed in range(5):
        torch.manual_seed(seed)
        losses.append(TraceMeanField_ELBO().loss(prior_only, guide_of(name)))
    q: Any = posteriors[name]
    by_hand = (q.variance + q.mean.square() - 1 - q.variance.log()).sum() / 2
    assert losses == pytest.approx([by_hand.item()] * 5, rel=1e-12)


@pytest.mark.parametrize("name", MIXTURES)
def test_mean_field_elbo_of_mixture_equals_trace_elbo(name: str) -> None:
    """The loss is log q - log p at the draw, which varies."""
    losses = []
    for elbo in (TraceMeanField_ELBO(), Trace_ELBO()):
        torch.manual_seed(0)
        losses.append([elbo.loss(prior_only, guide_of(name)) for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert len(set(losses[0])) == 5


def test_outer_plate_broadcasts_mixture_with_independent_draws() -> None:
    q = aggregate(random_experts(ITEMS, 3, LATENT), "mwb")
    with pyro.plate("outer", 5, dim=-2), pyro.plate("data", ITEMS, dim=-1):
        trace = poutine.trace(lambda: pyro.sample("z", q)).get_trace()
    site = trace.nodes["z"]
    assert isinstance(site["fn"], SubsetMixture)
    assert site["value"].shape == (5, ITEMS, LATENT)
    assert len(site["value"][:, 0].unique(dim=0)) == 5
