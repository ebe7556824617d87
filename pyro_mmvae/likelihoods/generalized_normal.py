"""The generalized normal distribution, whose exponent makes tails heavier or lighter than those of a Laplace."""

from __future__ import annotations

from typing import Any

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.likelihoods.shared_scale import _SharedScale

_LEAST_RESIDUAL = 1e-6


class SharedScaleGeneralizedNormal(_SharedScale):
    r"""A distribution of independent generalized normal pixels with one exponent.

    .. math:: \log p(x) = -\sum_i \left(\frac{|x_i - \mathrm{loc}_i|}{a}\right)^p
        - n \log\left(2 a\, \Gamma(1 + 1/p)\right)

    p = 1 is the Laplace distribution of scale a, p = 2 the normal distribution of standard deviation a/√2, and p → ∞
    the uniform distribution on loc ± a (Nadarajah, 2005. A generalized normal distribution. Journal of Applied
    Statistics 32).

    Args:
        loc: The location, of shape `(*batch, *event)`.
        scale: Scale a, a scalar tensor or one of the shape `(*event)`.
        exponent: Exponent p, a positive scalar tensor.
        event_dim: Number of last dimensions that make one event. 1 by default.

    Example:
        >>> x = SharedScaleGeneralizedNormal(torch.zeros(2, 3), torch.tensor(0.5), torch.tensor(1.0))
        >>> torch.allclose(x.log_prob(torch.ones(2, 3)), torch.tensor(3 * (-1 / 0.5)))  # log 2a is 0
        True
    """

    def __init__(self, loc: Tensor, scale: Tensor, exponent: Tensor, event_dim: int = 1) -> None:
        self.exponent = exponent
        super().__init__(loc, scale, event_dim)

    @property
    def variance(self) -> Tensor:
        """The variance of each pixel, a² Γ(3/p) / Γ(1/p)."""
        p = self.exponent
        return (self.scale.square() * (torch.lgamma(3 / p) - torch.lgamma(1 / p)).exp()).expand_as(self.loc)

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """Return the log density of whole events, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        axes = tuple(range(-len(self.event_shape), 0))
        # The least residual keeps the gradient finite where p < 1: it falls below what float32 resolves of a pixel.
        standardised = (value - self.loc).abs().clamp(min=_LEAST_RESIDUAL) / self.scale
        log_normaliser = (2 * self.scale).log() + torch.lgamma(1 + 1 / self.exponent)
        terms = -standardised.pow(self.exponent) - log_normaliser
        return terms.sum(axes) if axes else terms

    def cdf(self, value: Tensor) -> Tensor:
        """Return the distribution function of each pixel, ½ + ½ sign(x − loc) P(1/p, (|x − loc|/a)ᵖ)."""
        return generalized_normal_cdf((value - self.loc) / self.scale, self.exponent)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SharedScaleGeneralizedNormal:
        """Return the distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.exponent = self.exponent
        super().expand(batch_shape, new)
        return new

    @staticmethod
    def _energy(residual: Tensor) -> Tensor:
        raise NotImplementedError  # log_prob needs the exponent, which differs between objects

    def _precision(self) -> Tensor:
        raise NotImplementedError

    def _noise(self, shape: torch.Size) -> Tensor:
        """Draw from the family with location 0 and scale 1: a Gamma variable to the power 1/p with a random sign."""
        p = self.exponent
        size = torch.distributions.Gamma(1 / p, torch.ones_like(p), validate_args=False).sample(shape).pow(1 / p)
        return torch.where(torch.rand(shape, dtype=p.dtype, device=p.device) < 0.5, -size, size)


def generalized_normal_cdf(value: Tensor, exponent: Tensor) -> Tensor:
    """Return the distribution function of the generalized normal distribution with location 0 and scale 1.

    Args:
        value: Where to evaluate it, of any shape.
        exponent: Exponent p, a positive scalar tensor.
    """
    if float(exponent) == 1:
        tail = 0.5 * torch.exp(-value.abs())
        return torch.where(value < 0, tail, 1 - tail)
    if float(exponent) == 2:
        return torch.special.ndtr(value * 2**0.5)
    inner = torch.special.gammainc((1 / exponent).expand_as(value), value.abs().pow(exponent))
    return 0.5 * (1 + value.sign() * inner)
