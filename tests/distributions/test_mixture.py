"""Tests of SubsetMixture as a distribution; test_mixture_pyro.py tests it in Pyro's inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from scipy import stats
from scipy.special import logsumexp
from torch.distributions import constraints, kl_divergence

from pyro_mmvae import SubsetMixture, aggregate
from tests.strategies import BUILT_IN, MIXTURES, SINGLE, random_experts

LOGITS = torch.tensor([[0.3, -1.0, 2.0], [0.0, -torch.inf, 1.0]], dtype=torch.float64)
LOC = torch.linspace(-2, 3, 12, dtype=torch.float64).reshape(2, 3, 2)
SCALE = torch.linspace(0.3, 1.4, 12, dtype=torch.float64).reshape(2, 3, 2)


def gaussian(loc: torch.Tensor = LOC, scale: torch.Tensor = SCALE, logits: torch.Tensor = LOGITS) -> SubsetMixture:
    return SubsetMixture(logits, dist.Normal(loc, scale).to_event(1))


FAMILIES = {
    "normal": (lambda: dist.Normal(LOC, SCALE), lambda: stats.norm(LOC.numpy(), SCALE.numpy())),
    "laplace": (lambda: dist.Laplace(LOC, SCALE), lambda: stats.laplace(LOC.numpy(), SCALE.numpy())),
    "student": (lambda: dist.StudentT(5.0, LOC, SCALE), lambda: stats.t(5.0, LOC.numpy(), SCALE.numpy())),
    "logistic": (lambda: dist.Logistic(LOC, SCALE), lambda: stats.logistic(LOC.numpy(), SCALE.numpy())),
    "gumbel": (lambda: dist.Gumbel(LOC, SCALE), lambda: stats.gumbel_r(LOC.numpy(), SCALE.numpy())),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_and_log_prob_equal_scipy(family: str) -> None:
    components, reference = (make() for make in FAMILIES[family])
    mixture = SubsetMixture(LOGITS, components.to_event(1))
    weights = LOGITS.softmax(-1).numpy()[..., None]
    mean, variance = reference.mean(), reference.var()
    np.testing.assert_allclose(mixture.mean, (weights * mean).sum(1), rtol=1e-6)
    second = (weights * (variance + mean**2)).sum(1)
    np.testing.assert_allclose(mixture.variance, second - (weights * mean).sum(1) ** 2, rtol=1e-6)
    z = torch.linspace(-3, 4, 14, dtype=torch.float64).reshape(7, 1, 2).expand(7, 2, 2)
    terms = np.stack([reference.logpdf(point[:, None]).sum(-1) for point in z.numpy()])
    np.testing.assert_allclose(mixture.log_prob(z), logsumexp(terms, b=weights[..., 0], axis=-1), rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_pass_kolmogorov_smirnov_test(family: str) -> None:
    """The reference is the mixture of scipy's distribution functions."""
    components, reference = (make() for make in FAMILIES[family])
    mixture = SubsetMixture(LOGITS, components.to_event(1))
    weights = LOGITS.softmax(-1).numpy()[..., None]
    for method in (mixture.sample, mixture.rsample):
        torch.manual_seed(1)
        draws = method((3000,)).numpy()
        assert draws.shape == (3000, 2, 2)
        for b, d in np.ndindex(2, 2):
            result = stats.kstest(draws[:, b, d], lambda x, b=b, d=d: sum(
                weights[b, k, 0] * entry_of(reference, k, b, d).cdf(x) for k in range(3)
            ))  # fmt: skip
            assert result.pvalue > 1e-4, (family, b, d)


def entry_of(reference: Any, k: int, b: int, d: int) -> Any:
    """Return one entry of an array of frozen scipy distributions."""
    *shape, loc, scale = reference.args
    return reference.dist(*shape, loc[b, k, d], scale[b, k, d])


def test_component_of_weight_zero_is_never_drawn_and_does_not_count() -> None:
    far = LOC.clone()
    far[1, 1] = 1e6
    mixture = gaussian(far)
    assert (mixture.sample_component((2000,))[:, 1] != 1).all()
    without = SubsetMixture(LOGITS[1, [0, 2]], dist.Normal(LOC[1, [0, 2]], SCALE[1, [0, 2]]).to_event(1))
    torch.testing.assert_close((mixture.mean[1], mixture.variance[1]), (without.mean, without.variance))
    z = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(z.expand(2, 2))[1], without.log_prob(z))


