"""What a decoder's output says about a modality: likelihoods by name."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn
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


class Likelihood(nn.Module):
    """Turns a decoder's output into the distribution of one modality.

    Args:
        shape: of one item.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """What the decoder must give for one item."""
        return self.shape

    def features(self, value: Tensor) -> Tensor:
        """Observations as the encoder sees them, `(*batch, *parameter_shape)`."""
        return value

    @abstractmethod
    def forward(self, parameters: Tensor) -> TorchDistribution:
        """The distribution of `(*batch, *shape)` given `(*batch, *parameter_shape)`."""

    def mean(self, parameters: Tensor) -> Tensor:
        """Its mean, for pictures and summaries."""
        return cast("Tensor", self(parameters).mean)


class _LocationLikelihood(Likelihood):
    family: type[_SharedScale]

    def __init__(self, shape: tuple[int, ...], scale: float | str) -> None:
        super().__init__(shape)
        self.scale: float | None = None
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        elif isinstance(scale, str) or not scale > 0 or not math.isfinite(scale):
            raise ValueError(f"likelihood scale must be a positive number or 'learned', not {scale!r}")
        else:
            self.scale = float(scale)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Of `(*batch, *shape)`."""
        scale = self.log_scale.exp() if self.scale is None else self.scale
        return self.family(parameters, scale, event_dim=len(self.shape))


class LaplaceLikelihood(_LocationLikelihood):
    """Laplace of one scale, fixed or learned."""

    family = SharedScaleLaplace


class NormalLikelihood(_LocationLikelihood):
    """Normal of one scale, fixed or learned."""

    family = SharedScaleNormal


class BernoulliLikelihood(Likelihood):
    """Bernoulli pixels; the decoder gives logits. Values in [0, 1] are allowed (the usual relaxed form)."""

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Of `(*batch, *shape)`."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        return cast("TorchDistribution", dist.Bernoulli(logits=parameters, validate_args=False)).to_event(
            len(self.shape)
        )


class CategoricalLikelihood(Likelihood):
    """One of several classes at each position; the decoder gives logits, the encoder sees one-hot vectors.

    Args:
        shape: of one item, whose values are the integers 0…classes-1.
        classes: how many.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__(shape)
        self.classes = classes

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """One logit a class and position."""
        return (*self.shape, self.classes)

    def features(self, value: Tensor) -> Tensor:
        """One-hot vectors, `(*batch, *shape, classes)`."""
        return torch.nn.functional.one_hot(value.long(), self.classes).to(torch.get_default_dtype())

    def forward(self, parameters: Tensor) -> TorchDistribution:
        """Of `(*batch, *shape)`."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        base = dist.Categorical(logits=parameters, validate_args=False)
        return cast("TorchDistribution", base).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        """Class probabilities, `(*batch, *shape, classes)`."""
        return parameters.softmax(-1)


LIKELIHOODS = ("laplace", "normal", "bernoulli", "categorical")


def make_likelihood(
    name: str, shape: tuple[int, ...], *, scale: float | str = 0.75, classes: int | None = None
) -> Likelihood:
    """A likelihood by name.

    Args:
        name: ``laplace``, ``normal``, ``bernoulli`` or ``categorical``.
        shape: of one item.
        scale: of ``laplace`` and ``normal``: a positive number, or ``"learned"`` for one trained scalar that starts
            at 1.
        classes: of ``categorical``.

    Returns:
        A module whose forward gives a distribution of event shape ``shape``.

    Raises:
        ValueError: for an unknown name, a bad scale or missing classes.
    """
    if name == "laplace":
        return LaplaceLikelihood(shape, scale)
    if name == "normal":
        return NormalLikelihood(shape, scale)
    if name == "bernoulli":
        return BernoulliLikelihood(shape)
    if name == "categorical":
        if classes is None or classes < 2:
            raise ValueError(f"likelihood 'categorical' needs classes, two or more, got {classes}")
        return CategoricalLikelihood(shape, classes)
    raise ValueError(f"unknown likelihood {name!r}; there are {', '.join(LIKELIHOODS)}")
