"""Derivatives: finite differences in double precision, and ELBO gradients worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_mmvae import BarycentricGuide, Experts, aggregate, draw_component
from tests.strategies import BUILT_IN, random_experts

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])


def leaves(*, latent: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    experts = random_experts(4, 3, latent, absent=False)
    weights = torch.tensor([0.5, 2.0, 1.2]).double()
    return experts.loc.requires_grad_(), experts.scale.requires_grad_(), weights.requires_grad_()


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(
    ("what", "prior_expert"), [("log_prob", "joint_only"), ("log_prob", "all"), ("mean", "none"), ("variance", "all")]
)
def test_aggregate_gradients_match_finite_differences(name: str, what: str, prior_expert: str) -> None:
    """Include absent modalities and an item of which nothing is present."""
    z = torch.linspace(-1, 2, 8).double().reshape(4, 2)

    def value(loc: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        q: Any = aggregate(Experts(loc, scale, PRESENT), name, expert_weights=weights, prior_expert=prior_expert)
        return q.log_prob(z) if what == "log_prob" else getattr(q, what)

    assert torch.autograd.gradcheck(value, leaves(), fast_mode=True)


@pytest.mark.parametrize("name", BUILT_IN)
def test_draw_gradients_match_finite_differences(name: str) -> None:
    """Fix the random numbers; λ is included where it does not weight the mixture."""
    loc, scale, weights = leaves()
    learned = name != "moe"

    def value(loc: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        q: Any = aggregate(Experts(loc, scale, PRESENT), name, expert_weights=weights if learned else weights.detach())
        assert q.has_rsample
        return q.rsample((2,))

    assert torch.autograd.gradcheck(value, (loc, scale, weights), fast_mode=True)

    def component(loc: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        weights = weights if learned else weights.detach()
        return draw_component(Experts(loc, scale, PRESENT), name, expert_weights=weights).rsample()

    assert torch.autograd.gradcheck(component, (loc, scale, weights), fast_mode=True)


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_with_zero_weight_has_finite_gradients(name: str) -> None:
    loc, scale, _ = leaves()
    weights = torch.tensor([0.0, 1.0, 0.0]).double().requires_grad_()
    q: Any = aggregate(Experts(loc, scale, PRESENT), name, expert_weights=weights)
    total = q.log_prob(torch.zeros(4, 2).double()).sum() + q.mean.sum()
    for gradient in torch.autograd.grad(total, (loc, scale, weights)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_expert_weights_gradient_favours_the_better_expert(name: str) -> None:
    """Check that gradient ascent favours an expert at the target over one far away."""
    experts = Experts(torch.tensor([[0.0], [4.0]]).double(), torch.ones(2, 1).double())
    weights = torch.ones(2).double().requires_grad_()
    aggregate(experts, name, expert_weights=weights).log_prob(torch.zeros(1).double()).backward()
    assert weights.grad is not None
    assert weights.grad[0] > 0 > weights.grad[1]


def test_has_rsample_is_false_for_learned_mixture_weights() -> None:
    experts, weights = random_experts(3, 2), torch.ones(3).requires_grad_()
    for name in BUILT_IN:
        assert aggregate(experts, name).has_rsample
        assert aggregate(experts, name, expert_weights=weights.detach()).has_rsample
        assert aggregate(experts, name, expert_weights=weights).has_rsample == (name != "moe")
    logits = torch.zeros(7).requires_grad_()
    assert not aggregate(experts, "mwb", subset_weights=lambda _: logits.exp()).has_rsample


def test_draw_component_refuses_to_lose_gradients() -> None:
    experts = random_experts(3, 2, absent=False)
    with pytest.raises(ValueError, match="'moe' with expert_weights that require a gradient has no component bound"):
        draw_component(experts, "moe", expert_weights=torch.ones(3).requires_grad_())
    draw_component(experts, "moe", expert_weights=torch.ones(3))
    draw_component(experts, "mwb", expert_weights=torch.ones(3).requires_grad_())
    logits = torch.zeros(7).requires_grad_()
    with pytest.raises(ValueError, match="gradient"):
        draw_component(experts, "mwb", subset_weights=lambda _: logits.exp())


X = 1.5  # one item, z ~ N(0, 1), x | z ~ N(z, 1)


def model() -> None:
    with pyro.plate("data", 1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1, 1]).to_event(1))
        pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=torch.tensor([X]).double())


def fixed_noise_gradient(guide: BarycentricGuide, inputs: tuple[torch.Tensor, ...]) -> tuple[float, list[torch.Tensor]]:
    """Return the latent drawn, and the gradient of the ELBO of that draw."""
    torch.manual_seed(0)
    z = poutine.trace(guide).get_trace().nodes["z"]["value"].item()
    torch.manual_seed(0)
    loss = Trace_ELBO().differentiable_loss(model, guide)
    return z, [-g for g in torch.autograd.grad(loss, inputs)]


def test_elbo_gradient_of_wasserstein_barycenter_matches_hand_calculation() -> None:
    r"""Use z = loc + scale ε: the ELBO has d/dloc = (x - z) - z, and d/dscale = ε d/dloc + 1/scale."""
    loc = torch.tensor([[[0.5], [-1.0]]], dtype=torch.float64).requires_grad_()
    scale = torch.tensor([[[0.4], [0.9]]], dtype=torch.float64).requires_grad_()
    weights = torch.tensor([3.0, 1.0]).double().requires_grad_()
    guide = BarycentricGuide(lambda: Experts(loc, scale), "wb")
    guide.aggregation.expert_weights = torch.nn.Parameter(weights.detach().clone())
    z, (by_loc, by_scale, by_weights) = fixed_noise_gradient(guide, (loc, scale, guide.aggregation.expert_weights))
    joint_loc, joint_scale = 0.75 * 0.5 - 0.25, 0.75 * 0.4 + 0.25 * 0.9
    noise = (z - joint_loc) / joint_scale
    d_loc = (X - z) - z
    d_scale = noise * d_loc + 1 / joint_scale
    assert by_loc.flatten().tolist() == pytest.approx([0.75 * d_loc, 0.25 * d_loc], rel=1e-10)
    assert by_scale.flatten().tolist() == pytest.approx([0.75 * d_scale, 0.25 * d_scale], rel=1e-10)
    # the share of the first is λ1 / (λ1 + λ2): its derivatives are λ2 / 16 and -λ1 / 16
    slope = d_loc * (0.5 + 1.0) + d_scale * (0.4 - 0.9)
    assert by_weights.tolist() == pytest.approx([slope * 1 / 16, -slope * 3 / 16], rel=1e-10)


def test_elbo_gradient_of_mixture_component_matches_hand_calculation() -> None:
    """Check both gradients of -log q: through the draw of one expert, and of the density of the mixture."""
    loc = torch.tensor([[[0.5], [-1.0]]], dtype=torch.float64).requires_grad_()
    scale = torch.tensor([[[0.4], [0.9]]], dtype=torch.float64).requires_grad_()
    guide = BarycentricGuide(lambda: Experts(loc, scale), "moe")
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        k = int(aggregate(Experts(loc, scale), "moe").sample_component())  # type: ignore[attr-defined]
        seen.add(k)
        torch.manual_seed(seed)
        z = poutine.trace(guide).get_trace().nodes["z"]["value"].item()
        torch.manual_seed(seed)
        by_loc, by_scale = torch.autograd.grad(Trace_ELBO().differentiable_loss(model, guide), (loc, scale))
        mu, sd = (0.5, -1.0), (0.4, 0.9)
        densities = [math.exp(-(((z - m) / s) ** 2) / 2) / s for m, s in zip(mu, sd, strict=True)]
        share = [d / sum(densities) for d in densities]
        pull = [(z - m) / s**2 for m, s in zip(mu, sd, strict=True)]
        through_z = (X - z) - z + sum(r * p for r, p in zip(share, pull, strict=True))  # d/dz of log p - log q
        wanted_loc = [-r * p for r, p in zip(share, pull, strict=True)]  # d/dloc of -log q at fixed z
        wanted_scale = [r * (1 / s - p**2 * s) for r, p, s in zip(share, pull, sd, strict=True)]
        wanted_loc[k] += through_z
        wanted_scale[k] += through_z * (z - mu[k]) / sd[k]
        assert (-by_loc.flatten()).tolist() == pytest.approx(wanted_loc, rel=1e-9)
        assert (-by_scale.flatten()).tolist() == pytest.approx(wanted_scale, rel=1e-9)
    assert seen == {0, 1}


def exact_elbo(loc: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the ELBO by enumeration of the experts and quadrature over z."""
    z = torch.linspace(-12, 12, 20_001).double()
    shares = weights / weights.sum()
    log_q_m = torch.distributions.Normal(loc.reshape(2, 1), scale.reshape(2, 1)).log_prob(z)
    log_q = torch.logsumexp(log_q_m + shares.log().unsqueeze(-1), 0)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z) + torch.distributions.Normal(z, 1.0).log_prob(
        torch.tensor(X)
    )
    return torch.trapezoid(log_q.exp() * (log_p - log_q), z)


