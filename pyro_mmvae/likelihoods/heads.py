"""Likelihoods of images, vectors and tokens."""

from __future__ import annotations

import math
from typing import ClassVar, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.likelihoods.base import Likelihood, bounded
from pyro_mmvae.likelihoods.calibrated import SCALE_FLOOR, SCALE_NAMES, CalibratedScale, parse_calibrated
from pyro_mmvae.likelihoods.generalized_normal import SharedScaleGeneralizedNormal
from pyro_mmvae.likelihoods.shared_scale import SharedScaleLaplace, SharedScaleNormal, _SharedScale

OUTPUTS = ("identity", "sigmoid")
"""Links between the output of a decoder and the mean of a Laplace or Normal likelihood."""


class _LocationLikelihood(Likelihood):
    """A location family with one scale.

    With a calibrated scale there are two. In training mode the distribution has the fixed training scale b₀, so that
    the gradients of the networks, and the loss, are those of a likelihood of the scale b₀: an objective that is not a
    bound on the evidence of the calibrated model. In eval mode it has the calibrated scale b, which follows the mean
    residual of the training, see :class:`~pyro_mmvae.likelihoods.CalibratedScale`. Relative to the likelihood of the
    scale b, the training multiplies the reconstruction term of a Laplace likelihood by b/b₀, of a Normal one by
    (b/b₀)², or the KL term by the inverse: the product of β and b stays constant, where ``"learned"`` lets the weight
    of the reconstruction grow as the residuals shrink.

    Args:
        shape: Shape of one item.
        scale: A positive number; ``"learned"`` for one trained scalar that starts at 1 and stays at ``SCALE_FLOOR`` or
            above; or ``"calibrated"`` for one scale in closed form, ``"calibrated_per_feature"`` for one per feature,
            either with its training scale b₀ as in ``"calibrated:0.75"``, 1 by default.
        output: ``"identity"`` if the decoder returns the mean, the default; ``"sigmoid"`` if it returns its logit.

    Raises:
        ValueError: If the scale or the output is not one of these.
    """

    distribution: type[_SharedScale]
    power: ClassVar[int]

    def __init__(self, shape: tuple[int, ...], scale: float | str, output: str = "identity") -> None:
        super().__init__(shape)
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
        self.output = output
        self.scale: float | None = None
        self.calibration: CalibratedScale | None = None
        calibrated = parse_calibrated(scale)
        if calibrated is not None:
            per_feature, training_scale = calibrated
            self.calibration = CalibratedScale(self.shape if per_feature else (), training_scale or 1.0, self.power)
        elif scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        elif isinstance(scale, str) or not scale > 0 or not math.isfinite(scale):
            raise ValueError(f"scale of a likelihood must be a positive number, {SCALE_NAMES}, got {scale!r}")
        else:
            self.scale = float(scale)

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`."""
        loc = parameters.sigmoid() if self.output == "sigmoid" else parameters
        if self.calibration is not None:
            return self._calibrated(self.calibration, loc)
        scale = bounded(self.log_scale, math.log(SCALE_FLOOR)).exp() if self.scale is None else self.scale
        return self.distribution(loc, scale, event_dim=len(self.shape))

    def _calibrated(self, calibration: CalibratedScale, loc: Tensor) -> TorchDistribution:
        """Return the distribution that is trained, or the calibrated one in eval mode."""
        axes = len(self.shape)
        calibration.update()
        if self.training:
            trained = self.distribution(loc, calibration.training_scale, event_dim=axes)
            trained.follow = calibration.follow
            return trained
        if calibration.is_generalized:
            return SharedScaleGeneralizedNormal(loc, calibration.scale, calibration.exponent, event_dim=axes)
        return self.distribution(loc, calibration.scale, event_dim=axes)


class LaplaceLikelihood(_LocationLikelihood):
    """A Laplace likelihood with a fixed, learned or calibrated scale; the decoder returns the mean or its logit."""

    distribution = SharedScaleLaplace
    power = 1


class NormalLikelihood(_LocationLikelihood):
    """A Normal likelihood with a fixed, learned or calibrated scale; the decoder returns the mean or its logit."""

    distribution = SharedScaleNormal
    power = 2


class BernoulliLikelihood(Likelihood):
    """A Bernoulli likelihood of pixels; the decoder returns logits.

    Values in [0, 1] are allowed, the usual relaxed form.
    """

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`."""
        # bfloat16 logits would lose the log probabilities near 0 and 1.
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        return cast("TorchDistribution", dist.Bernoulli(logits=parameters, validate_args=False)).to_event(
            len(self.shape)
        )


class CategoricalLikelihood(Likelihood):
    """A likelihood of one class per position; the decoder returns logits, the encoder sees one-hot vectors.

    Args:
        shape: Shape of one item, whose values are the integers 0 to ``classes - 1``.
        classes: Number of classes, two or more.

    Raises:
        ValueError: If there are fewer than two classes.
    """

    is_categorical: ClassVar[bool] = True

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__(shape)
        if classes < 2:
            raise ValueError(f"classes of likelihood 'categorical' must be at least 2, got {classes}")
        self.classes = classes

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one item in one-hot vectors, `(*shape, classes)`."""
        return (*self.shape, self.classes)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the logits of one item, `(*shape, classes)`."""
        return (*self.shape, self.classes)

    def features(self, value: Tensor) -> Tensor:
        """Return one-hot vectors, `(item, *shape, classes)`."""
        return torch.nn.functional.one_hot(value.long(), self.classes).to(torch.get_default_dtype())

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Return the distribution of `(*batch, *shape)`."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        base = dist.Categorical(logits=parameters, validate_args=False)
        return cast("TorchDistribution", base).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        """Return class probabilities, `(*batch, *shape, classes)`."""
        return parameters.softmax(-1)

    def point(self, mean: Tensor) -> Tensor:
        """Return the most probable class of each position, `(*batch, *shape)`."""
        return mean.argmax(-1)
