"""Importance-weighted estimates of the log likelihood of held-out items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.importance import effective_sample_size, log_mean_exp, sample_importance
from pyro_mmvae.inference.posteriors import (
    density_of,
    has_all,
    select,
    subset_names,
)
from pyro_mmvae.vae.vae import MultimodalVAE


def held_out_log_likelihood(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subsets: Sequence[Sequence[int]],
    samples: int = 64,
    seed: int = 0,
    batch_size: int = 50,
) -> list[Metric]:
    r"""Estimate log likelihoods by importance sampling, with the posterior given each subset as the proposal.

    .. math:: \log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k \mid x_S)}, \qquad z_k \sim q(\cdot \mid x_S)

    The mean over draws is taken per item, then the mean over items (Burda et al., 2016; Sutter et al., 2021). Items
    that lack a modality of the subset are left out. x_all stands for all modalities observed of an item.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The data set of held-out items.
        subsets: Subsets of the modalities, each as indices.
        samples: The number K of draws per item, 64 by default.
        seed: The seed of the draws of each subset, 0 by default; the states of torch's generators are restored
            afterwards.
        batch_size: The number of items to evaluate at once, 50 by default.

    Returns:
        For each subset that some item has, ``log_likelihood`` of x_S (target ``given``) and of x_all (target ``all``)
        in nats, and the effective sample size ``ess`` of each in draws, as means over items; and, if there are two
        items or more, ``log_likelihood_se``, the standard error of the mean over items, in nats. The protocol names the
        number of items of ``data``, so that figures of other numbers of items are never averaged with these.
    """
    density = "mixture density" if density_of(vae, experts.num_modalities) == "mixture" else "joint component"
    protocol = f"importance-weighted, K={samples}, {len(data)} items, {density}, beta=w=1"
    rows = []
    for subset in subsets:
        index = has_all(experts, subset).nonzero()[:, 0]
        if not len(index):
            continue
        given = subset_names(subset, vae.names)
        values: dict[tuple[str, str], list[Tensor]] = {}
        with seeded(seed, index.device):
            for part in index.split(batch_size):
                batch = make_batch(data, part.to(data.present.device)).to(index.device)
                drawn = sample_importance(vae, select(experts, part), batch, subset, samples)
                for target, names in (("given", given), ("all", tuple(batch.values))):
                    weights = drawn.log_weights(names)
                    for metric, value in (
                        ("log_likelihood", log_mean_exp(weights)),
                        ("ess", effective_sample_size(weights)),
                    ):
                        values.setdefault((metric, target), []).append(value.double().cpu())
        for (metric, target), parts in values.items():
            figures = torch.cat(parts)
            rows.append(Metric(metric, protocol, given, target, float(figures.mean()), len(index), seed))
            if metric == "log_likelihood" and len(index) > 1:
                error = float(figures.std()) / math.sqrt(len(index))
                rows.append(Metric("log_likelihood_se", protocol, given, target, error, len(index), seed))
    return rows
