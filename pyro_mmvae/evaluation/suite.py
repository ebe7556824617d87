"""Everything that is said about a trained run, from one encoding of its data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.classifiers import Classifiers, train_classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence, joint_agreement, joint_coherence
from pyro_mmvae.evaluation.diagnostics import Warning_, diagnose, expert_geometry, khat
from pyro_mmvae.evaluation.likelihood import held_out_log_likelihood, khat_threshold
from pyro_mmvae.evaluation.metrics import Metric, choose_subsets, mean_by_views
from pyro_mmvae.evaluation.posteriors import encode_dataset, having, latent_usage, posterior_means, subset_family, take
from pyro_mmvae.evaluation.probe import PROTOCOLS, linear_probe
from pyro_mmvae.evaluation.quality import fid_of_prior_draws, frechet_classifier, reconstruction
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE


@dataclass(frozen=True)
class EvaluationOptions:
    """How much is looked at.

    Attributes:
        subsets: how many subsets of modalities at the most, stratified by size.
        probe_points: training items of the linear probe.
        likelihood_items: test items for log likelihoods; 0 leaves them out.
        samples: K, draws an item for log likelihoods.
        likelihood_subsets: ``ends``, given each modality alone and all of them, or ``all`` chosen subsets.
        khat_items: test items for PSIS k̂, given each modality alone and all of them; 0 leaves it out.
        khat_samples: draws an item for it.
        quality: whether reconstructions and generated images are compared with real ones.
        fid: whether the Fréchet inception distance is computed, which needs the extra ``fid`` and Inception's weights.
        diagnostics: whether the posteriors' geometry and their use of the latent are looked at.
        draws: from the prior, for joint coherence.
        seed: of everything random.
    """

    subsets: int = 31
    probe_points: int = 5000
    likelihood_items: int = 500
    samples: int = 64
    likelihood_subsets: str = "ends"
    khat_items: int = 100
    khat_samples: int = 1000
    quality: bool = True
    fid: bool = False
    diagnostics: bool = True
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: for another ``likelihood_subsets``.
        """
        if self.likelihood_subsets not in {"ends", "all"}:
            raise ValueError(f"likelihood_subsets must be 'ends' or 'all', not {self.likelihood_subsets!r}")

    def count_parts(self, labelled: bool) -> int:
        """How many parts an evaluation has, for progress."""
        optional = (self.likelihood_items > 0, self.khat_items > 0, self.quality, self.diagnostics)
        return 1 + 4 * labelled + sum(optional)


