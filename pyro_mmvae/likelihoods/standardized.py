"""A likelihood of values in units of their own, with networks that see standardised ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions.transforms import AffineTransform

from pyro_mmvae._typing import Tensor
from pyro_mmvae.likelihoods.base import Likelihood

LEAST_RELATIVE_SPREAD = 1e-6
"""The least spread of a feature relative to the size of its center; below it float32 holds little but rounding."""


class AffineDistribution(dist.TransformedDistribution):
    """The distribution of center + spread · x, with a mean and a variance, for a distribution of x."""

    @property
    def mean(self) -> Tensor:
        """The mean, in the units of the center."""
        return cast("Tensor", self.transforms[0](self.base_dist.mean))

    @property
    def variance(self) -> Tensor:
        """The variance, in the squared units of the center."""
        return cast("Tensor", self.base_dist.variance * self.transforms[0].scale ** 2)


class StandardizedLikelihood(Likelihood):
    r"""A likelihood of standardised values, expressed in the units of the observations.

    Encoder and decoder see :math:`(x - c) / s`, feature by feature. Draws, means and densities are in the units of x;
    the density contains the log Jacobian:

    .. math:: \log p(x) = \log p_0\left(\frac{x - c}{s}\right) - \sum_i \log s_i

    The scale of the likelihood p₀ is therefore relative to the spread s of a feature. The moments c and s are buffers,
    saved and loaded with the model, and set by :meth:`set_moments`.

    Args:
        base: The likelihood p₀ of real-valued standardised values.

    Example:
        >>> from pyro_mmvae.likelihoods import make_likelihood, moments
        >>> pascals = 101_325 + 800 * torch.randn(500, 1)
        >>> likelihood = make_likelihood("normal", (1,), scale="learned", standardize=True)
        >>> likelihood.set_moments(*moments([pascals]))
        >>> round(likelihood.features(pascals).std(correction=0).item(), 3)
        1.0
    """

    center: Tensor
    spread: Tensor

    def __init__(self, base: Likelihood) -> None:
        super().__init__(base.shape)
        self.base = base
        self.register_buffer("center", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))
        self._is_set = False

    def set_moments(self, center: Tensor, spread: Tensor) -> None:
        """Set the moments.

        Args:
            center: The location c of each feature, `(*shape)`.
            spread: The scale s of each feature, positive, `(*shape)`.

        Raises:
            ValueError: If a shape differs, a value is not finite, or a spread is not positive.
        """
        for name, value in (("center", center), ("spread", spread)):
            if tuple(value.shape) != self.shape:
                raise ValueError(f"{name} must have the shape {self.shape} of one item, got {tuple(value.shape)}")
            converted = value.to(self.center.dtype)
            if not bool(converted.isfinite().all()) or (name == "spread" and not bool((converted > 0).all())):
                must = "positive and finite" if name == "spread" else "finite"
                raise ValueError(f"{name} must be {must} in {self.center.dtype}, got {value}")
        self.center.copy_(center)
        self.spread.copy_(spread)
        self._is_set = True

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one item as the encoder sees it, that of the base."""
        return self.base.feature_shape

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the decoder's output for one item, that of the base."""
        return self.base.parameter_shape

    def features(self, value: Tensor) -> Tensor:
        """Return standardised observations, `(item, *feature_shape)`."""
        return self.base.features(self._standardize(value))

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)` in the units of the observations."""
        base = self.base(parameters, None if observed is None else self._standardize(observed))
        self._check_set()
        transform = AffineTransform(self.center, self.spread, event_dim=len(self.shape))
        return cast("TorchDistribution", AffineDistribution(base, [transform], validate_args=False))

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the mean of values, `(*batch, *shape)`, in the units of the observations."""
        self._check_set()
        return self.center + self.spread * self.base.mean(parameters)

    def _standardize(self, value: Tensor) -> Tensor:
        self._check_set()
        return (value - self.center) / self.spread

    def _check_set(self) -> None:
        if not self._is_set:
            raise RuntimeError(
                "the moments of a standardized modality must be set before its first use: call "
                "MultimodalVAE.standardize_from(train) with the training data, or load a saved model"
            )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._is_set = True


def moments(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    r"""Return the mean and the standard deviation of each feature, in one pass over blocks of items.

    The blocks are merged in float64 by the formula of Chan, Golub and LeVeque, 1983. Where the standard deviation is
    less than ``LEAST_RELATIVE_SPREAD`` of the absolute mean, the feature is constant but for rounding, and its spread
    is the absolute mean, or 1 if that is 0.

    Args:
        blocks: Blocks of observed values, each `(item, *shape)`, with finite values.

    Returns:
        Center and spread, each `(*shape)`, in float64.

    Raises:
        ValueError: If there is no item, or a value is not finite.

    Example:
        >>> center, spread = moments([torch.tensor([[1.0, 7.0], [3.0, 7.0]])])
        >>> center.tolist(), spread.tolist()
        ([2.0, 7.0], [1.0, 7.0])
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for part in blocks:
        if not len(part):
            continue
        block = part.double()
        number, average = len(block), block.mean(0)
        deviation = (block - average).square().sum(0)
        if not count:
            count, mean, squares = number, average, deviation
            continue
        shift, total = average - mean, count + number
        mean = mean + shift * (number / total)
        squares = squares + deviation + shift.square() * (count * number / total)
        count = total
    if not count:
        raise ValueError("blocks must hold at least one item to standardize by, got none")
    spread = (squares / count).sqrt()
    if not bool(mean.isfinite().all() & spread.isfinite().all()):
        raise ValueError("values must be finite to standardize by their moments, got others")
    size = mean.abs()
    # 1e-30 leaves room for the squares of float32; a smaller spread stands for a constant at 0.
    least = (LEAST_RELATIVE_SPREAD * size).clamp(min=1e-30)
    constant = torch.where(size > 1e-30, size, 1.0)
    return mean, torch.where(spread < least, constant, spread)
