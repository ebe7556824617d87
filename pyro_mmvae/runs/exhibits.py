"""The items that a report shows: what a trained run says about them given each subset of their modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.exhibits import Exhibits
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.gaussian_distances import w2
from pyro_mmvae.inference.items import ItemsLike, select_items
from pyro_mmvae.inference.posteriors import density_of, encode_dataset, items_at_once, select
from pyro_mmvae.runs.exhibit_values import Decoder
from pyro_mmvae.runs.latent_maps import item_names, make_map
from pyro_mmvae.runs.run import Run
from pyro_mmvae.runs.sampling import class_strings, one_of_each_class

_JOINT = "posterior mean of the joint component"
_MIXTURE = "posterior mean of the whole mixture"
_NAMED_ATTRIBUTES = 4  # the largest number of attributes in the label of an item


@torch.no_grad()
def collect_exhibits(
    run: Run,
    data: MultimodalDataset,
    subsets: Sequence[tuple[int, ...]],
    *,
    items: ItemsLike = 100,
    points: int = 1000,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Exhibits:
    """Decode a few items given each subset of their modalities, and map the latents of these and further items.

    The latent is the posterior mean of the joint component, or of the whole mixture if the aggregation does not have
    such a component. The private latent of a modality is the mean of its posterior if the modality is given, otherwise
    a draw from its prior, which is equal for all subsets.

    Args:
        run: The trained run to use.
        data: The data set that holds the items.
        subsets: The subsets of the modalities, as indices, ordered by size; the last one is of all modalities.
        items: The items to show: a number of items, one of each class first, 100 by default; or a selection as in
            :func:`~pyro_mmvae.inference.items.select_items`.
        points: The largest number of items on the map, 1,000 by default, chosen at random.
        seed: The seed of all choices and draws, 0 by default; the states of torch's generators are restored.
        progress: A callback that receives the number 1 after each subset.

    Returns:
        The items with everything that a report shows about them.
    """
    rows = one_of_each_class(data, items) if isinstance(items, int) else select_items(data, items).rows.tolist()
    others = np.setdiff1d(np.arange(len(data)), rows)
    count = min(max(points - len(rows), 0), len(others))
    more = np.random.default_rng(seed).choice(others, count, replace=False) if count else others[:0]
    every = [*rows, *np.sort(more).tolist()]
    mapped = data.subset(every).to(run.device)
    chosen = data.subset(rows).to(run.device)
    experts = encode_dataset(run.vae, mapped)
    density, protocol = _density(run, experts)
    decoder = Decoder(run, chosen, len(rows) * (1 + len(subsets)), seed)
    means, spreads = [], []
    for subset in subsets:
        mean, variance = _moments(run, experts, subset, density)
        means.append(mean)
        spreads.append(variance[: len(rows)].sum(-1).sqrt())
        decoder.decode(mean[: len(rows)], subset)
        if progress is not None:
            progress(1)
    distances, expected = _distances(experts)
    ids = item_names(data, every)
    latent = make_map(mapped, subsets, torch.stack(means), experts.mask, _mean_of_finite(distances), ids)
    return Exhibits(
        names=run.names, subsets=tuple(subsets), modalities=decoder.modalities(), ids=ids[: len(rows)],
        labels=_labels(chosen), present=experts.mask[: len(rows)].cpu().numpy(), distances=distances[: len(rows)],
        expected=expected[: len(rows)], spread=torch.stack(spreads).cpu().numpy(), protocol=protocol, latent=latent,
        notes=tuple(data.provenance.get("matched", ())),
    )  # fmt: skip


def _density(run: Run, experts: Experts) -> tuple[str, str]:
    """Return the density whose mean is decoded, and a description of it."""
    first = select(experts, slice(0, 1))
    try:
        run.guide.posterior(first, "joint")
    except ValueError:  # the aggregation does not have a joint component
        return density_of(run.vae, experts.num_modalities), _MIXTURE
    return "joint", _JOINT


def _moments(
    run: Run, experts: Experts, subset: Sequence[int], density: str
) -> tuple[Float[Tensor, "item latent"], Float[Tensor, "item latent"]]:
    """Return mean and variance of the posterior given a subset, for every item."""
    size, means, variances = items_at_once(run.vae, experts, subset, density), [], []
    for start in range(0, len(experts.loc), size):
        part = select(experts, slice(start, start + size)).condition_on(list(subset))
        posterior: Any = run.guide.posterior(part, density)
        means.append(posterior.mean)
        variances.append(posterior.variance)
    return torch.cat(means), torch.cat(variances)


def _distances(experts: Experts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the W₂ distances of the experts of each item, and those expected from their scales."""
    loc, scale = experts.loc.double(), experts.stddev.double()
    measured = w2(loc[:, :, None], scale[:, :, None], loc[:, None], scale[:, None])
    squares = scale.square().sum(-1)
    expected = (squares[:, :, None] + squares[:, None]).sqrt()
    absent = ~(experts.mask[:, :, None] & experts.mask[:, None])
    measured, expected = (tensor.masked_fill(absent, float("nan")) for tensor in (measured, expected))
    return measured.cpu().numpy(), expected.cpu().numpy()


def _mean_of_finite(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean distance over pairs of different experts of each item, NaN for an item without a pair."""
    first, second = np.triu_indices(distances.shape[1], 1)
    pairs = distances[:, first, second]
    counts = np.isfinite(pairs).sum(-1)
    return np.where(counts > 0, np.nansum(pairs, -1) / np.maximum(counts, 1), np.nan)


def _labels(data: MultimodalDataset) -> NDArray[np.str_] | None:
    """Return the class of each item, or the first of its attributes; None without labels."""
    if data.labels is None or not data.label_names:
        return class_strings(data)
    texts = []
    for row in data.labels.tolist():
        names = [name for name, has in zip(data.label_names, row, strict=True) if has]
        rest = len(names) - _NAMED_ATTRIBUTES
        texts.append(", ".join(names[:_NAMED_ATTRIBUTES]) + (f" and {rest} more" if rest > 0 else ""))
    return np.array(texts, dtype=np.str_)
