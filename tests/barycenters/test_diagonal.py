"""Tests of the closed forms against hand-derived numbers, numerical minimisers and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.distributions import Normal, kl_divergence

from pyro_mmvae import Experts, aggregate
from pyro_mmvae.barycenters import moment, natural, wasserstein
from tests.strategies import experts as any_experts
from tests.strategies import few, random_experts

BarycenterFn: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
BARYCENTER_FNS = (natural, wasserstein, moment)
LOC, SCALE = torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[1.0], [3.0]]).double()


@pytest.mark.parametrize(
    ("barycenter_fn", "weights", "loc", "variance"),
    [  # for N(0, 1) and N(2, 9), by hand
        (natural, [1.0, 1.0], 1 / 5, 9 / 10),
        (natural, [0.5, 0.5], 1 / 5, 9 / 5),
        (natural, [0.75, 0.25], 1 / 14, 9 / 7),
        (natural, [3.0, 1.0], 1 / 14, 9 / 28),
        (natural, [0.0, 1.0], 2, 9),
        (wasserstein, [0.5, 0.5], 1, 4),
        (wasserstein, [0.75, 0.25], 1 / 2, 9 / 4),
        (wasserstein, [0.0, 1.0], 2, 9),
        (moment, [0.5, 0.5], 1, 6),
        (moment, [0.75, 0.25], 1 / 2, 15 / 4),
        (moment, [1.0, 0.0], 0, 1),
    ],
)
def test_barycenter_fn_equals_numbers_derived_by_hand(
    barycenter_fn: BarycenterFn, weights: list[float], loc: float, variance: float
) -> None:
    got_loc, got_scale = barycenter_fn(torch.tensor([weights]).double(), LOC, SCALE)
    assert got_loc.item() == pytest.approx(loc, rel=1e-14)
    assert got_scale.item() == pytest.approx(variance**0.5, rel=1e-14)


def reverse_kl(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return kl_divergence(Normal(loc, scale), Normal(EXPERT_LOC, EXPERT_SCALE))


def forward_kl(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return kl_divergence(Normal(EXPERT_LOC, EXPERT_SCALE), Normal(loc, scale))


def squared_w2(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of quantiles, the definition on the line."""
    u = (torch.arange(1000).double() + 0.5) / 1000
    u = u.reshape(-1, 1, 1)
    return (Normal(loc, scale).icdf(u) - Normal(EXPERT_LOC, EXPERT_SCALE).icdf(u)).square().mean(0)


EXPERT_LOC = torch.tensor([[0.0, -3.0], [2.0, 0.5], [-1.0, 4.0]]).double()
EXPERT_SCALE = torch.tensor([[1.0, 0.2], [3.0, 1.5], [0.4, 2.5]]).double()


@pytest.mark.parametrize(("name", "divergence"), [("pool", reverse_kl), ("moment", forward_kl), ("wb", squared_w2)])
@pytest.mark.parametrize("weights", [[1 / 3, 1 / 3, 1 / 3], [0.6, 0.1, 0.3]])
def test_aggregate_equals_numerical_minimiser_of_divergence(
    name: str, divergence: Callable[..., torch.Tensor], weights: list[float]
) -> None:
    shares = torch.tensor(weights).double()
    loc, log_scale = (torch.tensor(start).double().requires_grad_() for start in ([[3.0, -2.0]], [[1.2, -0.7]]))
    optimiser = torch.optim.LBFGS([loc, log_scale], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = (shares.unsqueeze(-1) * divergence(loc, log_scale.exp())).sum()
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    closed = aggregate(Experts(EXPERT_LOC, EXPERT_SCALE), name, expert_weights=shares)
    torch.testing.assert_close(loc.detach().squeeze(0), closed.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_scale.detach().exp().squeeze(0), closed.stddev, rtol=1e-5, atol=1e-5)


def test_moe_minimises_forward_kl_among_all_densities() -> None:
    shares = torch.tensor([0.6, 0.1, 0.3]).double()
    grid = torch.linspace(-12, 14, 101).double()
    step = grid[1] - grid[0]
    log_q_m = Normal(EXPERT_LOC[:, :1], EXPERT_SCALE[:, :1]).log_prob(grid)
    masses = log_q_m.exp() * step
    logits = (-(grid.square()) / 50).clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=400, history_size=50, line_search_fn="strong_wolfe",
                                  tolerance_grad=1e-12, tolerance_change=1e-16)  # fmt: skip

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        log_q = logits.log_softmax(0) - step.log()
        loss = (shares.unsqueeze(-1) * masses * (log_q_m - log_q)).sum()
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    closed = aggregate(Experts(EXPERT_LOC[:, :1], EXPERT_SCALE[:, :1]), "moe", expert_weights=shares)
    density = logits.detach().softmax(0) / step
    torch.testing.assert_close(density, closed.log_prob(grid.unsqueeze(-1)).exp(), rtol=0, atol=1e-4)


