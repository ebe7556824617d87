"""Location families with one scale shared by a whole event, or by all items per pixel."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

from pyro_mmvae._typing import Float, Tensor


class _SharedScale(TorchDistribution):
    """A location family with one scale shared by a whole event, or one per pixel of it.

    The log of the scale is taken once, where torch's families would take it of every pixel.

    Attributes:
        follow: A function that :meth:`log_prob` calls with the energies of the pixels and their sums per event, such as
            :meth:`~pyro_mmvae.likelihoods.CalibratedScale.follow`; None, the default, for none.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = True
    follow: Callable[[Tensor, Tensor], None] | None = None

    def __init__(
        self, loc: Tensor, scale: Tensor | float, event_dim: int = 1, validate_args: bool | None = None
    ) -> None:
        self.loc, self.given_scale = loc, scale
        split = loc.dim() - event_dim
        # A check of loc would read every pixel at each step; a value that is not finite shows in the loss.
        super().__init__(loc.shape[:split], loc.shape[split:], validate_args=False)
        self._validate_args = bool(validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """Return the constraint that values are real."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def scale(self) -> Tensor:
        """The scale as a tensor, a scalar or of the shape of an event."""
        if isinstance(self.given_scale, Tensor):
            return self.given_scale
        dtype = torch.promote_types(self.loc.dtype, torch.float32)
        return torch.full((), self.given_scale, dtype=dtype, device=self.loc.device)  # made there: nothing waits

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.loc

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """Return the log density of whole events, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        energy, scale = self._energy(value - self.loc), self.given_scale
        if isinstance(scale, Tensor) and scale.dim():
            log_scales = scale.log().sum()
            return -self._sum(energy * self._precision()) - self.event_shape.numel() * self._log_normaliser - log_scales
        total = self._sum(energy)
        if self.follow is not None:
            self.follow(energy, total)
        log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
        return total * -self._precision() - self.event_shape.numel() * (self._log_normaliser + log_scale)

    def _sum(self, energy: Tensor) -> Tensor:
        """Return the sum over each event."""
        axes = len(self.event_shape)
        return energy.sum(tuple(range(-axes, 0))) if axes else energy  # a sum over no axes would be one over the batch

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw values with pathwise gradients."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.loc + self.scale * self._noise(shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _SharedScale:
        """Return the distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        new.given_scale, new.follow = self.given_scale, self.follow
        super(_SharedScale, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    _log_normaliser: ClassVar[float]

    @staticmethod
    @abstractmethod
    def _energy(residual: Tensor) -> Tensor:
        """Return what is summed over the pixels of an event, before it is multiplied by the precision."""

    @abstractmethod
    def _precision(self) -> Tensor | float:
        """Return what the energy is multiplied by, a scalar or one number per pixel."""

    @abstractmethod
    def _noise(self, shape: torch.Size) -> Tensor:
        """Draw from the family with location 0 and scale 1."""


class SharedScaleLaplace(_SharedScale):
    r"""A distribution of independent Laplace pixels with one scale.

    .. math:: \log p(x) = -\sum_i |x_i - \mathrm{loc}_i| / b - n \log 2b

    Args:
        loc: The location, of shape `(*batch, *event)`.
        scale: Scale b, a number, a scalar tensor that may require a gradient, or a tensor of one per pixel `(*event)`.
        event_dim: Number of last dimensions that make one event. 1 by default.
        validate_args: If True, check that values lie in the support. False by default.
    """

    _log_normaliser = math.log(2.0)

    @property
    def variance(self) -> Tensor:
        """The variance of each pixel, 2 b²."""
        return (2.0 * self.scale.square()).expand_as(self.loc)

    @staticmethod
    def _energy(residual: Tensor) -> Tensor:
        return residual.abs()

    def _precision(self) -> Tensor | float:
        return 1 / self.given_scale

    def _noise(self, shape: torch.Size) -> Tensor:
        zero = self.loc.new_zeros((), dtype=torch.promote_types(self.loc.dtype, torch.float32))
        return torch.distributions.Laplace(zero, zero + 1, validate_args=False).sample(shape)


class SharedScaleNormal(_SharedScale):
    r"""A distribution of independent Normal pixels with one scale.

    .. math:: \log p(x) = -\sum_i (x_i - \mathrm{loc}_i)^2 / 2\sigma^2 - n \log \sigma\sqrt{2\pi}

    Args:
        loc: The location, of shape `(*batch, *event)`.
        scale: Standard deviation σ, a number, a scalar tensor that may require a gradient, or a tensor of one per pixel
            `(*event)`.
        event_dim: Number of last dimensions that make one event. 1 by default.
        validate_args: If True, check that values lie in the support. False by default.
    """

    _log_normaliser = 0.5 * math.log(2.0 * math.pi)

    @property
    def variance(self) -> Tensor:
        """The variance of each pixel, σ²."""
        return self.scale.square().expand_as(self.loc)

    @staticmethod
    def _energy(residual: Tensor) -> Tensor:
        return residual.square()

    def _precision(self) -> Tensor | float:
        return 0.5 / self.given_scale**2

    def _noise(self, shape: torch.Size) -> Tensor:
        dtype = torch.promote_types(self.loc.dtype, torch.float32)
        return torch.randn(shape, dtype=dtype, device=self.loc.device)
