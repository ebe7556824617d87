"""Residuals of modalities given all of an item: their variance, and the structure that two of them share."""

from __future__ import annotations

import math
from itertools import combinations
from typing import cast

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import draws_at_once, posterior_means, private_posteriors, select
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.run_files import join_names
from pyro_mmvae.vae.vae import MultimodalVAE

LEAST_ITEMS = 50
"""The number of items from which the kernel alignment of residuals is computed; with fewer its noise is of the order of
the values that matter."""


@torch.no_grad()
def residuals(vae: MultimodalVAE, experts: Experts, data: MultimodalDataset, *, items: int = 500) -> list[Metric]:
    r"""Measure the residuals of all modalities given all modalities of an item.

    A residual is the difference of an observation and the mean of its likelihood at the posterior mean of z and of the
    private latents. Vectors and counts, the latter after log(1 + x), are divided by the standard deviation of each
    feature over the items; tokens are one-hot vectors. The likelihood factorises over modalities given z, so that the
    residuals of two modalities are independent if z holds what the modalities share. Their dependence is measured by
    the linear kernel alignment (Kornblith et al., 2019) with the unbiased estimator of Song et al. (2012) for the
    Hilbert–Schmidt independence criterion, which is 0 on average for independent residuals of any dimension:

    .. math:: \frac{HSIC(K, L)}{\sqrt{HSIC(K, K) \, HSIC(L, L)}}, \qquad K = R_a R_a^\top, \; L = R_b R_b^\top

    References:
        Kornblith, Norouzi, Lee and Hinton, 2019. Similarity of neural network representations revisited. ICML.
        Song, Smola, Gretton, Bedo and Borgwardt, 2012. Feature selection via dependence maximization. JMLR 13.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The data set of observed items.
        items: The number of items to use at most, evenly spaced ones; 500 by default.

    Returns:
        - ``residual_share``: the variance of the residuals of a modality, as a share of the variance of its values;
          1 for a decoder that returns the mean of all items, above 1 for one that is worse;
        - ``residual_alignment``: the alignment of the residuals of two modalities (``target``, joined by ``+``), over
          items that have both; left out for fewer than ``LEAST_ITEMS`` of them.
    """
    step = max(len(experts.loc) / items, 1.0)
    chosen = [int(i * step) for i in range(min(items, len(experts.loc)))]
    rows, found, names = [], {}, vae.names
    for name, (index, residual, values) in _residuals(vae, experts, data, chosen).items():
        spread = values.var(0, correction=0).sum()
        if len(index) > 1 and spread > 0:
            found[name] = dict(zip(index, residual - residual.mean(0), strict=True))
            share = float(residual.square().mean(0).sum() / spread)
            rows.append(Metric("residual_share", "at posterior means", names, name, share, len(index), 0))
    for a, b in combinations(found, 2):
        both = [i for i in found[a] if i in found[b]]
        if len(both) >= LEAST_ITEMS:
            value = kernel_alignment(*(torch.stack([found[m][i] for i in both]) for m in (a, b)))
            if math.isfinite(value):
                pair = join_names((a, b))
                rows.append(Metric("residual_alignment", "unbiased, linear", names, pair, value, len(both), 0))
    return rows


def kernel_alignment(x: Float[Tensor, "item feature"], y: Float[Tensor, "item other"]) -> float:
    """Return the linear kernel alignment of two sets of features of the same items, by unbiased estimators.

    Args:
        x: Features of shape `(item, feature)`, of at least four items.
        y: Features of shape `(item, other)` of the same items.

    Returns:
        The alignment, 1 for features that are equal up to a rotation and a factor, and 0 on average for independent
        ones; NaN if the features of one do not vary.
    """
    k, m = x @ x.T, y @ y.T
    scale = _hsic(k, k) * _hsic(m, m)
    return _hsic(k, m) / math.sqrt(scale) if scale > 0 else math.nan


def _hsic(k: Tensor, m: Tensor) -> float:
    """Return the unbiased Hilbert–Schmidt independence criterion of two kernel matrices (Song et al., 2012, eq. 5)."""
    n = len(k)
    k, m = k - k.diag().diag(), m - m.diag().diag()
    crossed = k.sum(0) @ m.sum(0)
    return float((k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * crossed / (n - 2)) / (n * (n - 3))


def _residuals(
    vae: MultimodalVAE, experts: Experts, data: MultimodalDataset, chosen: list[int]
) -> dict[str, tuple[list[int], Tensor, Tensor]]:
    """Return the positions of the items that have a modality, its residuals and its values, by modality."""
    every, size = range(experts.num_modalities), draws_at_once(experts.loc.device)
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in vae.names}
    positions: dict[str, list[int]] = {name: [] for name in vae.names}
    for start in range(0, len(chosen), size):
        index = torch.tensor(chosen[start : start + size])
        z = posterior_means(vae, select(experts, index.to(experts.loc.device)), every)
        batch = make_batch(data, index.to(data.present.device)).to(experts.loc.device)
        private = {name: q.mean for name, q in private_posteriors(vae, batch, every)(z).items()}
        parameters = vae.model.parameters_given(z, tuple(batch.values), private, batch.covariates)
        for name, value in batch.values.items():
            present = batch.present.get(name, torch.ones(len(value), dtype=torch.bool)).cpu()
            mean, observed = _comparable(vae, name, parameters[name], value)
            parts[name].append((mean[present.to(mean.device)], observed[present.to(mean.device)]))
            positions[name] += index[present].tolist()
    result = {}
    for name, pairs in parts.items():
        if not positions[name]:
            continue
        mean, observed = (torch.cat(tensors).cpu() for tensors in zip(*pairs, strict=True))
        likelihood = cast("Likelihood", vae.model.likelihoods[name])
        if len(likelihood.shape) == 1 and not likelihood.is_categorical:  # features have units of their own
            deviation = observed.std(0, correction=0)
            mean, observed = (x / torch.where(deviation > 0, deviation, 1.0) for x in (mean, observed))
        result[name] = positions[name], observed - mean, observed
    return result


def _comparable(vae: MultimodalVAE, name: str, parameters: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the likelihood and the observation as numbers `(item, feature)` that can be subtracted."""
    likelihood = cast("Likelihood", vae.model.likelihoods[name])
    if likelihood.has_size_factor:
        mean = likelihood(parameters, value).mean
        return mean.double().flatten(1).log1p(), value.double().flatten(1).log1p()
    mean = likelihood.mean(parameters).double()
    if likelihood.is_categorical:
        value = torch.nn.functional.one_hot(value.long(), mean.shape[-1])
    return mean.flatten(1), value.double().flatten(1)