def test_moe_weights_minimise_forward_kl_among_mixtures_of_experts() -> None:
    shares = torch.tensor([0.6, 0.1, 0.3]).double()
    grid = torch.linspace(-25, 30, 4001).double()
    log_q_m = Normal(EXPERT_LOC[:, :1], EXPERT_SCALE[:, :1]).log_prob(grid)
    logits = torch.zeros(3).double().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        log_q = torch.logsumexp(log_q_m + logits.log_softmax(0).unsqueeze(-1), 0)
        loss = torch.trapezoid(((shares @ log_q_m.exp()) * -log_q), grid)
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    posterior = aggregate(Experts(EXPERT_LOC, EXPERT_SCALE), "moe", expert_weights=3 * shares)
    torch.testing.assert_close(logits.detach().softmax(0), posterior.probs, rtol=1e-4, atol=1e-5)


def test_natural_equals_normalised_product_of_densities() -> None:
    """The reference is the product of the densities to the powers of their weights on a grid."""
    grid = torch.linspace(-30, 30, 20001).double()
    exponents = torch.tensor([[0.7, 1.9, 0.4]]).double()
    log_q_m = Normal(EXPERT_LOC[:, :1], EXPERT_SCALE[:, :1]).log_prob(grid)
    product = (exponents @ log_q_m).squeeze(0)
    product = (product - product.max()).exp()
    product = product / torch.trapezoid(product, grid)
    loc, scale = natural(exponents, EXPERT_LOC[:, :1], EXPERT_SCALE[:, :1])
    torch.testing.assert_close(Normal(loc, scale).log_prob(grid).exp().squeeze(0), product, rtol=1e-8, atol=1e-10)


def test_moment_equals_moments_of_mixture_samples() -> None:
    rng = np.random.default_rng(0)
    shares, count = np.array([0.6, 0.1, 0.3]), 400_000
    which = rng.choice(3, count, p=shares)
    draws = rng.normal(EXPERT_LOC[:, 0].numpy()[which], EXPERT_SCALE[:, 0].numpy()[which])
    loc, scale = moment(torch.tensor(shares)[None], EXPERT_LOC[:, :1], EXPERT_SCALE[:, :1])
    assert abs(draws.mean() - loc.item()) < 5 * draws.std() / count**0.5
    error = ((draws - draws.mean()) ** 2).std() / count**0.5
    assert abs(draws.var() - scale.item() ** 2) < 5 * error


