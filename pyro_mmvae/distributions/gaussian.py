"""The Gaussian with full covariance, and its divergence from the priors of Pyro models."""

from __future__ import annotations

import contextlib
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import Independent, Normal, register_kl
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

from pyro_mmvae._typing import Float, Tensor


class MultivariateNormal(dist.MultivariateNormal):
    """A multivariate Normal that leaves matrix products out of autocast, since bfloat16 would keep three digits."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample latent"]:
        """Draw with pathwise gradients."""
        with _full_precision(self.loc):
            return super().rsample(torch.Size(sample_shape))

    def log_prob(self, value: Float[Tensor, "*value_and_event"]) -> Float[Tensor, "*sample"]:
        """Return the log density, in nats."""
        with _full_precision(self.loc):
            return super().log_prob(value)


def _full_precision(tensor: Tensor) -> Any:
    device = tensor.device.type
    available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else contextlib.nullcontext()


@register_kl(TorchMultivariateNormal, Independent)  # type: ignore[untyped-decorator]
def _kl_multivariate_independent(p: TorchMultivariateNormal, q: Any) -> Tensor:
    r"""Return the KL divergence of a Gaussian with full covariance from independent Normals, as most priors are.

    .. math::
        \frac12 \sum_i \left( \frac{\Sigma_{ii} + (loc_i - loc'_i)^2}{scale_i'^2} - 1 + 2 \log scale'_i \right)
        - \sum_i \log L_{ii}
    """
    base = q.base_dist
    if not isinstance(base, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    quadratic = (p.variance + (p.loc - base.loc).square()) / base.scale.square()
    diagonal = p.scale_tril.diagonal(dim1=-2, dim2=-1)
    return (0.5 * (quadratic - 1) + base.scale.log() - diagonal.log()).sum(-1)
