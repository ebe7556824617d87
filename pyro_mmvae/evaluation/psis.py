"""Pareto shapes k̂ of importance weights: do draws from the guide suffice to represent the posterior?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import arviz
import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.importance import sample_importance
from pyro_mmvae.evaluation.metrics import Metric, subset_names
from pyro_mmvae.evaluation.posteriors import density_of, draws_at_once, indices_with_all, seeded, select
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE

FLAT = 0.01
"""Weights within so many nats of one another are equal for every purpose: the rounding of a float32 density of ten
thousand pixels is a tenth of it, and the effective sample size above 99.99 % of the draws."""

MIN_DRAWS = 1000
"""Fewer draws leave fewer than 95 in the tail, 3 √S, that the Pareto shape is fitted to: k̂ would be noise."""


@dataclass(frozen=True, eq=False)
class KHat:
    """Pareto shapes of the importance weights of some items.

    Attributes:
        values: k̂ of each item, `(item,)`; infinite where there is no tail to fit.
        items: which of the data they are, `(item,)`.
        threshold: above it the draws are not enough.
        rows: ``khat``, the median, and ``khat_share``, the share of items above the threshold.
    """

    values: NDArray[np.float64]
    items: NDArray[np.int64]
    threshold: float
    rows: list[Metric]


def psis_khat(log_weights: Float[Tensor, "sample item"]) -> NDArray[np.float64]:
    """Pareto shape k̂ of each item's importance weights, by ArviZ.

    0 where the weights are all but equal, which have no tail to fit a Pareto to (ArviZ gives infinity there); infinity
    where one is NaN or infinite.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024. Pareto smoothed importance sampling. JMLR 25(72).
        Yao, Vehtari, Simpson and Gelman, 2018. Yes, but did it work? Evaluating variational inference. ICML.

    Args:
        log_weights: log p(x, z) − log q(z | x), `(sample, item)`.

    Returns:
        `(item,)`.
    """
    values = log_weights.double().cpu().numpy()
    result = np.zeros(values.shape[1])
    for i, column in enumerate(values.T):
        if not (column < np.inf).all() or not np.isfinite(column).any():
            result[i] = np.inf
        elif column.max() - column.min() > FLAT:
            result[i] = float(arviz.psislw(column)[1])
    return result


def khat_threshold(samples: int) -> float:
    """Above min(1 − 1/log10 S, 0.7) a k̂ says that S draws are not enough (Vehtari et al., 2024)."""
    return min(1 - 1 / math.log10(samples), 0.7)


def khat(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subset: Sequence[int],
    samples: int = MIN_DRAWS,
    items: int = 100,
    seed: int = 0,
) -> KHat:
    """PSIS k̂ of p(x_S, z) / q(z | x_S) of each item: does the guide given S fit the posterior given S?

    Both sides see the same modalities, with the full mixture density and β = w = 1. (As a proposal for *all* that was
    observed, of which ``ess`` of target ``all`` tells, even the exact posterior given S would look bad.)

    References:
        Yao, Vehtari, Simpson and Gelman, 2018. Yes, but did it work? Evaluating variational inference. ICML.

    Args:
        vae: in eval mode.
        experts: of the items of ``data``.
        data: items.
        subset: S.
        samples: draws an item, ``MIN_DRAWS`` at least.
        items: how many at the most, chosen at random among those that have every modality of the subset.
        seed: of the choice and the draws; torch's generators are put back after.

    Raises:
        ValueError: for too few draws, or if no item has the subset.
    """
    if samples < MIN_DRAWS:
        raise ValueError(f"samples must be at least {MIN_DRAWS} for a Pareto fit, not {samples}")
    index = indices_with_all(experts, subset).cpu().numpy()
    chosen = np.sort(np.random.default_rng(seed).choice(index, min(items, len(index)), replace=False))
    rows = torch.as_tensor(chosen)
    device = experts.loc.device
    given = subset_names(subset, vae.names)
    size = max(draws_at_once(device) // 10, 1)  # few items and several draws of each: their images stay in the caches
    weights = []
    with seeded(seed, device):
        for part in rows.split(size):
            batch = make_batch(data, part.to(data.present.device)).to(device)
            drawn = sample_importance(vae, select(experts, part.to(device)), batch, subset, samples, names=given)
            weights.append(drawn.log_weights(given))
    values = psis_khat(torch.cat(weights, 1))
    threshold = khat_threshold(samples)
    density = "full posterior density" if density_of(vae, experts.num_modalities) == "mixture" else "full component"
    protocol = f"PSIS of p(x_S, z) / q(z | x_S), S={samples}, {density}, {len(chosen)} of {len(index)} items"
    figures = {"khat": float(np.median(values)), "khat_share": float((values > threshold).mean())}
    found = [Metric(name, protocol, given, "", value, len(chosen), seed) for name, value in figures.items()]
    return KHat(values, chosen.astype(np.int64), threshold, found)
