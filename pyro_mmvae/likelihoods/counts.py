r"""Likelihoods of counts, as single-cell omics have them.

The rate of feature g of item n is that of Lopez et al., 2018 (scVI, eq. for :math:`\rho`), with the library size taken
as observed:

.. math:: \mu_{ng} = s_n \operatorname{softmax}(f(z_n))_g, \qquad s_n = \sum_g x_{ng}

so a density is that of the counts given their total. Where the total is not known, because the modality is absent or
drawn without having been observed, or where it is zero, s is the reference size: the median total of training items.

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
    r"""Poisson by the log of its rate, :math:`\log p(x) = x \log \mu - \mu - \log x!`.

    The log is never taken of a rate that underflowed: a count at a feature of tiny rate has a large, finite loss and a
    finite gradient.

    Args:
        log_rate: `(*batch)`.
        validate_args: check that values lie in the support; off by default.
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
        """Log probability of each count, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.log_rate - self.log_rate.exp() - (value + 1).lgamma()

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Counts, as floats."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            return torch.poisson(self.log_rate.exp().expand(shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogRatePoisson:
        """As in torch."""
        new = self._get_checked_instance(type(self), _instance)
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        super(LogRatePoisson, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new


class _CountLikelihood(Likelihood):
    """Counts with a size factor an item; the encoder sees log(1 + x).

    Args:
        shape: of one item, whose values are the integers 0, 1, ….
        size: the reference size.

    Raises:
        ValueError: for a size that is not positive and finite.
    """

    def __init__(self, shape: tuple[int, ...], size: float) -> None:
        super().__init__(shape)
        if not size > 0 or not math.isfinite(size):
            raise ValueError(f"the reference size of counts must be positive and finite, not {size!r}")
        self.size = float(size)

    def features(self, value: Tensor) -> Tensor:
        """Log(1 + x)."""
        return value.to(torch.promote_types(value.dtype, torch.get_default_dtype())).log1p()

    def size_factors(self, observed: Float[Tensor, "*item_and_event"]) -> Float[Tensor, "*item"]:
        """The total of each item; the reference size where that is zero, as it is where the modality is absent."""
        total = observed.flatten(observed.dim() - len(self.shape)).sum(-1) if self.shape else observed
        return torch.where(total > 0, total, self.size)

    def log_rate(self, parameters: Tensor, observed: Tensor | None) -> Tensor:
        """Log μ, `(*batch, *shape)`, in float32 at least."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        axis = parameters.dim() - len(self.shape)
        share = parameters.flatten(axis).log_softmax(-1).reshape(parameters.shape)
        if observed is None:
            return share + math.log(self.size)
        sizes = self.size_factors(observed.to(parameters.dtype))
        return share + sizes.log().reshape(*sizes.shape, *[1] * len(self.shape))


class PoissonLikelihood(_CountLikelihood):
    """Poisson counts of rate μ."""

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Of `(*batch, *shape)`, given the total of each item."""
        base: TorchDistribution = LogRatePoisson(self.log_rate(parameters, observed))
        return cast("TorchDistribution", base.to_event(len(self.shape)))


class NegativeBinomialLikelihood(_CountLikelihood):
    r"""Negative binomial counts of mean μ and variance :math:`\mu + \mu^2 / \theta_g`, θ learned, one a feature.

    θ starts at 1.
    """

    def __init__(self, shape: tuple[int, ...], size: float) -> None:
        super().__init__(shape, size)
        self.log_theta = nn.Parameter(torch.zeros(shape))

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Of `(*batch, *shape)`, given the total of each item."""
        log_rate = self.log_rate(parameters, observed)
        log_theta = self.log_theta.to(log_rate.dtype)
        base = dist.NegativeBinomial(log_theta.exp(), logits=log_rate - log_theta, validate_args=False)
        return cast("TorchDistribution", base.to_event(len(self.shape)))
