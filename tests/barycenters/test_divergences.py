"""Tests of the divergences against quadrature and other formulas, and of their registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.special import logsumexp
from scipy.stats import norm
from torch.distributions import Normal

from pyro_mmvae import aggregations, barycenter, divergences, register_divergence, unregister_divergence
from pyro_mmvae.aggregation import describe_aggregation, make_aggregation
from pyro_mmvae.barycenters import get_divergence, solve
from pyro_mmvae.barycenters.fisher_rao import fisher_rao_terms
from pyro_mmvae.barycenters.registry import terms_of
from pyro_mmvae.barycenters.renyi import affinity_terms
from tests.gaussians import ORACLES, Array, densities
from tests.strategies import random_experts

BUILT_IN = (
    "reverse_kl", "forward_kl", "jeffreys", "hellinger", "renyi", "alpha", "w2", "w1", "fisher_rao", "entropic_w2",
)  # fmt: skip
PAIRS = [(0.0, 1.0, 2.0, 3.0), (0.5, 0.3, -1.0, 0.35), (1.0, 2.0, 1.0, 0.5), (-3.0, 1.0, 4.0, 1.0)]


def value(name: str, m: float, s: float, n: float, t: float) -> float:
    q, p = (Normal(*torch.tensor(of, dtype=torch.float64)) for of in ((m, s), (n, t)))
    return get_divergence(name)(q, p).item()


def integral(order: float) -> Callable[[Array, Array, float], float]:
    return lambda q, p, step: float(np.exp(logsumexp(order * q + (1 - order) * p)) * step)


def quadrature(name: str, q: Array, p: Array, step: float) -> float:
    """Return the divergence of log densities on a grid."""
    head, _, text = name.partition(":")
    kl, reverse = (float(np.sum(np.exp(a) * (a - b)) * step) for a, b in ((q, p), (p, q)))
    if head in {"reverse_kl", "forward_kl", "jeffreys"}:
        return {"reverse_kl": kl, "forward_kl": reverse, "jeffreys": kl + reverse}[head]
    if head == "hellinger":
        return float(0.5 * np.sum((np.exp(q / 2) - np.exp(p / 2)) ** 2) * step)
    parameter = float(text)
    if head == "renyi":
        return float(np.log(integral(parameter)(q, p, step)) / (parameter - 1))
    return float(4 / (1 - parameter**2) * (1 - integral((1 + parameter) / 2)(q, p, step)))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "name",
    ["reverse_kl", "forward_kl", "jeffreys", "hellinger", "renyi:0.5", "renyi:0.05", "renyi:0.98", "renyi:1.1",
     "alpha:0", "alpha:0.5", "alpha:-0.9"],
)  # fmt: skip
def test_divergence_equals_quadrature_of_densities(name: str, pair: tuple[float, float, float, float]) -> None:
    if name == "renyi:1.1" and pair[1] ** 2 > 11 * pair[3] ** 2:
        assert value(name, *pair) == np.inf
    else:
        assert value(name, *pair) == pytest.approx(quadrature(name, *densities(*pair)), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("pair", PAIRS)
def test_w1_and_w2_equal_means_over_quantiles(pair: tuple[float, float, float, float]) -> None:
    m, s, n, t = pair
    u = (np.arange(400_000) + 0.5) / 400_000
    difference = norm(m, s).ppf(u) - norm(n, t).ppf(u)
    assert value("w1", *pair) == pytest.approx(np.abs(difference).mean(), rel=1e-4)
    assert value("w2", *pair) == pytest.approx((difference**2).mean(), rel=1e-4)


def entropic_cost(a: Array, b: Array, cost: Array, epsilon: float) -> float:
    """Return the entropic cost between histograms by Sinkhorn's iterations in logs; ε weighs KL(plan ‖ a ⊗ b)."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(60):
        f = -epsilon * logsumexp((g - cost) / epsilon + np.log(b), axis=1)
        g = -epsilon * logsumexp((f[:, None] - cost) / epsilon + np.log(a)[:, None], axis=0)
    return float(f @ a + g @ b)


@pytest.mark.parametrize("epsilon", [0.7, 5.0])
def test_entropic_w2_equals_sinkhorn_iterations_on_a_grid(epsilon: float) -> None:
    """The definition on a grid subtracts the mean of both self terms."""
    m, s, n, t = 0.3, 0.5, -0.4, 0.9
    grid = np.linspace(-7, 7, 281)
    a, b = (norm(*of).pdf(grid) / norm(*of).pdf(grid).sum() for of in ((m, s), (n, t)))
    cost = (grid[:, None] - grid) ** 2
    ab, aa, bb = (entropic_cost(x, y, cost, epsilon) for x, y in ((a, b), (a, a), (b, b)))
    assert value(f"entropic_w2:{epsilon}", m, s, n, t) == pytest.approx(ab - (aa + bb) / 2, rel=1e-4)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", ORACLES)
