"""Distances between diagonal Gaussians, which summarise experts and posteriors by their moments."""

from __future__ import annotations

from pyro_mmvae._typing import Float, Tensor


def w2(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> Float[Tensor, "*item"]:
    """Return the 2-Wasserstein distance between diagonal Gaussians, each given by its loc and scale."""
    return ((loc - other_loc).square() + (scale - other_scale).square()).sum(-1).sqrt()


def gaussian_kl(loc: Tensor, scale: Tensor, other_loc: Tensor, other_scale: Tensor) -> Float[Tensor, "*item"]:
    """Return the KL divergence between diagonal Gaussians in nats, each given by its loc and scale."""
    ratio = (scale / other_scale).square()
    return 0.5 * (ratio + ((loc - other_loc) / other_scale).square() - 1 - ratio.log()).sum(-1)
