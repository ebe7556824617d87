"""Likelihoods of counts against SciPy's distributions."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import scipy.special
import scipy.stats
import torch
from pyro.infer import Predictive
from torch import Tensor

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.likelihoods import LogRatePoisson, NegativeBinomialLikelihood, make_likelihood
from pyro_mmvae.likelihoods.counts import MAX_LOG_THETA
from pyro_mmvae.networks import NetworkOptions

COUNTS = pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
TOTAL = 30.0


def make(name: str, shape: tuple[int, ...] = (5,)) -> Any:
    likelihood = make_likelihood(name, shape, reference_total=TOTAL).double()
    if isinstance(likelihood, NegativeBinomialLikelihood):
        likelihood.log_theta.data = torch.linspace(-1, 2, math.prod(shape), dtype=torch.float64).reshape(shape)
    return likelihood


def log_pmf(likelihood: Any, x: Tensor, rate: Tensor) -> Tensor:
    """SciPy's, summed over the event."""
    if isinstance(likelihood, NegativeBinomialLikelihood):
        theta = likelihood.log_theta.detach().exp()
        each = scipy.stats.nbinom.logpmf(x.numpy(), theta.numpy(), (theta / (theta + rate)).numpy())
    else:
        each = scipy.stats.poisson.logpmf(x.numpy(), rate.numpy())
    return torch.from_numpy(each).reshape(*rate.shape[: rate.dim() - len(likelihood.shape)], -1).sum(-1)


