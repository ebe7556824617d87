"""Laplace, Student-t and logistic experts: quantiles, densities and divergences by scipy, and runs that use them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import integrate, stats
from torch.distributions import kl_divergence

from pyro_mmvae import BarycentricGuide, Experts, Modality, MultimodalVAE, aggregate, draw_component, load, train
from pyro_mmvae.distributions import Logistic, SubsetMixture, location_scale
from pyro_mmvae.evaluation import expert_geometry, latent_usage
from pyro_mmvae.experts import standard_deviation
from pyro_mmvae.inference.posteriors import encode_dataset, posterior_means
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.runs.config import Config
from pyro_mmvae.testing import check_aggregation
from tests.strategies import few, random_experts

DF = 5.0
REFERENCE: dict[str, Callable[..., Any]] = {
    "laplace": stats.laplace,
    "student_t": lambda loc, scale: stats.t(DF, loc, scale),
    "logistic": stats.logistic,
}
FAMILIES = tuple(REFERENCE)
DEFINED = ("moe", "wb", "mwb", "moment")
NAN = float("nan")


def random_family(family: str, *shape: int, absent: bool = True, seed: int = 0) -> Experts:
    normal = random_experts(*shape, absent=absent, seed=seed)
    return Experts(normal.loc, normal.scale, normal.mask, family=family, df=DF if family == "student_t" else None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEFINED)
def test_check_aggregation_passes_location_scale_families(family: str, name: str) -> None:
    check_aggregation(name, kind=family, samples=4000)


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_scale_is_the_scale_parameter_of_the_family(family: str) -> None:
    experts = random_family(family, 3, 2, 2, absent=False)
    wanted = REFERENCE[family](experts.loc.numpy(), experts.scale.numpy())
    np.testing.assert_allclose(experts.stddev, wanted.std(), rtol=1e-12)
    assert experts.kind == family
    df = DF if family == "student_t" else None
    assert standard_deviation(family, df) != 1
    q: Any = location_scale(family, experts.loc, experts.scale, df)
    np.testing.assert_allclose(q.stddev, wanted.std(), rtol=1e-6)
    z = torch.randn(7, 3, 2, 2).double()
    np.testing.assert_allclose(q.log_prob(z), wanted.logpdf(z).sum(-1), rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@few
@given(seed=st.integers(0, 10**6))
def test_wasserstein_barycenter_averages_quantiles(family: str, seed: int) -> None:
    """Compare with averages of scipy's quantiles, which define the W₂ barycenter on the line."""
    experts = random_family(family, 3, 2, absent=False, seed=seed)
    weights = torch.rand(3, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    posterior: Any = aggregate(experts, "wb", expert_weights=weights)
    level = np.linspace(0.001, 0.999, 41)[:, None, None]
    quantiles = REFERENCE[family](experts.loc.numpy(), experts.scale.numpy()).ppf(level)
    wanted = (quantiles * (weights / weights.sum()).numpy()[:, None]).sum(1)
    got = REFERENCE[family](posterior.base_dist.loc.numpy(), posterior.base_dist.scale.numpy()).ppf(level[:, 0])
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["moe", "mwb"])
def test_mixture_density_equals_scipy(family: str, name: str) -> None:
    experts = random_family(family, 3, 2, absent=False)
    mixture: Any = aggregate(experts, name)
    assert isinstance(mixture, SubsetMixture)
    loc, scale = experts.loc.numpy(), experts.scale.numpy()
    subsets = [[0], [1], [2]] if name == "moe" else [[m for m in range(3) if k >> m & 1] for k in range(1, 8)]
    z = torch.linspace(-4, 4, 18).double().reshape(9, 2)
    wanted = np.mean(
        [np.exp(REFERENCE[family](loc[s].mean(0), scale[s].mean(0)).logpdf(z).sum(-1)) for s in subsets], axis=0
    )
    np.testing.assert_allclose(mixture.log_prob(z).exp(), wanted, rtol=1e-9)
    drawn: Any = draw_component(experts, name)
    assert type(drawn.base_dist) is type(mixture.components.base_dist)


@pytest.mark.parametrize("family", FAMILIES)
def test_moment_matching_has_moments_by_quadrature(family: str) -> None:
    experts = random_family(family, 3, 1, absent=False)
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    posterior: Any = aggregate(experts, "moment", expert_weights=weights)
    parts = [REFERENCE[family](float(m), float(s)) for m, s in zip(experts.loc, experts.scale, strict=True)]

    def density(z: float) -> float:
        return sum(float(w) * p.pdf(z) for w, p in zip(weights, parts, strict=True))

    def moment(power: int, centre: float) -> float:
        return sum(
            integrate.quad(lambda z: (z - centre) ** power * density(z), low, high, limit=400)[0]
            for low, high in ((-np.inf, -3), (-3, 0), (0, 3), (3, np.inf))
        )

    assert posterior.mean.item() == pytest.approx(moment(1, 0.0), rel=1e-5, abs=1e-6)
    assert posterior.variance.item() == pytest.approx(moment(2, posterior.mean.item()), rel=1e-4)
    assert isinstance(posterior.base_dist, dist.Normal)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["poe", "mopoe", "pool"])
