"""Linear probes: the accuracy with which a linear classifier reads the label from posterior means."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.evaluation.attributes import average_precisions
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import has_all, posterior_means, select, subset_names
from pyro_mmvae.vae.vae import MultimodalVAE

PROTOCOLS = ("per-subset", "joint")


def linear_probe(
    vae: MultimodalVAE,
    train: Experts,
    train_labels: Tensor,
    test: Experts,
    test_labels: Tensor,
    *,
    subsets: Sequence[Sequence[int]],
    label_names: Sequence[str] | None = None,
    protocol: str = "per-subset",
    points: int = 5000,
    seed: int = 0,
    workers: int = 2,
) -> list[Metric]:
    """Fit logistic regressions on standardised posterior means and score them on test items.

    Protocol ``per-subset`` fits one probe per subset (MoPoE, Sutter et al., 2021, with 500 points). Protocol ``joint``
    fits one probe on the posterior given all modalities and tests it on every subset (MVTCAE, Hwang et al., 2021). The
    two give different numbers. A test item that lacks a modality of the subset is left out, as in coherence and log
    likelihoods. So is a training item, except that the one probe of ``joint`` is fitted on all items that have any
    modality, given all those that they have.

    Args:
        vae: The model whose guide aggregates the experts.
        train: Experts of the training items.
        train_labels: Classes `(item,)`, or binary attributes `(item, attribute)`, of the training items.
        test: Experts of the test items.
        test_labels: Classes or binary attributes of the test items.
        subsets: Subsets of the modalities, each as indices.
        label_names: The names of the attributes; each of them then gets rows in addition to the mean.
        protocol: The protocol, ``per-subset`` (the default) or ``joint``.
        points: The largest number of training items, 5,000 by default, chosen at random.
        seed: The seed of that choice, 0 by default.
        workers: The number of probes to fit at once, 2 by default, each in one thread.

    Returns:
        One row for each subset of which some training and some test item has all modalities. For classes it is the
        accuracy; for attributes the average precision of the scores, averaged over the attributes that some test item
        has, followed by one row per attribute with its name as the target.

    Raises:
        ValueError: If the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(map(repr, PROTOCOLS))}, got {protocol!r}")
    generator = np.random.default_rng(seed)
    count = len(train_labels)
    rows = torch.as_tensor(np.sort(generator.choice(count, min(points, count), replace=False)))
    chosen = select(train, rows.to(train.loc.device))
    chosen_labels = train_labels.cpu()[rows].numpy()
    everything = tuple(range(train.num_modalities))

    def fit(subset: Sequence[int], kept: Tensor) -> list[Pipeline]:
        values, labels = _features(vae, chosen, chosen_labels, subset, kept)
        if not len(values):
            return []
        return [_fit(values, column) for column in labels.reshape(len(labels), -1).T]

    shared = fit(everything, chosen.mask.any(-1)) if protocol == "joint" else None

    def score(subset: Sequence[int]) -> list[Metric]:
        values, labels = _features(vae, test, test_labels.cpu().numpy(), subset, has_all(test, subset))
        probes = fit(subset, has_all(chosen, subset)) if shared is None else shared
        if not probes or not len(values):
            return []
        description = f"{protocol}, {len(rows)} points" + (", average precision" if labels.ndim > 1 else "")
        return [
            Metric("probe", description, subset_names(subset, vae.names), target, value, len(labels), seed)
            for target, value in _score(probes, values, labels, label_names or ()).items()
        ]

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        return [row for metrics in pool.map(score, subsets) for row in metrics]


def _features(
    vae: MultimodalVAE, experts: Experts, labels: NDArray[Any], subset: Sequence[int], kept: Bool[Tensor, " item"]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return posterior means given a subset, and labels, of the items that are kept."""
    values = posterior_means(vae, select(experts, kept), subset) if kept.any() else experts.loc[:0, 0]
    return values.double().cpu().numpy(), labels[kept.cpu().numpy()]


def _fit(values: NDArray[Any], labels: NDArray[Any]) -> Pipeline:
    """Fit a probe of one label; a label that never varies gets a constant predictor."""
    varies = (labels != labels[0]).any()
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000) if varies else DummyClassifier()).fit(
        values, labels
    )


def _score(
    probes: Sequence[Pipeline], values: NDArray[Any], labels: NDArray[Any], names: Sequence[str]
) -> dict[str, float]:
    """Return the figures by target, that of all attributes together first."""
    if labels.ndim == 1:
        return {"": float(probes[0].score(values, labels))}
    scores = np.stack([probe.predict_proba(values) @ (probe.classes_ == 1) for probe in probes], -1)
    precisions = average_precisions(scores, labels)
    whole = {"": float(np.mean(list(precisions.values())))} if precisions else {}
    return whole | {name: precisions[k] for k, name in enumerate(names) if k in precisions}
