"""The component bound, which is the mean of the bounds of the subsets, and the tighter mixture bound."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence

from pyro_mmvae import BarycentricGuide, Experts, aggregate, draw_component
from tests.strategies import BUILT_IN, MIXTURES, SINGLE, random_experts

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
WEIGHTS = torch.tensor([0.5, 2.0, 0.0]).double()
CALLS, COPIES = 25, 60


def prior(*shape: int) -> Any:
    return dist.Normal(torch.zeros(*shape).double(), 1.0).to_event(1)


def experts() -> Experts:
    """Return four items: one complete, one of two modalities, one of one, and one of none."""
    random = random_experts(4, 3, 2, absent=False)
    return Experts(random.loc, random.scale, PRESENT)


def copies() -> Experts:
    """Return many copies of each item, so that one call draws many subsets."""
    return Experts(*(t.expand(COPIES, *t.shape) for t in (experts().loc, experts().scale, PRESENT)))


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize(
    "options", [{}, {"subset_weights": "by_size"}, {"expert_weights": WEIGHTS}, {"prior_expert": "all"}]
)
def test_draw_component_averages_to_mean_over_subsets(name: str, options: dict[str, Any]) -> None:
    """Compare KL to the prior, density at a point and mean of the drawn component, item by item."""
    posterior: Any = aggregate(experts(), name, **options)
    z = torch.tensor([0.3, -0.8]).double()
    by_component = torch.stack(
        [kl_divergence(posterior.components, prior(4, 1, 2)), posterior.components.log_prob(z),
         posterior.components.mean[..., 0]]
    )  # fmt: skip
    exact = (posterior.probs * by_component).sum(-1)
    torch.manual_seed(0)
    draws = []
    for _ in range(CALLS):
        drawn: Any = draw_component(copies(), name, **options)
        values = [kl_divergence(drawn, prior(COPIES, 4, 2)), drawn.log_prob(z), drawn.mean[..., 0]]
        draws.append(torch.stack(values))
    sampled = torch.stack(draws)  # (call, quantity, copy, item)
    error = sampled.mean(2).std(0) / CALLS**0.5
    assert ((sampled.mean((0, 2)) - exact).abs() <= 5 * error + 1e-9).all()
    assert (sampled.std((0, 2))[0, 0] > 0).all()  # the complete item has more than one subset
    assert (sampled[..., 3] == sampled[0, :, :1, 3]).all()  # the empty one has the prior only


@pytest.mark.parametrize("name", MIXTURES)
def test_draw_component_is_a_component_of_the_mixture(name: str) -> None:
    posterior: Any = aggregate(experts(), name, expert_weights=WEIGHTS)
    for _ in range(20):
        drawn: Any = draw_component(experts(), name, expert_weights=WEIGHTS)
        for b in range(4):
            alive = posterior.probs[b] > 0
            means, stddevs = posterior.components.mean[b][alive], posterior.components.stddev[b][alive]
            near = torch.isclose(means, drawn.mean[b], rtol=1e-9) & torch.isclose(stddevs, drawn.stddev[b], rtol=1e-9)
            assert near.all(-1).any()


@pytest.mark.parametrize("name", SINGLE)
def test_draw_component_of_single_rule_equals_posterior(name: str) -> None:
    posterior: Any = aggregate(experts(), name, expert_weights=WEIGHTS)
    drawn: Any = draw_component(experts(), name, expert_weights=WEIGHTS)
    torch.testing.assert_close((drawn.mean, drawn.variance), (posterior.mean, posterior.variance), rtol=0, atol=0)


def test_draw_component_of_equal_items_is_stratified() -> None:
    """Check that 31 n complete items have each subset n times, so that the KL of the batch has hardly any variance."""
    one = random_experts(5, 2, absent=False)
    batch = Experts(one.loc.expand(310, 5, 2), one.scale.expand(310, 5, 2))
    posterior: Any = aggregate(one, "mwb")
    exact = (posterior.probs * kl_divergence(posterior.components, prior(1, 2))).sum()
    for _ in range(5):
        drawn = draw_component(batch, "mwb")
        torch.testing.assert_close(kl_divergence(drawn, prior(310, 2)).mean(), exact, rtol=1e-9, atol=0)


def test_aggregate_over_thirteen_modalities_refuses_mixture() -> None:
    fine = random_experts(2, 12, 1)
    assert aggregate(fine, "mwb").log_prob(torch.zeros(2, 1)).isfinite().all()
    for name in ("mwb", "mopoe"):
        with pytest.raises(ValueError, match=rf"'{name}' over 13 modalities .* 8,191 components.*bound='component'"):
            aggregate(random_experts(2, 13, 1), name)
    aggregate(random_experts(2, 4096, 1), "moe")
    with pytest.raises(ValueError, match="4,097 components"):
        aggregate(random_experts(2, 4097, 1), "moe")


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("kind", ["uniform", "by_size"])
def test_draw_component_of_forty_modalities_has_finite_gradients(name: str, kind: str) -> None:
    random = random_experts(8, 40, 3)
    loc, scale = random.loc.requires_grad_(), random.scale.requires_grad_()
    drawn = draw_component(Experts(loc, scale, random.mask), name, subset_weights=kind)
    z = drawn.rsample()
    assert z.shape == (8, 3)
    gradients = torch.autograd.grad((z + drawn.log_prob(z.detach()).unsqueeze(-1)).sum(), (loc, scale))
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert (gradient[random.mask] != 0).any()
        assert (gradient[~random.mask] == 0).all()


@pytest.mark.parametrize("name", ["mwb", "mopoe"])
def test_draw_component_of_forty_modalities_differentiates_expert_weights(name: str) -> None:
    weights = torch.rand(40).double().requires_grad_()
    draw_component(random_experts(8, 40, 3), name, expert_weights=weights).mean.sum().backward()
    assert weights.grad is not None
    assert (weights.grad != 0).any()


def model() -> None:
    with pyro.plate("copies", COPIES, dim=-2), pyro.plate("data", 4):
        pyro.sample("z", prior(COPIES, 4, 2))


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_component_bound_elbo_is_mean_over_subsets(name: str, elbo: Any) -> None:
    """Compare both estimators with minus the mean KL over subsets; mean field has no noise from z."""
    posterior: Any = aggregate(experts(), name)
    exact = (posterior.probs * kl_divergence(posterior.components, prior(4, 1, 2))).sum()
    inner = BarycentricGuide(copies, name, bound="component")

    def guide() -> None:
        with pyro.plate("copies", COPIES, dim=-2):
            inner()

    torch.manual_seed(0)
    losses = torch.tensor([elbo().loss(model, guide) for _ in range(CALLS)]) / COPIES
    assert (losses.mean() - exact).abs() < 5 * losses.std() / CALLS**0.5
    assert losses.std() < 1.0


@pytest.mark.parametrize("name", ["moe", "mwb"])
def test_mixture_bound_is_tighter_than_component_bound(name: str) -> None:
    """Check by quadrature that KL(mixture, prior) is below the mean of the KLs of the components."""
    one = random_experts(3, 1, absent=False)
    posterior: Any = aggregate(one, name)
    z = torch.linspace(-30, 30, 30_001).double().unsqueeze(-1)
    log_q = posterior.log_prob(z)
    of_mixture = torch.trapezoid(log_q.exp() * (log_q - prior(1).log_prob(z)), z.squeeze(-1))
    of_components = (posterior.probs * kl_divergence(posterior.components, prior(1, 1))).sum()
    assert 0 < of_mixture < of_components
    guide = BarycentricGuide(lambda: Experts(one.loc.expand(4, 3, 1), one.scale.expand(4, 3, 1)), name)
    particles = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)

    def wide_model() -> None:
        with pyro.plate("data", 4):
            pyro.sample("z", prior(4, 1))

    torch.manual_seed(0)
    losses = torch.tensor([particles.loss(wide_model, guide) for _ in range(10)]) / 4
    assert (losses.mean() - of_mixture).abs() < 5 * losses.std() / 10**0.5 + 1e-6
    assert losses.std() < 0.02
