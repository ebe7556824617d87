"""Scores of items: how likely they are, how well they are reconstructed, and how much their modalities disagree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.barycenters import bures
from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.encoding import CHUNK, Progress, encoded_batches
from pyro_mmvae.inference.gaussian_distances import w2
from pyro_mmvae.inference.importance import effective_sample_size, log_mean_exp, sample_importance
from pyro_mmvae.inference.items import ItemsLike, batch_multiple, check_shapes, seeded_chunk, select_items
from pyro_mmvae.inference.posteriors import density_of, posterior_means, select
from pyro_mmvae.inference.tables import ItemTable
from pyro_mmvae.likelihoods import Likelihood, StandardizedLikelihood
from pyro_mmvae.vae.vae import MultimodalVAE


@torch.no_grad()
def score(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    *,
    items: ItemsLike = None,
    draws: int = 32,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> ItemTable:
    r"""Score items by everything that was observed of them.

    The combined ``outlier`` score is the mean of three ranks in [0, 1]: of −log p(x) among the items with the same
    modalities, of the negative log likelihood of the worst modality, and of the disagreement of the worst modality,
    each ranked within its modality; ranks of an item that does not have them are left out.

    Args:
        vae: The model, in eval mode.
        data: The data set that holds the items.
        items: The selection of items, see :func:`~pyro_mmvae.inference.items.select_items`; all by default.
        draws: The number K of draws per item, 32 by default.
        batch_size: The number of items to read at once, 500 by default.
        seed: The seed of the draws, 0 by default; the states of torch's generators are restored afterwards.
        progress: A callback that receives the number of items of each finished batch.

    Returns:
        A table with the arrays below, NaN where an item does not have the modality.

        - ``log_likelihood``: the importance-weighted estimate of log p(x) in nats,
          :math:`\log \frac1K \sum_k p(x, z_k) / q(z_k \mid x)`, and ``ess``, its effective sample size in draws;
        - ``nll`` by modality: −log p(x_m | z) in nats, its mean over the draws;
        - ``error`` by modality: the root mean square error of the likelihood's mean at the posterior mean, relative
          to the standard deviation of the modality over these items; of tokens the share of wrong ones;
        - ``disagreement`` by modality: the W₂ distance of the expert to the 2-Wasserstein barycenter of all experts of
          the item, for items with two modalities or more;
        - ``mismatch``: the largest W₂ distance between two experts of the item relative to the median distance of
          these two modalities, and ``mismatch_pair``, which two they are;
        - ``outlier``: the combined rank, 1 for the most unusual item.

    Raises:
        ValueError: If a number is not positive, or the data does not fit the model.
    """
    if draws < 1:
        raise ValueError(f"draws must be positive, got {draws}")
    check_shapes(vae, data)
    chosen, blocks, spreads = select_items(data, items), dict[str, list[NDArray[Any]]](), _Spreads()
    for part, batch, experts in encoded_batches(vae, chosen, vae.names, batch_multiple(batch_size, CHUNK)):
        arrays = _likelihoods(vae, batch, experts, draws, seed, part.start)
        arrays["error"] = _errors(vae, batch, experts, spreads)
        arrays["disagreement"], arrays["pairs"] = _distances(experts)
        for name, value in arrays.items():
            blocks.setdefault(name, []).append(value.double().cpu().numpy())
        if progress is not None:
            progress(part.stop - part.start)
    result = {name: np.concatenate(parts) for name, parts in blocks.items()}
    result["error"] /= spreads.values(vae)
    present = chosen.present(vae.names)
    for name in ("nll", "error"):
        result[name] = np.where(present, result[name], np.nan)
    for name in ("log_likelihood", "ess"):
        result[name] = np.where(present.any(-1), result[name], np.nan)
    result["mismatch"], result["mismatch_pair"] = _mismatches(result.pop("pairs"), vae.names)
    result["outlier"] = _outlier(result, present)
    columns = {name: tuple(f"{name}_{modality}" for modality in vae.names) for name in ("nll", "error", "disagreement")}
    about = {"draws": draws, "density": density_of(vae, len(vae.names)), "seed": seed}
    return ItemTable(chosen.ids, result, columns, about)


def _likelihoods(
    vae: MultimodalVAE, batch: Batch, experts: Experts, draws: int, seed: int, start: int
) -> dict[str, Tensor]:
    """Return the log likelihood estimate, its effective sample size, and the loss of each modality."""
    parts: dict[str, list[Tensor]] = {"log_likelihood": [], "ess": [], "nll": []}
    every = range(experts.num_modalities)
    for offset in range(0, len(experts.loc), CHUNK):
        rows = slice(offset, offset + CHUNK)
        with seeded_chunk(experts.loc.device, seed, start + offset):
            drawn = sample_importance(vae, select(experts, rows), batch.rows(rows), every, draws)
        weights = drawn.log_weights(tuple(drawn.log_likelihood))
        parts["log_likelihood"].append(log_mean_exp(weights))
        parts["ess"].append(effective_sample_size(weights))
        blank = weights.new_zeros(weights.shape[1])
        means = (drawn.log_likelihood[n].double().mean(0) if n in drawn.log_likelihood else blank for n in vae.names)
        parts["nll"].append(-torch.stack(list(means), -1))
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


class _Spreads:
    """The running moments of the modalities that are not tokens, from which errors are put in relation."""

    def __init__(self) -> None:
        self.sums: dict[str, list[Any]] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add the observed values of some items, `(item, feature)`."""
        if not len(values):
            return
        block = values.double().cpu()
        shift = block.mean(0) if name not in self.sums else self.sums[name][3]
        count, total, squares, _ = self.sums.get(name, [0, 0.0, 0.0, shift])
        block = block - shift
        self.sums[name] = [count + len(block), total + block.sum(0), squares + block.square().sum(0), shift]

    def values(self, vae: MultimodalVAE) -> NDArray[np.float64]:
        """Return the root of the mean variance of the features of each modality, 1 where that is 0 or unknown."""
        result = np.ones(len(vae.names))
        for m, name in enumerate(vae.names):
            if name in self.sums:
                count, total, squares, _ = self.sums[name]
                spread = float(((squares - total.square() / count).clamp(min=0) / count).mean().sqrt())
                result[m] = spread if spread > 0 else 1.0
        return result


