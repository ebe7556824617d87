"""Location families with one scale for a whole event."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

from pyro_mmvae._typing import Float, Tensor

if TYPE_CHECKING:
    from pyro_mmvae.likelihoods.joint import JointDensity


class _SharedScale(TorchDistribution):
    """A location family with one scale for a whole event, so that the scale costs one log and not one a pixel."""

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = True
    joint: tuple[JointDensity, int] | None = None
    """Densities of several modalities, see :func:`~pyro_mmvae.likelihoods.joint.join`, and which of them this is."""

    def __init__(
        self, loc: Tensor, scale: Tensor | float, event_dim: int = 1, validate_args: bool | None = None
    ) -> None:
        self.loc, self.given_scale = loc, scale
        split = loc.dim() - event_dim
        # Checking loc would read every pixel at each step; the caller's outputs are checked by the loss.
        super().__init__(loc.shape[:split], loc.shape[split:], validate_args=False)
        self._validate_args = bool(validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All real arrays of the event's shape."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def scale(self) -> Tensor:
        """A scalar."""
        if isinstance(self.given_scale, Tensor):
            return self.given_scale
        dtype = torch.promote_types(self.loc.dtype, torch.float32)
        return torch.full((), self.given_scale, dtype=dtype, device=self.loc.device)  # made there: nothing waits

    @property
    def mean(self) -> Tensor:
        """The location."""
        return self.loc

    def log_prob(self, value: Float[Tensor, "*sample_and_event"]) -> Float[Tensor, "*sample"]:
        """Log density of whole events, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        if self.joint is not None:
            joint, place = self.joint
            known = joint.of(place, value)
            if known is not None:
                return known
        return self.energy(value - self.loc, len(self.event_shape)) * -self.precision() - self.constant()

    @classmethod
    def energy(cls, residual: Float[Tensor, "*sample_and_event"], axes: int) -> Float[Tensor, "*sample"]:
        """What is summed over an event, of so many axes, before it is divided by the scale.

        Two passes over the pixels are all.
        """
        energy = cls._energy(residual)
        return energy.sum(tuple(range(-axes, 0))) if axes else energy

    def constant(self) -> Tensor | float:
        """Minus the log density at the location, in nats."""
        scale = self.given_scale
        log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
        return self.event_shape.numel() * (self._log_normaliser + log_scale)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws with pathwise gradients."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.loc + self.scale * self._noise(shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _SharedScale:
        """As in torch."""
        new = self._get_checked_instance(type(self), _instance)
        new.loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        new.given_scale = self.given_scale
        super(_SharedScale, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        new.joint = self.joint if new.batch_shape == self.batch_shape else None
        return new

    _log_normaliser: ClassVar[float]

    @staticmethod
    @abstractmethod
    def _energy(residual: Tensor) -> Tensor:
        """That of each pixel."""

    @abstractmethod
    def precision(self) -> Tensor | float:
        """What the energy is multiplied by, a scalar."""

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

    def precision(self) -> Tensor | float:
        """1 / b."""
        return 1 / self.given_scale

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

    def precision(self) -> Tensor | float:
        """1 / 2σ²."""
        return 0.5 / self.given_scale**2

    def _noise(self, shape: torch.Size) -> Tensor:
        dtype = torch.promote_types(self.loc.dtype, torch.float32)
        return torch.randn(shape, dtype=dtype, device=self.loc.device)
