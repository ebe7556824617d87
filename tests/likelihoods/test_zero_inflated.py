"""Zero-inflated counts against SciPy's distributions, the formula of scVI and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pytest
import scipy.special
import scipy.stats
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_mmvae import Modality, MultimodalVAE
from pyro_mmvae.likelihoods import LogRateNegativeBinomial, LogRatePoisson, ZeroInflated, make_likelihood
from pyro_mmvae.networks import NetworkOptions

NAMES = pytest.mark.parametrize("name", ["zero_inflated_poisson", "zero_inflated_negative_binomial"])
TOTAL = 30.0


def make(name: str, features: int = 5) -> Any:
    likelihood = make_likelihood(name, (features,), reference_total=TOTAL).double()
    if hasattr(likelihood, "log_theta"):
        likelihood.log_theta.data = torch.linspace(-1, 2, features, dtype=torch.float64)
    return likelihood


def scipy_base(likelihood: Any, rate: np.ndarray) -> Any:
    if hasattr(likelihood, "log_theta"):
        theta = likelihood.log_theta.detach().exp().numpy()
        return scipy.stats.nbinom(theta, theta / (theta + rate))
    return scipy.stats.poisson(rate)


@NAMES
def test_log_prob_zero_inflated_equals_the_mixture_of_scipy(name: str) -> None:
    likelihood, parameters = make(name), 2 * torch.randn(4, 2, 5, dtype=torch.float64)
    assert likelihood.parameter_shape == (2, 5)
    x = torch.tensor([[0, 1, 0, 7, 2], [0, 0, 0, 0, 0], [3, 0, 0, 0, 25], [1, 1, 1, 1, 1]], dtype=torch.float64)
    distribution = likelihood(parameters, x)
    assert (distribution.batch_shape, distribution.event_shape) == ((4,), (5,))
    total = x.sum(-1, keepdim=True)
    rate = (parameters[:, 0].softmax(-1) * torch.where(total > 0, total, TOTAL)).numpy()
    base, pi = scipy_base(likelihood, rate), scipy.special.expit(parameters[:, 1].numpy())
    expected = np.log(pi * (x.numpy() == 0) + (1 - pi) * base.pmf(x.numpy())).sum(-1)
    np.testing.assert_allclose(distribution.log_prob(x).detach(), expected, rtol=1e-10)
    support = np.arange(4000)[:, None, None]
    each = pi * (support == 0) + (1 - pi) * base.pmf(support)
    mean = (each * support).sum(0)
    np.testing.assert_allclose(distribution.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(
        distribution.variance.detach(), (each * support.astype(float) ** 2).sum(0) - mean**2, rtol=1e-7
    )
    more = parameters + torch.randn(3, 1, 2, 5, dtype=torch.float64)  # draws before items
    torch.testing.assert_close(likelihood(more, x).log_prob(x)[1], likelihood(more[1], x).log_prob(x))


def test_log_prob_zero_inflated_negative_binomial_equals_the_formula_of_scvi() -> None:
    mu, theta = torch.rand(50, dtype=torch.float64) * 9 + 0.1, torch.rand(50, dtype=torch.float64) * 5 + 0.1
    pi, x = torch.randn(50, dtype=torch.float64) * 3, torch.arange(50, dtype=torch.float64) % 6
    softplus = torch.nn.functional.softplus
    log_theta_mu = torch.log(theta + mu)
    pi_theta_log = -pi + theta * (theta.log() - log_theta_mu)
    zero = softplus(pi_theta_log) - softplus(-pi)
    some = -softplus(-pi) + pi_theta_log + x * (mu.log() - log_theta_mu)
    some += torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    ours = ZeroInflated(LogRateNegativeBinomial(mu.log(), theta.log()), pi).log_prob(x)
    torch.testing.assert_close(ours, torch.where(x == 0, zero, some), rtol=1e-9, atol=1e-9)


@NAMES
def test_log_prob_zero_inflated_gradients_equal_finite_differences(name: str) -> None:
    likelihood, x = make(name), torch.tensor([[0.0, 1, 0, 7, 2]], dtype=torch.float64)
    parameters = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: likelihood(p, x).log_prob(x), parameters)
    if hasattr(likelihood, "log_theta"):

        def log_prob_given(log_theta: torch.Tensor) -> torch.Tensor:
            rates = parameters.detach()[:, 0].log_softmax(-1) + 2
            base = LogRateNegativeBinomial(rates, log_theta)
            return ZeroInflated(base, parameters.detach()[:, 1]).log_prob(x)

        assert torch.autograd.gradcheck(log_prob_given, likelihood.log_theta.detach().clone().requires_grad_())


@NAMES
@pytest.mark.parametrize("inflation", [-100.0, 0.0, 100.0])
def test_log_prob_zero_inflated_extreme_logits_in_float32_is_finite(name: str, inflation: float) -> None:
    likelihood = make_likelihood(name, (3,), reference_total=TOTAL)
    parameters = torch.tensor([[[200.0, -200.0, 0.0], [inflation] * 3]], requires_grad=True)
    x = torch.tensor([[1.0, 7.0, 0.0]])
    loss = likelihood(parameters, x).log_prob(x).sum()
    loss.backward()
    assert loss.isfinite()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()
    assert likelihood(parameters.bfloat16(), x).log_prob(x).dtype == torch.float32
    if inflation == -100.0:  # which is the distribution without inflation
        plain = make_likelihood(name.removeprefix("zero_inflated_"), (3,), reference_total=TOTAL)
        torch.testing.assert_close(loss, plain(parameters[:, 0], x).log_prob(x).sum())


@NAMES
def test_sample_zero_inflated_has_the_moments_of_the_density(name: str) -> None:
    likelihood = make(name)
    parameters = torch.stack([torch.linspace(-1, 1, 5), torch.linspace(-2, 2, 5)]).double()[None]
    distribution = likelihood(parameters, torch.full((1, 5), 8.0, dtype=torch.float64))
    draws, count = distribution.sample(torch.Size((40_000,)))[:, 0], 40_000
    error = (distribution.variance[0].detach() / count).sqrt()
    assert ((draws.mean(0) - distribution.mean[0]).abs() < 5 * error).all()
    torch.testing.assert_close(draws.var(0), distribution.variance[0].detach(), rtol=0.12, atol=0.0)
    zero = distribution.base_dist.log_prob(torch.zeros(5, dtype=torch.float64)).exp()[0].detach()
    assert ((draws == 0).double().mean(0) - zero).abs().max() < 0.015


@NAMES
def test_without_observed_zero_inflated_totals_have_the_variance_of_the_observed_ones(name: str) -> None:
    likelihood, items, features = make(name, 40), 3_000, 40
    rates = torch.linspace(-1, 1, features, dtype=torch.float64)
    parameters = torch.stack([rates, torch.full_like(rates, -1.5)]).expand(items, 2, features)
    sizes = (torch.randn(items, dtype=torch.float64) * 0.4 + 5).exp()
    x = likelihood(parameters, (sizes / features)[:, None].expand(items, features)).sample()
    given = likelihood(parameters, x)
    totals = likelihood.without_observed(given, x).sample().sum(-1)
    kept = float(torch.sigmoid(torch.tensor(1.5)))
    assert float(totals.mean() / x.sum(-1).mean()) == pytest.approx(kept, abs=0.03)
    assert float(totals.std() / x.sum(-1).std()) == pytest.approx(1, abs=0.08)


def test_expand_and_mask_zero_inflated_keep_the_density() -> None:
    ours, x = ZeroInflated(LogRatePoisson(torch.zeros(3)), torch.randn(3)), torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(ours.expand([2, 3]).log_prob(x), ours.log_prob(x).expand(2, 3))
    assert ours.expand([2, 3]).sample().shape == (2, 3)
    mask = torch.tensor([True, False, True])
    assert torch.equal(ours.mask(mask).log_prob(x) == 0, ~mask)


def test_svi_zero_inflated_learns_which_features_drop_out() -> None:
    torch.manual_seed(0)
    pyro.clear_param_store()
    x = torch.poisson(torch.full((256, 4), 20.0))
    x[:, 0] *= torch.bernoulli(torch.full((256,), 0.3))
    vae = MultimodalVAE(
        [
            Modality("rna", (4,), likelihood="zero_inflated_negative_binomial", reference_total=70.0),
            Modality("v", (1,), likelihood="normal", scale="learned"),
        ],
        1,
        network=NetworkOptions(hidden=8),
    )
    batch = {"rna": x, "v": torch.randn(256, 1)}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    for _ in range(120):
        svi.step(batch)
    with torch.no_grad():
        trace = pyro.poutine.trace(vae.model).get_trace(batch)
    zero = trace.nodes["rna"]["fn"].base_dist.zero_logits.sigmoid().mean(0)
    assert zero[0] > 0.5
    assert (zero[1:] < 0.2).all()
