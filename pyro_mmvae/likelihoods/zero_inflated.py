r"""Likelihoods of counts with more zeros than their distribution has.

With probability :math:`\pi_g(z)` a feature g is zero whatever its rate, as in scVI (Lopez et al., 2018):

.. math:: p(x) = \pi\, 1[x = 0] + (1 - \pi)\, p_0(x), \qquad
    E[x] = (1 - \pi) \mu, \qquad \operatorname{Var}[x] = (1 - \pi) (\sigma^2 + \pi \mu^2)

where :math:`p_0` is a Poisson or negative binomial distribution of mean μ and variance σ². The decoder returns
two sets of logits, `(2, *shape)`: those of the shares of the rate, then those of π.

References:
    Lopez, Regier, Cole, Jordan and Yosef, 2018. Deep generative modeling for single-cell transcriptomics. Nature
    Methods 15.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias, cast

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints
from torch.nn import functional

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.likelihoods.counts import (
    CountLikelihood,
    LogRateNegativeBinomial,
    LogRatePoisson,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
)

CountDistribution: TypeAlias = LogRatePoisson | LogRateNegativeBinomial


class ZeroInflated(TorchDistribution):
    r"""A distribution of counts that are zero with an additional probability :math:`\pi = \sigma(\text{logits})`.

    Args:
        base: The distribution of the counts that are not zero for this additional reason, of batch shape `(*batch)`.
        zero_logits: Log odds of π, `(*batch)`.
        validate_args: If True, check that values lie in the support. False by default.

    Example:
        >>> counts = ZeroInflated(LogRatePoisson(torch.tensor([0.0, 1.0])), torch.tensor([-2.0, 2.0]))
        >>> counts.log_prob(torch.tensor([0.0, 3.0])).exp()
        tensor([0.4432, 0.0263])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"zero_logits": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, base: CountDistribution, zero_logits: Tensor, validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(base.batch_shape, zero_logits.shape)
        self.base, self.zero_logits = base.expand(shape), zero_logits.expand(shape)
        super().__init__(shape, validate_args=False)
        self._validate_args = bool(validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean (1 − π) μ."""
        return (-self.zero_logits).sigmoid() * self.base.mean

    @property
    def variance(self) -> Tensor:
        """The variance (1 − π) (σ² + π μ²)."""
        inflation = self.zero_logits.sigmoid() * self.base.mean.square()
        return (-self.zero_logits).sigmoid() * (self.base.variance + inflation)

    def log_prob(self, value: Float[Tensor, "*value"]) -> Float[Tensor, "*sample"]:
        """Return the log probability of each count, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        counted = functional.logsigmoid(-self.zero_logits) + self.base.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(functional.logsigmoid(self.zero_logits), counted), counted)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw counts, as floats."""
        with torch.no_grad():
            counts = self.base.sample(sample_shape)
            return counts * torch.bernoulli((-self.zero_logits).sigmoid().expand(counts.shape)).to(counts.dtype)

    def with_rate_times(self, factor: Tensor) -> ZeroInflated:
        """Return the distribution with μ multiplied by a positive factor that broadcasts with it."""
        return ZeroInflated(self.base.with_rate_times(factor), self.zero_logits, self._validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ZeroInflated:
        """Return the distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        shape = torch.Size(batch_shape)
        new.base, new.zero_logits = self.base.expand(shape), self.zero_logits.expand(shape)
        super(ZeroInflated, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


class _ZeroInflatedLikelihood(CountLikelihood):
    """A likelihood that inflates the zeros of the likelihood of counts which follows it in the order of the bases."""

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the decoder's output for one item, `(2, *shape)`: logits of shares, and logits of π."""
        return (2, *self.shape)

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`, with the total of each item as its size factor."""
        shares, zero_logits = _split(parameters, len(self.shape))
        # Abstract in the base that mypy sees; a subclass names the likelihood of counts after this class.
        counts = super().forward(shares, observed)  # type: ignore[safe-super]
        return _inflate(counts, zero_logits, len(self.shape))

    def expected_share(self, distribution: TorchDistribution, sizes: Tensor) -> Tensor | float:
        """Return the mean total of each item divided by its size factor."""
        return _mean_share(distribution, sizes, len(self.shape))


class ZeroInflatedPoissonLikelihood(_ZeroInflatedLikelihood, PoissonLikelihood):
    """A likelihood of Poisson counts that are zero with an additional probability.

    The arguments are those of :class:`PoissonLikelihood`.
    """


class ZeroInflatedNegativeBinomialLikelihood(_ZeroInflatedLikelihood, NegativeBinomialLikelihood):
    """A likelihood of negative binomial counts that are zero with an additional probability.

    The arguments are those of :class:`PoissonLikelihood`.
    """


def _split(parameters: Tensor, event_dims: int) -> tuple[Tensor, Tensor]:
    """Return the logits of the shares and of π, which lie along the axis before those of an item."""
    shares, zero_logits = parameters.unbind(-1 - event_dims)
    return shares, zero_logits


def _inflate(distribution: TorchDistribution, zero_logits: Tensor, event_dims: int) -> TorchDistribution:
    """Return the zero-inflated distribution of items."""
    base = cast("CountDistribution", cast("Any", distribution).base_dist if event_dims else distribution)
    inflated: TorchDistribution = ZeroInflated(base, zero_logits.to(base.log_rate.dtype))
    return cast("TorchDistribution", inflated.to_event(event_dims))


def _mean_share(distribution: TorchDistribution, sizes: Tensor, event_dims: int) -> Tensor:
    """Return the mean total of each item divided by its size factor, less than 1 as some counts are made zero."""
    axes = tuple(range(-event_dims, 0))
    return (distribution.mean.sum(axes) if axes else distribution.mean) / sizes
