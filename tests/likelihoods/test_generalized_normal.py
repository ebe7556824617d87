"""The generalized normal distribution against SciPy's."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from pyro_mmvae.likelihoods import SharedScaleGeneralizedNormal

EXPONENTS = pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 6.0])


def make(exponent: float, loc: torch.Tensor, scale: float = 0.6) -> SharedScaleGeneralizedNormal:
    return SharedScaleGeneralizedNormal(
        loc, torch.tensor(scale, dtype=loc.dtype), torch.tensor(exponent, dtype=loc.dtype), event_dim=loc.dim() - 1
    )


@EXPONENTS
def test_log_prob_and_moments_equal_scipy(exponent: float) -> None:
    loc, x = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    ours, theirs = make(exponent, loc), scipy.stats.gennorm(exponent, loc.numpy(), 0.6)
    torch.testing.assert_close(ours.log_prob(x), torch.from_numpy(theirs.logpdf(x.numpy())).sum((-1, -2)))
    torch.testing.assert_close(ours.variance, torch.from_numpy(theirs.var()))
    torch.testing.assert_close(ours.cdf(x), torch.from_numpy(theirs.cdf(x.numpy())), rtol=1e-6, atol=1e-9)
    more = ours.expand((5, 4))
    torch.testing.assert_close(more.log_prob(x), ours.log_prob(x).expand(5, 4))
    assert more.sample().shape == (5, 4, 2, 3)


@EXPONENTS
def test_sample_has_the_density(exponent: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = make(exponent, torch.zeros(4000, 1, dtype=torch.float64)).sample()[:, 0]
    assert scipy.stats.kstest(draws.numpy(), scipy.stats.gennorm(exponent, 0, 0.6).cdf).pvalue > 1e-3


def test_log_prob_gradient_at_the_location_is_finite() -> None:
    loc = torch.zeros(2, 3, requires_grad=True)
    make(0.5, loc).log_prob(torch.zeros(2, 3)).sum().backward()
    assert loc.grad is not None
    assert bool(loc.grad.isfinite().all())
