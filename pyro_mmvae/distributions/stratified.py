"""Uniform numbers that cover the unit interval evenly, for draws of subsets with a small variance."""

from __future__ import annotations

import torch

from pyro_mmvae._shards import drawn_over_batch
from pyro_mmvae._typing import Float, Tensor


def stratified_uniform(shape: torch.Size, device: torch.device, dims: int | None = None) -> Float[Tensor, "*batch"]:
    """Draw uniform numbers in [0, 1), one per stratum of equal length, the strata in a fresh random order.

    Each number is marginally uniform whatever its position; together they cover [0, 1) evenly. They come from torch's
    global generator, as Pyro's draws do.

    Args:
        shape: The shape of the result.
        device: The device of the result.
        dims: The number of dimensions on the right that the strata extend over; entries that differ in the other
            dimensions are independent. All dimensions by default.
    """
    return drawn_over_batch(shape, lambda whole: _stratified(whole, device, dims))


def _stratified(shape: torch.Size, device: torch.device, dims: int | None) -> Tensor:
    dtype = torch.float32 if device.type == "mps" else torch.float64
    largest = 1 - torch.finfo(dtype).eps
    inner = len(shape) if dims is None else dims
    if torch.jit.is_tracing() or inner < len(shape):  # type: ignore[attr-defined]
        # A permutation of a number of items would fix that number in a compiled ELBO; a sort of keys does not.
        keys = torch.rand(shape, dtype=dtype, device=device)
        strata = keys.reshape(*keys.shape[: len(shape) - inner], -1).argsort(-1).to(dtype)
        u = (strata + torch.rand_like(strata)) / torch.ones_like(strata).sum(-1, keepdim=True)
        return u.clamp(max=largest).reshape_as(keys)
    count = shape.numel()
    strata = torch.randperm(count, device=device).to(dtype)
    u = (strata + torch.rand(count, dtype=dtype, device=device)) / max(count, 1)
    return u.clamp(max=largest).reshape(shape)
