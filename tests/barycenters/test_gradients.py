"""Derivatives of barycenters: finite differences, and an unrolled minimisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pyro_mmvae.barycenters import get_divergence, implicit, solve

SMOOTH = (
    "reverse_kl", "forward_kl", "jeffreys", "hellinger", "renyi", "renyi:2", "alpha", "alpha:-0.8", "w2", "fisher_rao",
    "entropic_w2",
)  # fmt: skip


def own(q: Normal, p: Normal) -> torch.Tensor:
    return kl_divergence(q, p) + 0.3 * (q.loc - p.loc).square() / (1 + p.scale)


FUNCTIONS: dict[str, Any] = {**{name: name for name in SMOOTH}, "own": own}


def leaves(seed: int = 0, zero: bool = True) -> tuple[torch.Tensor, ...]:
    """Three experts of two items, in two dimensions; two rows, one with a weight of 0."""
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, 2, 3, 2, generator=generator).double()
    weights = 0.2 + torch.rand(2, 2, 3, generator=generator).double()
    if zero:
        weights[:, 0, 1] = 0.0
    return tuple(tensor.detach().requires_grad_() for tensor in (weights, loc, (0.4 * noise).exp()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In weights, locs and scales, in one piece and in several."""
    weights, loc, scale = leaves(zero=False)
    monkeypatch.setattr(implicit, "_ENTRIES", 9)

    def function(*tensors: torch.Tensor) -> Any:
        return solve(*tensors, FUNCTIONS[name], tolerance=1e-13)  # type: ignore[call-overload]

    assert torch.autograd.gradcheck(function, (weights, loc, scale), fast_mode=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_differences_at_a_weight_of_zero(name: str) -> None:
    """From above, where it grows; and what has no weight has no gradient of its own."""
    weights, loc, scale = leaves()
    found, spread = solve(weights, loc, scale, FUNCTIONS[name], tolerance=1e-13)
    gradients = torch.autograd.grad((found + 2 * spread)[:, 0].sum(), (weights, loc, scale))
    step = 1e-7
    for item in range(2):
        moved = weights.detach().clone()
        moved[item, 0, 1] = step
        other = solve(moved, loc, scale, FUNCTIONS[name], tolerance=1e-13)
        slope = ((other[0] - found) + 2 * (other[1] - spread))[:, 0].sum() / step
        torch.testing.assert_close(gradients[0][item, 0, 1], slope.detach(), rtol=1e-3, atol=1e-4)
    for gradient in gradients[1:]:
        assert gradient.isfinite().all()
        assert (gradient[:, 1] == 0).all()


def test_an_expert_without_weight_outside_of_the_domain() -> None:
    """Of order 2 the divergence from an expert far narrower is infinite: so is its pull, and none is reported."""
    weights = torch.tensor([[1.0, 1.0, 0.0]]).double().requires_grad_()
    loc = torch.tensor([[0.0], [1.0], [0.5]]).double().requires_grad_()
    scale = torch.tensor([[1.0], [1.5], [0.1]]).double().requires_grad_()
    found, spread = solve(weights, loc, scale, "renyi:2")
    gradients = torch.autograd.grad((found + spread).sum(), (weights, loc, scale))
    fewer = [tensor.detach()[..., :2].requires_grad_() for tensor in (weights, loc.T, scale.T)]
    found, spread = solve(fewer[0], fewer[1].T, fewer[2].T, "renyi:2")
    wanted = torch.autograd.grad((found + spread).sum(), fewer)
    for got, expected in zip((gradients[0], gradients[1].T, gradients[2].T), wanted, strict=True):
        torch.testing.assert_close(got[..., :2], expected, rtol=1e-8, atol=1e-10)
        assert got[..., 2].abs().max() < 1e-12


@pytest.mark.parametrize("name", ["hellinger", "fisher_rao", "alpha:-0.8", "jeffreys"])
def test_an_unrolled_minimisation_has_the_same_derivatives(name: str) -> None:
    """Many small steps of gradient descent on the plain objective, and automatic differentiation through."""
    weights, loc, scale = leaves(3, zero=False)
    share = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    p = Normal(loc.unsqueeze(1), scale.unsqueeze(1))
    found, spread = (tensor.detach() for tensor in solve(weights, loc, scale, name))
    rate = {"jeffreys": 0.1, "hellinger": 1.5}.get(name, 0.4)
    at, log_scale = found.clone().requires_grad_(), spread.log().requires_grad_()
    for _ in range(200):
        q = Normal(at.unsqueeze(2), log_scale.exp().unsqueeze(2))
        total = (share * get_divergence(name)(q, p)).sum()
        by_loc, by_log = torch.autograd.grad(total, (at, log_scale), create_graph=True)
        at, log_scale = at - rate * by_loc, log_scale - rate * by_log
    wanted = torch.autograd.grad((at * at.detach() + log_scale.exp()).sum(), (weights, loc, scale))
    found, spread = solve(weights, loc, scale, name)
    got = torch.autograd.grad((found * found.detach() + spread).sum(), (weights, loc, scale))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


def test_medians_between_experts_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    found = 0
    for _ in range(6):
        loc = (2 * torch.randn(5, 1, generator=generator)).double().requires_grad_()
        scale = (0.6 * torch.randn(5, 1, generator=generator)).double().exp().requires_grad_()
        weights = (0.5 + torch.rand(1, 5, generator=generator)).double().requires_grad_()
        *_, info = solve(weights, loc, scale, "w1", return_info=True)
        found += bool(info.iterations.any())

        def function(*tensors: torch.Tensor) -> Any:
            return solve(*tensors, "w1", tolerance=1e-12)  # type: ignore[call-overload]

        assert torch.autograd.gradcheck(function, (weights, loc, scale), fast_mode=True)
    assert found >= 2  # some lie between experts, some at one


def test_the_subgradient_of_a_median_at_an_expert() -> None:
    weights = torch.tensor([[1.0, 3.0, 1.0]]).double().requires_grad_()
    loc = torch.tensor([[0.0], [1.0], [9.0]]).double().requires_grad_()
    scale = torch.tensor([[1.0], [2.0], [0.5]]).double().requires_grad_()
    found, spread = solve(weights, loc, scale, "w1")
    by_weights, by_loc, by_scale = torch.autograd.grad((3 * found + 5 * spread).sum(), (weights, loc, scale))
    assert by_weights.abs().max() == 0
    assert by_loc.flatten().tolist() == [0, 3, 0]
    assert by_scale.flatten().tolist() == [0, 5, 0]
    even = torch.tensor([[1.0, 1.0]]).double().requires_grad_()  # all between is as good: the middle moves with both
    found, spread = solve(even, loc[:2], scale[:2], "w1")
    by_weights, by_loc = torch.autograd.grad(found.sum(), (even, loc))
    assert by_weights.abs().max() == 0
    assert by_loc.flatten().tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("name", [*SMOOTH, "w1"])
def test_equal_experts_and_single_precision_have_finite_gradients(name: str) -> None:
    weights = torch.ones(1, 3, requires_grad=True)
    loc, scale = torch.zeros(3, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    found, spread = solve(weights, loc, scale, name)
    for gradient, wanted in zip(
        torch.autograd.grad((found + 2 * spread).sum(), (weights, loc, scale)), (0.0, 1 / 3, 2 / 3), strict=True
    ):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, torch.full_like(gradient, wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["hellinger", "w1"])
def test_a_second_derivative_is_refused(name: str) -> None:
    weights, loc, scale = leaves(zero=False)
    found, _ = solve(weights, loc, scale, name)
    (gradient,) = torch.autograd.grad(found.square().sum(), loc, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", ["jeffreys", "entropic_w2", "w2"])
def test_or_right_where_there_is_one(name: str) -> None:
    def function(*tensors: torch.Tensor) -> Any:
        return solve(*tensors, name)  # type: ignore[call-overload]

    assert torch.autograd.gradgradcheck(function, leaves(zero=False), fast_mode=True)


def test_nothing_is_recorded_where_nothing_requires_a_gradient() -> None:
    weights, loc, scale = (tensor.detach() for tensor in leaves())
    assert not solve(weights, loc, scale, "hellinger")[0].requires_grad
    with torch.no_grad():
        assert not solve(weights, loc.requires_grad_(), scale, own)[0].requires_grad