def test_product_of_other_families_is_refused_with_the_reason(family: str, name: str) -> None:
    match = f"'{name}' has no rule for experts of kind '{family}'.*product of {family} densities is not a member"
    experts = random_family(family, 2, 3, 2)
    for builder in (aggregate, draw_component):
        with pytest.raises(ValueError, match=match):
            builder(experts, name)
    with pytest.raises(ValueError, match=match):
        MultimodalVAE([Modality("a", (4,))], 2, name, network=NetworkOptions(family=family))
    with pytest.raises(ValueError, match="'moe' has no rule"):
        aggregate(experts, "moe", prior_expert="all")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEFINED)
def test_aggregate_of_nothing_is_the_prior_of_the_family(family: str, name: str) -> None:
    experts = random_family(family, 4, 3, 2).condition_on([])
    posterior: Any = aggregate(experts, name, prior=(0.5, torch.tensor([2.0, 0.7]).double()))
    reference = stats.norm if name == "moment" else REFERENCE[family]
    z = torch.randn(6, 4, 2).double()
    wanted = reference(0.5, np.array([2.0, 0.7])).logpdf(z.numpy()).sum(-1)
    np.testing.assert_allclose(posterior.log_prob(z), wanted, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEFINED)
def test_aggregate_ignores_nan_in_absent_slots(family: str, name: str) -> None:
    experts = random_family(family, 4, 3, 2, absent=False)
    present = torch.tensor([True, False, True])
    leaves = [experts.loc.clone().requires_grad_(), experts.scale.clone().requires_grad_()]
    loc, scale = (t.masked_fill(~present[:, None], NAN) for t in leaves)
    posterior: Any = aggregate(Experts(loc, scale, present, family=family, df=experts.df), name)
    kept = experts.map(lambda t, event_dim: t.index_select(-event_dim, torch.tensor([0, 2])))
    z = posterior.mean.detach() + 0.5
    torch.testing.assert_close(posterior.log_prob(z), aggregate(kept, name).log_prob(z))
    for gradient in torch.autograd.grad(posterior.log_prob(z).sum(), leaves):
        assert gradient.isfinite().all()
        assert (gradient[:, 1] == 0).all()
        assert (gradient[:, 0] != 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["moe", "wb", "mwb"])
def test_aggregate_of_equal_experts_is_that_expert(family: str, name: str) -> None:
    one = random_family(family, 4, 1, 2, absent=False)
    same = one.map(lambda t, event_dim: t.repeat_interleave(3, -event_dim))
    z = torch.randn(5, 4, 2).double()
    wanted: Any = location_scale(family, one.loc[:, 0], one.scale[:, 0], one.df)
    torch.testing.assert_close(aggregate(same, name).log_prob(z), wanted.log_prob(z))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DEFINED)