@COUNTS
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_log_prob_counts_equals_scipy_with_totals_as_size_factors(name: str, shape: tuple[int, ...]) -> None:
    likelihood = make(name, shape)
    logits = torch.randn(4, *shape, dtype=torch.float64)
    x = torch.poisson(torch.rand(4, *shape, dtype=torch.float64) * 9)
    x[2] = 0  # a total of nothing: the reference size
    total = x.reshape(4, -1).sum(-1)
    size = torch.where(total > 0, total, TOTAL)
    share = logits.reshape(4, -1).softmax(-1).reshape(4, *shape)
    rate = share * size.reshape(4, *[1] * len(shape))
    ours = likelihood(logits, x)
    assert (ours.batch_shape, ours.event_shape) == ((4,), shape)
    torch.testing.assert_close(ours.log_prob(x), log_pmf(likelihood, x, rate), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.mean, rate)
    torch.testing.assert_close(
        likelihood(logits).log_prob(x), log_pmf(likelihood, x, share * TOTAL), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(likelihood.mean(logits), share * TOTAL)
    more = logits + torch.randn(3, 1, *shape, dtype=torch.float64)  # draws before items
    assert likelihood(more, x).log_prob(x).shape == (3, 4)
    torch.testing.assert_close(likelihood(more, x).log_prob(x)[1], likelihood(more[1], x).log_prob(x))
    torch.testing.assert_close(likelihood.features(x), (1 + x).log())
    assert likelihood.features(x.long()).dtype == torch.get_default_dtype()


@COUNTS
def test_sample_counts_has_the_moments_of_the_density(name: str) -> None:
    likelihood = make(name)
    logits = torch.linspace(-1, 1, 5, dtype=torch.float64)
    given = torch.full((1, 5), 8.0, dtype=torch.float64)
    distribution = likelihood(logits.expand(1, 5), given)
    draws = distribution.sample(torch.Size((40_000,)))[:, 0]
    assert torch.equal(draws, draws.floor())
    rate = 40 * logits.softmax(-1)
    variance = rate + (rate.square() / likelihood.log_theta.detach().exp() if name == "negative_binomial" else 0)
    torch.testing.assert_close(distribution.mean[0], rate)
    torch.testing.assert_close(distribution.variance[0].detach(), variance)
    error = (variance / 40_000).sqrt()
    assert ((draws.mean(0) - rate).abs() < 5 * error).all()
    torch.testing.assert_close(draws.var(0), variance, rtol=0.1, atol=0.0)


@COUNTS
def test_expand_and_mask_counts_keep_the_density(name: str) -> None:
    likelihood, x = make(name), torch.ones(3, 5, dtype=torch.float64)
    ours = likelihood(torch.randn(3, 5, dtype=torch.float64), x)
    more = ours.expand([2, 3])
    assert (more.batch_shape, more.event_shape) == ((2, 3), (5,))
    torch.testing.assert_close(more.log_prob(x), ours.log_prob(x).expand(2, 3))
    assert more.sample().shape == (2, 3, 5)
    mask = torch.tensor([True, False, True])
    assert torch.equal(ours.mask(mask).log_prob(x) == 0, ~mask)


@COUNTS
def test_log_prob_extreme_logits_and_absent_items_is_finite(name: str) -> None:
    likelihood = make_likelihood(name, (3,), reference_total=TOTAL)
    logits = torch.tensor([[200.0, -200.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    x = torch.tensor([[1.0, 7.0, 0.0], [0.0, 0.0, 0.0]])  # the second is absent
    loss = likelihood(logits, x).mask(torch.tensor([True, False])).log_prob(x).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[1] == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in likelihood.parameters())
    half = likelihood(torch.zeros(2, 3, dtype=torch.bfloat16), x)
    assert half.log_prob(x).dtype == torch.float32


def test_negative_binomial_dispersion_starts_at_one_and_has_a_gradient() -> None:
    likelihood = make_likelihood("negative_binomial", (3,))
    assert torch.equal(likelihood.log_theta, torch.zeros(3))
    likelihood(torch.zeros(2, 3), torch.ones(2, 3)).log_prob(torch.ones(2, 3)).sum().backward()
    assert (likelihood.log_theta.grad != 0).all()


def test_log_rate_poisson_validates_on_request_only() -> None:
    assert LogRatePoisson(torch.zeros(2)).log_prob(torch.full((2,), 0.5)).isfinite().all()
    with pytest.raises(ValueError, match="within the support"):
        LogRatePoisson(torch.zeros(2), validate_args=True).log_prob(torch.full((2,), 0.5))


@COUNTS
@pytest.mark.parametrize("total", [0.0, -1.0, math.nan, math.inf])
def test_make_likelihood_wrong_reference_total_is_refused(name: str, total: float) -> None:
    with pytest.raises(ValueError, match="reference_total of counts must be positive and finite"):
        make_likelihood(name, (3,), reference_total=total)


@COUNTS
def test_model_counts_keep_observed_totals_when_generated(name: str) -> None:
    vae = MultimodalVAE(
        [
            Modality("rna", (6,), likelihood=name, reference_total=TOTAL),
            Modality("v", (2,), likelihood="normal", scale="learned"),
        ],
        3,
        network=NetworkOptions(hidden=8),
    )
    x = torch.tensor([[100.0, 0, 0, 0, 0, 0], [1.0, 1, 0, 0, 0, 0], [5.0] * 6])
    batch = {"rna": x, "v": torch.zeros(3, 2), "present": torch.tensor([[True, True], [True, True], [False, True]])}
    trace = pyro.poutine.trace(vae.model).get_trace(batch, generate=True)
    torch.testing.assert_close(trace.nodes["rna"]["fn"].mean.sum(-1), torch.tensor([100.0, 2.0, TOTAL]))
    drawn = Predictive(vae.model, guide=vae.guide, num_samples=7)(batch, generate=("rna",))
    assert drawn["rna"].shape == (7, 3, 6)
    assert (drawn["rna"] >= 0).all()
    assert abs(drawn["rna"][:, 0].sum(-1).mean() - 100) < 60
    prior = Predictive(vae.model, num_samples=2)(num_items=4)
    assert prior["rna"].shape == (2, 4, 6)
    torch.testing.assert_close(vae.decode(torch.randn(5, 3))["rna"].sum(-1), torch.full((5,), TOTAL))


@pytest.mark.parametrize("log_theta", [-20.0, -5.0, 0.0, 2.3, 5.0, 10.0, 14.0, 18.0])
def test_log_prob_negative_binomial_in_float32_equals_scipy_for_any_dispersion(log_theta: float) -> None:
    genes = 2000
    likelihood = make_likelihood("negative_binomial", (genes,), reference_total=1e4)
    likelihood.log_theta.data.fill_(log_theta)
    logits = torch.randn(3, genes)
    x = torch.poisson(1e4 * logits.softmax(-1))
    log_prob = likelihood(logits, x).log_prob(x)
    log_prob.sum().backward()
    mu, theta, counts = (
        (x.sum(-1, keepdim=True) * logits.softmax(-1)).double().numpy(),
        math.exp(log_theta),
        x.double().numpy(),
    )
    expected = scipy.stats.nbinom.logpmf(counts, theta, theta / (theta + mu)).sum(-1)
    assert abs(log_prob.detach().double().numpy() - expected).max() < 0.02  # the old form lost 274 nats at e^14
    digamma = scipy.special.digamma
    gradient = digamma(counts + theta) - digamma(theta) - scipy.special.log1p(mu / theta)
    gradient = (theta * (gradient + 1 - (counts + theta) / (mu + theta))).sum(0)
    assert abs(likelihood.log_theta.grad.numpy() - gradient).max() < 1e-4


def test_log_theta_stays_within_its_bounds() -> None:
    likelihood = make_likelihood("negative_binomial", (3,))
    likelihood.log_theta.data.copy_(torch.tensor([-90.0, 0.5, 90.0]))
    log_prob = likelihood(torch.zeros(1, 3)).log_prob(torch.ones(1, 3))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert likelihood.log_theta.tolist() == [-MAX_LOG_THETA, 0.5, MAX_LOG_THETA]
    assert likelihood.log_theta.grad.isfinite().all()
    assert likelihood.log_theta.grad[0] != 0


@COUNTS
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_without_observed_counts_have_totals_with_the_moments_of_the_observed_ones(
    name: str, shape: tuple[int, ...]
) -> None:
    likelihood, items = make(name, shape), 4_000
    logits = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape).expand(items, *shape)
    sizes = (torch.randn(items, dtype=torch.float64) * 0.4 + 5).exp()
    as_observed = (sizes / math.prod(shape)).reshape(-1, *[1] * len(shape)).expand(items, *shape)
    x = likelihood(logits, as_observed).sample()
    x[:100] = 0  # absent
    given = likelihood(logits, x)
    replicates = likelihood.without_observed(given, x).sample()
    assert replicates.shape == x.shape
    observed_totals, totals = (v[100:].flatten(1).sum(-1) for v in (x, replicates))
    assert float(totals.mean() / observed_totals.mean()) == pytest.approx(1, abs=0.03)
    assert float(totals.std() / observed_totals.std()) == pytest.approx(1, abs=0.08)
    assert abs(float(torch.corrcoef(torch.stack([totals, observed_totals]))[0, 1])) < 0.06  # nothing of its own total
    nothing = torch.zeros(3, *shape, dtype=torch.float64)
    unknown = likelihood(logits[:3], nothing)
    assert likelihood.without_observed(unknown, nothing) is unknown
