"""The Fréchet inception distance of images that are generated from subsets of the modalities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.evaluation.frechet import fid, rgb_modalities
from pyro_mmvae.evaluation.metrics import Metric, choose_items
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import (
    decode_in_batches,
    draw_protocol,
    draws_at_once,
    has_all,
    posterior_draws,
    select,
    subset_names,
)
from pyro_mmvae.vae.vae import MultimodalVAE


def fid_given(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subsets: Sequence[Sequence[int]],
    items: int = 2000,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Metric]:
    """Return the Fréchet inception distance of real images and of images generated from a subset.

    One draw per item, z from its posterior and private latents from their priors, is compared with the real images of
    the items; see :func:`~pyro_mmvae.evaluation.frechet.fid`.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The real items, which should outnumber the 2,048 features of Inception.
        subsets: Subsets of the modalities to generate from, each as indices, judged on the RGB images outside it.
        items: The largest number of items, 2,000 by default, chosen at random.
        seed: The seed of items and draws, 0 by default; the states of torch's generators are restored afterwards.
        batch_size: The number of items to decode at once; by default it depends on the device.

    Returns:
        One row per subset and modality of RGB images outside it, where ``n`` is the number of generated images. A row
        is left out if there are fewer than two images, real or generated.

    Raises:
        ImportError: If torchmetrics or torch-fidelity is not installed.
    """
    device, rows = experts.loc.device, []
    if items < 1:
        return []
    chosen = torch.as_tensor(choose_items(len(data), items, seed))
    data, experts = data.subset(chosen.tolist()), select(experts, chosen.to(device))
    colour = rgb_modalities(data)
    for subset in subsets:
        kept = has_all(experts, subset)
        targets = [name for m, name in enumerate(vae.names) if name in colour and m not in subset]
        if not targets or int(kept.sum()) < 2:
            continue
        with seeded(seed, device), torch.no_grad():
            z = posterior_draws(vae, select(experts, kept), subset)
            known = one_hot(data.covariates, data.covariate_names, kept.to(data.present.device))
            parts = list(decode_in_batches(vae, z, targets, batch_size or draws_at_once(device), known))
        for name in targets:
            real = data.modalities[name][data.present[:, data.names.index(name)]].to(device)
            if len(real) < 2:
                continue
            real = real.float() / 255 if real.dtype == torch.uint8 else real
            value = fid(real, torch.cat([part[name] for part in parts]))
            protocol = f"Inception, {draw_protocol(vae, experts.num_modalities)}"
            rows.append(Metric("fid", protocol, subset_names(subset, vae.names), name, value, len(z), seed))
    return rows
