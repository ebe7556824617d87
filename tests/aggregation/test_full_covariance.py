"""Aggregations of Gaussians with full covariance: oracles, the facts every aggregation keeps, guides that use them."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import ot
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch.distributions import kl_divergence

from pyro_mmvae import BarycentricGuide, Experts, SubsetMixture, aggregate, draw_component, register_aggregation
from pyro_mmvae.distributions import MultivariateNormal
from pyro_mmvae.testing import check_aggregation
from tests.strategies import BUILT_IN, MIXTURES, SINGLE, random_experts, random_full_experts, subset_of

NAN = float("nan")


@pytest.mark.parametrize("name", BUILT_IN)
def test_check_aggregation_passes_full_covariances(name: str) -> None:
    check_aggregation(name, kind="full", samples=4000)


def merged(name: str, members: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of equally weighted members, by dense algebra from the definitions."""
    means, sigmas = (np.stack(part) for part in zip(*members, strict=True))
    if name in {"wb", "mwb"}:
        mean, cov = ot.gaussian.bures_wasserstein_barycenter(means, sigmas, num_iter=1000, eps=1e-12)
        return mean.ravel(), cov
    if name == "moment":
        centred = means - means.mean(0)
        return means.mean(0), sigmas.mean(0) + centred.T @ centred / len(means)
    share = len(means) if name == "pool" else 1
    precisions = np.linalg.inv(sigmas) / share
    cov = np.linalg.inv(precisions.sum(0))
    return cov @ np.einsum("mij,mj->i", precisions, means), cov


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_matches_brute_force(name: str) -> None:
    experts = random_full_experts(5, 3, 3, seed=4)
    tril: Any = experts.scale_tril
    posterior: Any = aggregate(experts, name)
    for b in range(5):
        observed = tuple(m for m in range(3) if experts.mask[b, m])
        components = range(posterior.num_components) if name in MIXTURES else [0]
        for k in components:
            subset = subset_of(k, 3, name) if name in MIXTURES else observed
            if not set(subset) <= set(observed):
                assert posterior.probs[b, k] == 0
                continue
            members = [(experts.loc[b, m].numpy(), (tril[b, m] @ tril[b, m].T).numpy()) for m in subset]
            if name == "poe" or (name == "mopoe" and len(subset) == 3):
                members.append((np.zeros(3), np.eye(3)))
            mean, cov = merged(name, members) if len(members) > 1 else members[0]
            part = posterior.components if name in MIXTURES else posterior
            at = (b, k) if name in MIXTURES else (b,)
            np.testing.assert_allclose(part.mean[at], mean, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(part.covariance_matrix[at], cov, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_of_diagonal_covariances_equals_diagonal_experts(name: str) -> None:
    diagonal = random_experts(6, 3, 4)
    full = Experts(diagonal.loc, present=diagonal.mask, scale_tril=torch.diag_embed(diagonal.scale))
    weights = torch.tensor([0.5, 2.0, 1.2]).double()
    for expert in (None, "all"):
        wanted: Any = aggregate(diagonal, name, expert_weights=weights, prior=(0.3, 1.7), prior_expert=expert)
        got: Any = aggregate(full, name, expert_weights=weights, prior=(0.3, 1.7), prior_expert=expert)
        torch.testing.assert_close(got.mean, wanted.mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(got.stddev, wanted.stddev, rtol=1e-10, atol=1e-10)
        if name == "moment":  # which sees that means differ in several dimensions at once
            continue
        z = wanted.mean + torch.linspace(-2, 2, 4).double()
        torch.testing.assert_close(got.log_prob(z), wanted.log_prob(z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", BUILT_IN)
def test_posterior_density_integrates_to_one_with_moments_of_draws(name: str) -> None:
    experts = random_full_experts(3, 3, 2, log_scale_std=0.3)
    posterior: Any = aggregate(experts, name)
    axis = torch.linspace(-14, 14, 281, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    density = posterior.log_prob(z.unsqueeze(1)).exp() * (axis[1] - axis[0]) ** 2
    torch.testing.assert_close(density.sum(0), torch.ones(3).double(), rtol=1e-6, atol=0)
    mean = density.mT @ z
    torch.testing.assert_close(mean, posterior.mean, rtol=1e-5, atol=1e-5)
    for b in range(3):
        centred = z - mean[b]
        wanted = (density[:, b, None] * centred).mT @ centred
        draws = posterior.rsample((40_000,))[:, b]
        np.testing.assert_allclose(np.cov(draws.T), wanted, atol=0.05 * float(wanted.diagonal().max()))
        torch.testing.assert_close(posterior.variance[b], wanted.diagonal(), rtol=1e-5, atol=1e-5)


def test_mixture_density_equals_scipy() -> None:
    experts = random_full_experts(3, 2, absent=False)
    mixture: Any = aggregate(experts, "mwb")
    z = torch.randn(5, 2).double()
    parts = mixture.components
    wanted = sum(stats.multivariate_normal(parts.mean[k], parts.covariance_matrix[k]).pdf(z) / 7 for k in range(7))
    np.testing.assert_allclose(mixture.log_prob(z).exp(), wanted, rtol=1e-9)


def test_mixture_draws_have_the_covariance_of_their_component() -> None:
    loc = torch.tensor([[-9.0, 0.0], [9.0, 0.0]]).double()
    tril = torch.tensor([[[1.0, 0.0], [0.9, 0.2]], [[1.0, 0.0], [-0.9, 0.2]]]).double()
    mixture = SubsetMixture(torch.zeros(2).double(), MultivariateNormal(loc, scale_tril=tril))
    draws = mixture.sample((4000,))
    for sign, side in ((1, draws[draws[:, 0] < 0]), (-1, draws[draws[:, 0] > 0])):
        assert np.corrcoef(side.T)[0, 1] == pytest.approx(sign * 0.976, abs=0.01)
    wide = mixture.expand((3, 5))
    assert wide.rsample((2,)).shape == (2, 3, 5, 2)
    index = torch.tensor([1, 0, 1])
    torch.testing.assert_close(mixture.component(index).scale_tril, tril[index])
    unknown = SubsetMixture(torch.zeros(2).double(), dist.MultivariateNormal(loc, scale_tril=tril).to_event(0))
    assert unknown.sample().shape == (2,)


def test_draw_component_is_a_multivariate_normal() -> None:
    experts = random_full_experts(50, 3, 2, absent=False)
    every: Any = aggregate(experts, "mwb")
    drawn: Any = draw_component(experts, "mwb")
    assert type(drawn) is MultivariateNormal
    gaps = (every.components.scale_tril - drawn.scale_tril.unsqueeze(1)).abs().amax((-2, -1)).amin(1)
    assert gaps.max() < 1e-10


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_aggregate_ignores_nan_in_absent_slots(name: str, dtype: torch.dtype) -> None:
    experts = random_full_experts(4, 3, 2, absent=False)
    present = torch.tensor([True, False, True])
    leaves = [t.to(dtype).clone().requires_grad_() for t in (experts.loc, experts.scale_tril) if t is not None]
    spoiled = [t.masked_fill(~present.reshape(1, 3, *(1,) * (t.dim() - 2)), NAN) for t in leaves]
    posterior: Any = aggregate(Experts(spoiled[0], present=present, scale_tril=spoiled[1]), name)
    kept = Experts(experts.loc.to(dtype)[:, [0, 2]], scale_tril=leaves[1].detach()[:, [0, 2]])
    # By default mopoe has its prior expert in the set of all modalities, of which one is absent here.
    wanted: Any = aggregate(kept, name, prior_expert="none" if name == "mopoe" else None)
    z = wanted.mean + 0.5
    torch.testing.assert_close(posterior.log_prob(z), wanted.log_prob(z))
    for gradient in torch.autograd.grad(posterior.log_prob(z).sum(), leaves):
        assert gradient.isfinite().all()
        assert (gradient[:, 1] == 0).all()
        assert (gradient[:, 0] != 0).any()


@pytest.mark.parametrize("name", ["wb", "mwb", "moe", "pool", "moment"])
def test_aggregate_of_equal_experts_is_that_expert(name: str) -> None:
    one = random_full_experts(4, 1, 3, absent=False)
    tril: Any = one.scale_tril
    posterior: Any = aggregate(Experts(one.loc.expand(4, 3, 3), scale_tril=tril.expand(4, 3, 3, 3)), name)
    part = posterior.components if name in MIXTURES else posterior
    wanted = tril if name in MIXTURES else tril.squeeze(1)
    torch.testing.assert_close(part.scale_tril, wanted.expand_as(part.scale_tril), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["wb", "pool", "moment"])
def test_aggregate_minimises_the_weighted_divergence(name: str) -> None:
    """Minimise Σ λ D(q, q_m) numerically from another start."""
    experts = random_full_experts(3, 2, absent=False, seed=6)
    tril, weights = experts.scale_tril, torch.tensor([0.2, 0.5, 0.3]).double()
    assert tril is not None
    members = dist.MultivariateNormal(experts.loc, scale_tril=tril)
    loc = torch.tensor([1.0, -2.0]).double().requires_grad_()
    numbers = torch.tensor([0.4, 0.3, -0.5]).double().requires_grad_()

    def objective() -> torch.Tensor:
        factor = torch.diag_embed(numbers[[0, 2]].exp()) + torch.nn.functional.pad(
            numbers[1:2].reshape(1, 1), (0, 1, 1, 0)
        )
        q = dist.MultivariateNormal(loc, scale_tril=factor)
        if name == "wb":
            traces = torch.linalg.svdvals(members.scale_tril.mT @ factor).sum(-1)
            squares = members.variance.sum(-1) + q.variance.sum(-1) - 2 * traces
            return (weights * ((members.mean - loc).square().sum(-1) + squares)).sum()
        pairs = (members, q.expand((3,))) if name == "moment" else (q.expand((3,)), members)
        return (weights * kl_divergence(*pairs)).sum()

    optimiser = torch.optim.LBFGS([loc, numbers], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    posterior: Any = aggregate(experts, name, expert_weights=weights)
    torch.testing.assert_close(loc.detach(), posterior.mean, rtol=1e-5, atol=1e-5)
    found = torch.stack([numbers[0].exp(), numbers[1], numbers[2].exp()]).detach()
    torch.testing.assert_close(found, posterior.scale_tril[[0, 1, 1], [0, 0, 1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BUILT_IN)
def test_aggregate_gradients_match_finite_differences(name: str) -> None:
    experts = random_full_experts(3, 3, 2, absent=False)
    present = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    weights = torch.tensor([0.5, 2.0, 1.2]).double().requires_grad_()
    z = torch.linspace(-1, 2, 6).double().reshape(3, 2)

    def value(loc: torch.Tensor, tril: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        full = Experts(loc, present=present, scale_tril=tril.tril(), validate_args=False)
        return aggregate(full, name, expert_weights=weights).log_prob(z)

    tril: Any = experts.scale_tril
    leaves = (experts.loc.clone().requires_grad_(), tril.clone().requires_grad_(), weights)
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


class LinearGaussian:
    """x_m = A_m z + noise with any A_m, whose exact posterior and evidence are known."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.noise = (0.5, 1.5, 0.9)
        self.a = [torch.randn(size, 2, dtype=torch.float64, generator=generator) for size in (4, 3, 5)]
        z = torch.randn(6, 2, dtype=torch.float64, generator=generator)
        self.x = [
            z @ a.T + s * torch.randn(6, len(a), dtype=torch.float64, generator=generator)
            for a, s in zip(self.a, self.noise, strict=True)
        ]
        rows = [[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]]
        self.present = torch.tensor(rows, dtype=torch.bool)

    def model(self) -> None:
        with pyro.plate("data", 6):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            for m, (a, x, s) in enumerate(zip(self.a, self.x, self.noise, strict=True)):
                pyro.sample(f"x{m}", dist.Normal(z @ a.T, s).to_event(1).mask(self.present[:, m]), obs=x)

    def experts(self) -> Experts:
        locs, trils = [], []
        for a, x, s in zip(self.a, self.x, self.noise, strict=True):
            covariance = s**2 * torch.linalg.inv(a.T @ a)
            locs.append(x @ a @ torch.linalg.inv(a.T @ a))
            trils.append(torch.linalg.cholesky(covariance).expand(6, 2, 2))
        return Experts(torch.stack(locs, 1), present=self.present, scale_tril=torch.stack(trils, 1))

    def exact(self, i: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        members = [m for m in range(3) if self.present[i, m]]
        if not members:
            return torch.zeros(2).double(), torch.eye(2).double(), 0.0
        a = torch.cat([self.a[m] for m in members])
        x = torch.cat([self.x[m][i] for m in members])
        noise = torch.cat([torch.full((len(self.a[m]),), self.noise[m] ** 2, dtype=torch.float64) for m in members])
        covariance = torch.linalg.inv(torch.eye(2).double() + a.T @ (a / noise[:, None]))
        marginal = torch.diag(noise) + a @ a.T
        energy = x @ torch.linalg.solve(marginal, x) + marginal.logdet() + len(x) * math.log(2 * math.pi)
        return covariance @ a.T @ (x / noise), covariance, -0.5 * float(energy)


def test_product_of_experts_is_exact_for_linear_gaussian_model() -> None:
    """Check that full covariances reach the evidence where A_mᵀA_m is not diagonal, and diagonal ones do not."""
    linear = LinearGaussian()
    exact = [linear.exact(i) for i in range(6)]
    posterior: Any = aggregate(linear.experts(), "poe")
    for i, (mean, covariance, _) in enumerate(exact):
        torch.testing.assert_close(posterior.mean[i], mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(posterior.covariance_matrix[i], covariance, rtol=1e-10, atol=1e-10)
    evidence = sum(value for *_, value in exact)
    guide = BarycentricGuide(linear.experts, "poe")
    for seed in range(4):
        torch.manual_seed(seed)
        assert -Trace_ELBO().loss(linear.model, guide) == pytest.approx(evidence, rel=1e-11)
    full = linear.experts()
    marginal = Experts(full.loc, full.scale, full.mask)
    torch.manual_seed(0)
    losses = [-Trace_ELBO().loss(linear.model, BarycentricGuide(lambda: marginal, "poe")) for _ in range(100)]
    assert np.mean(losses) < evidence - 5 * np.std(losses) / 10
    assert np.std(losses) > 0.1


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "poe"])
def test_elbo_of_other_aggregations_is_below_the_evidence(name: str) -> None:
    linear = LinearGaussian()
    evidence = sum(linear.exact(i)[2] for i in range(6))
    elbo: Any = Trace_ELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
    assert -elbo.loss(linear.model, BarycentricGuide(linear.experts, name)) < evidence


@pytest.mark.parametrize("name", SINGLE)
def test_kl_divergence_from_prior_is_exact(name: str) -> None:
    """Check that TraceMeanField_ELBO of a prior alone has no noise, and equals torch's KL of two matrices."""
    experts = random_full_experts(4, 3, 3)
    loc, scale = torch.tensor([0.5, 0.0, -1.0]).double(), torch.tensor([1.5, 0.7, 2.0]).double()
    posterior: Any = aggregate(experts, name, prior=(loc, scale))
    prior = dist.MultivariateNormal(loc, scale_tril=torch.diag(scale)).expand((4,))
    wanted = kl_divergence(dist.MultivariateNormal(posterior.loc, posterior.covariance_matrix), prior)
    torch.testing.assert_close(kl_divergence(posterior, dist.Normal(loc, scale).to_event(1)), wanted)

    def model() -> None:
        with pyro.plate("data", 4):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    guide = BarycentricGuide(lambda: experts, name, prior=(loc, scale))
    losses = [TraceMeanField_ELBO().loss(model, guide) for _ in range(3)]
    assert losses == pytest.approx([wanted.sum().item()] * 3, rel=1e-12)


def test_kl_divergence_from_other_families_is_not_implemented() -> None:
    q = MultivariateNormal(torch.zeros(2), scale_tril=torch.eye(2))
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Laplace(torch.zeros(2), 1.0).to_event(1))


def test_experts_with_cov_factor_have_its_covariance() -> None:
    scale, factor = torch.rand(4, 3, 2).double() + 0.2, torch.randn(4, 3, 2, 1).double()
    present = torch.rand(4, 3) < 0.6
    spoiled = factor.masked_fill(~present[..., None, None], NAN)
    experts = Experts(torch.zeros(4, 3, 2).double(), scale, present, cov_factor=spoiled)
    wanted = torch.diag_embed(scale.square()) + factor @ factor.mT
    assert experts.kind == "full"
    tril: Any = experts.scale_tril
    torch.testing.assert_close((tril @ tril.mT)[present], wanted[present])
    assert (tril[~present] == torch.eye(2).double()).all()
    torch.testing.assert_close(experts.scale, torch.linalg.vector_norm(tril, dim=-1))
    assert experts.stddev is experts.scale
    cut = experts.condition_on([0, 1])
    assert not cut.mask[:, 2].any()
    assert torch.equal(cut.scale_tril[cut.mask], tril[cut.mask])  # type: ignore[index]
    again = experts.map(lambda tensor, _: tensor[[2, 0]])
    assert torch.equal(again.scale_tril, tril[[2, 0]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tril", "match"),
    [
        (
            torch.tensor([[1.0, 0.3], [0.0, 1.0]]),
            r"lower triangular .*got 0\.3\d* at scale_tril\[1, 0, 1\] \(modality 1\)",
        ),
        (torch.tensor([[1.0, 0.0], [0.5, -1.0]]), r"positive diagonal .*got -1\.0 at scale_tril\[1, 1, 1\] .*; 1 such"),
        (torch.tensor([[1.0, 0.0], [NAN, 1.0]]), r"finite .*got nan at scale_tril\[1, 1, 0\]"),
    ],
)
def test_experts_refuse_invalid_scale_tril(tril: torch.Tensor, match: str) -> None:
    both = torch.stack([torch.eye(2), tril])
    with pytest.raises(ValueError, match=match):
        Experts(torch.zeros(2, 2), scale_tril=both)
    Experts(torch.zeros(2, 2), scale_tril=both, present=torch.tensor([True, False]))


def test_experts_refuse_contradicting_arguments() -> None:
    loc, eye = torch.zeros(2, 2), torch.eye(2)
    with pytest.raises(
        ValueError, match="scale and cov_factor must be None if scale_tril, the factor of the covariance, is set"
    ):
        Experts(loc, torch.ones(2, 2), scale_tril=eye)
    with pytest.raises(TypeError, match="scale must be a floating point tensor, got NoneType"):
        Experts(loc)
    with pytest.raises(ValueError, match="scale_tril of shape .* does not broadcast to \\(2, 2, 2\\)"):
        Experts(loc, scale_tril=torch.eye(3))
    with pytest.raises(ValueError, match="cov_factor of shape .* does not broadcast"):
        Experts(loc, torch.ones(2, 2), cov_factor=torch.ones(3, 2, 1))


def test_custom_rule_gets_only_the_kinds_it_accepts(registered: None) -> None:
    seen = []

    def mine(experts: Experts) -> Any:
        seen.append(experts.kind)
        return dist.Normal(experts.loc.sum(-2), experts.stddev.sum(-2)).to_event(1)

    experts = random_full_experts(2, 3, 2)
    register_aggregation("mine")(mine)
    with pytest.raises(ValueError, match="'mine' has no rule for experts of kind 'full'; it accepts normal"):
        aggregate(experts, "mine")
    register_aggregation("ours", subsets="powerset", kinds=("normal", "full"))(mine)
    aggregate(experts, "ours")
    draw_component(experts, "ours")
    assert seen == ["full", "full"]
    with pytest.raises(ValueError, match="kinds must be a selection of normal, full"):
        register_aggregation("theirs", kinds=("round",))


def test_aggregate_under_autocast_is_unchanged() -> None:
    experts = random_full_experts(3, 3, 4).map(lambda t, event_dim: t.float() if event_dim > 1 else t)
    posterior: Any = aggregate(experts, "wb")
    torch.manual_seed(0)
    draws, density = posterior.rsample(), posterior.log_prob(posterior.mean)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        posterior = aggregate(experts, "wb")
        assert torch.equal(posterior.rsample(), draws)
        assert torch.equal(posterior.log_prob(posterior.mean), density)


def test_guide_subsamples_scale_tril() -> None:
    experts = random_full_experts(20, 3, 2, absent=False)

    def model() -> torch.Tensor:
        with pyro.plate("data", 20, subsample_size=5):
            return pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))  # type: ignore[no-any-return]

    guide = BarycentricGuide(lambda: experts, "wb", plate_size=20, subsample_size=5)
    trace = pyro.poutine.trace(guide).get_trace()
    index, site = trace.nodes["data"]["value"], trace.nodes["z"]["fn"]
    wanted: Any = aggregate(experts.map(lambda t, _: t[index]), "wb")
    torch.testing.assert_close(site.scale_tril, wanted.scale_tril)
    assert math.isfinite(TraceMeanField_ELBO().loss(model, guide))


def test_mixture_components_of_pairs_equal_their_barycenters() -> None:
    experts = random_full_experts(2, 3, 2, absent=False)
    every: Any = aggregate(experts, "mwb")
    for pair in combinations(range(3), 2):
        k = sum(2**m for m in pair) - 1
        alone: Any = aggregate(experts.condition_on(pair), "wb")
        torch.testing.assert_close(every.components.scale_tril[:, k], alone.scale_tril, rtol=1e-10, atol=1e-11)