@pytest.mark.parametrize("learned", [True, False])
def test_elbo_gradients_are_unbiased(learned: bool) -> None:
    loc = torch.tensor([[[0.5], [-1.0]]], dtype=torch.float64).requires_grad_()
    scale = torch.tensor([[[0.4], [0.9]]], dtype=torch.float64).requires_grad_()
    weights = torch.nn.Parameter(torch.tensor([2.0, 1.0]).double(), requires_grad=learned)
    given = weights if learned else weights.detach()  # Pyro warns of frozen parameters
    guide = BarycentricGuide(lambda: Experts(loc, scale), "moe", expert_weights=given)
    inputs = [loc, scale, weights] if learned else [loc, scale]
    exact = torch.autograd.grad(exact_elbo(loc, scale, weights), inputs)
    elbo = Trace_ELBO(num_particles=2000, vectorize_particles=True, max_plate_nesting=1)
    draws = []
    for seed in range(60):
        torch.manual_seed(seed)
        for tensor in inputs:
            tensor.grad = None
        elbo.differentiable_loss(model, guide).backward()
        draws.append(torch.cat([-tensor.grad.flatten() for tensor in inputs if tensor.grad is not None]))
    gradients = torch.stack(draws)
    error = gradients.std(0) / len(draws) ** 0.5
    wanted = torch.cat([g.flatten() for g in exact])
    assert ((gradients.mean(0) - wanted).abs() < 4 * error).all(), (gradients.mean(0), wanted, error)
    assert (error < 0.03).all()  # so that it says something
