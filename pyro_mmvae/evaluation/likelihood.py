"""Importance-weighted estimates of the log likelihood of held-out items."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_mmvae._seeding import seeded
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.importance import effective_sample_size, log_mean_exp, sample_importance
from pyro_mmvae.evaluation.metrics import Metric, subset_names
from pyro_mmvae.evaluation.posteriors import (
    density_of,
    has_all,
    select,
)
from pyro_mmvae.experts import Experts
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
        in nats, and the effective sample size ``ess`` of each in draws, as means over items.
    """
    density = "mixture density" if density_of(vae, experts.num_modalities) == "mixture" else "joint component"
    protocol = f"importance-weighted, K={samples}, {density}, beta=w=1"
    rows = []
    for subset in subsets:
        index = has_all(experts, subset).nonzero()[:, 0]
        if not len(index):
            continue
        given = subset_names(subset, vae.names)
        totals: dict[tuple[str, str], float] = {}
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
                        key = (metric, target)
                        totals[key] = totals.get(key, 0.0) + float(value.sum())
        rows += [
            Metric(metric, protocol, given, target, total / len(index), len(index), seed)
            for (metric, target), total in totals.items()
        ]
    return rows