def test_init_normalises_logits() -> None:
    mixture = gaussian(logits=LOGITS + 100)
    torch.testing.assert_close(mixture.probs, LOGITS.softmax(-1))
    torch.testing.assert_close(mixture.logits.logsumexp(-1), torch.zeros(2, dtype=torch.float64))
    assert mixture.num_components == 3


def test_sample_draws_all_dimensions_from_one_component() -> None:
    loc = torch.tensor([[[-50.0, -50.0], [50.0, 50.0]]])
    mixture = SubsetMixture(torch.zeros(1, 2), dist.Normal(loc, 1.0).to_event(1))
    draws = mixture.sample((500,)).squeeze(1) > 0
    assert (draws[:, 0] == draws[:, 1]).all()
    assert 150 < draws[:, 0].sum() < 350


def test_component_selects_parameters_by_index() -> None:
    index = torch.tensor([[2, 0], [0, 2], [1, 2]])
    chosen = gaussian().component(index)
    assert chosen.batch_shape == (3, 2)
    for i, b in np.ndindex(3, 2):
        assert torch.equal(chosen.mean[i, b], LOC[b, index[i, b]])
        assert torch.equal(chosen.stddev[i, b], SCALE[b, index[i, b]])


@pytest.mark.parametrize("shape", [(5, 2), torch.Size([5, 2]), [5, 2], (3, 5, 2), [2]])
def test_expand_draws_independently_with_new_batch_shape(shape: Any) -> None:
    wide = gaussian().expand(shape)
    assert isinstance(wide, SubsetMixture)
    assert wide.batch_shape == torch.Size(shape)
    assert wide.event_shape == (2,)
    z = torch.randn(*shape, 2).double()
    torch.testing.assert_close(wide.log_prob(z), gaussian().log_prob(z))
    assert wide.sample().shape == wide.mean.shape == wide.variance.shape == (*shape, 2)
    assert wide.rsample((4,)).shape == (4, *shape, 2)
    assert wide.has_rsample
    draws = wide.sample()
    assert len(draws.reshape(-1, 2).unique(dim=0)) == draws[..., 0].numel()  # draws differ between items


def test_has_rsample_with_learned_weights_is_false_after_expand() -> None:
    mixture = gaussian(logits=LOGITS.clone().requires_grad_())
    assert not mixture.has_rsample
    assert not mixture.expand((5, 2)).has_rsample
    with torch.no_grad():
        assert gaussian(logits=LOGITS.clone().requires_grad_()).logits.requires_grad is False


def test_has_rsample_set_on_one_instance_leaves_others_alone() -> None:
    """Pyro's broadcast sets ``has_rsample`` on an instance."""
    one, other = gaussian(), gaussian()
    one.has_rsample = False
    assert other.has_rsample
    assert not one.expand((3, 2)).has_rsample


def test_log_prob_of_independent_and_masked_mixture() -> None:
    z = torch.randn(2, 2).double()
    mixture = gaussian()
    whole = mixture.to_event(1)
    assert whole.batch_shape == ()
    assert whole.event_shape == (2, 2)
    torch.testing.assert_close(whole.log_prob(z), mixture.log_prob(z).sum())
    mask = torch.tensor([True, False])
    torch.testing.assert_close(mixture.mask(mask).log_prob(z), mixture.log_prob(z) * mask)
    assert mixture.mask(mask).sample().shape == (2, 2)


def test_arguments_satisfy_their_constraints() -> None:
    for mixture in (gaussian(), gaussian().expand((4, 2))):
        for name, constraint in mixture.arg_constraints.items():
            assert constraint.check(getattr(mixture, name)).all()
    assert isinstance(gaussian(), TorchDistribution)


