"""The scale of a Laplace or Normal likelihood in closed form: the mean residual."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pyro_mmvae._typing import Tensor

SCALE_FLOOR = 1e-4
"""The least value of a scale that is not fixed, without which the density of values reproduced exactly grows without
bound."""

_LEAST_GENERALIZED = 1e-8
"""The least scale with an exponent of its own; with heavy tails most values lie far beyond one scale."""

MOMENTUM = 0.98
"""The share of the running mean of residuals that is kept at each step, so that it covers about the last 50 steps."""

_PATTERN = re.compile(r"(calibrated|calibrated_per_feature)(?::([^:]+))?")
SCALE_NAMES = "'learned', 'calibrated' or 'calibrated_per_feature'"
"""The scales that are not numbers, for error messages."""


def parse_calibrated(scale: object) -> tuple[bool, float | None] | None:
    """Read the name of a calibrated scale.

    Args:
        scale: A name such as ``"calibrated"``, ``"calibrated:0.75"`` or ``"calibrated_per_feature:1"``, or another
            setting of a scale.

    Returns:
        True if there is one scale per feature, and the training scale, None if the name has none; None altogether if
        the setting is not a calibrated scale, or its training scale is not a positive number.

    Example:
        >>> parse_calibrated("calibrated_per_feature:0.5")
        (True, 0.5)
    """
    match = _PATTERN.fullmatch(scale) if isinstance(scale, str) else None
    if match is None:
        return None
    number = match.group(2)
    try:
        training_scale = None if number is None else float(number)
    except ValueError:
        return None
    if training_scale is not None and not (training_scale > 0 and math.isfinite(training_scale)):
        return None
    return match.group(1).endswith("per_feature"), training_scale


def calibrated_name(per_feature: bool, training_scale: float) -> str:
    """Return the name of a calibrated scale, which :func:`parse_calibrated` reads.

    Args:
        per_feature: If True, there is one scale per feature.
        training_scale: The scale that the networks are trained with.
    """
    return f"calibrated{'_per_feature' * per_feature}:{training_scale:.12g}"


class CalibratedScale(nn.Module):
    r"""A scale that follows the mean residual of the training, where it has the highest likelihood.

    .. math:: b^* = \operatorname{mean} |x - \mu(z)| \quad\text{(Laplace)}, \qquad
        \sigma^{*2} = \operatorname{mean} (x - \mu(z))^2 \quad\text{(Normal)}

    The mean is a running one over the training steps with the momentum ``MOMENTUM``, corrected for its start at 0 as in
    Adam. The residuals of a step are collected in the backward pass and weighed by the gradients of their terms, so
    that masked items do not count, several particles make one update, and nothing changes in an evaluation. With
    ``torch.jit`` no residuals are collected, and the scale stays where it is.

    Closed form: Rybkin, Daniilidis and Levine, 2021. Simple and effective VAE training with calibrated decoders. ICML.

    Args:
        shape: The shape of the scale: empty for one scale, or that of an item for one per feature.
        training_scale: The scale b₀ that the networks are trained with, and the scale until the first update.
        power: The power of the residual whose mean is taken: 1 for Laplace, 2 for Normal.

    Attributes:
        scale: The scale, a buffer of the shape given.
        exponent: The exponent of the density, a scalar buffer; ``power`` unless :meth:`set` has changed it.
    """

    scale: Tensor
    exponent: Tensor
    average: Tensor
    correction: Tensor

    def __init__(self, shape: tuple[int, ...], training_scale: float, power: int) -> None:
        super().__init__()
        self.training_scale, self.power = training_scale, power
        self.register_buffer("scale", torch.full(shape, training_scale))
        self.register_buffer("exponent", torch.tensor(float(power)))
        self.register_buffer("average", torch.zeros(shape))
        self.register_buffer("correction", torch.zeros(()))
        self._pending: tuple[Tensor, Tensor] | None = None
        self._is_generalized = False

    @property
    def is_generalized(self) -> bool:
        """True if the exponent is another one than that of the family."""
        self.update()
        return self._is_generalized

    def set(self, scale: Tensor | float, exponent: float | None = None) -> None:
        """Set the scale; a training that goes on starts its running mean anew.

        Args:
            scale: The scale, a number or a tensor of the shape of the scale, positive; raised to ``SCALE_FLOOR``,
                or 1e-8 with an exponent.
            exponent: The exponent p of the density exp(−(|x − μ| / scale)ᵖ), see
                :class:`~pyro_mmvae.likelihoods.SharedScaleGeneralizedNormal`; by default that of the family, whose own
                scale is then meant.

        Raises:
            ValueError: If a value is not positive and finite.
        """
        value = torch.as_tensor(scale, dtype=self.scale.dtype, device=self.scale.device)
        for name, number in (("scale", value), ("exponent", torch.as_tensor(1.0 if exponent is None else exponent))):
            if not bool((number.isfinite() & (number > 0)).all()):
                raise ValueError(f"{name} must be positive and finite, got {number}")
        if exponent == self.power:  # σ of the normal distribution is a/√2
            value, exponent = value / self.power ** (1 / self.power), None
        self._pending = None
        self.scale.copy_(value.clamp(min=SCALE_FLOOR if exponent is None else _LEAST_GENERALIZED))
        self.exponent.fill_(float(self.power) if exponent is None else exponent)
        self.average.zero_()
        self.correction.zero_()
        self._is_generalized = exponent is not None

    def follow(self, energy: Tensor, total: Tensor) -> None:
        """Collect the residuals of a log density in its backward pass.

        Args:
            energy: The residuals to the power, `(*batch, *event)`.
            total: The sum of ``energy`` over the event, `(*batch)`, from which the log density is computed.
        """
        if not total.requires_grad or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return
        held = energy.detach() if self.scale.dim() else total.detach()
        size = 1 if self.scale.dim() else energy[(0,) * total.dim()].numel() if energy.numel() else 1
        total.register_hook(lambda gradient: self._collect(held, size, gradient))

    @torch.no_grad()
    def _collect(self, held: Tensor, size: int, gradient: Tensor) -> None:
        """Add the residuals of one log density, weighed by the gradient of the loss with respect to it."""
        weights = gradient.detach().abs().reshape(-1).to(self.average.dtype)
        values = held.reshape(len(weights), -1).to(self.average.dtype) / size
        values = torch.where(weights.unsqueeze(-1) > 0, values, 0.0)  # a masked item may hold anything
        total, weight = (weights @ values).reshape(self.scale.shape), weights.sum()
        if self._pending is not None:
            total, weight = total + self._pending[0], weight + self._pending[1]
        self._pending = (total, weight)

    @torch.no_grad()
    def update(self) -> None:
        """Take the residuals of the last training step into the running mean, if they are not in it yet."""
        if self._pending is None:
            return
        (total, weight), self._pending = self._pending, None
        has_items = weight > 0  # without a sync: a batch may lack the modality
        share = torch.where(has_items, 1 - MOMENTUM, 0.0)
        mean = torch.where(has_items, total / weight, 0.0)
        self.average.lerp_(mean, share)
        self.correction.lerp_(torch.ones_like(self.correction), share)
        known = self.correction > 0
        closed_form = (self.average / self.correction).pow(1 / self.power).clamp(min=SCALE_FLOOR)
        self.scale.copy_(torch.where(known, closed_form, self.scale))
        self.exponent.fill_(float(self.power))
        self._is_generalized = False

    @torch.no_grad()
    def update_together(self, add: Callable[[Tensor], Tensor]) -> None:
        """Take the residuals of a training step that several processes computed into the running mean of each.

        Args:
            add: A function that returns the sum of a tensor over the processes, which all of them call.
        """
        total, weight = self._pending or (torch.zeros_like(self.average), torch.zeros_like(self.correction))
        packed = add(torch.cat([total.reshape(-1), weight.reshape(1)]))
        self._pending = packed[:-1].reshape(self.scale.shape), packed[-1]
        self.update()

    def drop_pending(self) -> None:
        """Forget the residuals of a training step that was not completed."""
        self._pending = None

    def _apply(self, *args: Any, **kwargs: Any) -> CalibratedScale:
        self.update()  # what is pending would stay on the old device
        return super()._apply(*args, **kwargs)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.update()
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._pending = None
        super()._load_from_state_dict(*args, **kwargs)
        self._is_generalized = float(self.exponent) != self.power
