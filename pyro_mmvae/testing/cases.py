"""Experts to try an aggregation on, and the changes that the contract check makes to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.experts import Experts


def default_experts(seed: int, num_modalities: int, expert_kind: str) -> Iterator[Experts]:
    """Yield random experts of several batch shapes and latent sizes.

    Args:
        seed: The seed of a generator of their own.
        num_modalities: The number of modalities.
        expert_kind: The kind of the experts, one of ``EXPERT_KINDS``.
    """
    generator = torch.Generator().manual_seed(seed)
    for batch, latent in (((), 2), ((4,), 1), ((2, 3), 3)):
        shape = (*batch, num_modalities)
        loc, noise = torch.randn(2, *shape, latent, dtype=torch.float64, generator=generator)
        present = torch.rand(shape, generator=generator) < 0.6
        items = present.view(-1, num_modalities)
        items[0] = True  # the first item has everything, and the last one, if there are several, has nothing
        items[1:][-1:] = False
        loc, scale = 1.5 * loc, (0.5 * noise).exp()
        if expert_kind == "full":
            mixing = torch.randn(*shape, latent, latent, dtype=torch.float64, generator=generator)
            yield Experts(loc, 0.5 * scale, present, cov_factor=0.5 * mixing)
        else:
            df = 6.0 if expert_kind == "student_t" else None
            yield Experts(loc, scale, present, family=expert_kind, df=df)


def scale_name(experts: Experts) -> str:
    """Return the name of the attribute that holds the scale parameter of the experts."""
    return "scale" if experts.scale_tril is None else "scale_tril"


def tensors(experts: Experts) -> dict[str, Tensor]:
    """Return the tensors of the experts by name."""
    names = {"loc": "loc", scale_name(experts): scale_name(experts), "present": "mask"}
    return {name: getattr(experts, attribute) for name, attribute in names.items()}


def cast_experts(experts: Experts, dtype: torch.dtype) -> Experts:
    """Return the experts in another floating type."""
    return experts.map(lambda tensor, event_dim: tensor.to(dtype) if event_dim > 1 else tensor)


def select_modalities(experts: Experts, modalities: Sequence[int]) -> Experts:
    """Return the experts of some modalities, in that order."""
    index = torch.tensor(modalities, device=experts.loc.device)
    return experts.map(lambda tensor, event_dim: tensor.index_select(-event_dim, index))


def first_dimension(experts: Experts) -> Experts:
    """Return the marginals of the experts in the first latent dimension, a corner of a lower triangular factor."""
    corner: list[Any] = [slice(1), slice(1)]
    return experts.map(lambda tensor, event_dim: tensor[(..., *corner[: event_dim - 1])])
