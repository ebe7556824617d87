"""Tests of barycenters under every divergence against brute force, closed forms, limits and symmetries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from pyro_mmvae.barycenters import ConvergenceWarning, get_divergence, implicit, moment, natural, solve, wasserstein
from pyro_mmvae.barycenters.wasserstein1 import folded_norm
from tests.gaussians import LOCAL, NATURAL, ORACLES, brute_minimum, objective, problem
from tests.strategies import few

EVERY = (
    "reverse_kl", "forward_kl", "jeffreys", "hellinger", "renyi", "renyi:2", "alpha", "alpha:-0.8", "w2", "w1",
    "fisher_rao", "entropic_w2",
)  # fmt: skip


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def many(
    seed: int, *batch: int, members: int = 4, latent: int = 2, log_scale_std: float = 1.0
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, *batch, members, latent, generator=generator).double()
    weights = torch.rand(*batch, 3, members, generator=generator).double() + 0.05
    weights[..., 0, 1:3] = 0.0
    return weights, 2 * loc, (log_scale_std * noise).exp()


@pytest.mark.parametrize("name", ORACLES)
def test_solve_equals_brute_force_minimum(name: str) -> None:
    """Where the divergence is not convex, one of eight problems may have a better minimum than the local one."""
    better = 0
    for seed in range(8):
        weights, loc, scale = problem(seed, 2 + seed % 3)
        result_loc, result_scale = solve(torch.tensor(weights)[None], column(*loc), column(*scale), name)
        point = np.array([result_loc.item(), np.log(result_scale.item())])
        best, least = brute_minimum(ORACLES[name], weights, loc, scale)
        value = objective(ORACLES[name], weights, loc, scale)
        if name in LOCAL and value(point) > least + 1e-6:
            better += 1
            steps = 1e-3 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1], [1, -1], [-1, 1]])
            assert all(value(point + step) > value(point) for step in steps)
            continue
        assert value(point) <= least + 1e-12
        assert point == pytest.approx(best, abs=1e-6)
    assert better <= 1


@pytest.mark.parametrize(
    ("name", "barycenter_fn"),
    [("reverse_kl", natural), ("forward_kl", moment), ("w2", wasserstein), ("renyi:1", natural), ("alpha:1", natural),
     ("alpha:-1", moment)],
)  # fmt: skip
def test_solve_of_named_divergence_equals_closed_form(name: str, barycenter_fn: Any) -> None:
    weights, loc, scale = many(0, 5)
    expected = barycenter_fn(weights / weights.sum(-1, keepdim=True), loc, scale)
    torch.testing.assert_close(solve(7 * weights, loc, scale, name), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["reverse_kl", "forward_kl", "jeffreys", "w2", "entropic_w2:0.3", "fisher_rao", "renyi:2"]
)
def test_solve_of_bare_function_equals_named_solution(name: str) -> None:
    """Newton's method with automatic derivatives reproduces closed forms, roots and closed derivatives."""
    weights, loc, scale = many(1, 20)
    named = solve(weights, loc, scale, name)
    *bare, info = solve(weights, loc, scale, get_divergence(name).function, return_info=True)
    assert bool(info.converged.all())
    torch.testing.assert_close(tuple(bare), named, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "limit", "tolerance"),
    [
        ("alpha:0.99999", "reverse_kl", 1e-4), ("alpha:-0.99999", "forward_kl", 1e-4), ("alpha:0", "hellinger", 1e-9),
        ("renyi:0.99999", "reverse_kl", 1e-4), ("renyi:1.00001", "reverse_kl", 1e-4),
        ("renyi:1e-5", "forward_kl", 1e-4), ("entropic_w2:1e-9", "w2", 1e-6),
    ],
)  # fmt: skip
def test_solve_near_limit_of_parameter_equals_limit(name: str, limit: str, tolerance: float) -> None:
    weights, loc, scale = many(2, 10, log_scale_std=0.5)
    got, expected = solve(weights, loc, scale, name), solve(weights, loc, scale, limit)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_entropic_w2_with_large_epsilon_averages_variances() -> None:
    weights, loc, scale = many(3, 10)
    share = weights / weights.sum(-1, keepdim=True)
    _, result_scale = solve(weights, loc, scale, "entropic_w2:1e7")
    torch.testing.assert_close(result_scale.square(), share @ scale.square(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["alpha:{}", "renyi:{}"])
def test_solve_scale_grows_from_pool_to_moment_matching(family: str) -> None:
    orders = (0.9, 0.7, 0.5, 0.3, 0.1)
    names = [family.format(2 * order - 1 if "alpha" in family else order) for order in orders]
    weights, loc, scale = torch.ones(1, 2).double(), column(0.0, 1.0), column(1.0, 2.0)
    result_scales = [solve(weights, loc, scale, name)[1].item() for name in ("reverse_kl", *names, "forward_kl")]
    assert result_scales == sorted(result_scales)


def test_jeffreys_of_two_equals_number_derived_by_hand() -> None:
    """The barycenter of N(-1, 1) and N(1, 1) has loc 0 and v² P = S, so v = √2."""
    loc, scale = solve(torch.ones(1, 2), column(-1.0, 1.0), column(1.0, 1.0), "jeffreys")
    assert loc.item() == pytest.approx(0.0, abs=1e-12)
    assert scale.item() == pytest.approx(2**0.25, rel=1e-12)


def test_fisher_rao_of_two_is_middle_of_geodesic() -> None:
    """Equal means give the geometric mean of the scales; equal scales at ±m give the top of the circle through both."""
    loc, scale = solve(torch.tensor([[1.0, 3.0]]).double(), column(2.0, 2.0), column(1.0, 16.0), "fisher_rao")
    assert (loc.item(), scale.item()) == pytest.approx((2.0, 8.0), rel=1e-10)
    loc, scale = solve(torch.ones(1, 2), column(-3.0, 3.0), column(1.5, 1.5), "fisher_rao")
    assert (loc.item(), scale.item()) == pytest.approx((0.0, np.sqrt(4.5 + 2.25)), rel=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_solve_of_batch_equals_each_row_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, loc, scale = many(4, 2, 1)
    results = solve(weights, loc, scale, name)
    assert results[0].shape == results[1].shape == (2, 1, 3, 2)
    for b in np.ndindex(2, 1, 3):
        one = solve(weights[b][None], loc[b[:2]], scale[b[:2]], name)
        torch.testing.assert_close((results[0][b], results[1][b]), (one[0][0], one[1][0]), rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(implicit, "_ENTRIES", 20)  # a few coordinates at a time
    torch.testing.assert_close(solve(weights, loc, scale, name), results, rtol=1e-13, atol=1e-13)
    shared = weights[0, 0]  # rows that all items share
    torch.testing.assert_close(solve(shared, loc, scale, name), solve(shared.expand_as(weights), loc, scale, name))


@pytest.mark.parametrize("name", EVERY)
def test_solve_is_idempotent_and_ignores_order_and_weightless_members(name: str) -> None:
    weights, loc, scale = many(5, 10)
    same = loc[..., :1, :].expand_as(loc), scale[..., :1, :].expand_as(scale)
    results = solve(weights, *same, name)
    for got, expected in zip(results, same, strict=True):
        torch.testing.assert_close(got, expected[..., :3, :], rtol=1e-9, atol=1e-9)
    alone = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(solve(alone, loc, scale, name), (loc, scale), rtol=1e-13, atol=1e-13)
    order = [2, 0, 3, 1]
    permuted = solve(weights[..., order], loc[..., order, :], scale[..., order, :], name)
    torch.testing.assert_close(permuted, solve(weights, loc, scale, name), rtol=1e-8, atol=1e-8)
    row, keep = weights[..., :1, :], [0, 3]
    fewer = solve(row[..., keep], loc[..., keep, :], scale[..., keep, :], name)
    torch.testing.assert_close(solve(row, loc, scale, name), fewer, rtol=1e-8, atol=1e-8)
    wild = torch.tensor([0.0, 1e6, -1e6, 0.0]).double().unsqueeze(-1)
    torch.testing.assert_close(solve(row, loc + wild, scale + wild.abs(), name), fewer, rtol=1e-8, atol=1e-8)


@settings(few, max_examples=4)
@given(seed=st.integers(0, 10**6), move=st.floats(-50, 50), stretch=st.floats(0.02, 50))
@pytest.mark.parametrize("name", [*NATURAL, "w2", "w1", "entropic_w2"])
def test_solve_is_equivariant_to_affine_maps(name: str, seed: int, move: float, stretch: float) -> None:
    """The parameter ε is in squared units."""
    weights, loc, scale = many(seed, 2)
    other = f"entropic_w2:{stretch**2!r}" if name == "entropic_w2" else name
    result_loc, result_scale = solve(weights, loc, scale, name)
    moved, wide = solve(weights, stretch * loc + move, stretch * scale, other)
    unit = stretch * result_scale
    torch.testing.assert_close((moved - move - stretch * result_loc) / unit, torch.zeros_like(unit), rtol=0, atol=1e-6)
    torch.testing.assert_close(wide / unit, torch.ones_like(unit), rtol=0, atol=1e-6)


def test_w1_of_experts_with_equal_locs_is_finite_and_the_minimum() -> None:
    """As bfloat16 gives them; where curvature underflows along a scale, Newton's step is infinite."""
    locs, scales = [-0.1533203125, 0.08349609375, 0.08349609375], [0.16081462800502777, 0.12141376733, 0.15465775132]
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(1, 3, 2000, generator=generator).bfloat16().double()
    loc[:, 1] = loc[:, 2]
    scale = (torch.randn(1, 3, 2000, generator=generator) * 0.3 - 2).exp().bfloat16().double()
    first = [torch.tensor(values, dtype=torch.float64).view(1, 3, 1) for values in (locs, scales)]
    for here, there in (first, (loc, scale)):
        weights = torch.full((1, 3), 1 / 3, dtype=torch.float64)
        result_loc, result_scale, info = solve(weights, here, there, "w1", return_info=True)
        assert bool(info.converged.all())

        least, *others = (
            folded_norm(result_loc + dx - here, result_scale + dy - there).mean(1)
            for dx, dy in ((0.0, 0.0), (1e-3, 0.0), (-1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3))
        )
        assert all(bool((other >= least - 1e-10).all()) for other in others)


def test_folded_norm_of_nan_is_nan() -> None:
    nan, one = torch.tensor(torch.nan), torch.tensor(1.0)
    assert bool(folded_norm(nan, one).isnan() & folded_norm(one, nan).isnan())
    assert float(folded_norm(-one, torch.tensor(0.0))) == 1


def test_w1_with_one_outlier_stays_near_other_experts() -> None:
    weights = torch.ones(1, 5).double()
    loc, scale = column(0.0, 0.5, -0.3, 0.2, 0.1), column(1.0, 1.2, 0.9, 1.1, 0.8)
    for far in (1e2, 1e6, -1e6):
        loc[-1] = far
        scale[-1] = 1e4
        result_loc, result_scale = solve(weights, loc, scale, "w1")
        assert -0.3 <= result_loc.item() <= 0.5
        assert 0.9 <= result_scale.item() <= 1.2
        assert abs(solve(weights, loc, scale, "w2")[0].item()) > 10


@pytest.mark.parametrize(
    ("weights", "loc", "scale", "expected"),
    [
        ([1, 1], [0, 2], [1, 3], (1, 2)),  # all points between are minimisers; the result is the middle
        ([3, 2], [0, 2], [1, 3], (0, 1)),  # the expert of larger weight
        ([1, 1, 1], [0, 1, 5], [2, 2, 2], (1, 2)),  # equal scales: the median
        ([1, 1, 1, 1], [0, 1, 4, 5], [2, 2, 2, 2], (2.5, 2)),
        ([1, 1, 2, 1], [0, 1, 4, 5], [2, 2, 2, 2], (4, 2)),
        ([1, 1, 1, 3], [3, 3, 3, 0], [1, 1, 1, 2], (1.5, 1.5)),  # the weights of equal experts add
        ([5, 1, 1, 1], [0, 9, -3, 4], [1, 3, 9, 0.1], (0, 1)),  # more than half of the weight
        ([0, 1, 0], [0, 9, -3], [1, 3, 9], (9, 3)),
    ],
)
def test_w1_at_experts_equals_number_derived_by_hand(weights: Any, loc: Any, scale: Any, expected: Any) -> None:
    *results, info = solve(torch.tensor([weights]).double(), column(*loc), column(*scale), "w1", return_info=True)
    assert (results[0].item(), results[1].item()) == pytest.approx(expected, rel=1e-12)
    assert bool(info.converged.all())


def test_w1_started_at_an_expert_leaves_it_unless_it_is_minimiser() -> None:
    """The mean of four experts is a fifth one, at which the iteration starts."""
    loc, scale = column(-3.0, 3.0, 0.0, 0.0, 0.0), column(3.0, 3.0, 1.0, 5.0, 3.0)
    assert solve(torch.ones(1, 5), loc, scale, "w1")[0].item() == 0.0
    weights = np.array([1.0, 1.0, 3.0, 1.0, 0.4])
    loc, scale = np.array([-3.0, 3.0, 1.0, 0.0, -0.5]), np.array([3.0, 3.0, 1.0, 5.0, 1.6])
    share = weights / weights.sum()
    loc[4], scale[4] = (share[:4] @ loc[:4] / share[:4].sum(), share[:4] @ scale[:4] / share[:4].sum())
    result_loc, result_scale = solve(torch.tensor(weights)[None], column(*loc), column(*scale), "w1")
    best, _ = brute_minimum(ORACLES["w1"], weights, loc, scale)
    assert (result_loc.item(), np.log(result_scale.item())) == pytest.approx(tuple(best), abs=1e-6)


@pytest.mark.parametrize("name", [*EVERY, "renyi:1.2", "entropic_w2:1e-6", "entropic_w2:1e6", "alpha:0.999"])
def test_solve_with_extreme_scales_and_distances_converges(name: str) -> None:
    """Scales go from 1e-3 to 1e3 in one item, or experts are a thousand scales apart; warnings are errors here."""
    generator = torch.Generator().manual_seed(7)
    loc = 10 * torch.randn(60, 4, 1, generator=generator).double()
    scale = 10.0 ** (6 * torch.rand(60, 4, 1, generator=generator).double() - 3)
    weights = torch.rand(60, 1, 4, generator=generator).double() + 1e-3
    for factor, scales in ((1.0, scale), (100.0, scale.sign() * 0.3)):
        *results, info = solve(weights, factor * loc, scales, name, return_info=True)
        assert bool(info.converged.all())
        assert float(info.residual.max()) <= 1e-10
        assert results[0].isfinite().all()
        assert (results[1] > 0).all()
        assert (results[0] >= factor * loc.amin(-2, keepdim=True) - 1e-9).all()
        assert (results[0] <= factor * loc.amax(-2, keepdim=True) + 1e-9).all()


@pytest.mark.parametrize("name", EVERY)
def test_solve_in_float32_equals_rounded_double_solution(name: str) -> None:
    """The locs are far from the origin."""
    weights, loc, scale = many(8, 10)
    single = [tensor.float() for tensor in (weights, loc + 4096, 0.01 * scale)]
    results = solve(*single, name)  # type: ignore[call-overload]
    expected = solve(*(tensor.double() for tensor in single), name)  # type: ignore[call-overload]
    assert results[0].dtype == results[1].dtype == torch.float32
    torch.testing.assert_close(results, tuple(tensor.float() for tensor in expected), rtol=3e-7, atol=0)


def test_solve_reports_convergence_and_warns_without_it() -> None:
    weights, loc, scale = many(9, 10)
    info = solve(weights, loc, scale, "hellinger", return_info=True)[2]
    assert info.iterations.shape == info.residual.shape == info.converged.shape == (10, 3, 2)
    assert 2 <= int(info.iterations.max()) < 30
    with pytest.warns(
        ConvergenceWarning, match=r"'hellinger': (\d+) of 60 coordinates have not converged in 1 iter"
    ) as w:
        stopped = solve(weights, loc, scale, "hellinger", max_iterations=1, return_info=True)[2]
    assert f"{int((~stopped.converged).sum())} of 60" in str(w[0].message)
    assert f"residual is {float(stopped.residual.max()):.1e} (tolerance 1e-10)" in str(w[0].message)
    assert not solve(weights, loc, scale, "hellinger", tolerance=1e-2, return_info=True)[2].residual.max() > 1e-2
    closed = solve(weights, loc, scale, "w2", return_info=True)[2]
    assert not closed.iterations.any()
    assert closed.converged.all()
    for name in ("jeffreys", "w1", "entropic_w2"):
        with pytest.warns(ConvergenceWarning, match="coordinates have not converged in 0 iterations"):
            solve(weights, loc, scale, name, max_iterations=0)


@pytest.mark.parametrize("name", [*EVERY, "custom"])
def test_solve_with_nan_warns_and_leaves_other_items_alone(name: str) -> None:
    weights, loc, scale = many(10, 4)
    loc[1, 3, 0] = torch.nan
    function = (lambda q, p: (q.loc - p.loc).square() + (q.scale - p.scale).square()) if name == "custom" else name
    with pytest.warns(ConvergenceWarning, match="3 of 24 coordinates"):
        results = solve(weights, loc, scale, function)
    assert not results[0][1, :, 0].isfinite().any()
    keep = [0, 2, 3]
    torch.testing.assert_close(results[0][keep], solve(weights[keep], loc[keep], scale[keep], function)[0])


def test_solve_on_plateau_and_saddle_finds_minimum() -> None:
    """The objective is flat in log scale, or starts in the middle of a double well where its gradient is 0."""
    weights, loc, scale = torch.ones(1, 2).double(), column(0.0, 2.0), column(1.0, 3.0)
    result_loc, result_scale = solve(weights, loc, scale, lambda q, p: (q.loc - p.loc).square())
    assert (result_loc.item(), result_scale.item()) == pytest.approx((1.0, 2.0))

    def wells(q: Normal, p: Normal) -> torch.Tensor:
        return 1 - torch.exp(-2 * (q.loc - p.loc).square()) + (q.scale - p.scale).square()

    result_loc, result_scale = solve(weights, column(-3.0, 3.0), scale, wells)
    assert abs(result_loc.item()) == pytest.approx(3.0, abs=1e-3)
    assert result_scale.item() == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "options", "match"),
    [
        ([[1.0, -1.0]], {}, "weights must be finite and non-negative, got -1.0"),
        ([[1.0, float("nan")]], {}, "weights must be finite and non-negative, got nan"),
        ([[0.0, 0.0]], {}, "weights must have a positive entry in each row"),
        ([[1.0, 1.0]], {"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ([[1.0, 1.0]], {"max_iterations": -1}, "max_iterations must be non-negative, got -1"),
    ],
)
def test_solve_with_invalid_argument_raises(weights: Any, options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        solve(torch.tensor(weights), torch.zeros(2, 1), torch.ones(2, 1), "hellinger", **options)


@pytest.mark.parametrize("name", EVERY)
def test_solve_without_items_returns_empty_tensors(name: str) -> None:
    results = solve(torch.ones(0, 3, 2), torch.zeros(0, 2, 4), torch.ones(0, 2, 4), name)
    assert results[0].shape == results[1].shape == (0, 3, 4)
