"""The learned weights of a model, as recorded in the metrics of a run."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_mmvae.aggregation.functional import get_aggregation
from pyro_mmvae.aggregation.subsets import Family, membership
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.vae.vae import MultimodalVAE


@torch.no_grad()
def learned_weights(vae: MultimodalVAE, data: MultimodalDataset, *, batch_size: int = 500) -> dict[str, Any]:
    """Compute the learned expert weights λ and subset weights π of a model.

    Args:
        vae: The model and guide, in any mode; the mode is restored.
        data: The data set over which λ is averaged, on the device of the model.
        batch_size: The number of items that are encoded at once, 500 by default.

    Returns:
        ``weights``: the mean of λ over the items that have a modality, by modality name (1 where no modality is
        preferred); ``mixture_weights``: π of an item that has every modality, by subset, modality names joined by "+".
        Weights that are not learned are left out.
    """
    result: dict[str, Any] = {}
    guide, mode = vae.guide, vae.training
    vae.eval()
    if isinstance(guide.weights, (nn.Module, nn.Parameter)):
        sums = torch.zeros(len(vae.names), dtype=torch.float64)
        counts = torch.zeros_like(sums)
        for start in range(0, len(data), batch_size):
            experts = guide.experts(make_batch(data, slice(start, start + batch_size)))
            weights = cast("Tensor", guide.modality_weights(experts)).expand(experts.mask.shape)
            sums += (weights * experts.mask).sum(0).double().cpu()
            counts += experts.mask.sum(0).double().cpu()
        result["weights"] = {n: float(s / c) for n, s, c in zip(vae.names, sums, counts, strict=True) if c > 0}
    if isinstance(guide.mixture_weights, nn.Module):
        family = cast("Family", getattr(get_aggregation(guide.aggregation), "family", None))
        matrix = membership(family, len(vae.names), next(vae.parameters()).device)
        values = guide.mixture_weights(matrix)
        result["mixture_weights"] = {
            "+".join(name for name, member in zip(vae.names, row, strict=True) if member): float(value)
            for row, value in zip(matrix.tolist(), values / values.sum(), strict=True)
        }
    vae.train(mode)
    return result
