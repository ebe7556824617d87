"""The log density of many Gaussians at once, in the memory of its result and gradients."""

from __future__ import annotations

import math
from typing import Any, cast

import torch

from pyro_mmvae._overrides import overridable
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.chunks import chunks, has_first_dimension, select_chunk


def normal_log_prob(
    value: Float[Tensor, "*#sample latent"],
    loc: Float[Tensor, "*#sample latent"],
    scale: Float[Tensor, "*#sample latent"],
) -> Float[Tensor, "*sample"]:
    r"""Return the log density of independent Normals, summed over the latent dimensions, in nats.

    .. math:: \sum_i \left( -\frac{(z_i - \mathrm{loc}_i)^2}{2\,\mathrm{scale}_i^2} - \log \mathrm{scale}_i - \frac12 \log 2\pi \right)

    Args:
        value: The points z at which the density is evaluated.
        loc: The means of the Normals.
        scale: The standard deviations of the Normals.

    Returns:
        The log densities, in the broadcast shape without the latent dimension.
    """  # noqa: E501
    return _log_prob(value, loc, scale)


@overridable
def _log_prob(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return cast("Tensor", _NormalLogProb.apply(value, loc, scale))


class _NormalLogProb(torch.autograd.Function):
    """The log density as one function, for which a chain of operations would keep nine tensors of the full shape.

    The only tensors of the full shape are the gradients; everything else is computed for a few items at a time. The
    function supports derivatives of any order, forward-mode derivatives and ``vmap``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Return the log density."""
        shape = _common_shape(value, loc, scale)
        constant = 0.5 * math.log(2 * math.pi) * shape[-1]
        densities = []
        for chunk in chunks(shape, loc.device):
            z, mean, deviation = (select_chunk(tensor, chunk, shape) for tensor in (value, loc, scale))
            square = ((z - mean) / deviation).pow_(2).sum(-1)
            densities.append(-0.5 * square - deviation.log().sum(-1) - constant)
        return densities[0] if len(densities) == 1 else torch.cat(densities)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep the inputs; nothing else is stored for the backward pass."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients with respect to value, loc and scale."""
        tensors, (gradient,) = ctx.saved_tensors, gradients
        shape = _common_shape(*tensors)
        slices = chunks(shape, gradient.device)
        # With gradients enabled this pass is differentiated once more, and autograd has to see it as a whole.
        if torch.is_grad_enabled() or len(slices) == 1:
            return _gradients(gradient, *tensors)
        results = tuple(gradient.new_zeros(tensor.shape) for tensor in tensors)
        for chunk in slices:
            parts = _gradients(gradient[chunk], *(select_chunk(tensor, chunk, shape) for tensor in tensors))
            for whole, part in zip(results, parts, strict=True):
                if has_first_dimension(whole, shape):
                    whole[chunk] = part
                else:
                    whole.add_(part)
        return results

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """Return the tangent of the log density."""
        value, loc, scale = ctx.saved_tensors
        by_value, by_loc, by_scale = tangents
        standard = (value - loc) / scale
        return ((standard * (standard * by_scale - by_value + by_loc) - by_scale) / scale).sum(-1)


def _gradients(gradient: Tensor, value: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to value, loc and scale."""
    weight = -gradient.unsqueeze(-1)
    minus_standard = (loc - value) / scale  # the standardised value with the opposite sign, which saves a negation
    by_loc = minus_standard * weight
    by_scale = torch.addcmul(weight, by_loc, minus_standard, value=-1) / scale
    by_loc = by_loc / scale
    return -by_loc.sum_to_size(value.shape), by_loc.sum_to_size(loc.shape), by_scale.sum_to_size(scale.shape)


def _common_shape(value: Tensor, loc: Tensor, scale: Tensor) -> torch.Size:
    """Return the broadcast shape; a short cut for the common case that loc and scale already have it."""
    shape = loc.shape
    if shape == scale.shape and len(shape) >= value.dim():
        last = shape[len(shape) - value.dim() :]
        if all(size in {1, target} for size, target in zip(value.shape, last, strict=True)):
            return shape
    return torch.broadcast_shapes(value.shape, shape, scale.shape)
