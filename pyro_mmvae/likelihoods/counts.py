r"""Likelihoods of counts, such as those of single-cell omics.

The rate of feature g of item n follows Lopez et al., 2018 (scVI, equation for :math:`\rho`), with the observed library
size:

.. math:: \mu_{ng} = s_n \operatorname{softmax}(f(z_n))_g, \qquad s_n = \sum_g x_{ng}

so that a density is conditional on the total count of the item. If the total is unknown, because the modality is absent
or drawn without having been observed, or if it is zero, s is the reference total: the median total of training items.

References:
    Lopez, Regier, Cole, Jordan and Yosef, 2018. Deep generative modeling for single-cell transcriptomics. Nature
    Methods 15.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn
from torch.distributions import constraints

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.likelihoods.base import Likelihood


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

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogRatePoisson:
        """Return the distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        super(LogRatePoisson, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


class _CountLikelihood(Likelihood):
    """A likelihood of counts with one size factor per item; the encoder sees log(1 + x).

    Args:
        shape: Shape of one item, whose values are the integers 0, 1, ….
        reference_total: Total count of an item whose total is unknown or zero. 1 by default.

    Raises:
        ValueError: If the reference total is not positive and finite.
    """

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

    def log_rate(self, parameters: Tensor, observed: Tensor | None) -> Tensor:
        """Return log μ, `(*batch, *shape)`, in float32 at least."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        axis = parameters.dim() - len(self.shape)
        share = parameters.flatten(axis).log_softmax(-1).reshape(parameters.shape)
        if observed is None:
            return share + math.log(self.reference_total)
        sizes = self.size_factors(observed.to(parameters.dtype))
        return share + sizes.log().reshape(*sizes.shape, *[1] * len(self.shape))


class PoissonLikelihood(_CountLikelihood):
    """A likelihood of Poisson counts of rate μ."""

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`, given the total of each item."""
        base: TorchDistribution = LogRatePoisson(self.log_rate(parameters, observed))
        return cast("TorchDistribution", base.to_event(len(self.shape)))


class NegativeBinomialLikelihood(_CountLikelihood):
    r"""A likelihood of negative binomial counts of mean μ and variance :math:`\mu + \mu^2 / \theta_g`.

    The inverse dispersions θ, one per feature, are learned and start at 1. The arguments are those of
    :class:`PoissonLikelihood`.
    """

    def __init__(self, shape: tuple[int, ...], reference_total: float = 1.0) -> None:
        super().__init__(shape, reference_total)
        self.log_theta = nn.Parameter(torch.zeros(shape))

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`, given the total of each item."""
        log_rate = self.log_rate(parameters, observed)
        log_theta = self.log_theta.to(log_rate.dtype)
        base = dist.NegativeBinomial(log_theta.exp(), logits=log_rate - log_theta, validate_args=False)
        return cast("TorchDistribution", base.to_event(len(self.shape)))