def _errors(vae: MultimodalVAE, batch: Batch, experts: Experts, spreads: _Spreads) -> Tensor:
    """Return the error of each modality at the posterior mean, and record the spread of the observed values."""
    z = posterior_means(vae, experts, range(experts.num_modalities))
    posteriors_of_u = vae.private_posterior(batch, z) if batch.values else {}
    private = {name: cast("Tensor", q.mean) for name, q in posteriors_of_u.items()}
    result = experts.loc.new_zeros(len(z), experts.num_modalities)
    names = [name for name in vae.names if name in batch.values]
    for start in range(0, len(z), CHUNK):
        rows = slice(start, start + CHUNK)
        known = {name: u[rows] for name, u in private.items()}
        covariates = None if batch.covariates is None else batch.covariates[rows]
        means = vae.decode(z[rows], names, known, covariates)
        for name in names:
            likelihood, value = cast("Likelihood", vae.model.likelihoods[name]), batch.values[name][rows]
            wrong: Tensor
            if likelihood.is_categorical:
                wrong = (likelihood.point(means[name]) != value).float().reshape(len(value), -1).mean(-1)
            else:
                unit = likelihood.spread if isinstance(likelihood, StandardizedLikelihood) else 1.0
                difference = ((means[name] - value) / unit).reshape(len(value), -1)
                wrong = difference.double().square().mean(-1).sqrt().float()
                mask = batch.present.get(name)
                seen = (value / unit).reshape(len(value), -1)
                spreads.add(name, seen if mask is None else seen[mask[rows]])
            result[rows, vae.names.index(name)] = wrong
    return result


