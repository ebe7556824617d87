"""The log density of many Gaussians at once, with no more memory than the result of its derivatives needs."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.barycenters.pieces import is_divided, piece_of, pieces


def normal_log_prob(
    value: Float[Tensor, "*#sample latent"],
    loc: Float[Tensor, "*#sample latent"],
    scale: Float[Tensor, "*#sample latent"],
) -> Float[Tensor, "*sample"]:
    r"""Log density of independent Normals, summed over the latent dimensions, in nats.

    .. math:: \sum_i \left( -\frac{(z_i - \mathrm{loc}_i)^2}{2\,\mathrm{scale}_i^2} - \log \mathrm{scale}_i - \frac12 \log 2\pi \right)

    Args:
        value: z.
        loc: means.
        scale: standard deviations.
    """  # noqa: E501
    return _NormalLogProb.apply(value, loc, scale)


class _NormalLogProb(torch.autograd.Function):
    """What a chain of operations does with nine tensors of all components and dimensions, and as many on the way back.

    Here they are the two gradients; the rest is made a few items at a time. It can be differentiated any number of
    times, forwards too, and mapped over.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """The log density."""
        shape = _common_shape(value, loc, scale)
        constant = 0.5 * math.log(2 * math.pi) * shape[-1]
        found = []
        for at in pieces(shape, loc.device):
            z, mean, width = (piece_of(tensor, at, shape) for tensor in (value, loc, scale))
            square = ((z - mean) / width).pow_(2).sum(-1)
            found.append(-0.5 * square - width.log().sum(-1) - constant)
        return found[0] if len(found) == 1 else torch.cat(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep what there is; nothing is made for the way back."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Gradients in value, loc and scale."""
        tensors, (gradient,) = ctx.saved_tensors, gradients
        shape = _common_shape(*tensors)
        parts = pieces(shape, gradient.device)
        if torch.is_grad_enabled() or len(parts) == 1:  # differentiated once more, or small
            return _gradients(gradient, *tensors)
        found = tuple(gradient.new_zeros(tensor.shape) for tensor in tensors)
        for at in parts:
            of_part = _gradients(gradient[at], *(piece_of(tensor, at, shape) for tensor in tensors))
            for whole, part in zip(found, of_part, strict=True):
                if is_divided(whole, shape):
                    whole[at] = part
                else:
                    whole.add_(part)
        return found

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """How the log density moves."""
        value, loc, scale = ctx.saved_tensors
        by_value, by_loc, by_scale = tangents
        standard = (value - loc) / scale
        return ((standard * (standard * by_scale - by_value + by_loc) - by_scale) / scale).sum(-1)


def _gradients(gradient: Tensor, value: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In value, loc and scale."""
    weight = -gradient.unsqueeze(-1)
    less = (loc - value) / scale  # standardised, with the other sign
    by_loc = less * weight
    by_scale = torch.addcmul(weight, by_loc, less, value=-1) / scale
    by_loc = by_loc / scale
    return -by_loc.sum_to_size(value.shape), by_loc.sum_to_size(loc.shape), by_scale.sum_to_size(scale.shape)


def _common_shape(value: Tensor, loc: Tensor, scale: Tensor) -> torch.Size:
    """To which they broadcast; that of loc and scale as a rule, which torch would take longer to find."""
    shape = loc.shape
    if shape == scale.shape and len(shape) >= value.dim():
        last = shape[len(shape) - value.dim() :]
        if all(size in {1, wanted} for size, wanted in zip(value.shape, last, strict=True)):
            return shape
    return torch.broadcast_shapes(value.shape, shape, scale.shape)
