"""Guides whose mixture components are stratified over the items, and the mixtures that they draw from."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO
from scipy.stats import kstest

from pyro_mmvae import BarycentricGuide, Experts, SubsetMixture
from pyro_mmvae.guides import stratified

ITEMS = 8
LOC = torch.tensor([[-5.0], [0.0], [5.0]])
WEIGHTS = torch.tensor([1.0, 2.0, 1.0]) / 4


def mixture(items: int = ITEMS, scale: float = 0.1) -> SubsetMixture:
    components = dist.Normal(LOC, scale).to_event(1).expand([items, 3])
    return SubsetMixture(WEIGHTS.log().expand(items, 3), components)


def model() -> None:
    with pyro.plate("data", ITEMS):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 3.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 2.0).to_event(1), obs=torch.ones(ITEMS, 1))


def make_guide() -> BarycentricGuide:
    experts = Experts(LOC.expand(ITEMS, 3, 1), torch.full((ITEMS, 3, 1), 0.1))
    return BarycentricGuide(lambda: experts, "moe", expert_weights=WEIGHTS)


def components_of(z: torch.Tensor) -> torch.Tensor:
    """Return the index of the component that each draw came from."""
    return (z - LOC.T).abs().argmin(-1)


@pytest.mark.parametrize("draw", ["rsample", "sample", "__call__"])
def test_stratified_mixture_has_the_expected_counts_in_each_draw(draw: str) -> None:
    index = components_of(getattr(mixture(8).stratified(), draw)(torch.Size([50])))
    assert index.shape == (50, 8)
    assert (index.sort(-1).values == torch.tensor([0, 0, 1, 1, 1, 1, 2, 2])).all()
    assert len(index.unique(dim=0)) > 30
    assert not (components_of(mixture(8).sample(torch.Size([50]))).sort(-1).values == index.sort(-1).values).all()


def test_stratified_mixture_with_weights_per_item_never_draws_weight_zero() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0], [0.0, -torch.inf, -torch.inf], [0.0, 0.0, -torch.inf]])
    q = SubsetMixture(logits, dist.Normal(LOC, 0.1).to_event(1).expand([3, 3])).stratified()
    index = q.sample_component((4000,))
    assert q.sample_component().shape == (3,)
    for item, probs in enumerate(q.probs):
        shares = index[:, item].bincount(minlength=3) / 4000
        assert (shares[probs == 0] == 0).all()
        assert ((shares - probs).abs() < 5 * (probs * (1 - probs) / 4000).sqrt() + 1e-6).all()


def test_stratified_mixture_draws_each_entry_from_its_mixture() -> None:
    draws = mixture(3, scale=1.0).stratified().sample(torch.Size([3000]))[..., 0].double()

    def cdf(z: Any) -> Any:
        return (WEIGHTS * dist.Normal(LOC[:, 0], 1.0).cdf(torch.as_tensor(z)[..., None])).sum(-1).numpy()

    for item in range(3):
        assert kstest(draws[:, item].numpy(), cdf).pvalue > 1e-3


def test_stratified_mixture_has_independent_samples_and_expansions() -> None:
    q = mixture(2).stratified()
    for index in (q.sample_component((4000, 2)), q.expand((4000, 2, 2)).sample_component()):
        high = (index == 2).double() - 0.25
        covariance = (high[:, 0] * high[:, 1]).mean(0)  # of two draws of one item
        assert (covariance.abs() < 5 * 0.1875 / 4000**0.5).all()
        within = (high[:, :, 0] * high[:, :, 1]).mean()  # of two items of one draw
        assert within < -0.04


def test_stratified_mixture_keeps_density_and_gradients() -> None:
    loc = LOC.clone().requires_grad_()
    plain = SubsetMixture(torch.zeros(4, 3), dist.Normal(loc, 1.0).to_event(1).expand([4, 3]))
    z = torch.randn(4, 1)
    torch.testing.assert_close(plain.stratified().log_prob(z), plain.log_prob(z))
    plain.stratified().rsample().sum().backward()
    assert loc.grad is not None
    assert loc.grad.sum() == 4


def test_stratified_guide_has_the_expectation_and_a_smaller_variance() -> None:
    guide = make_guide()
    torch.manual_seed(0)
    losses = [torch.tensor([Trace_ELBO().loss(model, g) for _ in range(80)]) for g in (guide, stratified(guide))]
    error = ((losses[0].var() + losses[1].var()) / 300).sqrt()
    assert abs(losses[0].mean() - losses[1].mean()) < 4 * error
    assert losses[1].std() < 0.6 * losses[0].std()


def test_stratified_guide_has_independent_vectorised_particles() -> None:
    predictive = Predictive(model, guide=stratified(make_guide()), num_samples=2000, parallel=True, return_sites=["z"])
    index = components_of(predictive()["z"]).reshape(2000, ITEMS)
    counts = torch.stack([(index == k).sum(1) for k in range(3)], -1)
    assert ((counts - ITEMS * WEIGHTS).abs() < 1).all()  # within each particle
    shares = torch.stack([(index == k).double().mean(0) for k in range(3)], -1)
    assert ((shares - WEIGHTS).abs() < 0.05).all()  # of each item over particles
