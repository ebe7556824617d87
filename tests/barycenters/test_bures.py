"""Tests of Bures–Wasserstein barycenters against POT, a simplex search, closed forms and finite differences."""

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


def covariances(*shape: int, log_scale_std: float = 0.6, seed: int = 0) -> torch.Tensor:
    """Return random factors `(*batch, modality, latent, latent)`."""
    tril = random_full_experts(*shape, absent=False, seed=seed, log_scale_std=log_scale_std).scale_tril
    assert tril is not None
    return tril


def random_weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).softmax(-1)


def squared(tril: torch.Tensor) -> torch.Tensor:
    return tril @ tril.mT


def bures_objective(s: np.ndarray, members: np.ndarray, weights: np.ndarray) -> float:
    """Return Σ w W₂² by scipy's square roots."""
    total = 0.0
    for weight, sigma in zip(weights, members, strict=True):
        root = sqrtm(sigma)
        total += weight * np.trace(s + sigma - 2 * np.real(sqrtm(root @ s @ root)))
    return float(total)


@pytest.mark.parametrize("latent", [1, 2, 5, 16])
@pytest.mark.parametrize("log_scale_std", [0.3, 1.0])
def test_barycenter_equals_that_of_pot(latent: int, log_scale_std: float) -> None:
    tril, weights = covariances(2, 3, latent, log_scale_std=log_scale_std), random_weights(2, 2, 3)
    got = bures.barycenter(weights, tril)
    assert got.step.max() <= 1e-12
    assert 0 < got.iterations.max() < 60
    for b, k in np.ndindex(2, 2):
        _, expected = ot.gaussian.bures_wasserstein_barycenter(
            np.zeros((3, latent)), squared(tril[b]).numpy(), weights[b, k].numpy(), num_iter=1000, eps=1e-12
        )
        scale = np.abs(expected).max()
        np.testing.assert_allclose(squared(got.scale_tril[b, k]), expected, rtol=0, atol=1e-10 * scale)


