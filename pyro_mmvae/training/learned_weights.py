"""The learned weights of a model, in a form that a run directory keeps."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_mmvae.aggregation.subsets import SubsetFamily, membership
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.run_files import join_names
from pyro_mmvae.training.team import Team
from pyro_mmvae.vae.vae import MultimodalVAE


@torch.no_grad()
def learned_weights(
    vae: MultimodalVAE, data: MultimodalDataset, *, batch_size: int = 500, team: Team | None = None
) -> dict[str, Any]:
    """Return the learned expert weights λ and subset weights π of a model.

    Args:
        vae: The model, in any mode, which is restored.
        data: The data set, on the model's device; λ may depend on the items.
        batch_size: The number of items encoded at once.
        team: The processes that share the items, all of which call this function; by default this process alone.

    Returns:
        A dictionary with ``expert_weights``, modality name to the mean of λ over the items that have it (1 where no
        modality is preferred), and ``subset_weights``, names of the subset, joined by
        :func:`~pyro_mmvae.run_files.join_names`, to π of an item that has everything. What is not learned is left out.
    """
    result: dict[str, Any] = {}
    guide, mode, team = vae.guide, vae.training, team or Team()
    vae.eval()
    if guide.aggregation.learns_expert_weights:
        sums = torch.zeros(len(vae.names), dtype=torch.float64)
        counts = torch.zeros_like(sums)
        for start in range(0, len(data), batch_size):
            own = team.shard(min(batch_size, len(data) - start))
            experts = guide.experts(make_batch(data, slice(start + own.start, start + own.stop)))
            weights = cast("Tensor", guide.expert_weights(experts)).expand(experts.mask.shape)
            sums += own.weight * (weights * experts.mask).sum(0).double().cpu()
            counts += own.weight * experts.mask.sum(0).double().cpu()
        on_device = team.sum(torch.stack([sums, counts]).to(next(vae.parameters()).device))
        sums, counts = on_device.cpu()
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