def test_divergence_equals_independent_formula(name: str, pair: tuple[float, float, float, float]) -> None:
    with np.errstate(all="ignore"):
        expected = float(ORACLES[name](*map(np.asarray, pair)))  # type: ignore[arg-type]
    assert value(name, *pair) == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("pair", PAIRS)
def test_fisher_rao_equals_squared_length_of_geodesic(pair: tuple[float, float, float, float]) -> None:
    """In (μ/√2, σ) geodesics are arcs of circles around the axis, of √2 times their hyperbolic length."""
    m, s, n, t = pair
    x, y = m / np.sqrt(2), n / np.sqrt(2)
    if x == y:
        length = abs(np.log(s / t))
    else:
        centre = (y**2 + t**2 - x**2 - s**2) / (2 * (y - x))
        angles = np.linspace(np.arctan2(s, x - centre), np.arctan2(t, y - centre), 20_001)
        length = abs(trapezoid(1 / np.sin(angles), angles))
    assert value("fisher_rao", *pair) == pytest.approx(2 * length**2, rel=1e-7)


@pytest.mark.parametrize("name", [*ORACLES, "renyi:1", "alpha:1", "alpha:-1", "alpha:0"])
def test_divergence_is_zero_between_equals_and_positive_elsewhere(name: str) -> None:
    assert value(name, 0.7, 1.3, 0.7, 1.3) == pytest.approx(0.0, abs=1e-14)
    assert all(value(name, *pair) > 0.01 for pair in PAIRS[:2])


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [("alpha:0", "hellinger", 4.0), ("alpha:1", "reverse_kl", 1.0), ("alpha:-1", "forward_kl", 1.0),
     ("renyi:1", "reverse_kl", 1.0), ("renyi:1e-7", "forward_kl", 1e-7), ("alpha:0.9999999", "reverse_kl", 1.0),
     ("renyi:1.0000001", "reverse_kl", 1.0)],
)  # fmt: skip
def test_parametrised_divergence_equals_its_special_case(one: str, other: str, factor: float) -> None:
    for pair in PAIRS:
        assert value(one, *pair) == pytest.approx(factor * value(other, *pair), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "terms", "factor"),
    [("renyi:0.3", lambda *a: affinity_terms(0.3, *a), 0.3), ("renyi:2.5", lambda *a: affinity_terms(2.5, *a), 2.5),
     ("fisher_rao", fisher_rao_terms, 1.0)],
)  # fmt: skip
def test_terms_equal_automatic_differentiation(name: str, terms: Any, factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    loc, member_loc = torch.randn(2, 3, 40, generator=generator).double()
    log_scale = 0.3 * torch.randn(3, 40, generator=generator).double()
    member_scale = (log_scale + 0.2).exp() * torch.linspace(1.0, 1.6, 40).double()
    loc[:, :3], log_scale[:, :2] = member_loc[:, :3], member_scale[:, :2].log()  # equal, or all but the scales
    closed = terms(loc, log_scale, member_loc, member_scale)
    automatic = terms_of(get_divergence(name).function)(loc, log_scale, member_loc, member_scale)
    for got, expected in zip(closed, automatic, strict=True):
        torch.testing.assert_close(factor * got, expected, rtol=1e-9, atol=1e-9)


def test_divergences_and_their_aggregations_have_names_and_summaries() -> None:
    assert divergences() == BUILT_IN
    assert all(name in aggregations() for name in BUILT_IN)
    for name in BUILT_IN:
        assert len(get_divergence(name).summary) > 10
        assert f"mixture:{name} over every subset" in describe_aggregation(name)
        assert "over every subset of barycenters" in describe_aggregation(f"mixture:{name}")
    assert get_divergence("renyi").name == "renyi:0.5"
    assert get_divergence(get_divergence("renyi:2")).name == "renyi:2"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("bhattacharyya", "unknown divergence 'bhattacharyya'. Available: reverse_kl, .*register_divergence"),
        (3, "unknown divergence 3. Available: reverse_kl"),
        ("w1:2", "divergence 'w1' takes no parameter, got 'w1:2'"),
        ("w1:", "takes no parameter"),
        ("renyi:0", "'renyi' must be a number between 0 and inf, such as renyi:0.5, got 'renyi:0'"),
        ("renyi:-1", "between 0 and inf"),
        ("renyi:inf", "between 0 and inf"),
        ("renyi:nan", "between 0 and inf"),
        ("renyi:", "between 0 and inf"),
        ("renyi:half", "got 'renyi:half'"),
        ("renyi:1:2", "got 'renyi:1:2'"),
        ("alpha:1.01", "from -1 to 1"),
        ("alpha:-2", "from -1 to 1"),
        ("entropic_w2:0", "between 0 and inf"),
        ("entropic_w2:-1", "between 0 and inf"),
    ],
)
def test_get_divergence_of_wrong_name_raises_one_line(name: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match) as refusal:
        get_divergence(name)
    assert "\n" not in str(refusal.value)
    if isinstance(name, str) and ":" in name:
        for prefix in ("", "mixture:"):
            with pytest.raises(ValueError, match=match):
                make_aggregation(prefix + name)


