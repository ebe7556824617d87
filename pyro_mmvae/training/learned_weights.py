"""The learned weights of a model, in a form that a run directory keeps."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_mmvae.aggregation.subsets import SubsetFamily, membership
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.run_files import join_names
from pyro_mmvae.vae.vae import MultimodalVAE


@torch.no_grad()
def learned_weights(vae: MultimodalVAE, data: MultimodalDataset, *, batch_size: int = 500) -> dict[str, Any]:
    """Return the learned expert weights λ and subset weights π of a model.

    Args:
        vae: The model, in any mode, which is restored.
        data: The data set, on the model's device; λ may depend on the items.
        batch_size: The number of items encoded at once.

    Returns:
        A dictionary with ``expert_weights``, modality name to the mean of λ over the items that have it (1 where no
        modality is preferred), and ``subset_weights``, names of the subset, joined by
        :func:`~pyro_mmvae.run_files.join_names`, to π of an item that has everything. What is not learned is left out.
    """
    result: dict[str, Any] = {}
    guide, mode = vae.guide, vae.training
    vae.eval()
    if guide.aggregation.learns_expert_weights:
        sums = torch.zeros(len(vae.names), dtype=torch.float64)
        counts = torch.zeros_like(sums)
        for start in range(0, len(data), batch_size):
            experts = guide.experts(make_batch(data, slice(start, start + batch_size)))
            weights = cast("Tensor", guide.expert_weights(experts)).expand(experts.mask.shape)
            sums += (weights * experts.mask).sum(0).double().cpu()
            counts += experts.mask.sum(0).double().cpu()
        result["expert_weights"] = {n: float(s / c) for n, s, c in zip(vae.names, sums, counts, strict=True) if c > 0}
    subset_weights = guide.aggregation.subset_weights
    if isinstance(subset_weights, nn.Module):
        subsets = cast("SubsetFamily", guide.aggregation.subsets)
        matrix = membership(subsets, len(vae.names), next(vae.parameters()).device)
        values = subset_weights(matrix)
        result["subset_weights"] = {
            join_names(name for name, member in zip(vae.names, row, strict=True) if member): float(value)
            for row, value in zip(matrix.tolist(), values / values.sum(), strict=True)
        }
    vae.train(mode)
    return result
