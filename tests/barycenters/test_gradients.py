"""Tests of the derivatives of barycenters against finite differences and an unrolled minimisation."""

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


def custom_divergence(q: Normal, p: Normal) -> torch.Tensor:
    return kl_divergence(q, p) + 0.3 * (q.loc - p.loc).square() / (1 + p.scale)


FUNCTIONS: dict[str, Any] = {**{name: name for name in SMOOTH}, "custom": custom_divergence}


def leaves(seed: int = 0, zero: bool = True) -> tuple[torch.Tensor, ...]:
    """Return weights, locs and scales of three experts of two items in two dimensions, with two rows of weights."""
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, 2, 3, 2, generator=generator).double()
    weights = 0.2 + torch.rand(2, 2, 3, generator=generator).double()
    if zero:
        weights[:, 0, 1] = 0.0
    return tuple(tensor.detach().requires_grad_() for tensor in (weights, loc, (0.4 * noise).exp()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_solve_gradients_equal_finite_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates are solved in several chunks."""
    weights, loc, scale = leaves(zero=False)
    monkeypatch.setattr(implicit, "_ENTRIES", 9)

    def function(*tensors: torch.Tensor) -> Any:
        return solve(*tensors, FUNCTIONS[name], tolerance=1e-13)  # type: ignore[call-overload]

    assert torch.autograd.gradcheck(function, (weights, loc, scale), fast_mode=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_solve_gradient_of_zero_weight_equals_one_sided_difference(name: str) -> None:
    """The difference is that of a weight that grows; experts of weight 0 have no gradient of their own."""
    weights, loc, scale = leaves()
    result_loc, result_scale = solve(weights, loc, scale, FUNCTIONS[name], tolerance=1e-13)
    gradients = torch.autograd.grad((result_loc + 2 * result_scale)[:, 0].sum(), (weights, loc, scale))
    step = 1e-7
    for item in range(2):
        moved = weights.detach().clone()
        moved[item, 0, 1] = step
        other = solve(moved, loc, scale, FUNCTIONS[name], tolerance=1e-13)
        slope = ((other[0] - result_loc) + 2 * (other[1] - result_scale))[:, 0].sum() / step
        torch.testing.assert_close(gradients[0][item, 0, 1], slope.detach(), rtol=1e-3, atol=1e-4)
    for gradient in gradients[1:]:
        assert gradient.isfinite().all()
        assert (gradient[:, 1] == 0).all()


def test_solve_with_infinite_weightless_expert_has_gradients_without_it() -> None:
    """The divergence of order 2 from a much narrower expert is infinite, and so are its derivatives."""
    weights = torch.tensor([[1.0, 1.0, 0.0]]).double().requires_grad_()
    loc = torch.tensor([[0.0], [1.0], [0.5]]).double().requires_grad_()
    scale = torch.tensor([[1.0], [1.5], [0.1]]).double().requires_grad_()
    result_loc, result_scale = solve(weights, loc, scale, "renyi:2")
    gradients = torch.autograd.grad((result_loc + result_scale).sum(), (weights, loc, scale))
    fewer = [tensor.detach()[..., :2].requires_grad_() for tensor in (weights, loc.T, scale.T)]
    result_loc, result_scale = solve(fewer[0], fewer[1].T, fewer[2].T, "renyi:2")
    without = torch.autograd.grad((result_loc + result_scale).sum(), fewer)
    for got, expected in zip((gradients[0], gradients[1].T, gradients[2].T), without, strict=True):
        torch.testing.assert_close(got[..., :2], expected, rtol=1e-8, atol=1e-10)
        assert got[..., 2].abs().max() < 1e-12


@pytest.mark.parametrize("name", ["hellinger", "fisher_rao", "alpha:-0.8", "jeffreys"])
def test_solve_gradients_equal_those_of_unrolled_minimisation(name: str) -> None:
    """The reference differentiates through many small steps of gradient descent on the plain objective."""
    weights, loc, scale = leaves(3, zero=False)
    share = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    p = Normal(loc.unsqueeze(1), scale.unsqueeze(1))
    result_loc, result_scale = (tensor.detach() for tensor in solve(weights, loc, scale, name))
    rate = {"jeffreys": 0.1, "hellinger": 1.5}.get(name, 0.4)
    at, log_scale = result_loc.clone().requires_grad_(), result_scale.log().requires_grad_()
    for _ in range(200):
        q = Normal(at.unsqueeze(2), log_scale.exp().unsqueeze(2))
        total = (share * get_divergence(name)(q, p)).sum()
        by_loc, by_log = torch.autograd.grad(total, (at, log_scale), create_graph=True)
        at, log_scale = at - rate * by_loc, log_scale - rate * by_log
    expected = torch.autograd.grad((at * at.detach() + log_scale.exp()).sum(), (weights, loc, scale))
    result_loc, result_scale = solve(weights, loc, scale, name)
    got = torch.autograd.grad((result_loc * result_loc.detach() + result_scale).sum(), (weights, loc, scale))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_w1_gradients_between_experts_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    num_between = 0
    for _ in range(6):
        loc = (2 * torch.randn(5, 1, generator=generator)).double().requires_grad_()
        scale = (0.6 * torch.randn(5, 1, generator=generator)).double().exp().requires_grad_()
        weights = (0.5 + torch.rand(1, 5, generator=generator)).double().requires_grad_()
        *_, info = solve(weights, loc, scale, "w1", return_info=True)
        num_between += bool(info.iterations.any())

        def function(*tensors: torch.Tensor) -> Any:
            return solve(*tensors, "w1", tolerance=1e-12)  # type: ignore[call-overload]

        assert torch.autograd.gradcheck(function, (weights, loc, scale), fast_mode=True)
    assert num_between >= 2  # the others lie at an expert


def test_w1_gradient_at_an_expert_is_that_of_the_expert() -> None:
    weights = torch.tensor([[1.0, 3.0, 1.0]]).double().requires_grad_()
    loc = torch.tensor([[0.0], [1.0], [9.0]]).double().requires_grad_()
    scale = torch.tensor([[1.0], [2.0], [0.5]]).double().requires_grad_()
    result_loc, result_scale = solve(weights, loc, scale, "w1")
    by_weights, by_loc, by_scale = torch.autograd.grad((3 * result_loc + 5 * result_scale).sum(), (weights, loc, scale))
    assert by_weights.abs().max() == 0
    assert by_loc.flatten().tolist() == [0, 3, 0]
    assert by_scale.flatten().tolist() == [0, 5, 0]
    even = (
        torch.tensor([[1.0, 1.0]]).double().requires_grad_()
    )  # all points between are minimisers, and the result is their mean
    result_loc, result_scale = solve(even, loc[:2], scale[:2], "w1")
    by_weights, by_loc = torch.autograd.grad(result_loc.sum(), (even, loc))
    assert by_weights.abs().max() == 0
    assert by_loc.flatten().tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("name", [*SMOOTH, "w1"])
def test_solve_of_equal_experts_in_float32_has_exact_gradients(name: str) -> None:
    weights = torch.ones(1, 3, requires_grad=True)
    loc, scale = torch.zeros(3, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    result_loc, result_scale = solve(weights, loc, scale, name)
    for gradient, expected in zip(
        torch.autograd.grad((result_loc + 2 * result_scale).sum(), (weights, loc, scale)),
        (0.0, 1 / 3, 2 / 3),
        strict=True,
    ):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["hellinger", "w1"])
def test_solve_second_derivative_of_iterative_solver_raises(name: str) -> None:
    weights, loc, scale = leaves(zero=False)
    result_loc, _ = solve(weights, loc, scale, name)
    (gradient,) = torch.autograd.grad(result_loc.square().sum(), loc, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", ["jeffreys", "entropic_w2", "w2"])
def test_solve_second_derivative_of_closed_form_equals_finite_differences(name: str) -> None:
    def function(*tensors: torch.Tensor) -> Any:
        return solve(*tensors, name)  # type: ignore[call-overload]

    assert torch.autograd.gradgradcheck(function, leaves(zero=False), fast_mode=True)


def test_solve_without_gradients_records_nothing() -> None:
    weights, loc, scale = (tensor.detach() for tensor in leaves())
    assert not solve(weights, loc, scale, "hellinger")[0].requires_grad
    with torch.no_grad():
        assert not solve(weights, loc.requires_grad_(), scale, custom_divergence)[0].requires_grad