@pytest.mark.parametrize("name", ["mixture:", "mixture:wb", "mixture:mixture:w1", "Renyi:0.5", ":0.5"])
def test_make_aggregation_of_unknown_mixture_raises(name: str) -> None:
    with pytest.raises(ValueError, match="unknown aggregation .*mixture:DIVERGENCE its mixture"):
        make_aggregation(name)


@pytest.mark.parametrize("name", BUILT_IN)
def test_register_and_unregister_refuse_built_in_names(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is already registered"):
        register_divergence(name)
    with pytest.raises(ValueError, match=f"'{name}' is built in"):
        unregister_divergence(name)
    assert divergences() == BUILT_IN


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "mixture"])
def test_register_divergence_refuses_malformed_name(name: str) -> None:
    with pytest.raises(
        ValueError, match="the name of a divergence must be non-empty, without colon or comma, and not 'mixture'"
    ):
        register_divergence(name)


def test_unregister_divergence_refuses_unknown_name_and_parameter() -> None:
    with pytest.raises(ValueError, match="unknown divergence 'mine'"):
        unregister_divergence("mine")
    with pytest.raises(ValueError, match="must be 'renyi', without a parameter, got 'renyi:0.5'"):
        unregister_divergence("renyi:0.5")
    with pytest.raises(ValueError, match="default of divergence 'mine' must be between 0 and 1, got 2"):
        register_divergence("mine", default=2.0, domain=(0.0, 1.0))


@pytest.fixture
def pseudo_huber() -> Any:
    """Register a user-defined divergence with a parameter, and return its function."""

    @register_divergence("huber", default=1.0, domain=(0.0, 10.0))
    def huber(q: Normal, p: Normal, width: float) -> torch.Tensor:
        """Be quadratic near and linear far away."""
        distance = (q.loc - p.loc).square() + (q.scale.log() - p.scale.log()).square()
        return width**2 * ((1 + distance / width**2).sqrt() - 1)

    yield huber
    unregister_divergence("huber")


def test_register_divergence_with_parameter_adds_aggregation_and_mixture(pseudo_huber: Any) -> None:
    assert divergences()[-1] == "huber"
    assert aggregations()[-1] == "huber"
    assert get_divergence("huber").name == "huber:1"
    assert describe_aggregation("mixture:huber:0.5").endswith("under Be quadratic near and linear far away.")
    with pytest.raises(ValueError, match="'huber' must be a number between 0 and 10, such as huber:1"):
        make_aggregation("huber:11")
    experts = random_experts(6, 3, 2)
    for name, width in (("huber", 1.0), ("huber:0.5", 0.5)):
        got = barycenter(experts, divergence=name)
        expected = barycenter(experts, divergence=lambda q, p, width=width: pseudo_huber(q, p, width))
        torch.testing.assert_close(got.mean, expected.mean)
        torch.testing.assert_close(got.stddev, expected.stddev)


def test_solve_with_invalid_callable_raises() -> None:
    weights, loc, scale = torch.ones(1, 2), torch.tensor([[0.0], [1.0]]), torch.ones(2, 1)
    factor = torch.nn.Parameter(torch.tensor(2.0))

    def named(q: Normal, p: Normal) -> torch.Tensor:
        return factor * (q.loc - p.loc).square()

    cases: list[tuple[Any, str]] = [
        (lambda q, p: (q.loc - p.loc).square().sum(), r"'<lambda>' must return one value per element.*got \(\)"),
        (lambda q, p: 1.0, "got float"),
        (lambda q, p: (p.loc - 1).square(), "must return values that depend on q"),
        (lambda q, p: (q.loc - p.loc).detach().square(), "are differentiable in it"),
        (named, "'named' must not have parameters that require a gradient"),
    ]
    for function, match in cases:
        with pytest.raises(ValueError, match=match):
            solve(weights, loc, scale, function)
