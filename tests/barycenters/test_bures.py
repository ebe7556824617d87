"""Bures–Wasserstein barycenters against POT, a minimiser that knows no iteration, closed forms, finite differences."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import minimize

from pyro_mmvae.barycenters import bures, full_covariance
from pyro_mmvae.barycenters.operators import Members, Roots, solve_hessian, sylvester
from tests.strategies import few, random_full_experts

EYE = torch.eye(3, dtype=torch.float64)


def covariances(*shape: int, spread: float = 0.6, seed: int = 0) -> torch.Tensor:
    """Factors `(*batch, modality, latent, latent)`."""
    tril = random_full_experts(*shape, absent=False, seed=seed, spread=spread).scale_tril
    assert tril is not None
    return tril


def random_weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).softmax(-1)


def squared(tril: torch.Tensor) -> torch.Tensor:
    return tril @ tril.mT


def bures_objective(s: np.ndarray, members: np.ndarray, weights: np.ndarray) -> float:
    """Σ w W₂², by scipy's square roots."""
    total = 0.0
    for weight, sigma in zip(weights, members, strict=True):
        root = sqrtm(sigma)
        total += weight * np.trace(s + sigma - 2 * np.real(sqrtm(root @ s @ root)))
    return float(total)


@pytest.mark.parametrize("latent", [1, 2, 5, 16])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_against_pot(latent: int, spread: float) -> None:
    tril, weights = covariances(2, 3, latent, spread=spread), random_weights(2, 2, 3)
    got = bures.barycenter(weights, tril)
    assert got.step.max() <= 1e-12
    assert 0 < got.iterations.max() < 60
    for b, k in np.ndindex(2, 2):
        _, wanted = ot.gaussian.bures_wasserstein_barycenter(
            np.zeros((3, latent)), squared(tril[b]).numpy(), weights[b, k].numpy(), num_iter=1000, eps=1e-12
        )
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(squared(got.scale_tril[b, k]), wanted, rtol=0, atol=1e-10 * scale)


