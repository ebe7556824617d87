"""A Normal distribution whose draws have another scale than its density."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch

from pyro_mmvae._typing import Float, Tensor


class AuxiliaryNormal(dist.Normal):
    r"""A Normal density with draws :math:`loc + s \varepsilon` of an auxiliary scale s.

    Used in a guide opposite a prior of that density, the draw has no KL term: :math:`\log p(u) - \log q(u)` is 0 at
    every u, in every estimator of the ELBO, and so is the divergence in closed form. The objective then learns s
    through whatever the draw enters, and only so. It is not the density of the draws, so that it has a place in
    training objectives alone, never in importance weights.

    Args:
        loc: The location of density and draws, of any shape.
        scale: The standard deviation of the density, which broadcasts with loc.
        draw_scale: The standard deviation s of the draws, which broadcasts to the shape of the others. Where it equals
            ``scale``, the distribution is a Normal.
        validate_args: If True, check the arguments; by default as torch's distributions do.

    References:
        Palumbo, Daunhawer and Vogt, 2023. MMVAE+: enhancing the generative quality of multimodal VAEs without
        compromises. ICLR, openreview sdQGxouELX; the auxiliary priors :math:`r_n(w_n)` of its equation 5.

    Example:
        >>> narrow = AuxiliaryNormal(torch.zeros(1000), torch.ones(1000), torch.full((1000,), 0.01))
        >>> bool(narrow.sample().abs().max() < 0.1), bool(narrow.log_prob(torch.zeros(1000))[0] < 0)
        (True, True)
    """

    def __init__(self, loc: Tensor, scale: Tensor, draw_scale: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale, validate_args=validate_args)
        self.draw_scale = draw_scale.expand(self.batch_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> AuxiliaryNormal:
        """Return the distribution at a larger batch shape."""
        new = self._get_checked_instance(AuxiliaryNormal, _instance)
        new.draw_scale = self.draw_scale.expand(batch_shape)
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample"]:
        """Draw with pathwise gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.draw_scale * noise

    def sample(self, sample_shape: Any = torch.Size()) -> Float[Tensor, "*sample"]:
        """Draw without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)
