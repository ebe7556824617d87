"""Experts and models for tests of distances between experts, posteriors and prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_mmvae import Experts, Modality, MultimodalVAE
from pyro_mmvae.evaluation.metrics import Metric

NAMES, LATENT = ("a", "b", "c"), 3


def vae_of(aggregation: str = "wb", prior: tuple[float, float] | None = None) -> MultimodalVAE:
    return MultimodalVAE([Modality(name, (2,)) for name in NAMES], LATENT, aggregation, prior=prior).eval()


def experts_of(loc: Tensor, scale: Tensor | float = 1.0, present: Tensor | None = None) -> Experts:
    return Experts(loc, torch.as_tensor(scale).expand(loc.shape), present)


def alike(items: int, scale: float, spread: float = 1.0) -> Experts:
    """Return three experts that agree up to their scale, around means of the given spread."""
    z = spread * torch.randn(items, 1, LATENT)
    return experts_of(z + scale * torch.randn(items, 3, LATENT), scale)


def figures(rows: list[Metric]) -> dict[str, Metric]:
    assert all(row.target == "z" for row in rows)
    return {row.metric: row for row in rows}