@few
@given(st.integers(0, 10**6), st.floats(0.1, 1.2))
def test_barycenter_in_two_dimensions_equals_brute_force_minimum(seed: int, log_scale_std: float) -> None:
    """The minimum is that of a simplex search over the three entries of a factor."""
    tril, weights = covariances(3, 2, log_scale_std=log_scale_std, seed=seed), random_weights(1, 3)
    got = squared(bures.barycenter(weights, tril).scale_tril[0]).numpy()
    members = squared(tril).numpy()

    def loss(x: np.ndarray) -> float:
        factor = np.array([[np.exp(x[0]), 0.0], [x[1], np.exp(x[2])]])
        return bures_objective(factor @ factor.T, members, weights[0].numpy())

    minimum = minimize(loss, [0.5, 0.3, -0.4], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    factor = np.array([[np.exp(minimum.x[0]), 0.0], [minimum.x[1], np.exp(minimum.x[2])]])
    np.testing.assert_allclose(got, factor @ factor.T, atol=2e-5 * np.abs(got).max())
    assert bures_objective(got, members, weights[0].numpy()) <= minimum.fun + 1e-9


def test_squared_distance_equals_that_of_pot() -> None:
    tril = covariances(6, 2, 3)
    loc = torch.randn(6, 2, 3).double()
    got = bures.squared_distance(loc[:, 0], tril[:, 0], loc[:, 1], tril[:, 1])
    for i in range(6):
        one, other = squared(tril[i]).numpy()
        expected = ot.gaussian.bures_wasserstein_distance(*loc[i].numpy(), one, other) ** 2
        assert got[i].item() == pytest.approx(expected, rel=1e-8)
    alone = bures.squared_distance(loc[:, 0], tril[:, 0], loc[:, 0], tril[:, 0])
    assert alone.abs().max() < 1e-12


def test_barycenter_solves_fixed_point_equation() -> None:
    """S = Σ w (S^½ Σ_m S^½)^½ holds with scipy's square roots for members far from commuting."""
    tril, weights = covariances(1, 4, 6, log_scale_std=1.5)[0], random_weights(1, 4)
    s = squared(bures.barycenter(weights, tril).scale_tril[0]).numpy()
    root = sqrtm(s)
    right = sum(w * sqrtm(root @ m @ root) for w, m in zip(weights[0].numpy(), squared(tril).numpy(), strict=True))
    np.testing.assert_allclose(right, s, atol=1e-11 * np.abs(s).max())


def test_barycenter_of_commuting_members_takes_one_step() -> None:
    """Scales are averaged in the common directions, and diagonal members have a diagonal barycenter."""
    scale = torch.linspace(0.1, 3.0, 12).double().reshape(4, 3)
    weights = random_weights(2, 4)
    got = bures.barycenter(weights, torch.diag_embed(scale))
    torch.testing.assert_close(got.scale_tril, torch.diag_embed(weights @ scale), rtol=1e-14, atol=1e-15)
    assert (got.iterations == 1).all()
    turned, _ = torch.linalg.qr(torch.randn(3, 3).double())
    members = squared(turned * scale.unsqueeze(-2))
    got = bures.barycenter(weights, torch.linalg.cholesky(members))
    expected = squared(turned * (weights @ scale).unsqueeze(-2))
    torch.testing.assert_close(squared(got.scale_tril), expected, rtol=1e-12, atol=1e-13)


def test_barycenter_of_one_or_equal_members_is_that_member() -> None:
    tril = covariances(3, 4, log_scale_std=3.0)
    alone = bures.barycenter(torch.eye(3).double(), tril)
    torch.testing.assert_close(alone.scale_tril, tril, rtol=1e-10, atol=0)
    assert (alone.iterations == 0).all()
    same = bures.barycenter(torch.full((1, 3), 1 / 3, dtype=torch.float64), tril[:1].expand(3, 4, 4))
    torch.testing.assert_close(same.scale_tril[0], tril[0], rtol=1e-9, atol=1e-12)


def test_barycenter_with_weightless_members_equals_that_without_them() -> None:
    tril = covariances(4, 3)
    weights = torch.tensor([[0.3, 0.7, 0.0, 0.0], [0.0, 0.0, 0.4, 0.6]]).double()
    got = bures.barycenter(weights, tril).scale_tril
    for k, members in enumerate(([0, 1], [2, 3])):
        expected = bures.barycenter(weights[k : k + 1, members], tril[members]).scale_tril[0]
        torch.testing.assert_close(got[k], expected, rtol=1e-12, atol=1e-13)


def test_barycenter_is_equivariant_to_rotation_and_scaling() -> None:
    tril, weights = covariances(3, 5), random_weights(1, 3)
    turned, _ = torch.linalg.qr(torch.randn(5, 5).double())
    other = torch.linalg.cholesky(squared(2.5 * turned @ tril))
    got = squared(bures.barycenter(weights, other).scale_tril)
    expected = squared(2.5 * turned @ bures.barycenter(weights, tril).scale_tril)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


def test_barycenter_of_narrow_members_in_different_directions_is_positive_definite() -> None:
    """Standard deviations cover seven orders of magnitude."""
    got = bures.barycenter(random_weights(5, 1, 3), covariances(5, 3, 8, log_scale_std=4.0))
    assert got.scale_tril.isfinite().all()
    assert (got.scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_barycenter_without_convergence_warns_with_count_and_step() -> None:
    tril, weights = covariances(3, 3, 4), random_weights(3, 2, 3)
    weights[0] = torch.tensor([1.0, 0.0, 0.0])
    with pytest.warns(RuntimeWarning, match=r"4 of 6 did not converge in 2 iterations, .* step was \d\.\de-0\d"):
        got = bures.barycenter(weights, tril, max_iterations=2)
    assert (got.iterations[1:] == 2).all()
    assert (got.step[1:] > 1e-12).all()


def test_backward_without_convergence_warns_with_count_and_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mmvae.barycenters.operators._MAX_STEPS", 1)
    tril = covariances(2, 3, 4).requires_grad_()
    result = bures.barycenter(random_weights(2, 1, 3), tril).scale_tril
    with pytest.warns(RuntimeWarning, match=r"gradients of 2 of 2 have a relative residual of up to \d\.\de"):
        result.sum().backward()


def wasserstein(weights: torch.Tensor, tril: torch.Tensor) -> torch.Tensor:
    return bures.barycenter(weights.softmax(-1), tril.tril()).scale_tril


EQUAL = torch.stack([EYE, EYE, EYE])
PARTLY_EQUAL = torch.stack([EYE, 2 * EYE, torch.diag(torch.tensor([1.0, 1.0, 3.0]).double())])


@pytest.mark.parametrize("tril", [covariances(1, 3, 3), EQUAL, PARTLY_EQUAL, covariances(2, 3, 1)])
def test_barycenter_gradients_equal_finite_differences(tril: torch.Tensor) -> None:
    """Gradients with respect to factors and weights hold for equal eigenvalues and equal members too."""
    weights = torch.randn(*tril.shape[:-3], 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(wasserstein, (weights, tril.clone().requires_grad_()))


def test_barycenter_gradient_of_zero_weight_equals_one_sided_difference() -> None:
    """The difference is that of a member that joins with a small weight."""
    tril = covariances(3, 3)
    weights = torch.tensor([[0.4, 0.6, 0.0]], dtype=torch.float64).requires_grad_()
    trace = squared(bures.barycenter(weights, tril).scale_tril).diagonal(dim1=-2, dim2=-1).sum()
    (gradient,) = torch.autograd.grad(trace, weights)
    step = 1e-6
    moved = torch.tensor([[0.4 * (1 - step), 0.6 * (1 - step), step]], dtype=torch.float64)
    difference = squared(bures.barycenter(moved, tril).scale_tril).diagonal(dim1=-2, dim2=-1).sum() - trace
    direction = torch.tensor([[-0.4, -0.6, 1.0]], dtype=torch.float64)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item() / step, rel=1e-4)


def test_solve_hessian_solves_adjoint_system() -> None:
    tril, weights = covariances(2, 3, 4, log_scale_std=1.0), random_weights(2, 1, 3)
    q = bures.barycenter(weights, tril).scale_tril.flatten(0, 1)
    members = Members.of(weights, weights > 0)
    roots = Roots.of(q[members.row].mT @ tril[members.item, members.modality])
    right = squared(torch.randn(2, 4, 4).double())
    z = solve_hessian(members, roots, Roots.of(q.mT), right)
    r = roots.matrix()
    y = sylvester(roots, r @ z[members.row] @ r)
    torch.testing.assert_close(r @ y + y @ r, r @ z[members.row] @ r)
    torch.testing.assert_close(members.total(y), right, rtol=1e-9, atol=1e-9)


BARYCENTER_FNS = (full_covariance.select, full_covariance.natural, full_covariance.wasserstein, full_covariance.moment)


@pytest.mark.parametrize("barycenter_fn", BARYCENTER_FNS)
def test_barycenter_fn_gradients_equal_finite_differences(barycenter_fn: Any) -> None:
    experts = random_full_experts(1, 3, 3, absent=False)
    leaves = (torch.randn(1, 2, 3).double(), experts.loc, covariances(1, 3, 3))

    def value(weights: torch.Tensor, loc: torch.Tensor, tril: torch.Tensor) -> Any:
        return barycenter_fn(weights.softmax(-1), loc, tril.tril())

    assert torch.autograd.gradcheck(value, [leaf.clone().requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("barycenter_fn", BARYCENTER_FNS)
def test_barycenter_fn_in_float32_is_as_precise_as_its_input(barycenter_fn: Any) -> None:
    """Scales from 1e-3 to 1e3 in one expert make a float32 Cholesky factorisation fail."""
    experts = random_full_experts(4, 3, 4, absent=False, log_scale_std=2.5)
    weights = torch.eye(3).double() if barycenter_fn is full_covariance.select else random_weights(4, 2, 3)
    tril = covariances(4, 3, 4, log_scale_std=2.5).float()
    loc, got = barycenter_fn(weights.float(), experts.loc.float(), tril)
    expected_loc, expected = barycenter_fn(weights.float().double(), experts.loc.float().double(), tril.double())
    assert loc.dtype == got.dtype == torch.float32
    size = expected.abs().amax((-2, -1), keepdim=True)
    torch.testing.assert_close(got.double() / size, expected / size, rtol=0, atol=1e-6)
    torch.testing.assert_close(loc.double(), expected_loc, rtol=1e-4, atol=1e-4)


def test_low_rank_tril_is_triangular_factor_with_gradients() -> None:
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