def _distances(experts: Experts) -> tuple[Tensor, Tensor]:
    """Return W₂ of each expert to the barycenter `(item, modality)` and of pairs of experts `(item, pair)`, or NaN."""
    mask, loc, full = experts.mask, experts.loc.double(), experts.scale_tril
    several = mask & (mask.sum(-1, keepdim=True) > 1)
    weights = mask.double() / mask.sum(-1, keepdim=True).clamp(min=1)
    center = (weights.unsqueeze(-1) * loc).sum(-2)
    pairs = list(combinations(range(experts.num_modalities), 2))
    both = torch.stack([mask[:, a] & mask[:, b] for a, b in pairs], -1) if pairs else mask[:, :0]
    if full is None:
        scale = experts.stddev.double()
        middle = (weights.unsqueeze(-1) * scale).sum(-2)
        to_center = w2(loc, scale, center.unsqueeze(-2), middle.unsqueeze(-2))
        between = [w2(loc[:, a], scale[:, a], loc[:, b], scale[:, b]) for a, b in pairs]
    else:
        tril = full.double()
        seen = torch.where(mask.any(-1, keepdim=True), weights, 1 / experts.num_modalities)
        middle = bures.barycenter(seen.unsqueeze(-2), tril).scale_tril.squeeze(-3)
        every = range(experts.num_modalities)
        to_center = torch.stack([_bures(loc[:, m], tril[:, m], center, middle) for m in every], -1)
        between = [_bures(loc[:, a], tril[:, a], loc[:, b], tril[:, b]) for a, b in pairs]
    distances = torch.stack(between, -1) if pairs else to_center[:, :0]
    return _where(several, to_center), _where(both, distances)


def _bures(loc: Tensor, tril: Tensor, other_loc: Tensor, other_tril: Tensor) -> Tensor:
    return bures.squared_distance(loc, tril, other_loc, other_tril).clamp(min=0).sqrt()


def _where(mask: Bool[Tensor, "*value"], values: Tensor) -> Tensor:
    return torch.where(mask, values, torch.nan)


def _mismatches(pairs: NDArray[Any], names: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.str_]]:
    """Return the largest distance of two experts relative to its median, and the names of the two."""
    labels = np.array([f"{a}, {b}" for a, b in combinations(names, 2)] or [""])
    if not pairs.shape[1]:
        return np.full(len(pairs), np.nan), np.full(len(pairs), "")
    seen = ~np.isnan(pairs)
    medians = np.array(
        [np.median(column[kept]) if kept.any() else 1.0 for column, kept in zip(pairs.T, seen.T, strict=True)]
    )
    relative = np.where(seen, pairs / np.where(medians > 0, medians, 1.0), -np.inf)
    largest = relative.max(-1)
    return np.where(seen.any(-1), largest, np.nan), np.where(seen.any(-1), labels[relative.argmax(-1)], "")


def _outlier(result: dict[str, NDArray[Any]], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of the ranks of the three criteria."""
    likelihood = np.full(len(present), np.nan)
    for pattern in np.unique(present, axis=0):
        same = (present == pattern).all(-1)
        likelihood[same] = _ranks(-result["log_likelihood"][same])
    criteria = [likelihood]
    for name in ("nll", "disagreement"):
        ranks = np.stack([_ranks(column) for column in result[name].T], -1)
        criteria.append(np.where(np.isnan(ranks), -1.0, ranks).max(-1))
    stacked = np.stack(criteria, -1)
    known = ~np.isnan(stacked) & (stacked >= 0)
    total = np.where(known, stacked, 0.0).sum(-1)
    return cast("NDArray[np.float64]", np.where(known.any(-1), total / np.maximum(known.sum(-1), 1), np.nan))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return ranks in [0, 1], 1 for the largest value; NaN stays NaN, and a single value has rank 0.5."""
    ranks, kept = np.full(len(values), np.nan), ~np.isnan(values)
    if kept.any():
        ranks[kept] = (rankdata(values[kept]) - 0.5) / kept.sum()
    return ranks