def test_aggregate_gradients_match_finite_differences(family: str, name: str) -> None:
    experts = random_family(family, 3, 3, 2)
    z = torch.linspace(-1, 2, 6).double().reshape(3, 2)

    def value(loc: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        other = Experts(loc, scale, experts.mask, family=family, df=experts.df)
        return aggregate(other, name, expert_weights=weights).log_prob(z)

    leaves = [t.clone().requires_grad_() for t in (experts.loc, experts.scale, torch.tensor([0.5, 2.0, 1.2]).double())]
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prior", ["normal", "laplace"])
def test_kl_divergence_from_prior_matches_quadrature(family: str, prior: str) -> None:
    """Check closed forms from every family to a Normal, and between Laplace densities; others are not implemented."""
    q: Any = location_scale(family, torch.tensor([0.7]).double(), torch.tensor([0.4]).double(), DF)
    p: Any = location_scale(prior, torch.tensor([-0.5]).double(), torch.tensor([1.6]).double())
    if prior == "laplace" and family != "laplace":
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
        return
    mine = REFERENCE[family](0.7, 0.4)
    other = (stats.norm if prior == "normal" else stats.laplace)(-0.5, 1.6)
    edges = (-np.inf, -20, -0.5, 0.7, 20, np.inf)

    def integrand(z: float) -> float:
        density = mine.pdf(z)
        return 0.0 if density == 0 else density * (mine.logpdf(z) - other.logpdf(z))

    wanted = sum(integrate.quad(integrand, a, b, limit=400)[0] for a, b in zip(edges, edges[1:], strict=False))
    assert kl_divergence(q, p).item() == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_divergence_of_student_t_without_variance_is_infinite(family: str) -> None:
    heavy = dist.StudentT(torch.tensor([1.0, 2.0, 2.5]), 0.0, 1.0)
    got = kl_divergence(heavy, dist.Normal(0.0, 1.0))
    assert got[:2].tolist() == [math.inf, math.inf]
    assert got[2].isfinite()
    with pytest.raises(ValueError, match="df must be finite and above 2"):
        Experts(torch.zeros(1, 1), torch.ones(1, 1), family="student_t", df=2.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_field_elbo_uses_closed_forms_where_known(family: str) -> None:
    experts = random_family(family, 4, 3, 2)
    losses: dict[str, list[float]] = {}
    for prior in ("normal", family):

        def model(prior: str = prior) -> None:
            with pyro.plate("data", 4):
                zeros = torch.zeros(2).double()
                pyro.sample("z", location_scale(prior, zeros, zeros + 1, DF))

        guide = BarycentricGuide(lambda: experts, "wb")
        losses[prior] = [TraceMeanField_ELBO().loss(model, guide) for _ in range(3)]
        if prior == "normal" or family == "laplace":
            sampled = Trace_ELBO(num_particles=100_000, vectorize_particles=True, max_plate_nesting=1)
            assert sampled.loss(model, guide) == pytest.approx(losses[prior][0], abs=0.3)
    assert len(set(losses["normal"])) == 1
    assert len(set(losses[family])) == (1 if family == "laplace" else 3)


def test_logistic_draws_are_finite_and_reparameterised() -> None:
    """Check that draws are finite in float32, symmetric in the tails, and have the gradient of the quantile."""
    torch.manual_seed(0)
    loc, scale = torch.tensor(0.5, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    q = Logistic(loc, scale)
    draws = q.rsample((2**22,))
    assert draws.isfinite().all()
    assert abs(float((draws.max() + draws.min()).detach()) - 1.0) < 2 * 8
    some = draws[:20_000].detach()
    assert stats.kstest(some.numpy(), stats.logistic(0.5, 2.0).cdf).pvalue > 1e-3
    gradients = torch.autograd.grad(draws[:5].sum(), (loc, scale))
    assert gradients[0].item() == pytest.approx(5)
    assert gradients[1].item() == pytest.approx(float((some[:5] - 0.5).sum()) / 2, rel=1e-5)
    assert type(q.expand((3,))) is Logistic


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"family": "cauchy"}, "family must be one of normal, laplace, student_t, logistic, got 'cauchy'"),
        ({"family": "student_t"}, "df must be a number for family 'student_t' .*, got None for 'student_t'"),
        ({"df": 4.0}, "and None for others, got 4.0 for 'normal'"),
        (
            {"family": "laplace", "cov_factor": torch.ones(2, 3, 1)},
            "family must be 'normal' for experts with a covariance, got 'laplace'",
        ),
    ],
)
def test_experts_refuse_invalid_families(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Experts(torch.zeros(2, 3), torch.ones(2, 3), **options)


def test_vae_prior_has_the_posterior_family() -> None:
    modalities = [Modality("a", (4,)), Modality("b", (4,))]
    for family, kind in (("laplace", dist.Laplace), ("student_t", dist.StudentT), ("logistic", Logistic)):
        options = NetworkOptions(hidden=8, family=family, df=7.0)
        vae = MultimodalVAE(modalities, 2, "wb", network=options, prior=(0.5, 2.0))
        prior: Any = vae.model.prior()
        assert type(prior.base_dist) is kind
        empty: Any = vae.posterior({"a": torch.zeros(3, 4), "present": torch.zeros(3, 2).bool()})
        z = torch.randn(3, 2)
        torch.testing.assert_close(empty.log_prob(z), prior.log_prob(z))
        assert vae.guide(num_items=3).shape == (3, 2)
        gaussian: Any = MultimodalVAE(modalities, 2, "moment", network=options).model.prior()
        assert type(gaussian.base_dist) is dist.Normal


@pytest.mark.parametrize("family", FAMILIES)
def test_train_with_other_families_evaluates(toy_config: Callable[..., Config], tmp_path: Path, family: str) -> None:
    aggregation = "mwb" if family == "laplace" else "wb"
    config = toy_config(
        model__aggregation=aggregation, model__network__family=family, data__train_size=64, train__epochs=1
    )
    assert math.isfinite(train(config, tmp_path / "run", progress=False).state["best"])
    run = load(tmp_path / "run")
    experts = encode_dataset(run.vae, run.data("test"), batch_size=10)
    assert experts.kind == family
    assert posterior_means(run.vae, experts, (0, 2)).isfinite().all()
    rows = [*latent_usage(run.vae, experts, subset=(0, 1), draws=20), *expert_geometry(run.vae, experts)]
    assert all(math.isfinite(row.value) for row in rows)
    said = {row.metric: row.protocol for row in rows}
    assert said["expert_kl"] == ("closed form" if family == "laplace" else "of Gaussians with the moments of both")
    assert "Gaussians of q(z) and prior" in said["aggregate_kl_moments"]
