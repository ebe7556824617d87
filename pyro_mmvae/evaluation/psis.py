"""Pareto shapes k̂ of importance weights, which tell whether draws from the guide represent the posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.pareto import draws_needed, pareto_shape
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.importance import sample_importance
from pyro_mmvae.inference.posteriors import density_of, draws_at_once, indices_with_all, select, subset_names
from pyro_mmvae.vae.vae import MultimodalVAE

FLAT = 0.01
"""The range of log weights, in nats, below which the weights count as equal. Rounding a float32 density of ten thousand
pixels makes a tenth of it, and at this range the effective sample size exceeds 99.99 % of the draws."""

MIN_DRAWS = 1000
"""The smallest number of draws. Fewer would leave fewer than 95 draws (3 √S) in the tail that the Pareto shape is
fitted to, and k̂ would be noise."""

_DENSITIES = {"mixture": "mixture density", "joint": "joint component"}


@dataclass(frozen=True, eq=False)
class KHat:
    """The Pareto shapes of the importance weights of some items.

    Attributes:
        values: k̂ of each item, of shape `(item,)`; infinite if a weight is NaN or infinite.
        items: The indices of the items in the data, of shape `(item,)`.
        threshold: The value of k̂ above which the draws do not suffice.
        rows: The figures ``khat``, the median, ``khat_share``, the share of items above the threshold, and
            ``khat_draws``, the number of draws that the median asks for, infinite if no number suffices. Those of the
            joint component have names that start with ``khat_joint`` instead.
    """

    values: NDArray[np.float64]
    items: NDArray[np.int64]
    threshold: float
    rows: list[Metric]


def psis_khat(log_weights: Float[Tensor, "sample item"]) -> NDArray[np.float64]:
    """Return the Pareto shape k̂ of the importance weights of each item, see :func:`~.pareto.pareto_shape`.

    k̂ is 0 if the weights are nearly equal, since there is no tail to fit then, and infinity if a weight is NaN or
    infinite.

    References:
        Vehtari, Simpson, Gelman, Yao and Gabry, 2024. Pareto smoothed importance sampling. JMLR 25(72).
        Yao, Vehtari, Simpson and Gelman, 2018. Yes, but did it work? Evaluating variational inference. ICML.

    Args:
        log_weights: Log importance weights log p(x, z) − log q(z | x), of shape `(sample, item)`.

    Returns:
        k̂ of each item, of shape `(item,)`.
    """
    values = log_weights.double().cpu().numpy()
    result = np.zeros(values.shape[1])
    for i, column in enumerate(values.T):
        if not (column < np.inf).all() or not np.isfinite(column).any():
            result[i] = np.inf
        elif column.max() - column.min() > FLAT:
            result[i] = pareto_shape(column)
    return result


def khat_threshold(samples: int) -> float:
    """Return min(1 − 1/log10 S, 0.7), the k̂ above which S draws do not suffice (Vehtari et al., 2024)."""
    return min(1 - 1 / math.log10(samples), 0.7)


def khat(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subset: Sequence[int],
    density: str | None = None,
    samples: int = MIN_DRAWS,
    items: int = 100,
    seed: int = 0,
) -> KHat:
    """Compute PSIS k̂ of p(x_S, z) / q(z | x_S) per item: does the guide given S fit the posterior given S?

    Both densities see the same modalities, with β = w_m = 1. (As a proposal for *all* observed modalities, which
    ``ess`` with target ``all`` measures, even the exact posterior given S would look bad.)

    References:
        Yao, Vehtari, Simpson and Gelman, 2018. Yes, but did it work? Evaluating variational inference. ICML.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The items to choose from.
        subset: Indices of the modalities S to condition on.
        density: ``mixture`` for the whole posterior of the guide, or ``joint`` for its component of all modalities
            given; by default the mixture, unless it has too many components.
        samples: The number of draws per item, at least ``MIN_DRAWS``.
        items: The largest number of items, 100 by default, chosen at random among those with every modality of the
            subset.
        seed: The seed of the choice and the draws, 0 by default; the states of torch's generators are restored
            afterwards.

    Returns:
        The shapes of the chosen items, and their summary as rows.

    Raises:
        ValueError: If there are too few draws, or no item has every modality of the subset.
    """
    if samples < MIN_DRAWS:
        raise ValueError(f"samples must be at least {MIN_DRAWS} for a Pareto fit, got {samples}")
    index = indices_with_all(experts, subset).cpu().numpy()
    chosen = np.sort(np.random.default_rng(seed).choice(index, min(items, len(index)), replace=False))
    rows = torch.as_tensor(chosen)
    device = experts.loc.device
    given = subset_names(subset, vae.names)
    size = max(draws_at_once(device) // 10, 1)  # few items with several draws each, so that images stay in the caches
    weights = []
    with seeded(seed, device):
        for part in rows.split(size):
            batch = make_batch(data, part.to(data.present.device)).to(device)
            of_part = select(experts, part.to(device))
            drawn = sample_importance(vae, of_part, batch, subset, samples, names=given, density=density)
            weights.append(drawn.log_weights(given))
    values = psis_khat(torch.cat(weights, 1))
    threshold = khat_threshold(samples)
    used = density or density_of(vae, experts.num_modalities)
    protocol = f"PSIS of p(x_S, z) / q(z | x_S), S={samples}, {_DENSITIES[used]}, {len(chosen)} of {len(index)} items"
    median = float(np.median(values))
    figures = {"": median, "_share": float((values > threshold).mean()), "_draws": draws_needed(median)}
    metric = "khat_joint" if density == "joint" else "khat"
    metrics = [Metric(metric + end, protocol, given, "", value, len(chosen), seed) for end, value in figures.items()]
    return KHat(values, chosen.astype(np.int64), threshold, metrics)
