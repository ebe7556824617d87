"""Everything that is said about a trained run, from one encoding of its data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.classifiers import Classifiers, train_classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence, joint_coherence
from pyro_mmvae.evaluation.likelihood import held_out_log_likelihood
from pyro_mmvae.evaluation.metrics import Metric, choose_subsets, mean_by_views
from pyro_mmvae.evaluation.posteriors import encode_dataset, posterior_means
from pyro_mmvae.evaluation.probe import PROTOCOLS, linear_probe
from pyro_mmvae.experts import Experts
from pyro_mmvae.models import MultimodalVAE


@dataclass(frozen=True)
class EvaluationOptions:
    """How much is looked at.

    Attributes:
        subsets: how many subsets of modalities at the most, stratified by size.
        probe_points: training items of the linear probe.
        likelihood_items: test items for log likelihoods, given each modality alone and all; 0 leaves them out.
        samples: K, draws an item for log likelihoods.
        draws: from the prior, for joint coherence.
        seed: of everything random.
    """

    subsets: int = 31
    probe_points: int = 5000
    likelihood_items: int = 500
    samples: int = 64
    draws: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Figures about a run, and the few arrays that pictures need.

    Attributes:
        rows: one a subset and metric.
        arrays: ``latent`` (the first two principal components of posterior means) and ``labels`` of test items.
        classifier_accuracy: on real test images; a coherence without it means nothing.
        options: what was looked at.
        seconds: by part.
    """

    rows: tuple[Metric, ...]
    arrays: dict[str, NDArray[Any]]
    classifier_accuracy: dict[str, float]
    options: EvaluationOptions
    seconds: dict[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Macro means by number of views, with what they are means of."""
        means: dict[str, Any] = {}
        for metric, protocol, target in dict.fromkeys((r.metric, r.protocol, _of(r)) for r in self.rows):
            by_views = mean_by_views(self.rows, metric, protocol, target or None)
            how = f"{protocol}, of {target}" if target else protocol
            means.setdefault(metric, {})[how] = {str(views): value for views, value in by_views.items()}
        return {
            "means_by_views": means,
            "classifier_accuracy": self.classifier_accuracy,
            "options": asdict(self.options),
            "seconds": self.seconds,
        }


def evaluate(
    vae: MultimodalVAE,
    train: MultimodalDataset,
    test: MultimodalDataset,
    *,
    options: EvaluationOptions | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Probe, coherence and log likelihoods of a model, for every subset of its modalities.

    Each item is encoded once; every subset is aggregated from the cached experts. Without labels there is neither
    probe nor coherence.

    Args:
        vae: in eval mode.
        train: labelled items to fit probes and classifiers on.
        test: items to judge on.
        options: how much to look at.
        cache: a folder for the classifiers of this data.
        progress: called with the name of each part as it starts.

    Returns:
        The figures.
    """
    options = options or EvaluationOptions()
    parts = _Parts(progress)
    rows: list[Metric] = []
    subsets = choose_subsets(len(vae.names), limit=options.subsets, seed=options.seed)
    with parts("encoding"):
        experts = encode_dataset(vae, test)
        points = _some(len(train), options.probe_points, options.seed)
        train_experts = encode_dataset(vae, train.subset(points))
    arrays = _latent_map(vae, experts, test)
    classifiers: Classifiers | None = None
    if test.labels is not None and train.labels is not None:
        labels = train.labels[points]
        for protocol in PROTOCOLS:
            with parts(f"probe {protocol}"):
                rows += linear_probe(
                    vae, train_experts, labels, experts, test.labels, subsets=subsets, protocol=protocol,
                    points=options.probe_points, seed=options.seed,
                )  # fmt: skip
        with parts("classifiers"):
            classifiers = train_classifiers(train, test, cache=cache, seed=options.seed)
        with parts("coherence"):
            rows += conditional_coherence(vae, experts, test.labels, classifiers, subsets=subsets, seed=options.seed)
            if len(classifiers.networks) > 1:
                rows.append(joint_coherence(vae, classifiers, draws=options.draws, seed=options.seed))
    if options.likelihood_items:
        subsets = [subset for subset in subsets if len(subset) in {1, len(vae.names)}]
        with parts("log likelihood"):
            chosen = _some(len(test), options.likelihood_items, options.seed)
            rows += held_out_log_likelihood(
                vae, _select(experts, chosen), test.subset(chosen), subsets=subsets, samples=options.samples,
                seed=options.seed,
            )  # fmt: skip
    accuracy = {} if classifiers is None else dict(classifiers.accuracy)
    return Evaluation(tuple(rows), arrays, accuracy, options, parts.seconds)


def _of(row: Metric) -> str:
    """The target where rows of different targets are different quantities, not repetitions of one."""
    return row.target if row.metric in {"log_likelihood", "ess"} else ""


class _Parts:
    """Times the parts and announces them."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self.progress, self.seconds = progress, dict[str, float]()
        self._name, self._started = "", 0.0

    def __call__(self, name: str) -> _Parts:
        self._name = name
        if self.progress is not None:
            self.progress(name)
        return self

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._name] = round(time.perf_counter() - self._started, 3)


def _some(count: int, wanted: int, seed: int) -> list[int]:
    """Some items at random, in order."""
    chosen = np.random.default_rng(seed).choice(count, min(wanted, count), replace=False)
    return sorted(int(i) for i in chosen)


def _select(experts: Experts, rows: Iterable[int]) -> Experts:
    index = list(rows)
    return experts.map(lambda tensor, _: tensor[index])


def _latent_map(vae: MultimodalVAE, experts: Experts, data: MultimodalDataset) -> dict[str, NDArray[Any]]:
    """The first two principal components of the posterior means given everything."""
    means = posterior_means(vae, experts, range(experts.num_modalities)).double().cpu()
    centred = means - means.mean(0)
    _, values, axes = np.linalg.svd(centred.numpy(), full_matrices=False)
    arrays: dict[str, NDArray[Any]] = {
        "latent": (centred.numpy() @ axes[:2].T).astype(np.float32),
        "explained": (values[:2] ** 2 / np.maximum((values**2).sum(), np.finfo(float).tiny)).astype(np.float32),
    }
    if data.labels is not None:
        arrays["labels"] = data.labels.cpu().numpy()
    return arrays
