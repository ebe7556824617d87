"""Importance-weighted estimates of the log likelihood of held-out items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
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

TOLERANCE = 0.05
"""The change and the bias in nats up to which an estimate stands: half of the last digit that tables print."""


def held_out_log_likelihood(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subsets: Sequence[Sequence[int]],
    samples: int = 64,
    max_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 50,
) -> list[Metric]:
    r"""Estimate log likelihoods by importance sampling, with the posterior given each subset as the proposal.

    .. math:: \log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k \mid x_S)}, \qquad z_k \sim q(\cdot \mid x_S)

    The mean over draws is taken per item, then the mean over items (Burda et al., 2016; Sutter et al., 2021). Items
    that lack a modality of the subset are left out. x_all stands for all modalities observed of an item.

    The logarithm of a mean is a lower bound in expectation. An estimate *stands* if the second half of the draws
    changed its mean over items by no more than the standard error of that change or 0.05 nats, whichever is larger,
    and if the bias that is left, :math:`\frac12 (1/\text{ESS} - 1/K)` by the delta method (Nowozin, 2018), is at most
    0.05 nats on average. K is doubled until the estimates of x_S and of x_all stand, up to ``max_samples``. It is not
    doubled where the bias would exceed 0.05 nats at ``max_samples`` even if the effective sample size grew in
    proportion to K. Estimates that do not stand are bounds of different tightness, and do not rank models.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The data set of held-out items.
        subsets: Subsets of the modalities, each as indices.
        samples: The number K of draws per item to begin with, 64 by default.
        max_samples: The largest number K of draws per item; by default, and if it is smaller, ``samples``.
        seed: The seed of the draws of each subset, 0 by default; the states of torch's generators are restored
            afterwards.
        batch_size: The number of items to evaluate at once, 50 by default.

    Returns:
        For each subset that some item has, and for the targets ``given``, x_S, and ``all``, x_all:
        ``log_likelihood`` in nats and the effective sample size ``ess`` in draws, as means over items;
        ``log_likelihood_se``, the standard error of the mean over items, in nats, if there are two items or more;
        ``log_likelihood_samples``, the K that was reached; and ``log_likelihood_stands``, 1 if the estimate stands and
        otherwise 0. The protocol names the range of K and the number of items of ``data``, so that figures of other
        numbers of items are never averaged with these.

    References:
        Burda, Grosse and Salakhutdinov, 2016. Importance weighted autoencoders. ICLR, arXiv 1509.00519.
        Nowozin, 2018. Debiasing evidence approximations: on importance-weighted autoencoders and jackknife variational
        inference. ICLR.
    """
    density = "mixture density" if density_of(vae, experts.num_modalities) == "mixture" else "joint component"
    limit = max(samples, max_samples or samples)
    draws = f"K={samples}" if limit == samples else f"K={samples} to {limit}"
    protocol = f"importance-weighted, {draws}, {len(data)} items, {density}, beta=w=1"
    rows = []
    for subset in subsets:
        index = has_all(experts, subset).nonzero()[:, 0]
        if not len(index):
            continue
        given = subset_names(subset, vae.names)
        parts = index.split(batch_size)
        with seeded(seed, index.device):
            weights = _draw(vae, experts, data, subset, parts, samples)
            while _should_grow(weights, limit):
                count = len(weights["given"])
                more = _draw(vae, experts, data, subset, parts, min(count, limit - count))
                weights = {target: torch.cat([weights[target], more[target]]) for target in weights}
        for target, log_weights in weights.items():
            figures = log_mean_exp(log_weights)
            values = {"log_likelihood": float(figures.mean())}
            if len(index) > 1:
                values["log_likelihood_se"] = float(figures.std()) / math.sqrt(len(index))
            values["ess"] = float(effective_sample_size(log_weights).mean())
            values["log_likelihood_samples"] = float(len(log_weights))
            values["log_likelihood_stands"] = float(stands(log_weights))
            rows += [Metric(name, protocol, given, target, value, len(index), seed) for name, value in values.items()]
    return rows


def stands(log_weights: Float[Tensor, "sample item"]) -> bool:
    """Return True if more draws would hardly change the mean of log-mean-exp over items.

    Args:
        log_weights: The log importance weights, `(sample, item)`.

    Returns:
        True if both conditions of :func:`held_out_log_likelihood` hold; False for a single draw, which cannot tell.
    """
    if len(log_weights) < 2:
        return False
    change = log_mean_exp(log_weights) - log_mean_exp(log_weights[: (len(log_weights) + 1) // 2])
    error = float(change.std()) / math.sqrt(len(change)) if len(change) > 1 else 0.0
    return abs(float(change.mean())) <= max(error, TOLERANCE) and mean_bias(log_weights) <= TOLERANCE


def mean_bias(log_weights: Float[Tensor, "sample item"]) -> float:
    """Return the bias of log-mean-exp by the delta method, in nats and positive, as a mean over items.

    Args:
        log_weights: The log importance weights, `(sample, item)`.
    """
    return float((1 / effective_sample_size(log_weights) - 1 / len(log_weights)).mean()) / 2


def _should_grow(weights: Mapping[str, Tensor], limit: int) -> bool:
    """Return True if some estimate does not stand yet, and may stand with at most ``limit`` draws."""
    return any(
        len(w) < limit and not stands(w) and (len(w) < 2 or mean_bias(w) * len(w) / limit <= TOLERANCE)
        for w in weights.values()
    )


def _draw(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    subset: Sequence[int],
    parts: Sequence[Tensor],
    samples: int,
) -> dict[str, Tensor]:
    """Draw given a subset, and return the log weights `(sample, item)` of both targets, in float64 on the CPU."""
    given = subset_names(subset, vae.names)
    weights: dict[str, list[Tensor]] = {"given": [], "all": []}
    for part in parts:
        batch = make_batch(data, part.to(data.present.device)).to(part.device)
        drawn = sample_importance(vae, select(experts, part), batch, subset, samples)
        for target, names in (("given", given), ("all", tuple(batch.values))):
            weights[target].append(drawn.log_weights(names).double().cpu())
    return {target: torch.cat(columns, 1) for target, columns in weights.items()}
