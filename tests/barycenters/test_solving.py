"""Barycenters under every divergence: brute force, closed forms, limits, symmetries, robustness, extremes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from pyro_mmvae.barycenters import ConvergenceWarning, get_divergence, implicit, moment, natural, solve, wasserstein
from tests.gaussians import LOCAL, NATURAL, ORACLES, brute_minimum, objective, problem
from tests.strategies import few

EVERY = (
    "reverse_kl", "forward_kl", "jeffreys", "hellinger", "renyi", "renyi:2", "alpha", "alpha:-0.8", "w2", "w1",
    "fisher_rao", "entropic_w2",
)  # fmt: skip


def of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def many(seed: int, *batch: int, members: int = 4, latent: int = 2, spread: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    loc, noise = torch.randn(2, *batch, members, latent, generator=generator).double()
    weights = torch.rand(*batch, 3, members, generator=generator).double() + 0.05
    weights[..., 0, 1:3] = 0.0
    return weights, 2 * loc, (spread * noise).exp()


@pytest.mark.parametrize("name", ORACLES)
def test_brute_force_finds_nothing_better(name: str) -> None:
    """From several starts: the same minimiser, or, where the divergence is not convex, now and then a better one."""
    better = 0
    for seed in range(8):
        weights, loc, scale = problem(seed, 2 + seed % 3)
        found, spread = solve(torch.tensor(weights)[None], of(*loc), of(*scale), name)
        point = np.array([found.item(), np.log(spread.item())])
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
    ("name", "chart"),
    [("reverse_kl", natural), ("forward_kl", moment), ("w2", wasserstein), ("renyi:1", natural), ("alpha:1", natural),
     ("alpha:-1", moment)],
)  # fmt: skip
def test_closed_forms(name: str, chart: Any) -> None:
    weights, loc, scale = many(0, 5)
    wanted = chart(weights / weights.sum(-1, keepdim=True), loc, scale)
    torch.testing.assert_close(solve(7 * weights, loc, scale, name), wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["reverse_kl", "forward_kl", "jeffreys", "w2", "entropic_w2:0.3", "fisher_rao", "renyi:2"]
)
def test_newton_on_the_bare_function_lands_on_the_named_solution(name: str) -> None:
    """Closed forms, roots and closed derivatives against automatic ones."""
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
def test_limits(name: str, limit: str, tolerance: float) -> None:
    weights, loc, scale = many(2, 10, spread=0.5)
    got, wanted = solve(weights, loc, scale, name), solve(weights, loc, scale, limit)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def test_much_entropy_averages_variances() -> None:
    weights, loc, scale = many(3, 10)
    share = weights / weights.sum(-1, keepdim=True)
    _, spread = solve(weights, loc, scale, "entropic_w2:1e7")
    torch.testing.assert_close(spread.square(), share @ scale.square(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", ["alpha:{}", "renyi:{}"])
def test_the_walk_from_the_pool_to_moment_matching(family: str) -> None:
    """The scale grows along it."""
    orders = (0.9, 0.7, 0.5, 0.3, 0.1)
    names = [family.format(2 * order - 1 if "alpha" in family else order) for order in orders]
    weights, loc, scale = torch.ones(1, 2).double(), of(0.0, 1.0), of(1.0, 2.0)
    spreads = [solve(weights, loc, scale, name)[1].item() for name in ("reverse_kl", *names, "forward_kl")]
    assert spreads == sorted(spreads)


def test_jeffreys_lies_between_by_hand() -> None:
    """N(-1, 1) and N(1, 1): loc 0, and v² P = S, so v = √2."""
    loc, scale = solve(torch.ones(1, 2), of(-1.0, 1.0), of(1.0, 1.0), "jeffreys")
    assert loc.item() == pytest.approx(0.0, abs=1e-12)
    assert scale.item() == pytest.approx(2**0.25, rel=1e-12)


def test_fisher_rao_of_two_is_the_middle_of_the_geodesic() -> None:
    """Equal means: the geometric mean of the scales. Equal scales s at ±m: the top of the circle through both."""
    loc, scale = solve(torch.tensor([[1.0, 3.0]]).double(), of(2.0, 2.0), of(1.0, 16.0), "fisher_rao")
    assert (loc.item(), scale.item()) == pytest.approx((2.0, 8.0), rel=1e-10)
    loc, scale = solve(torch.ones(1, 2), of(-3.0, 3.0), of(1.5, 1.5), "fisher_rao")
    assert (loc.item(), scale.item()) == pytest.approx((0.0, np.sqrt(4.5 + 2.25)), rel=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_all_rows_of_all_items_at_once_are_each_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, loc, scale = many(4, 2, 1)
    found = solve(weights, loc, scale, name)
    assert found[0].shape == found[1].shape == (2, 1, 3, 2)
    for b in np.ndindex(2, 1, 3):
        one = solve(weights[b][None], loc[b[:2]], scale[b[:2]], name)
        torch.testing.assert_close((found[0][b], found[1][b]), (one[0][0], one[1][0]), rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(implicit, "_ENTRIES", 20)  # a few coordinates at a time
    torch.testing.assert_close(solve(weights, loc, scale, name), found, rtol=1e-13, atol=1e-13)
    shared = weights[0, 0]  # rows that all items share
    torch.testing.assert_close(solve(shared, loc, scale, name), solve(shared.expand_as(weights), loc, scale, name))


@pytest.mark.parametrize("name", EVERY)
def test_idempotent_permuted_and_without_the_weightless(name: str) -> None:
    weights, loc, scale = many(5, 10)
    same = loc[..., :1, :].expand_as(loc), scale[..., :1, :].expand_as(scale)
    found = solve(weights, *same, name)
    for got, wanted in zip(found, same, strict=True):
        torch.testing.assert_close(got, wanted[..., :3, :], rtol=1e-9, atol=1e-9)
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
def test_equivariance(name: str, seed: int, move: float, stretch: float) -> None:
    """Moved and stretched experts have the moved and stretched barycenter; ε is in squared units."""
    weights, loc, scale = many(seed, 2)
    other = f"entropic_w2:{stretch**2!r}" if name == "entropic_w2" else name
    found, spread = solve(weights, loc, scale, name)
    moved, wide = solve(weights, stretch * loc + move, stretch * scale, other)
    unit = stretch * spread
    torch.testing.assert_close((moved - move - stretch * found) / unit, torch.zeros_like(unit), rtol=0, atol=1e-6)
    torch.testing.assert_close(wide / unit, torch.ones_like(unit), rtol=0, atol=1e-6)


def test_one_wild_expert_hardly_moves_the_median() -> None:
    weights = torch.ones(1, 5).double()
    loc, scale = of(0.0, 0.5, -0.3, 0.2, 0.1), of(1.0, 1.2, 0.9, 1.1, 0.8)
    for far in (1e2, 1e6, -1e6):
        loc[-1] = far
        scale[-1] = 1e4
        found, spread = solve(weights, loc, scale, "w1")
        assert -0.3 <= found.item() <= 0.5
        assert 0.9 <= spread.item() <= 1.2
        assert abs(solve(weights, loc, scale, "w2")[0].item()) > 10


@pytest.mark.parametrize(
    ("weights", "loc", "scale", "wanted"),
    [
        ([1, 1], [0, 2], [1, 3], (1, 2)),  # all between two equals is as good: the middle
        ([3, 2], [0, 2], [1, 3], (0, 1)),  # the heavier one
        ([1, 1, 1], [0, 1, 5], [2, 2, 2], (1, 2)),  # equal scales: the median
        ([1, 1, 1, 1], [0, 1, 4, 5], [2, 2, 2, 2], (2.5, 2)),
        ([1, 1, 2, 1], [0, 1, 4, 5], [2, 2, 2, 2], (4, 2)),
        ([1, 1, 1, 3], [3, 3, 3, 0], [1, 1, 1, 2], (1.5, 1.5)),  # equal experts count together
        ([5, 1, 1, 1], [0, 9, -3, 4], [1, 3, 9, 0.1], (0, 1)),  # more than half of the weight
        ([0, 1, 0], [0, 9, -3], [1, 3, 9], (9, 3)),
    ],
)
def test_medians_at_experts_and_between_equals(weights: Any, loc: Any, scale: Any, wanted: Any) -> None:
    *found, info = solve(torch.tensor([weights]).double(), of(*loc), of(*scale), "w1", return_info=True)
    assert (found[0].item(), found[1].item()) == pytest.approx(wanted, rel=1e-12)
    assert bool(info.converged.all())


def test_medians_of_a_symmetric_cross_leave_the_expert_in_its_middle_only_if_it_must() -> None:
    """The average of four experts is a fifth one; pushed off centre it is the start, and no minimiser."""
    loc, scale = of(-3.0, 3.0, 0.0, 0.0, 0.0), of(3.0, 3.0, 1.0, 5.0, 3.0)
    assert solve(torch.ones(1, 5), loc, scale, "w1")[0].item() == 0.0
    weights = np.array([1.0, 1.0, 3.0, 1.0, 0.4])
    loc, scale = np.array([-3.0, 3.0, 1.0, 0.0, -0.5]), np.array([3.0, 3.0, 1.0, 5.0, 1.6])
    share = weights / weights.sum()
    loc[4], scale[4] = (share[:4] @ loc[:4] / share[:4].sum(), share[:4] @ scale[:4] / share[:4].sum())
    found, spread = solve(torch.tensor(weights)[None], of(*loc), of(*scale), "w1")
    best, _ = brute_minimum(ORACLES["w1"], weights, loc, scale)
    assert (found.item(), np.log(spread.item())) == pytest.approx(tuple(best), abs=1e-6)


@pytest.mark.parametrize("name", [*EVERY, "renyi:1.2", "entropic_w2:1e-6", "entropic_w2:1e6", "alpha:0.999"])
def test_extreme_scales_and_distances_converge(name: str) -> None:
    """Scales from 1e-3 to 1e3 in one item; experts a thousand scales apart; a warning would be an error here."""
    generator = torch.Generator().manual_seed(7)
    loc = 10 * torch.randn(60, 4, 1, generator=generator).double()
    scale = 10.0 ** (6 * torch.rand(60, 4, 1, generator=generator).double() - 3)
    weights = torch.rand(60, 1, 4, generator=generator).double() + 1e-3
    for factor, spread in ((1.0, scale), (100.0, scale.sign() * 0.3)):
        *found, info = solve(weights, factor * loc, spread, name, return_info=True)
        assert bool(info.converged.all())
        assert float(info.residual.max()) <= 1e-10
        assert found[0].isfinite().all()
        assert (found[1] > 0).all()
        assert (found[0] >= factor * loc.amin(-2, keepdim=True) - 1e-9).all()
        assert (found[0] <= factor * loc.amax(-2, keepdim=True) + 1e-9).all()


@pytest.mark.parametrize("name", EVERY)
def test_single_precision_to_its_limit(name: str) -> None:
    """As the double solution of the same numbers, rounded; far from the origin as well."""
    weights, loc, scale = many(8, 10)
    single = [tensor.float() for tensor in (weights, loc + 4096, 0.01 * scale)]
    found = solve(*single, name)  # type: ignore[call-overload]
    wanted = solve(*(tensor.double() for tensor in single), name)  # type: ignore[call-overload]
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(found, tuple(tensor.float() for tensor in wanted), rtol=3e-7, atol=0)


def test_convergence_is_reported() -> None:
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


@pytest.mark.parametrize("name", [*EVERY, "own"])
def test_what_is_not_finite_stays_so_and_is_reported(name: str) -> None:
    weights, loc, scale = many(10, 4)
    loc[1, 3, 0] = torch.nan
    function = (lambda q, p: (q.loc - p.loc).square() + (q.scale - p.scale).square()) if name == "own" else name
    with pytest.warns(ConvergenceWarning, match="3 of 24 coordinates"):
        found = solve(weights, loc, scale, function)
    assert not found[0][1, :, 0].isfinite().any()
    keep = [0, 2, 3]
    torch.testing.assert_close(found[0][keep], solve(weights[keep], loc[keep], scale[keep], function)[0])


def test_a_plateau_and_a_saddle() -> None:
    """Nothing to do in log scale; and at the middle of a double well, where the gradient is 0, a well is found."""
    weights, loc, scale = torch.ones(1, 2).double(), of(0.0, 2.0), of(1.0, 3.0)
    found, spread = solve(weights, loc, scale, lambda q, p: (q.loc - p.loc).square())
    assert (found.item(), spread.item()) == pytest.approx((1.0, 2.0))

    def wells(q: Normal, p: Normal) -> torch.Tensor:
        return 1 - torch.exp(-2 * (q.loc - p.loc).square()) + (q.scale - p.scale).square()

    found, spread = solve(weights, of(-3.0, 3.0), scale, wells)
    assert abs(found.item()) == pytest.approx(3.0, abs=1e-3)
    assert spread.item() == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "options", "match"),
    [
        ([[1.0, -1.0]], {}, "weights must be finite and not negative"),
        ([[1.0, float("nan")]], {}, "weights must be finite"),
        ([[0.0, 0.0]], {}, "each row of weights needs a positive one"),
        ([[1.0, 1.0]], {"tolerance": 0.0}, "tolerance must be positive, not 0.0"),
        ([[1.0, 1.0]], {"max_iterations": -1}, "max_iterations must not be negative, not -1"),
    ],
)
def test_what_is_refused(weights: Any, options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        solve(torch.tensor(weights), torch.zeros(2, 1), torch.ones(2, 1), "hellinger", **options)


@pytest.mark.parametrize("name", EVERY)
def test_no_items(name: str) -> None:
    found = solve(torch.ones(0, 3, 2), torch.zeros(0, 2, 4), torch.ones(0, 2, 4), name)
    assert found[0].shape == found[1].shape == (0, 3, 4)