def test_support_is_that_of_components_and_checked() -> None:
    mixture = gaussian()
    assert mixture.support.event_dim == 1
    assert mixture.support.check(torch.zeros(2, 2)).shape == (2,)
    assert constraints.is_dependent(SubsetMixture.support)
    with pytest.raises(ValueError, match="support"):
        mixture.log_prob(torch.full((2, 2), torch.nan).double())


def test_init_and_sample_refuse_invalid_arguments() -> None:
    components = dist.Normal(LOC, SCALE).to_event(1)
    for logits in (torch.zeros(3), torch.zeros(2, 4), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=r"batch shape of the components must be .*, got \(2, 3\)"):
            SubsetMixture(logits, components)
    with pytest.raises(ValueError, match="logits"):
        SubsetMixture(torch.full((2, 3), -torch.inf), components)
    with pytest.raises(NotImplementedError, match="components must be of type Cauchy, Gumbel, .* got Gamma"):
        SubsetMixture(torch.zeros(3), dist.Gamma(torch.ones(3), 1.0)).sample()


def test_components_may_have_any_event_shape() -> None:
    mixture = SubsetMixture(LOGITS, dist.Normal(LOC[..., 0], SCALE[..., 0]))
    assert mixture.event_shape == ()
    assert mixture.sample((5,)).shape == (5, 2)
    deep = SubsetMixture(LOGITS, dist.Normal(LOC.unsqueeze(-1).expand(2, 3, 2, 4), SCALE.unsqueeze(-1)).to_event(2))
    assert deep.sample((5,)).shape == (5, 2, 2, 4)
    assert deep.mean.shape == (2, 2, 4)


def test_log_prob_broadcasts_value_against_batch() -> None:
    z = torch.linspace(-1, 1, 6).double().reshape(3, 1, 2)
    torch.testing.assert_close(gaussian().log_prob(z), gaussian().log_prob(z.expand(3, 2, 2)))


@pytest.mark.parametrize("function", [torch.sin, torch.square, lambda z: (z - 0.5).abs()])
def test_rsample_gradients_are_unbiased(function: Any) -> None:
    """The reference is the derivative of E[f(z)] by quadrature."""
    loc = torch.tensor([[[-1.0], [0.4], [2.0]]], dtype=torch.float64).requires_grad_()
    scale = torch.tensor([[[0.5], [1.2], [0.8]]], dtype=torch.float64).requires_grad_()
    mixture = gaussian(loc, scale, LOGITS[:1])
    grid = torch.linspace(-15, 15, 30_001).double()
    density = mixture.log_prob(grid.reshape(-1, 1, 1)).exp().squeeze(-1)
    exact = torch.autograd.grad(torch.trapezoid(function(grid) * density, grid), (loc, scale))
    torch.manual_seed(0)
    draws = []
    for _ in range(50):
        value = function(mixture.rsample((2000,))).mean()
        draws.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, (loc, scale))]))
    sampled = torch.stack(draws)
    error = sampled.std(0) / 50**0.5
    expected = torch.cat([g.flatten() for g in exact])
    assert ((sampled.mean(0) - expected).abs() < 4.5 * error + 1e-7).all()
    assert (error < 0.02).all()


def test_sample_has_no_gradient_and_rsample_has() -> None:
    mixture = gaussian(LOC.clone().requires_grad_(), SCALE.clone().requires_grad_())
    assert not mixture.sample().requires_grad
    assert mixture.rsample().requires_grad


@pytest.mark.parametrize("name", BUILT_IN)
def test_kl_divergence_from_prior_is_exact_or_not_implemented(name: str) -> None:
    """The divergence of a Normal is compared with the formula; that of a mixture has no closed form."""
    posterior: Any = aggregate(random_experts(4, 3, 2), name)
    prior = dist.Normal(torch.full((2,), 0.5).double(), 2.0).to_event(1)
    if name in SINGLE:
        mu, var = posterior.mean, posterior.variance
        by_hand = (var / 4 + (mu - 0.5) ** 2 / 4 - 1 - (var / 4).log()).sum(-1) / 2
        torch.testing.assert_close(kl_divergence(posterior, prior.expand((4,))), by_hand)
    else:
        assert name in MIXTURES
        with pytest.raises(NotImplementedError):
            kl_divergence(posterior, prior.expand((4,)))
