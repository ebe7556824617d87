"""The families of densities with a location and a scale, by name, and their divergences from a Normal prior."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import Normal as TorchNormal
from torch.distributions import StudentT as TorchStudentT
from torch.distributions import register_kl

from pyro_mmvae._typing import Float, Tensor


class Logistic(dist.Logistic):
    """A logistic distribution whose draws are always finite.

    Pyro's own draws are logits of uniform numbers, one of which may be 0.
    """

    def rsample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample"]:
        """Draw with pathwise gradients, as the logarithm of the ratio of two exponential variables."""
        shape = self._extended_shape(torch.Size(sample_shape))
        one, other = self.loc.new_empty(2, *shape).exponential_().log()
        return self.loc + self.scale * (one - other)


def location_scale(
    family: str,
    loc: Float[Tensor, "*batch latent"],
    scale: Float[Tensor, "*batch latent"],
    df: float | None = None,
    validate_args: bool | None = None,
) -> TorchDistribution:
    """Return the distribution of independent dimensions of one family.

    Args:
        family: The name of the family: ``normal``, ``laplace``, ``student_t`` or ``logistic``.
        loc: The locations, `(*batch, latent)`.
        scale: The scale parameters of the family, `(*batch, latent)`; the standard deviations for ``normal`` only.
        df: The degrees of freedom of ``student_t``; None for the other families.
        validate_args: If True, check the arguments; by default as torch's distributions do.

    Returns:
        A distribution of batch shape `batch` and event shape `(latent,)`.
    """
    if family == "student_t":
        base: Any = dist.StudentT(df, loc, scale, validate_args=validate_args)
    else:
        make = {"normal": dist.Normal, "laplace": dist.Laplace, "logistic": Logistic}[family]
        base = make(loc, scale, validate_args=validate_args)
    return cast("TorchDistribution", base.to_event(1))


@register_kl(dist.Logistic, TorchNormal)  # type: ignore[untyped-decorator]
def _kl_logistic_normal(p: Any, q: TorchNormal) -> Tensor:
    return _cross_entropy(p, q) - p.entropy()


@register_kl(TorchStudentT, TorchNormal)  # type: ignore[untyped-decorator]
def _kl_student_normal(p: TorchStudentT, q: TorchNormal) -> Tensor:
    return torch.where(p.df > 2, _cross_entropy(p, q) - p.entropy(), torch.inf)


def _cross_entropy(p: Any, q: TorchNormal) -> Tensor:
    """Return the cross-entropy of a distribution with respect to a Normal, which depends on mean and variance only."""
    square = p.variance + (p.loc - q.loc).square()
    return 0.5 * square / q.scale.square() + q.scale.log() + 0.5 * math.log(2 * math.pi)
