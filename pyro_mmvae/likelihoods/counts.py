r"""Likelihoods of counts, such as those of single-cell omics.

The rate of feature g of item n follows Lopez et al., 2018 (scVI, equation for :math:`\rho`), with the observed library
size:

.. math:: \mu_{ng} = s_n \operatorname{softmax}(f(z_n))_g, \qquad s_n = \sum_g x_{ng}

The observed total is a plug-in size factor: a number that the density of the counts is evaluated with, as in scVI with
an observed library size. The density is not that of the counts conditional on their total, which would be multinomial;
draws have that total only on average, and log densities compare models with the same size factors. If the total is
unknown, because the modality is absent or drawn without having been observed, or if it is zero, s is the reference
total: the median total of training items.

References:
    Lopez, Regier, Cole, Jordan and Yosef, 2018. Deep generative modeling for single-cell transcriptomics. Nature
    Methods 15.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn
from torch.distributions import constraints

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.likelihoods.base import Likelihood, bounded

MAX_LOG_THETA = 20.0
"""The bound of |log θ|: beyond it a count is Poisson, or almost always 0, for every purpose."""

_STIRLING_FROM = 10.0  # from here on five terms of Stirling's series have a relative error below 1e-13


class LogRatePoisson(TorchDistribution):
    r"""A Poisson distribution parametrised by the log of its rate, :math:`\log p(x) = x \log \mu - \mu - \log x!`.

    No logarithm is taken of a rate that may have underflowed: a count at a feature of tiny rate has a large but finite
    loss and a finite gradient.

    Args:
        log_rate: Logarithm of the rate, `(*batch)`.
        validate_args: If True, check that values lie in the support. False by default.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=False)
        self._validate_args = bool(validate_args)

    @property
    def mean(self) -> Tensor:
        """The rate."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """The rate."""
        return self.log_rate.exp()

    def log_prob(self, value: Float[Tensor, "*value"]) -> Float[Tensor, "*sample"]:
        """Return the log probability of each count, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.log_rate - self.log_rate.exp() - (value + 1).lgamma()

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw counts, as floats."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            return torch.poisson(self.log_rate.exp().expand(shape))

    def with_rate_times(self, factor: Tensor) -> LogRatePoisson:
        """Return the distribution with its rate multiplied by a positive factor that broadcasts with it."""
        return LogRatePoisson(self.log_rate + factor.log(), self._validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogRatePoisson:
        """Return the distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        super(LogRatePoisson, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


class LogRateNegativeBinomial(TorchDistribution):
    r"""A negative binomial distribution parametrised by the logs of its mean μ and of its inverse dispersion θ.

    The variance is :math:`\mu + \mu^2 / \theta`. The log probability is computed as

    .. math:: x \log \mu - x - \log x! + (\theta + x) \log \frac{\theta + x}{\theta + \mu}
        - \tfrac12 \log\left(1 + \frac{x}{\theta}\right) + r(\theta + x) - r(\theta)

    with Stirling's remainder r of :math:`\log \Gamma`. Unlike the difference of two values of log Γ, it is accurate in
    float32 for large θ too, where the distribution approaches a Poisson distribution.

    Args:
        log_rate: Logarithm of the mean, `(*batch)`.
        log_theta: Logarithm of θ, which broadcasts with ``log_rate``.
        validate_args: If True, check that values lie in the support. False by default.

    References:
        NIST Digital Library of Mathematical Functions, equation 5.11.1 for r.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"log_rate": constraints.real, "log_theta": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, log_theta: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate, self.log_theta = torch.broadcast_tensors(log_rate, log_theta)
        super().__init__(self.log_rate.shape, validate_args=False)
        self._validate_args = bool(validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean μ."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """The variance μ + μ²/θ."""
        return self.log_rate.exp() + (2 * self.log_rate - self.log_theta).exp()

    def log_prob(self, value: Float[Tensor, "*value"]) -> Float[Tensor, "*sample"]:
        """Return the log probability of each count, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        theta, rate = self.log_theta.exp(), self.log_rate.exp()
        poisson = value * self.log_rate - value - (value + 1).lgamma()
        remainders = _stirling_remainder(theta + value) - _stirling_remainder(theta)
        dispersion = (theta + value) * _log_ratio(theta + value, theta + rate, value - rate)
        return poisson + dispersion - 0.5 * (value / theta).log1p() + remainders

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw counts, as floats: Poisson counts of rates from a Gamma distribution."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            theta, inverse_scale = self.log_theta.exp(), (self.log_theta - self.log_rate).exp()
            rate = torch.distributions.Gamma(theta, inverse_scale, validate_args=False).sample(torch.Size(sample_shape))
            return torch.poisson(rate.expand(shape))

    def with_rate_times(self, factor: Tensor) -> LogRateNegativeBinomial:
        """Return the distribution with its mean multiplied by a positive factor that broadcasts with it."""
        return LogRateNegativeBinomial(self.log_rate + factor.log(), self.log_theta, self._validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogRateNegativeBinomial:
        """Return the distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        shape = torch.Size(batch_shape)
        new.log_rate, new.log_theta = self.log_rate.expand(shape), self.log_theta.expand(shape)
        super(LogRateNegativeBinomial, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


def _log_ratio(numerator: Tensor, denominator: Tensor, difference: Tensor) -> Tensor:
    """Return the log of a ratio, accurate near 1 since the difference of the two is passed as well."""
    ratio = difference / denominator
    is_close = ratio.abs() < 0.5
    # torch.where evaluates both branches, so that each has to be finite everywhere.
    return torch.where(is_close, torch.where(is_close, ratio, 0.0).log1p(), numerator.log() - denominator.log())


def _stirling_remainder(t: Tensor) -> Tensor:
    """Return log Γ(t) − (t − ½) log t + t − ½ log 2π."""
    is_large = t >= _STIRLING_FROM
    large, small = torch.where(is_large, t, _STIRLING_FROM), torch.where(is_large, _STIRLING_FROM, t)
    inverse = 1 / large.square()
    series = (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse * (1 / 1680 - inverse / 1188)))) / large
    direct = small.lgamma() - (small - 0.5) * small.log() + small - 0.5 * math.log(2 * math.pi)
    return torch.where(is_large, series, direct)


class CountLikelihood(Likelihood):
    """A likelihood of counts with one size factor per item; the encoder sees log(1 + x).

    Args:
        shape: Shape of one item, whose values are the integers 0, 1, ….
        reference_total: Total count of an item whose total is unknown or zero. 1 by default.

    Raises:
        ValueError: If the reference total is not positive and finite.
    """

    has_size_factor: ClassVar[bool] = True

    def __init__(self, shape: tuple[int, ...], reference_total: float = 1.0) -> None:
        super().__init__(shape)
        if not reference_total > 0 or not math.isfinite(reference_total):
            raise ValueError(f"reference_total of counts must be positive and finite, got {reference_total!r}")
        self.reference_total = float(reference_total)

    def features(self, value: Tensor) -> Tensor:
        """Return log(1 + x)."""
        return value.to(torch.promote_types(value.dtype, torch.get_default_dtype())).log1p()

    def size_factors(self, observed: Float[Tensor, "*item_and_event"]) -> Float[Tensor, "*item"]:
        """Return the total of each item, or the reference total if that is zero, which includes absent items."""
        total = observed.flatten(observed.dim() - len(self.shape)).sum(-1) if self.shape else observed
        return torch.where(total > 0, total, self.reference_total)

    def expected_share(self, distribution: TorchDistribution, sizes: Float[Tensor, "*item"]) -> Tensor | float:
        """Return the mean total of each item divided by its size factor, 1 unless a subclass changes the mean.

        Args:
            distribution: The distribution of these items, which :meth:`forward` returned.
            sizes: Size factor of each item, `(item,)`.
        """
        return 1.0

    def without_observed(self, distribution: TorchDistribution, observed: Tensor) -> TorchDistribution:
        r"""Return the distribution with a size factor that is drawn for each item in place of its own total.

        Observed totals T vary more than the size factors s that they stand for, since Var T is the sum of Var s and of
        the noise of the counts given s, :math:`E[s] + \kappa E[s^2]` with κ = 0 for Poisson counts. A size factor is
        therefore the total of another item, drawn at random and moved towards the mean of all, so that the totals of
        replicates have the mean and the variance of the observed ones. If the mean total is a share c of s, as of
        zero-inflated counts, the mean of the totals is c times theirs, and the variance is theirs.

        Args:
            distribution: What :meth:`forward` returned for ``observed``.
            observed: Counts `(item, *shape)`, 0 in absent slots, whose positive totals are drawn from.
        """
        sizes = self.size_factors(observed.to(torch.promote_types(observed.dtype, torch.float32)))
        totals = sizes[observed.reshape(len(observed), -1).sum(-1) > 0]
        if not len(totals):
            return distribution
        axes, mean, variance = tuple(range(-len(self.shape), 0)), totals.mean(), totals.var(correction=0)
        noise = distribution.variance.sum(axes) if axes else distribution.variance
        shares = self.expected_share(distribution, sizes)
        kappa = ((noise - shares * sizes) / sizes.square()).mean().clamp(min=0)
        share = shares.mean() if isinstance(shares, Tensor) else shares
        excess = (variance - share * mean - kappa * mean.square()) / (share**2 + kappa)
        shrink = (excess.clamp(min=0) / variance.clamp(min=1e-30)).sqrt()
        drawn = mean + shrink * (totals[torch.randint(len(totals), sizes.shape, device=totals.device)] - mean)
        factor = (drawn / sizes).reshape(*sizes.shape, *[1] * len(self.shape))
        base = cast("Any", distribution.base_dist if self.shape else distribution)
        return cast("TorchDistribution", base.with_rate_times(factor).to_event(len(self.shape)))

    def log_rate(self, parameters: Tensor, observed: Tensor | None) -> Tensor:
        """Return log μ, `(*batch, *shape)`, in float32 at least."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        axis = parameters.dim() - len(self.shape)
        share = parameters.flatten(axis).log_softmax(-1).reshape(parameters.shape)
        if observed is None:
            return share + math.log(self.reference_total)
        sizes = self.size_factors(observed.to(parameters.dtype))
        return share + sizes.log().reshape(*sizes.shape, *[1] * len(self.shape))


class PoissonLikelihood(CountLikelihood):
    """A likelihood of Poisson counts of rate μ."""

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`, with the total of each item as its size factor."""
        base: TorchDistribution = LogRatePoisson(self.log_rate(parameters, observed))
        return cast("TorchDistribution", base.to_event(len(self.shape)))


class NegativeBinomialLikelihood(CountLikelihood):
    r"""A likelihood of negative binomial counts of mean μ and variance :math:`\mu + \mu^2 / \theta_g`.

    The inverse dispersions θ, one per feature, are learned, start at 1, and stay between the exponentials of
    ∓ ``MAX_LOG_THETA``. The arguments are those of :class:`PoissonLikelihood`.
    """

    def __init__(self, shape: tuple[int, ...], reference_total: float = 1.0) -> None:
        super().__init__(shape, reference_total)
        self.log_theta = nn.Parameter(torch.zeros(shape))

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`, with the total of each item as its size factor."""
        log_rate = self.log_rate(parameters, observed)
        log_theta = bounded(self.log_theta, -MAX_LOG_THETA, MAX_LOG_THETA).to(log_rate.dtype)
        base: TorchDistribution = LogRateNegativeBinomial(log_rate, log_theta)
        return cast("TorchDistribution", base.to_event(len(self.shape)))
