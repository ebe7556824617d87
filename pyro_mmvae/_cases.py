"""Experts to try an aggregation on, and what the contract check does with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.experts import Experts


def default_experts(seed: int, num_modalities: int, kind: str) -> Iterator[Experts]:
    """Random experts of several batch shapes and latent sizes."""
    generator = torch.Generator().manual_seed(seed)
    for batch, latent in (((), 2), ((4,), 1), ((2, 3), 3)):
        shape = (*batch, num_modalities)
        loc, noise = torch.randn(2, *shape, latent, dtype=torch.float64, generator=generator)
        present = torch.rand(shape, generator=generator) < 0.6
        items = present.view(-1, num_modalities)
        items[0] = True  # one item has everything, and of the last, if there are more, there is nothing
        items[1:][-1:] = False
        loc, scale = 1.5 * loc, (0.5 * noise).exp()
        if kind == "full":
            mixing = torch.randn(*shape, latent, latent, dtype=torch.float64, generator=generator)
            yield Experts(loc, 0.5 * scale, present, cov_factor=0.5 * mixing)
        else:
            yield Experts(loc, scale, present, family=kind, df=6.0 if kind == "student_t" else None)


def spread_name(experts: Experts) -> str:
    """The name of what they have beside loc."""
    return "scale" if experts.scale_tril is None else "scale_tril"


def tensors(experts: Experts) -> dict[str, Tensor]:
    """Theirs, by name."""
    names = {"loc": "loc", spread_name(experts): spread_name(experts), "present": "mask"}
    return {name: getattr(experts, attribute) for name, attribute in names.items()}


def cast_experts(experts: Experts, dtype: torch.dtype) -> Experts:
    """The same in another floating type."""
    return experts.map(lambda tensor, event_dim: tensor.to(dtype) if event_dim > 1 else tensor)


def columns(experts: Experts, chosen: Sequence[int]) -> Experts:
    """Some modalities of them, in that order."""
    at = torch.tensor(chosen, device=experts.loc.device)
    return experts.map(lambda tensor, event_dim: tensor.index_select(-event_dim, at))


def first_dimension(experts: Experts) -> Experts:
    """Their marginals in the first latent dimension, which of a lower triangular factor is its first corner."""
    corner: list[Any] = [slice(1), slice(1)]
    return experts.map(lambda tensor, event_dim: tensor[(..., *corner[: event_dim - 1])])
