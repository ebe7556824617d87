"""Diversity of the modalities that are generated from one item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import (
    decode_in_batches,
    draws_at_once,
    has_all,
    readout,
    select,
    subset_names,
    subset_posterior,
)
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.vae import MultimodalVAE

_PER_CLASS = 50  # the largest number of real items of a class: 1,225 pairs


def mean_pairwise_distance(values: Tensor, *, categorical: bool = False) -> Float[Tensor, "*item"]:
    """Return the mean over pairs of draws of the root mean square difference of their features.

    Args:
        values: The draws of each item, at least two, `(draw, *item, feature)`.
        categorical: If True, the features are codes without an order, and the distance is the share of those that
            differ. False by default.

    Returns:
        The mean distance of each item, in float64, in the unit of the features.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    if len(values) < 2:
        raise ValueError(f"values must have at least two draws in the first dimension, got shape {tuple(values.shape)}")
    points, size = values.movedim(0, -2).double(), values.shape[-1]
    if categorical:
        distances = torch.cdist(points, points, p=0.0) / size
    else:
        # The faster mode by a matrix product would not give 0 for equal draws.
        distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / size**0.5
    return distances.sum((-2, -1)) / (len(values) * (len(values) - 1))


def diversity(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    classifiers: Classifiers | None = None,
    *,
    subsets: Sequence[Sequence[int]],
    items: int = 100,
    draws: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Metric]:
    """Return the mean distance between draws of a modality that are generated from one and the same item.

    For each draw z comes from the posterior given the subset and the private latent from its prior. Distances are those
    of the means of the likelihood, root mean squares over the values of a modality, in its units; of tokens the share
    of positions whose most probable token differs. They are computed in the features of the classifiers too. The
    diversity of real items of one class shows what there is to be reached: one far below it means that generated items
    are all alike, one far above it that they do not depend on what was given.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The data set of observed items.
        classifiers: The classifiers whose penultimate layers give the features; by default only values are compared.
        subsets: Subsets of the modalities to generate from, each as indices, judged on the modalities outside it.
        items: The largest number of items to generate from, 100 by default, chosen at random.
        draws: The number of draws per item, at least 2; 10 by default.
        seed: The seed of items and draws, 0 by default; the states of torch's generators are restored afterwards.
        batch_size: The number of latents to decode at once; by default it depends on the device.

    Returns:
        For each subset, modality outside it and space one row, where ``n`` is the number of items; and for each
        modality and space one row of real items, without modalities given.
    """
    device, rows = experts.loc.device, []
    size = batch_size or draws_at_once(device)
    for subset in subsets:
        targets = [name for m, name in enumerate(vae.names) if m not in subset]
        with seeded(seed, device), torch.no_grad():
            index = has_all(experts, subset).nonzero()[:, 0]
            index = index[torch.randperm(len(index))[:items].to(index.device)]
            if not targets or not len(index):
                continue
            posterior = subset_posterior(vae, select(experts, index), subset)
            z = posterior.sample(torch.Size((draws,))).flatten(0, 1)
            known = one_hot(data.covariates, data.covariate_names, index.to(data.present.device))
            known = None if known is None else known.repeat(draws, 1)
            parts = list(decode_in_batches(vae, z, targets, size, known))
        given = subset_names(subset, vae.names)
        protocol = f"{draws} draws of the posterior per item, {readout(vae)}"
        for name in targets:
            means = torch.cat([part[name] for part in parts])
            for space, points, categorical in _spaces(vae, name, means, classifiers):
                drawn = points.reshape(draws, len(index), -1)
                value = float(mean_pairwise_distance(drawn, categorical=categorical).mean())
                rows.append(Metric("diversity", f"{space}, {protocol}", given, name, value, len(index), seed))
    return rows + _of_real_items(vae, data, classifiers, seed)


def _spaces(
    vae: MultimodalVAE, name: str, values: Tensor, classifiers: Classifiers | None
) -> Iterator[tuple[str, Tensor, bool]]:
    """Yield each space in which items are compared: its name, the items in it, and True if they are codes."""
    likelihood = cast("Likelihood", vae.model.likelihoods[name])
    is_mean = values.dim() > len(likelihood.shape) + 1  # class probabilities have one more axis than codes
    points = likelihood.point(values) if likelihood.is_categorical and is_mean else values
    yield "values", points.flatten(1), likelihood.is_categorical
    if classifiers is not None and name in classifiers.networks:
        yield "classifier features", classifiers.features(name, values), False


def _of_real_items(
    vae: MultimodalVAE, data: MultimodalDataset, classifiers: Classifiers | None, seed: int
) -> list[Metric]:
    """Return the diversity of real items of one class, or of all real items if there are no classes."""
    rows, has_classes = [], data.labels is not None and data.labels.dim() == 1
    generator = torch.Generator().manual_seed(seed)
    for column, name in enumerate(data.names):
        present = data.present[:, column].cpu()
        if has_classes:
            labels = cast("Tensor", data.labels).cpu()
            groups = [present & (labels == label) for label in labels[present & data.labelled.cpu()].unique()]
        else:
            groups = [present]
        values: dict[str, list[Tensor]] = {}
        for group in groups:
            index = group.nonzero()[:, 0]
            index = index[torch.randperm(len(index), generator=generator)[:_PER_CLASS]]
            if len(index) < 2:
                continue
            batch = make_batch(data, index.to(data.present.device)).to(next(vae.parameters()).device)
            for space, points, categorical in _spaces(vae, name, batch.values[name], classifiers):
                values.setdefault(space, []).append(mean_pairwise_distance(points, categorical=categorical).cpu())
        kind = "real items of one class" if has_classes else "real items"
        for space, means in values.items():
            figure = float(torch.stack(means).mean())
            rows.append(Metric("diversity", f"{space}, {kind}", (), name, figure, int(present.sum()), seed))
    return rows
