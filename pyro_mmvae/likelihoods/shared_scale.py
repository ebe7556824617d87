"""Location families with one scale for a whole event."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

from pyro_mmvae._typing import Float, Tensor


class _SharedScale(TorchDistribution):
    """A location family with one scale for a whole event, so that the scale costs one log and not one a pixel."""

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor | float, event_dim: int = 1, validate_args: bool | None = None
    ) -> None:
        dtype = torch.promote_types(loc.dtype, torch.float32)
        self.loc = loc
        self.scale = scale if isinstance(scale, Tensor) else torch.tensor(scale, dtype=dtype, device=loc.device)
        self._log_scale: Tensor | float = scale.log() if isinstance(scale, Tensor) else math.log(scale)
        split = loc.dim() - event_dim
        # Checking loc would read every pixel at each step; the caller's outputs are checked by the loss.
        super().__init__(loc.shape[:split], loc.shape[split:], validate_args=False)
        self._validate_args = bool(validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All real arrays of the event's shape."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.loc

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """Log density of whole events, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        energy = self._energy(value - self.loc)
        if self.event_shape:
            energy = energy.sum(tuple(range(-len(self.event_shape), 0)))
        constant = self.event_shape.numel() * (self._log_normaliser + self._log_scale)
        return -energy * self._precision() - constant

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws with pathwise gradients."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.loc + self.scale * self._noise(shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _SharedScale:
        """As in torch."""
        new = self._get_checked_instance(type(self), _instance)
        new.loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        new.scale, new._log_scale = self.scale, self._log_scale
        super(_SharedScale, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    _log_normaliser: ClassVar[float]

    @staticmethod
    @abstractmethod
    def _energy(residual: Tensor) -> Tensor:
        """What is summed over an event, before it is divided by the scale: two passes over the pixels are all."""

    @abstractmethod
    def _precision(self) -> Tensor:
        """What the sum is multiplied by."""

    @abstractmethod
    def _noise(self, shape: torch.Size) -> Tensor:
        """Standard draws."""


class SharedScaleLaplace(_SharedScale):
    r"""Independent Laplace pixels, :math:`\log p(x) = -\sum_i |x_i - \mathrm{loc}_i| / b - n \log 2b`.

    Args:
        loc: `(*batch, *event)`.
        scale: b, a number or a scalar tensor that may require a gradient.
        event_dim: how many of the last dimensions are one event.
        validate_args: check that values lie in the support; off by default.
    """

    _log_normaliser = math.log(2.0)

    @property
    def variance(self) -> Tensor:
        """2 b² everywhere."""
        return (2.0 * self.scale.square()).expand_as(self.loc)

    @staticmethod
    def _energy(residual: Tensor) -> Tensor:
        return residual.abs()

    def _precision(self) -> Tensor:
        return self.scale.reciprocal()

    def _noise(self, shape: torch.Size) -> Tensor:
        zero = self.loc.new_zeros((), dtype=torch.promote_types(self.loc.dtype, torch.float32))
        return torch.distributions.Laplace(zero, zero + 1, validate_args=False).sample(shape)


class SharedScaleNormal(_SharedScale):
    r"""Independent Normal pixels, :math:`\log p(x) = -\sum_i (x_i - \mathrm{loc}_i)^2 / 2\sigma^2 - n \log \sigma\sqrt{2\pi}`.

    Args:
        loc: `(*batch, *event)`.
        scale: σ, a number or a scalar tensor that may require a gradient.
        event_dim: how many of the last dimensions are one event.
        validate_args: check that values lie in the support; off by default.
    """  # noqa: E501

    _log_normaliser = 0.5 * math.log(2.0 * math.pi)

    @property
    def variance(self) -> Tensor:
        """σ² everywhere."""
        return self.scale.square().expand_as(self.loc)

    @staticmethod
    def _energy(residual: Tensor) -> Tensor:
        return residual.square()

    def _precision(self) -> Tensor:
        return 0.5 / self.scale.square()

    def _noise(self, shape: torch.Size) -> Tensor:
        dtype = torch.promote_types(self.loc.dtype, torch.float32)
        return torch.randn(shape, dtype=dtype, device=self.loc.device)