@dataclass(frozen=True)
class Evaluation:
    """Figures about a run, and the few arrays that pictures need.

    Attributes:
        rows: one a subset and metric.
        arrays: ``latent`` (the first two principal components of posterior means) and ``labels`` of test items (of
            attributes the one that divides them most evenly, its name in ``label_name``), ``khat.GIVEN`` of items.
        classifier_accuracy: on real test images, for attributes the mean average precision; a coherence without it
            means nothing.
        options: what was looked at.
        warnings: failure modes that the figures show, with what to try.
        seconds: by part.
    """

    rows: tuple[Metric, ...]
    arrays: dict[str, NDArray[Any]]
    classifier_accuracy: dict[str, float]
    options: EvaluationOptions
    warnings: tuple[Warning_, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    attribute_frequency: dict[str, float] = field(default_factory=dict)
    """Share of test items that have an attribute: the average precision of a score without any knowledge."""

    def summary(self) -> dict[str, Any]:
        """Macro means by number of views, with what they are means of."""
        means: dict[str, Any] = {}
        rows = [row for row in self.rows if row.metric != "probe" or not row.target]  # the mean, not the attributes
        for metric, protocol, target in dict.fromkeys((r.metric, r.protocol, _of(r)) for r in rows):
            by_views = mean_by_views(rows, metric, protocol, target or None)
            how = f"{protocol}, of {target}" if target else protocol
            means.setdefault(metric, {})[how] = {str(views): value for views, value in by_views.items()}
        return {
            "means_by_views": means,
            "classifier_accuracy": self.classifier_accuracy,
            "attribute_frequency": self.attribute_frequency,
            "warnings": [asdict(warning) for warning in self.warnings],
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
    """Probe, coherence, likelihoods, quality and diagnoses of a model, for subsets of its modalities.

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
    return _Suite(vae, train, test, options or EvaluationOptions(), _Parts(progress)).run(cache)


class _Suite:
    """What the parts of one evaluation share."""

    def __init__(
        self,
        vae: MultimodalVAE,
        train: MultimodalDataset,
        test: MultimodalDataset,
        options: EvaluationOptions,
        parts: _Parts,
    ) -> None:
        self.vae, self.train, self.test, self.options, self.parts = vae, train, test, options, parts
        self.subsets = choose_subsets(len(vae.names), limit=options.subsets, seed=options.seed)
        self.ends = [subset for subset in self.subsets if len(subset) in {1, len(vae.names)}]
        self.rows: list[Metric] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.classifiers: Classifiers | None = None

    def run(self, cache: Path | None) -> Evaluation:
        """All parts."""
        options = self.options
        with self.parts("encoding"):
            self.experts = encode_dataset(self.vae, self.test)
            self.arrays |= _latent_map(self.vae, self.experts, self.test)
        if self.test.labels is not None and self.train.labels is not None:
            self.labelled(self.train.labels, self.test.labels, cache)
        if options.likelihood_items:
            self.likelihoods()
        if options.khat_items:
            self.khats()
        if options.quality:
            self.quality()
        if options.diagnostics:
            with self.parts("diagnostics"):
                self.rows += [replace(row, seed=options.seed) for row in expert_geometry(self.vae, self.experts)]
                everything = self.subsets[-1]
                if having(self.experts, everything).any():
                    self.rows += latent_usage(self.vae, self.experts, subset=everything, draws=200, seed=options.seed)
        accuracy = {} if self.classifiers is None else dict(self.classifiers.accuracy)
        mixture = subset_family(self.vae) not in {"all", None}
        warnings = tuple(diagnose(self.rows, self.vae.names, mixture=mixture, bound=self.vae.guide.bound))
        frequency = _frequency(self.test)
        return Evaluation(tuple(self.rows), self.arrays, accuracy, options, warnings, self.parts.seconds, frequency)

    def labelled(self, train_labels: Tensor, labels: Tensor, cache: Path | None) -> None:
        """What needs classes or attributes."""
        options, vae = self.options, self.vae
        points = _some(len(self.train), options.probe_points, options.seed)
        experts = encode_dataset(vae, self.train.subset(points))
        for protocol in PROTOCOLS:
            with self.parts(f"probe, {protocol}"):
                self.rows += linear_probe(
                    vae, experts, train_labels[points], self.experts, labels, subsets=self.subsets,
                    label_names=self.test.label_names, protocol=protocol, points=options.probe_points,
                    seed=options.seed,
                )  # fmt: skip
        with self.parts("classifiers"):
            self.classifiers = train_classifiers(self.train, self.test, cache=cache, seed=options.seed)
        with self.parts("coherence"):
            for bound in self.bounds():
                self.rows += conditional_coherence(
                    vae, self.experts, labels, self.classifiers, subsets=self.subsets, bound=bound, seed=options.seed
                )
            if len(self.classifiers.networks) > 1:
                drawn: dict[str, Any] = {"draws": options.draws, "seed": options.seed}
                if self.classifiers.label_names:
                    self.rows += joint_agreement(vae, self.classifiers, **drawn)
                else:
                    self.rows.append(joint_coherence(vae, self.classifiers, **drawn))

    def bounds(self) -> tuple[str, ...]:
        """Both ways to draw given a subset, where there are both: with one component they are the same."""
        family, mixture = subset_family(self.vae), self.vae.guide.has_mixture(len(self.vae.names))
        return (*["joint"] * (family in {"all", "powerset"}), *["mixture"] * mixture)

    def likelihoods(self) -> None:
        """Importance-weighted log likelihoods."""
        options = self.options
        with self.parts("log likelihood"):
            chosen = _some(len(self.test), options.likelihood_items, options.seed)
            self.rows += held_out_log_likelihood(
                self.vae, take(self.experts, torch.as_tensor(chosen)), self.test.subset(chosen),
                subsets=self.ends if options.likelihood_subsets == "ends" else self.subsets, samples=options.samples,
                seed=options.seed,
            )  # fmt: skip

    def khats(self) -> None:
        """PSIS k̂."""
        options = self.options
        with self.parts("PSIS k-hat"):
            for subset in self.ends:
                if not having(self.experts, subset).any():
                    continue
                found = khat(
                    self.vae, self.experts, self.test, subset=subset, samples=options.khat_samples,
                    items=options.khat_items, seed=options.seed,
                )  # fmt: skip
                self.rows += found.rows
                self.arrays["khat." + "+".join(found.rows[0].given)] = found.values
            self.arrays["khat_threshold"] = np.array(khat_threshold(options.khat_samples))

    def quality(self) -> None:
        """Generated against real."""
        with self.parts("quality"):
            self.rows += reconstruction(self.vae, self.experts, self.test, subsets=self.ends, seed=self.options.seed)
            if self.classifiers is not None:
                self.rows += frechet_classifier(
                    self.vae, self.experts, self.test, self.classifiers, seed=self.options.seed
                )
            if self.options.fid:
                self.rows += fid_of_prior_draws(self.vae, self.test, seed=self.options.seed)


def _of(row: Metric) -> str:
    """The target where rows of different targets are different quantities, not repetitions of one."""
    return row.target if row.metric in {"log_likelihood", "ess"} else ""


class _Parts:
    """Times the parts and announces them."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self.progress, self.seconds = progress, dict[str, float]()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """One part."""
        if self.progress is not None:
            self.progress(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def _some(count: int, wanted: int, seed: int) -> list[int]:
    """Some items at random, in order."""
    chosen = np.random.default_rng(seed).choice(count, min(wanted, count), replace=False)
    return sorted(int(i) for i in chosen)


def _latent_map(vae: MultimodalVAE, experts: Experts, data: MultimodalDataset) -> dict[str, NDArray[Any]]:
    """The first two principal components of the posterior means given everything."""
    means = posterior_means(vae, experts, range(experts.num_modalities)).double().cpu()
    centred = means - means.mean(0)
    _, values, axes = np.linalg.svd(centred.numpy(), full_matrices=False)
    arrays: dict[str, NDArray[Any]] = {
        "latent": (centred.numpy() @ axes[:2].T).astype(np.float32),
        "explained": (values[:2] ** 2 / np.maximum((values**2).sum(), np.finfo(float).tiny)).astype(np.float32),
    }
    if data.labels is not None and data.label_names:
        frequency = data.labels.double().mean(0)
        shown = int((frequency - 0.5).abs().argmin())
        arrays["labels"] = data.labels[:, shown].long().cpu().numpy()
        arrays["label_name"] = np.array(data.label_names[shown])
    elif data.labels is not None:
        arrays["labels"] = data.labels.cpu().numpy()
    return arrays


def _frequency(data: MultimodalDataset) -> dict[str, float]:
    """The share of items that have each attribute."""
    shares = data.labels.double().mean(0).tolist() if data.labels is not None and data.label_names else []
    return dict(zip(data.label_names, shares, strict=False))
