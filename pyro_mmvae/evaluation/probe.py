"""Linear probes: the accuracy with which a linear classifier reads the label from the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Bool, Tensor
from pyro_mmvae.evaluation.attributes import average_precisions
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.readouts import check_readout, read_posterior
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import has_all, select, subset_names
from pyro_mmvae.vae.vae import MultimodalVAE

PROTOCOLS = ("per-subset", "joint")
PROBES = (("mean", "per-subset"), ("mean", "joint"), ("component", "per-subset"), ("draw", "per-subset"))
"""The read-out and the protocol of each probe in an evaluation."""


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
    readout: str = "mean",
    draws: int = 5,
    points: int = 5000,
    seed: int = 0,
    workers: int = 2,
) -> list[Metric]:
    """Fit logistic regressions on what is read off the posterior, standardised, and score them on test items.

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
        readout: The vector per item that the probe reads: ``mean`` of the posterior (the default), ``component`` or
            ``draw``, see :func:`~pyro_mmvae.evaluation.readouts.read_posterior`.
        draws: The number of draws per test item of the read-out ``draw``, 5 by default, over which its figures are
            averaged. The probe is fitted on one draw per training item.
        points: The largest number of training items, 5,000 by default, chosen at random.
        seed: The seed of that choice, and of the draws of each subset, 0 by default; the states of torch's generators
            are restored afterwards.
        workers: The number of probes to fit at once, 2 by default, each in one thread.

    Returns:
        One row for each subset of which some training and some test item has all modalities. For classes it is the
        accuracy; for attributes the average precision of the scores, averaged over the attributes that some test item
        has, followed by one row per attribute with its name as the target. The protocol of the row names the read-outs
        ``component`` and ``draw`` first; without a name it is ``mean``.

    Raises:
        ValueError: If the protocol or the read-out is unknown, or there are no draws.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(map(repr, PROTOCOLS))}, got {protocol!r}")
    check_readout(readout)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    generator = np.random.default_rng(seed)
    count = len(train_labels)
    rows = torch.as_tensor(np.sort(generator.choice(count, min(points, count), replace=False)))
    chosen = select(train, rows.to(train.loc.device))
    chosen_labels = train_labels.cpu()[rows].numpy()
    tested_labels = test_labels.cpu().numpy()
    everything = tuple(range(train.num_modalities))
    repeats = draws if readout == "draw" else 1
    lock = Lock()  # torch has one generator, which the threads must not draw from at the same time

    def read(experts: Experts, subset: Sequence[int], kept: Bool[Tensor, " item"], part: int, times: int) -> list[Any]:
        # Training and test items have seeds of their own, so that equal rows do not share their noise.
        with lock, seeded(2 * seed + part, experts.loc.device):
            items = select(experts, kept)
            return [read_posterior(vae, items, subset, readout).double().cpu().numpy() for _ in range(times)]

    def fit(subset: Sequence[int], kept: Bool[Tensor, " item"]) -> list[Pipeline]:
        if not kept.any():
            return []
        labels = chosen_labels[kept.cpu().numpy()]
        (values,) = read(chosen, subset, kept, 0, 1)
        return [_fit(values, column) for column in labels.reshape(len(labels), -1).T]

    shared = fit(everything, chosen.mask.any(-1)) if protocol == "joint" else None
    description = _describe(protocol, readout, len(rows), draws, attributes=tested_labels.ndim > 1)

    def score(subset: Sequence[int]) -> list[Metric]:
        kept = has_all(test, subset)
        probes = fit(subset, has_all(chosen, subset)) if shared is None else shared
        if not probes or not kept.any():
            return []
        labels = tested_labels[kept.cpu().numpy()]
        scores = [_score(probes, values, labels, label_names or ()) for values in read(test, subset, kept, 1, repeats)]
        return [
            Metric(
                "probe", description, subset_names(subset, vae.names), target,
                float(np.mean([figures[target] for figures in scores])), len(labels), seed,
            )
            for target in scores[0]
        ]  # fmt: skip

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        return [row for metrics in pool.map(score, subsets) for row in metrics]


def _describe(protocol: str, readout: str, points: int, draws: int, *, attributes: bool) -> str:
    """Return the protocol of a row; the read-out ``mean`` is not named, so that tables of earlier versions fit."""
    parts = [] if readout == "mean" else [readout]
    parts += [protocol, f"{points} points"]
    parts += [f"{draws} draws per test item"] if readout == "draw" else []
    return ", ".join([*parts, *(["average precision"] if attributes else [])])


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
