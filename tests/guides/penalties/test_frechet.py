"""The Fréchet variance by hand, by quadrature and by the property of barycenters, and its gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal, kl_divergence

from pyro_mmvae import (
    Aggregation,
    BarycentricGuide,
    Experts,
    FrechetVariance,
    Modality,
    MultimodalVAE,
    aggregate,
    divergences,
    make_aggregation,
)
from pyro_mmvae.barycenters import get_divergence
from pyro_mmvae.networks import NetworkOptions

PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
SCALARS = ("wb", "mwb", "poe", "mopoe", "pool", "moment", *divergences(), "mixture:w1")
WEIGHTS = [2.0, 0.5, 1.0]


def make_experts(seed: int = 0, present: Tensor | None = PRESENT, **options: Any) -> Experts:
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    scale = 0.4 + torch.rand(4, 3, 2, generator=generator, dtype=torch.float64)
    return Experts(loc, scale, present, **options)


def variance(
    experts: Experts, rule: Any, penalty: FrechetVariance, members: Tensor | None = None, **options: Any
) -> Tensor:
    bound = "mixture" if members is None else "component"
    guide = BarycentricGuide(lambda: experts, make_aggregation(rule, **options), bound=bound, penalties=[penalty])
    return guide.penalty_terms(experts, members)["z_frechet"]


def members_of(present: Tensor, item: int) -> list[int]:
    return [m for m in range(3) if present[item, m]]


def by_hand(experts: Experts, rule: str, divergence: Any, weights: list[float], present: Tensor) -> Tensor:
    """Return the variance item by item, from the posterior of the aggregation."""
    values = []
    for item in range(4):
        members = members_of(present, item)
        if not members:
            values.append(torch.zeros((), dtype=torch.float64))
            continue
        inside = experts.map(lambda tensor, _event_dim, item=item: tensor[item]).condition_on(members)
        posterior: Any = make_aggregation(rule, expert_weights=torch.tensor(weights)).joint(inside)
        total = sum(weights[m] for m in members)
        q = Normal(posterior.base_dist.loc, posterior.base_dist.scale)
        values.append(
            sum(
                (weights[m] / total * divergence(q, Normal(experts.loc[item, m], experts.scale[item, m])).sum()
                 for m in members), start=torch.zeros((), dtype=torch.float64),
            )
        )  # fmt: skip
    return torch.stack(values)


@pytest.mark.parametrize("rule", ["wb", "mwb"])
def test_frechet_variance_of_wasserstein_barycenters_is_the_closed_form(rule: str) -> None:
    loc = torch.tensor([[[0.0, 0.0], [2.0, 4.0]]])
    scale = torch.tensor([[[1.0, 1.0], [3.0, 2.0]]])
    # loc_S = (1, 2), scale_S = (2, 1.5): each expert is at 1 + 4 + 1 + 0.25
    torch.testing.assert_close(variance(Experts(loc, scale), rule, FrechetVariance(2.0)), torch.tensor([12.5]))


def test_frechet_variance_scale_free_is_divided_by_the_mean_variance_of_each_dimension() -> None:
    loc = torch.tensor([[[0.0, 0.0], [2.0, 4.0]]])
    scale = torch.tensor([[[1.0, 1.0], [3.0, 2.0]]])
    expected = torch.tensor([(1 + 1) / ((1 + 9) / 2) + (4 + 0.25) / ((1 + 4) / 2)])
    torch.testing.assert_close(variance(Experts(loc, scale), "wb", FrechetVariance(1.0, True)), expected)


def test_frechet_variance_scale_free_does_not_change_with_the_unit_of_the_latents() -> None:
    experts, unit = make_experts(), torch.tensor([1e-3, 50.0], dtype=torch.float64)
    scaled = experts.map(lambda tensor, event_dim: tensor * unit if event_dim > 1 else tensor)
    penalty = FrechetVariance(scale_free=True)
    torch.testing.assert_close(variance(scaled, "wb", penalty), variance(experts, "wb", penalty))
    assert not torch.allclose(variance(scaled, "wb", FrechetVariance()), variance(experts, "wb", FrechetVariance()))


@pytest.mark.parametrize(
    ("rule", "divergence"),
    [
        ("pool", kl_divergence),
        ("poe", kl_divergence),
        ("mopoe", kl_divergence),
        ("moment", lambda q, p: kl_divergence(p, q)),
        ("wb", lambda q, p: (q.loc - p.loc) ** 2 + (q.scale - p.scale) ** 2),
        *((name, get_divergence(name)) for name in divergences()),
    ],
)
def test_frechet_variance_is_the_weighted_mean_divergence_of_the_present(rule: str, divergence: Any) -> None:
    experts = make_experts()
    found = variance(experts, rule, FrechetVariance(), expert_weights=torch.tensor(WEIGHTS))
    torch.testing.assert_close(found, by_hand(experts, rule, divergence, WEIGHTS, PRESENT))


def test_frechet_variance_of_poe_is_the_term_of_mvtcae() -> None:
    experts = make_experts(present=None)
    posterior = aggregate(experts, "poe", prior_expert="none")
    term = sum(
        kl_divergence(posterior, Independent(Normal(experts.loc[:, m], experts.scale[:, m]), 1)) for m in range(3)
    )
    alpha, beta = 5 / 6, 2.5
    found = variance(experts, "poe", FrechetVariance(beta * alpha), prior_expert="none")
    torch.testing.assert_close(found, beta * alpha / 3 * term)


@pytest.mark.parametrize("rule", [name for name in SCALARS if name not in {"poe", "mopoe"}])
def test_frechet_variance_is_smallest_at_the_barycenter(rule: str) -> None:
    experts = make_experts()
    inner = make_aggregation(rule)
    found = variance(experts, rule, FrechetVariance())
    posterior: Any = inner.joint(experts)
    divergence = get_divergence(inner.divergence)
    weights = experts.mask / experts.mask.sum(-1, keepdim=True).clamp(min=1)
    for by_loc, by_scale in itertools.product((-0.05, 0.0, 0.05), (-0.05, 0.0, 0.05)):
        q = Normal((posterior.base_dist.loc + by_loc)[:, None], (posterior.base_dist.scale + by_scale)[:, None])
        each = divergence(q, Normal(experts.loc, experts.scale)).sum(-1)
        assert (found <= (weights * each).sum(-1) + 1e-12).all()


def test_frechet_variance_of_moe_agrees_with_quadrature() -> None:
    loc, scale = torch.tensor([[-1.0], [0.5], [9.0]]).double(), torch.tensor([[0.6], [1.2], [1.0]]).double()
    present = torch.tensor([True, True, False])
    count = 20_000
    experts = Experts(loc.expand(count, 3, 1), scale.expand(count, 3, 1), present.expand(count, 3))
    found = variance(experts, "moe", FrechetVariance(), expert_weights=torch.tensor([0.75, 0.25, 1.0]))
    grid = torch.arange(-8.0, 9.0, 0.01, dtype=torch.float64)
    first, second = (Normal(loc[m], scale[m]).log_prob(grid) for m in (0, 1))
    mixture = torch.logaddexp(first + torch.tensor(0.75).log(), second + torch.tensor(0.25).log())
    exact = 0.01 * (0.75 * first.exp() * (first - mixture) + 0.25 * second.exp() * (second - mixture)).sum()
    assert abs(found.mean() - exact) < 4 * found.std() / count**0.5
    assert found.std() / count**0.5 < 0.01 * exact


def test_frechet_variance_of_moe_in_the_component_bound_is_that_of_the_mixture() -> None:
    experts = make_experts()
    torch.manual_seed(0)
    drawn = variance(experts, "moe", FrechetVariance(), PRESENT & torch.tensor([True, False, False]))
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, variance(experts, "moe", FrechetVariance()))
    assert (drawn[:2] != 0).all()
    assert (drawn[2:].abs() < 1e-12).all()  # one expert, or none, does not differ from the mixture


def test_frechet_variance_in_the_component_bound_is_that_of_the_drawn_subset() -> None:
    experts = make_experts()
    members = PRESENT & torch.tensor([True, False, True])
    found = variance(experts, "mwb", FrechetVariance(), members)
    torch.testing.assert_close(found, by_hand(experts, "wb", get_divergence("w2"), [1.0] * 3, members))
    assert found[2] == found[3] == 0


def test_frechet_variance_of_full_covariances_that_commute_is_that_of_their_eigenvalues() -> None:
    experts = make_experts()
    angle = torch.tensor(0.7).double()
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    covariance = rotation @ torch.diag_embed(experts.scale.square()) @ rotation.mT
    full = Experts(experts.loc @ rotation.mT, present=PRESENT, scale_tril=torch.linalg.cholesky(covariance))
    torch.testing.assert_close(variance(full, "wb", FrechetVariance()), variance(experts, "wb", FrechetVariance()))


@pytest.mark.parametrize(("rule", "is_reverse"), [("pool", True), ("moment", False)])
def test_frechet_variance_of_full_covariances_is_the_kl_divergence(rule: str, is_reverse: bool) -> None:
    tril = torch.randn(4, 3, 2, 2, dtype=torch.float64).tril(-1) + torch.diag_embed(make_experts().scale)
    experts = Experts(make_experts().loc, scale_tril=tril)
    q: Any = aggregate(experts, rule)
    each = [MultivariateNormal(experts.loc[:, m], scale_tril=tril[:, m]) for m in range(3)]
    expected = sum(kl_divergence(q, p) if is_reverse else kl_divergence(p, q) for p in each) / 3
    torch.testing.assert_close(variance(experts, rule, FrechetVariance()), expected)


def test_frechet_variance_of_laplace_experts_averages_quantiles() -> None:
    experts = make_experts(present=None, family="laplace")
    q: Any = aggregate(experts, "wb")
    u = torch.linspace(1e-6, 1 - 1e-6, 200_001, dtype=torch.float64)[:, None, None, None]
    quantiles = Laplace(experts.loc, experts.scale).icdf(u) - q.base_dist.icdf(u[..., 0])[:, :, None]
    expected = quantiles.square().mean(0).sum(-1).mean(-1)
    torch.testing.assert_close(variance(experts, "wb", FrechetVariance()), expected, rtol=1e-3, atol=0)


def assert_gradient(function: Callable[..., Tensor], *points: Tensor) -> None:
    """Check the gradient along one direction against a central difference."""
    inputs = [point.detach().clone().requires_grad_() for point in points]
    gradients = torch.autograd.grad(function(*inputs).sum(), inputs)
    directions = [torch.randn_like(point) for point in points]
    slope = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
    step = 1e-5
    ahead, behind = (
        function(*(point + sign * step * d for point, d in zip(points, directions, strict=True))).sum()
        for sign in (1, -1)
    )
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "scale_free"), [*((rule, False) for rule in SCALARS), ("wb", True), ("mwb", True), ("w2", True)]
)
def test_frechet_variance_gradient_agrees_with_finite_differences(rule: str, scale_free: bool) -> None:
    def value(loc: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        made = Experts(loc, scale, PRESENT)
        return variance(made, rule, FrechetVariance(1.0, scale_free), expert_weights=lambda _experts: weights)

    assert_gradient(value, make_experts().loc, make_experts().scale, torch.tensor(WEIGHTS, dtype=torch.float64))


def test_frechet_variance_of_moe_gradient_agrees_with_finite_differences() -> None:
    def value(loc: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
        torch.manual_seed(0)
        made = Experts(loc, scale, PRESENT)
        return variance(made, "moe", FrechetVariance(), expert_weights=lambda _experts: weights)

    assert_gradient(value, make_experts().loc, make_experts().scale, torch.tensor(WEIGHTS, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["wb", "pool", "moment"])
def test_frechet_variance_gradient_of_full_covariances_agrees_with_finite_differences(rule: str) -> None:
    tril = torch.randn(4, 3, 2, 2, dtype=torch.float64).tril(-1) + torch.diag_embed(make_experts().scale)

    def value(loc: Tensor, scale_tril: Tensor) -> Tensor:
        return variance(Experts(loc, present=PRESENT, scale_tril=scale_tril.tril()), rule, FrechetVariance())

    assert_gradient(value, make_experts().loc, tril)


@pytest.mark.parametrize("rule", [*SCALARS, "moe"])
def test_frechet_variance_with_nan_in_absent_slots_is_finite_with_a_finite_gradient(rule: str) -> None:
    source = make_experts(present=None)
    loc = torch.where(PRESENT.unsqueeze(-1), source.loc, torch.nan).requires_grad_()
    scale = torch.where(PRESENT.unsqueeze(-1), source.scale, torch.nan).requires_grad_()
    torch.manual_seed(0)
    found = variance(Experts(loc, scale, PRESENT), rule, FrechetVariance())
    torch.manual_seed(0)
    torch.testing.assert_close(found, variance(make_experts(), rule, FrechetVariance()))
    found.sum().backward()
    for parameter in (loc, scale):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert (parameter.grad[~PRESENT] == 0).all()


@pytest.mark.parametrize("rule", SCALARS)
def test_frechet_variance_gradient_of_equal_experts_is_finite(rule: str) -> None:
    loc = torch.ones(2, 3, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.full((2, 3, 2), 0.7, dtype=torch.float64, requires_grad=True)
    options = {} if rule not in {"poe", "mopoe"} else {"prior_expert": "none"}
    variance(Experts(loc, scale), rule, FrechetVariance(), **options).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (loc, scale))


@pytest.mark.parametrize("rule", SCALARS)
def test_frechet_variance_with_permuted_modalities_is_equal(rule: str) -> None:
    experts, order = make_experts(), [2, 0, 1]
    permuted = Experts(experts.loc[:, order], experts.scale[:, order], PRESENT[:, order])
    found = variance(permuted, rule, FrechetVariance())
    torch.testing.assert_close(found, variance(experts, rule, FrechetVariance()), rtol=1e-6, atol=1e-9)


class Unnamed(Aggregation):
    """A user-defined aggregation that does not name its divergence."""

    def forward(self, experts: Experts) -> Any:
        return aggregate(experts, "wb")


def test_guide_with_an_aggregation_without_divergence_needs_one() -> None:
    with pytest.raises(ValueError, match="'Unnamed' does not name: pass one, as in FrechetVariance"):
        BarycentricGuide(make_experts, Unnamed(), penalties=[FrechetVariance(2.0)])
    found = variance(make_experts(), Unnamed(), FrechetVariance(divergence="w2"))
    torch.testing.assert_close(found, variance(make_experts(), "wb", FrechetVariance()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrechetVariance(-1.0), "penalty 'frechet': gamma must be a positive finite number, got -1.0"),
        (lambda: FrechetVariance("much"), "gamma must be a positive finite number, got 'much'"),  # type: ignore[arg-type]
        (lambda: FrechetVariance(divergence="w3"), "unknown divergence 'w3'"),
        (lambda: FrechetVariance(scale_free=True, divergence="w1"), "scale_free must be False for the divergence 'w1'"),
        (lambda: BarycentricGuide(make_experts, "poe", penalties=[FrechetVariance(scale_free=True)]),
         "scale_free must be False for the divergence 'reverse_kl'"),
        (lambda: BarycentricGuide(make_experts, "moe", penalties=[FrechetVariance(divergence="w2")]),
         "divergence must be 'forward_kl' for the mixture of experts"),
    ],
)  # fmt: skip
def test_frechet_variance_without_meaning_is_refused_at_construction(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("penalty", ["frechet", {"name": "frechet", "divergence": "w2"}])
def test_frechet_variance_of_holder_is_refused_at_construction_with_its_name_and_alternatives(penalty: Any) -> None:
    message = "^penalty 'frechet' must have .*got 'holder', which is a mixture: use the penalty 'infonce', or the aggre"
    with pytest.raises(ValueError, match=message):
        MultimodalVAE([Modality("a", (3,)), Modality("b", (2,))], 2, "holder", penalties=[penalty])
    with pytest.raises(ValueError, match=message):
        BarycentricGuide(make_experts, "holder", penalties=[penalty])
    BarycentricGuide(make_experts, "helvae", penalties=[{"name": "frechet", "divergence": "w2"}])


@pytest.mark.parametrize(
    ("network", "penalty", "message"),
    [
        (NetworkOptions(covariance="full"), {"name": "frechet", "scale_free": True}, "scale_free must be False"),
        (NetworkOptions(family="laplace"), {"name": "frechet", "divergence": "w1"}, "must be w2, reverse_kl"),
    ],
)
def test_vae_refuses_a_frechet_variance_that_its_experts_do_not_have(
    network: NetworkOptions, penalty: dict[str, Any], message: str
) -> None:
    modalities = [Modality("a", (4,)), Modality("b", (6,))]
    with pytest.raises(ValueError, match=message):
        MultimodalVAE(modalities, 2, "wb", network=network, penalties=[penalty])