@few
@given(st.integers(0, 10**6), st.floats(0.1, 1.2))
def test_two_dimensions_by_brute_force(seed: int, spread: float) -> None:
    """A simplex search over the three numbers of a factor, started elsewhere."""
    tril, weights = covariances(3, 2, spread=spread, seed=seed), random_weights(1, 3)
    got = squared(bures.barycenter(weights, tril).scale_tril[0]).numpy()
    members = squared(tril).numpy()

    def loss(x: np.ndarray) -> float:
        factor = np.array([[np.exp(x[0]), 0.0], [x[1], np.exp(x[2])]])
        return bures_objective(factor @ factor.T, members, weights[0].numpy())

    found = minimize(loss, [0.5, 0.3, -0.4], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    factor = np.array([[np.exp(found.x[0]), 0.0], [found.x[1], np.exp(found.x[2])]])
    np.testing.assert_allclose(got, factor @ factor.T, atol=2e-5 * np.abs(got).max())
    assert bures_objective(got, members, weights[0].numpy()) <= found.fun + 1e-9


def test_distance() -> None:
    tril = covariances(6, 2, 3)
    loc = torch.randn(6, 2, 3).double()
    got = bures.squared_distance(loc[:, 0], tril[:, 0], loc[:, 1], tril[:, 1])
    for i in range(6):
        one, other = squared(tril[i]).numpy()
        wanted = ot.gaussian.bures_wasserstein_distance(*loc[i].numpy(), one, other) ** 2
        assert got[i].item() == pytest.approx(wanted, rel=1e-8)
    alone = bures.squared_distance(loc[:, 0], tril[:, 0], loc[:, 0], tril[:, 0])
    assert alone.abs().max() < 1e-12


def test_the_equation_holds() -> None:
    """S = Σ w (S^½ Σ_m S^½)^½ with scipy's square roots, members far from commuting."""
    tril, weights = covariances(1, 4, 6, spread=1.5)[0], random_weights(1, 4)
    s = squared(bures.barycenter(weights, tril).scale_tril[0]).numpy()
    root = sqrtm(s)
    right = sum(w * sqrtm(root @ m @ root) for w, m in zip(weights[0].numpy(), squared(tril).numpy(), strict=True))
    np.testing.assert_allclose(right, s, atol=1e-11 * np.abs(s).max())


def test_members_that_commute_take_one_step() -> None:
    """Their scales average in their common directions, and diagonal ones stay diagonal."""
    scale = torch.linspace(0.1, 3.0, 12).double().reshape(4, 3)
    weights = random_weights(2, 4)
    got = bures.barycenter(weights, torch.diag_embed(scale))
    torch.testing.assert_close(got.scale_tril, torch.diag_embed(weights @ scale), rtol=1e-14, atol=1e-15)
    assert (got.iterations == 1).all()
    turned, _ = torch.linalg.qr(torch.randn(3, 3).double())
    members = squared(turned * scale.unsqueeze(-2))
    got = bures.barycenter(weights, torch.linalg.cholesky(members))
    wanted = squared(turned * (weights @ scale).unsqueeze(-2))
    torch.testing.assert_close(squared(got.scale_tril), wanted, rtol=1e-12, atol=1e-13)


def test_one_member_is_itself_and_equal_members_too() -> None:
    tril = covariances(3, 4, spread=3.0)
    alone = bures.barycenter(torch.eye(3).double(), tril)
    torch.testing.assert_close(alone.scale_tril, tril, rtol=1e-10, atol=0)
    assert (alone.iterations == 0).all()
    same = bures.barycenter(torch.full((1, 3), 1 / 3, dtype=torch.float64), tril[:1].expand(3, 4, 4))
    torch.testing.assert_close(same.scale_tril[0], tril[0], rtol=1e-9, atol=1e-12)


def test_a_member_without_weight_is_as_good_as_removed() -> None:
    tril = covariances(4, 3)
    weights = torch.tensor([[0.3, 0.7, 0.0, 0.0], [0.0, 0.0, 0.4, 0.6]]).double()
    got = bures.barycenter(weights, tril).scale_tril
    for k, members in enumerate(([0, 1], [2, 3])):
        wanted = bures.barycenter(weights[k : k + 1, members], tril[members]).scale_tril[0]
        torch.testing.assert_close(got[k], wanted, rtol=1e-12, atol=1e-13)


def test_rotating_and_scaling_everything_rotates_and_scales_the_answer() -> None:
    tril, weights = covariances(3, 5), random_weights(1, 3)
    turned, _ = torch.linalg.qr(torch.randn(5, 5).double())
    other = torch.linalg.cholesky(squared(2.5 * turned @ tril))
    got = squared(bures.barycenter(weights, other).scale_tril)
    wanted = squared(2.5 * turned @ bures.barycenter(weights, tril).scale_tril)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


def test_narrow_experts_in_other_directions() -> None:
    """Standard deviations over seven orders of magnitude: nothing turns negative or stalls."""
    got = bures.barycenter(random_weights(5, 1, 3), covariances(5, 3, 8, spread=4.0))
    assert got.scale_tril.isfinite().all()
    assert (got.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_no_convergence_is_announced_with_how_many_and_how_far() -> None:
    tril, weights = covariances(3, 3, 4), random_weights(3, 2, 3)
    weights[0] = torch.tensor([1.0, 0.0, 0.0])
    with pytest.warns(RuntimeWarning, match=r"4 of 6 did not converge in 2 iterations, .* step was \d\.\de-0\d"):
        got = bures.barycenter(weights, tril, max_iterations=2)
    assert (got.iterations[1:] == 2).all()
    assert (got.step[1:] > 1e-12).all()


def test_unsolved_gradients_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mmvae.barycenters.operators._MAX_STEPS", 1)
    tril = covariances(2, 3, 4).requires_grad_()
    result = bures.barycenter(random_weights(2, 1, 3), tril).scale_tril
    with pytest.warns(RuntimeWarning, match=r"gradients of 2 of 2 have a relative residual of up to \d\.\de"):
        result.sum().backward()


def wasserstein(weights: torch.Tensor, tril: torch.Tensor) -> torch.Tensor:
    return bures.barycenter(weights.softmax(-1), tril.tril()).scale_tril


EQUAL = torch.stack([EYE, EYE, EYE])
PARTLY = torch.stack([EYE, 2 * EYE, torch.diag(torch.tensor([1.0, 1.0, 3.0]).double())])


@pytest.mark.parametrize("tril", [covariances(1, 3, 3), EQUAL, PARTLY, covariances(2, 3, 1)])
def test_finite_differences(tril: torch.Tensor) -> None:
    """In factors and weights, with equal eigenvalues and equal members too."""
    weights = torch.randn(*tril.shape[:-3], 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(wasserstein, (weights, tril.clone().requires_grad_()))


def test_the_gradient_in_a_weight_that_is_zero() -> None:
    """To one side, as of a member about to join, whose share of the gradient in its factor is nothing."""
    tril = covariances(3, 3)
    weights = torch.tensor([[0.4, 0.6, 0.0]], dtype=torch.float64).requires_grad_()
    trace = squared(bures.barycenter(weights, tril).scale_tril).diagonal(dim1=-2, dim2=-1).sum()
    (gradient,) = torch.autograd.grad(trace, weights)
    step = 1e-6
    moved = torch.tensor([[0.4 * (1 - step), 0.6 * (1 - step), step]], dtype=torch.float64)
    difference = squared(bures.barycenter(moved, tril).scale_tril).diagonal(dim1=-2, dim2=-1).sum() - trace
    direction = torch.tensor([[-0.4, -0.6, 1.0]], dtype=torch.float64)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item() / step, rel=1e-4)


def test_the_adjoint_system_is_solved() -> None:
    tril, weights = covariances(2, 3, 4, spread=1.0), random_weights(2, 1, 3)
    q = bures.barycenter(weights, tril).scale_tril.flatten(0, 1)
    members = Members.of(weights, weights > 0)
    roots = Roots.of(q[members.row].mT @ tril[members.item, members.modality])
    right = squared(torch.randn(2, 4, 4).double())
    z = solve_hessian(members, roots, Roots.of(q.mT), right)
    r = roots.matrix()
    y = sylvester(roots, r @ z[members.row] @ r)
    torch.testing.assert_close(r @ y + y @ r, r @ z[members.row] @ r)
    torch.testing.assert_close(members.total(y), right, rtol=1e-9, atol=1e-9)


CHARTS = (full_covariance.select, full_covariance.natural, full_covariance.wasserstein, full_covariance.moment)


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_by_finite_differences(chart: Any) -> None:
    experts = random_full_experts(1, 3, 3, absent=False)
    leaves = (torch.randn(1, 2, 3).double(), experts.loc, covariances(1, 3, 3))

    def value(weights: torch.Tensor, loc: torch.Tensor, tril: torch.Tensor) -> Any:
        return chart(weights.softmax(-1), loc, tril.tril())

    assert torch.autograd.gradcheck(value, [leaf.clone().requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("chart", CHARTS)
def test_single_precision_is_that_of_its_input(chart: Any) -> None:
    """Scales of 1e-3 to 1e3 in one expert, which a float32 Cholesky factorisation does not survive."""
    experts = random_full_experts(4, 3, 4, absent=False, spread=2.5)
    weights = torch.eye(3).double() if chart is full_covariance.select else random_weights(4, 2, 3)
    tril = covariances(4, 3, 4, spread=2.5).float()
    loc, got = chart(weights.float(), experts.loc.float(), tril)
    wanted_loc, wanted = chart(weights.float().double(), experts.loc.float().double(), tril.double())
    assert loc.dtype == got.dtype == torch.float32
    size = wanted.abs().amax((-2, -1), keepdim=True)
    torch.testing.assert_close(got.double() / size, wanted / size, rtol=0, atol=1e-6)
    torch.testing.assert_close(loc.double(), wanted_loc, rtol=1e-4, atol=1e-4)


def test_low_rank() -> None:
    scale, factor = torch.rand(5, 3).double() + 0.1, torch.randn(5, 3, 2).double()
    tril = full_covariance.low_rank_tril(scale, factor)
    torch.testing.assert_close(squared(tril), torch.diag_embed(scale.square()) + squared(factor))
    assert (tril == tril.tril()).all()
    assert (tril.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert torch.autograd.gradcheck(full_covariance.low_rank_tril, (scale.requires_grad_(), factor.requires_grad_()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        narrow = full_covariance.low_rank_tril(torch.full((1, 3), 1e-4), 100 * factor[:1].detach().float())
    assert (narrow.diagonal(dim1=-2, dim2=-1) > 0).all()