@pytest.mark.parametrize("barycenter_fn", BARYCENTER_FNS)
def test_barycenter_fn_of_batch_equals_each_row_alone(barycenter_fn: BarycenterFn) -> None:
    experts = random_experts(2, 3, 4, 2, absent=False)
    weights = torch.rand(2, 3, 6, 4, generator=torch.Generator().manual_seed(1)).double()
    weights = weights / weights.sum(-1, keepdim=True)
    loc, scale = barycenter_fn(weights, experts.loc, experts.scale)
    assert loc.shape == scale.shape == (2, 3, 6, 2)
    for b in np.ndindex(2, 3, 6):
        one = barycenter_fn(weights[b][None], experts.loc[b[:2]], experts.scale[b[:2]])
        torch.testing.assert_close((loc[b], scale[b]), (one[0][0], one[1][0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("barycenter_fn", BARYCENTER_FNS)
def test_barycenter_fn_shared_rows_equal_expanded_rows(barycenter_fn: BarycenterFn) -> None:
    experts = random_experts(3, 4, 2, absent=False)
    rows = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]]).double()
    shared, expanded = (
        barycenter_fn(rows, experts.loc, experts.scale),
        barycenter_fn(rows.expand(3, 2, 4), experts.loc, experts.scale),
    )
    torch.testing.assert_close(shared, expanded)


@pytest.mark.parametrize("barycenter_fn", BARYCENTER_FNS)
def test_barycenter_fn_ignores_members_of_weight_zero(barycenter_fn: BarycenterFn) -> None:
    experts = random_experts(5, 3, 2, absent=False)
    rows = torch.tensor([[0.4, 0.6, 0.0]]).double()
    other = torch.tensor([0.0, 0.0, 1.0]).double().unsqueeze(-1)
    got = barycenter_fn(rows, experts.loc, experts.scale)
    moved = barycenter_fn(rows, experts.loc + 3 * other, experts.scale + 2 * other)
    torch.testing.assert_close(got, moved, rtol=1e-12, atol=1e-12)


@few
@given(experts=any_experts(all_present=True))
def test_barycenter_fn_is_equivariant_to_affine_maps(experts: Experts) -> None:
    rows = torch.ones(1, experts.num_modalities).double() / experts.num_modalities
    for barycenter_fn in BARYCENTER_FNS:
        loc, scale = barycenter_fn(rows, experts.loc, experts.scale)
        moved_loc, moved_scale = barycenter_fn(rows, 2.5 * experts.loc - 1, 2.5 * experts.scale)
        torch.testing.assert_close(moved_loc, 2.5 * loc - 1, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(moved_scale, 2.5 * scale, rtol=1e-9, atol=0)


@pytest.mark.parametrize("barycenter_fn", BARYCENTER_FNS)
def test_barycenter_fn_gradients_equal_finite_differences(barycenter_fn: BarycenterFn) -> None:
    experts = random_experts(2, 3, 2, absent=False)
    weights = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]]).double().expand(2, 2, 3).clone()
    inputs = [t.clone().requires_grad_() for t in (weights, experts.loc, experts.scale)]
    assert torch.autograd.gradcheck(barycenter_fn, inputs)


def test_natural_in_float32_handles_scales_far_apart() -> None:
    """With scales of 1e-8 and 1e7, squared precisions would overflow float32."""
    loc, scale = torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([[1e-8], [1e7], [1.0]])
    got_loc, got_scale = natural(torch.eye(3), loc, scale)
    torch.testing.assert_close((got_loc, got_scale), (loc, scale), rtol=1e-6, atol=0)
    got_loc, got_scale = natural(torch.ones(1, 3), loc, scale)
    assert got_loc.item() == pytest.approx(1.0)
    assert got_scale.item() == pytest.approx(1e-8, rel=1e-5)


def test_natural_in_float32_with_tiny_scales_does_not_overflow() -> None:
    scale = torch.tensor([[1e-25], [1e-25]])
    got = natural(torch.ones(1, 2), torch.tensor([[1.0], [3.0]]), scale)
    assert got[0].item() == pytest.approx(2.0)
    assert got[1].item() == pytest.approx(1e-25 / 2**0.5, rel=1e-5)


def test_moment_in_float32_with_large_means_does_not_cancel() -> None:
    loc, scale = torch.tensor([[4096.0], [4096.5]]), torch.tensor([[0.01], [0.01]])
    got_loc, got_scale = moment(torch.tensor([[0.5, 0.5]]), loc, scale)
    assert got_loc.item() == 4096.25
    assert got_scale.item() == pytest.approx((1e-4 + 0.0625) ** 0.5, rel=1e-5)
