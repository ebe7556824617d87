"""Latents of the items of a data set, as the posterior of a trained model has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.items import (
    Items,
    ItemsLike,
    batch_multiple,
    check_shapes,
    choose_given,
    seeded_chunk,
    select_items,
)
from pyro_mmvae.inference.posteriors import (
    density_of,
    items_at_once,
    posterior_means,
    posteriors,
    select,
    subset_posterior,
)
from pyro_mmvae.inference.tables import ItemTable
from pyro_mmvae.vae.vae import MultimodalVAE

Progress = Callable[[int], object]
"""A function that is called with the number of items that were finished since its last call."""

STATISTICS = ("mean", "loc_scale", "draw")
"""The statistics of a posterior that :func:`encode` returns."""

CHUNK = 50
"""The number of items whose draws share a seed. It is fixed, so that draws do not depend on the batch size."""


@torch.no_grad()
def encode(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    *,
    items: ItemsLike = None,
    given: Sequence[str] | None = None,
    statistic: str = "mean",
    private: bool = False,
    density: str | None = None,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> ItemTable:
    """Return the latents of items given what was observed of them.

    The items are read batch by batch, so that memory does not grow with the data. An item without any modality in
    ``given`` has the prior as its posterior; ``summary["unobserved"]`` counts these.

    Args:
        vae: The model, in eval mode.
        data: The data set that holds the items.
        items: The selection of items, see :func:`~pyro_mmvae.inference.items.select_items`; all by default.
        given: The modalities to condition on, where an item has them; all by default, the prior if empty.
        statistic: ``"mean"`` (default) for posterior means, ``"loc_scale"`` for means and standard deviations, or
            ``"draw"`` for one draw per item.
        private: If True, the private latents of the modalities given are added; False by default. If their posteriors
            depend on z, they are those at the z returned: its mean, or the draw.
        density: ``"mixture"`` for the whole posterior or ``"joint"`` for the component of all modalities given; by
            default the mixture, or the joint component if the mixture has more than 4,096 components.
        batch_size: The number of items to read at once, 500 by default.
        seed: The seed of the draws, 0 by default; the states of torch's generators are restored afterwards.
        progress: A callback that receives the number of items of each finished batch.

    Returns:
        A table with the array ``z`` `(item, latent)`, for ``loc_scale`` also ``z_scale``; with private latents also
        ``NAME_private`` and ``NAME_private_scale``. A private latent follows its prior where the modality is absent.

    Raises:
        ValueError: If a name, the statistic or the density is unknown, or the data does not fit the model.
    """
    _check_choices(statistic, density)
    check_shapes(vae, data)
    chosen, names = select_items(data, items), choose_given(vae, given)
    blocks: dict[str, list[NDArray[Any]]] = {}
    for part, batch, experts in encoded_batches(vae, chosen, names, batch_multiple(batch_size, CHUNK)):
        arrays = _latents(vae, experts, statistic, density, seed, part.start)
        if private and batch.values:
            arrays |= _private_latents(vae, batch, arrays["z"], statistic, seed, part.start)
        for name, value in arrays.items():
            blocks.setdefault(name, []).append(value.cpu().numpy())
        if progress is not None:
            progress(part.stop - part.start)
    unobserved = int((~chosen.present(names).any(-1)).sum()) if names else len(chosen)
    about = {"given": list(names), "statistic": statistic, "density": density or density_of(vae, len(vae.names))}
    result = {name: np.concatenate(parts) for name, parts in blocks.items()}
    return ItemTable(chosen.ids, result, summary={**about, "unobserved": unobserved, "seed": seed})


def encoded_batches(
    vae: MultimodalVAE, items: Items, names: Sequence[str], size: int
) -> Iterator[tuple[slice, Batch, Experts]]:
    """Yield batches of items with their experts, without gradients.

    Args:
        vae: The model, in eval mode.
        items: The items to encode.
        names: The modalities to read and to condition on.
        size: The number of items per batch.

    Yields:
        The positions of the items, their observations on the model's device, and their experts.
    """
    device = next(vae.parameters()).device
    for part in items.parts(size):
        batch = items.read(part, names, device)
        with torch.no_grad():
            experts = vae.guide.experts(batch, num_items=part.stop - part.start)
        yield part, batch, experts


def chunk_size(vae: MultimodalVAE, experts: Experts, density: str | None = None) -> int:
    """Return the number of items to draw latents for at once, a divisor of ``CHUNK`` that fits into memory."""
    most = items_at_once(vae, experts, range(experts.num_modalities), density)
    return next(size for size in range(CHUNK, 0, -1) if CHUNK % size == 0 and (size <= most or size == 1))


def _latents(
    vae: MultimodalVAE, experts: Experts, statistic: str, density: str | None, seed: int, start: int
) -> dict[str, Tensor]:
    """Return the statistic of the shared latents of one batch."""
    every = range(experts.num_modalities)
    if statistic == "draw":
        size, draws = chunk_size(vae, experts, density), []
        for offset in range(0, len(experts.loc), size):
            chunk = subset_posterior(vae, select(experts, slice(offset, offset + size)), every, density)
            with seeded_chunk(experts.loc.device, seed, start + offset):
                draws.append(chunk.sample())
        return {"z": torch.cat(draws)}
    if statistic == "mean" and density is None:
        return {"z": posterior_means(vae, experts, every)}
    parts = [_moments(posterior) for posterior in posteriors(vae, experts, every, density)]
    means, scales = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return {"z": means} if statistic == "mean" else {"z": means, "z_scale": scales}


def _private_latents(
    vae: MultimodalVAE, batch: Batch, z: Tensor, statistic: str, seed: int, start: int
) -> dict[str, Tensor]:
    """Return the statistic of the private latents of one batch given its shared latents."""
    result: dict[str, Tensor] = {}
    for number, (name, posterior) in enumerate(vae.private_posterior(batch, z).items()):
        if statistic == "draw":
            mean, scale = _moments(posterior)
            noise = []
            for offset in range(0, len(mean), CHUNK):
                with seeded_chunk(mean.device, seed, start + offset, number + 1):
                    noise.append(torch.randn_like(mean[offset : offset + CHUNK]))
            result[f"{name}_private"] = mean + scale * torch.cat(noise)
            continue
        result[f"{name}_private"], scale = _moments(posterior)
        if statistic == "loc_scale":
            result[f"{name}_private_scale"] = scale
    return result


def _moments(posterior: TorchDistribution) -> tuple[Tensor, Tensor]:
    return cast("Tensor", posterior.mean), cast("Tensor", posterior.variance).sqrt()


def _check_choices(statistic: str, density: str | None) -> None:
    if statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, got {statistic!r}")
    if density not in {None, "mixture", "joint"}:
        raise ValueError(f"density must be one of mixture, joint, got {density!r}")
