"""The start of a learned prior from experts of training items."""

from __future__ import annotations

import torch

from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.vae.vae import MultimodalVAE


def start_prior(vae: MultimodalVAE, data: MultimodalDataset) -> None:
    """Move a learned prior to experts of random training items, if it was made with ``init="experts"``.

    Args:
        vae: The model and guide, before the training.
        data: The training items, on the device of the model.
    """
    prior = vae.model.learned_prior
    if prior is None or prior.init != "experts":
        return
    rows = data.present.any(-1).nonzero()[:, 0].cpu()
    chosen = rows[torch.randperm(len(rows))[: prior.components]]
    if len(chosen):
        vae.start_prior_from(make_batch(data.subset(chosen.tolist()), slice(None)))
