"""Linear probe: how much of the label a linear classifier reads from posterior means."""

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

from pyro_mmvae._typing import Tensor
from pyro_mmvae.evaluation.attributes import average_precisions
from pyro_mmvae.evaluation.metrics import Metric, subset_names
from pyro_mmvae.evaluation.posteriors import posterior_means, select
from pyro_mmvae.experts import Experts
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
    """Logistic regression on standardised posterior means.

    Protocol ``per-subset`` fits one probe a subset (MoPoE, Sutter et al. 2021, with 500 points); ``joint`` fits one on
    the posterior given everything and tests it on every subset (MVTCAE, Hwang et al. 2021). They give different
    numbers. Items without any of the subset's modalities are left out, in training and in testing.

    Args:
        vae: whose guide aggregates.
        train: experts of the training items.
        train_labels: classes `(item,)`, or binary attributes `(item, attribute)`.
        test: experts of the test items.
        test_labels: likewise.
        subsets: of modalities.
        label_names: of the attributes: each then has rows of its own too.
        protocol: ``per-subset`` or ``joint``.
        points: how many training items at the most, chosen at random.
        seed: of that choice.
        workers: how many probes are fitted at once, by one thread each.

    Returns:
        One row for each subset that some training and some test item has part of: accuracy for classes; for attributes
        the mean over attributes, those no test item has left out, of the average precision on scores, and then one row
        an attribute, its name the target.

    Raises:
        ValueError: for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    generator = np.random.default_rng(seed)
    count = len(train_labels)
    rows = torch.as_tensor(np.sort(generator.choice(count, min(points, count), replace=False)))
    some = select(train, rows.to(train.loc.device))
    some_labels = train_labels.cpu()[rows].numpy()
    everything = tuple(range(train.num_modalities))

    def features(experts: Experts, labels: NDArray[Any], subset: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
        kept = experts.mask[:, list(subset)].any(-1)
        values = posterior_means(vae, select(experts, kept), subset) if kept.any() else experts.loc[:0, 0]
        return values.double().cpu().numpy(), labels[kept.cpu().numpy()]

    def fit(subset: Sequence[int]) -> list[Pipeline]:
        values, labels = features(some, some_labels, subset)
        if not len(values):
            return []
        return [_fit(values, column) for column in labels.reshape(len(labels), -1).T]

    shared = fit(everything) if protocol == "joint" else None

    def one(subset: Sequence[int]) -> list[Metric]:
        values, labels = features(test, test_labels.cpu().numpy(), subset)
        probes = fit(subset) if shared is None else shared
        if not probes or not len(values):
            return []
        how = f"{protocol}, {len(rows)} points" + (", average precision" if labels.ndim > 1 else "")
        return [
            Metric("probe", how, subset_names(subset, vae.names), target, value, len(labels), seed)
            for target, value in _score(probes, values, labels, label_names or ()).items()
        ]

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        return [row for found in pool.map(one, subsets) for row in found]


def _fit(values: NDArray[Any], labels: NDArray[Any]) -> Pipeline:
    """A probe of one label; of one that never varies, that label."""
    varies = (labels != labels[0]).any()
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000) if varies else DummyClassifier()).fit(
        values, labels
    )


def _score(
    probes: Sequence[Pipeline], values: NDArray[Any], labels: NDArray[Any], names: Sequence[str]
) -> dict[str, float]:
    """Target to figure, the whole first."""
    if labels.ndim == 1:
        return {"": float(probes[0].score(values, labels))}
    scores = np.stack([probe.predict_proba(values) @ (probe.classes_ == 1) for probe in probes], -1)
    found = average_precisions(scores, labels)
    whole = {"": float(np.mean(list(found.values())))} if found else {}
    return whole | {name: found[k] for k, name in enumerate(names) if k in found}
