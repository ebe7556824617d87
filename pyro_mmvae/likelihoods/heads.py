"""Likelihoods of images, vectors and tokens."""

from __future__ import annotations

import math
from typing import cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.likelihoods.base import Likelihood
from pyro_mmvae.likelihoods.shared_scale import SharedScaleLaplace, SharedScaleNormal, _SharedScale


class _LocationLikelihood(Likelihood):
    family: type[_SharedScale]

    def __init__(self, shape: tuple[int, ...], scale: float | str, output: str = "identity") -> None:
        super().__init__(shape)
        self.output = output
        self.scale: float | None = None
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        elif isinstance(scale, str) or not scale > 0 or not math.isfinite(scale):
            raise ValueError(f"likelihood scale must be a positive number or 'learned', not {scale!r}")
        else:
            self.scale = float(scale)

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Of `(*batch, *shape)`."""
        scale = self.log_scale.exp() if self.scale is None else self.scale
        loc = parameters.sigmoid() if self.output == "sigmoid" else parameters
        return self.family(loc, scale, event_dim=len(self.shape))


class LaplaceLikelihood(_LocationLikelihood):
    """Laplace of one scale, fixed or learned; the decoder gives the mean, or its logit with the output ``sigmoid``."""

    family = SharedScaleLaplace


class NormalLikelihood(_LocationLikelihood):
    """Normal of one scale, fixed or learned; the decoder gives the mean, or its logit with the output ``sigmoid``."""

    family = SharedScaleNormal


class BernoulliLikelihood(Likelihood):
    """Bernoulli pixels; the decoder gives logits. Values in [0, 1] are allowed (the usual relaxed form)."""

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
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

    def forward(self, parameters: Tensor, observed: Tensor | None = None) -> TorchDistribution:
        """Of `(*batch, *shape)`."""
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        base = dist.Categorical(logits=parameters, validate_args=False)
        return cast("TorchDistribution", base).to_event(len(self.shape))

    def mean(self, parameters: Tensor) -> Tensor:
        """Class probabilities, `(*batch, *shape, classes)`."""
        return parameters.softmax(-1)
