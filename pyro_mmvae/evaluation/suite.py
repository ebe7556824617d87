"""The complete evaluation of a trained model, from one encoding of its data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.classifiers import Classifiers, train_classifiers
from pyro_mmvae.evaluation.coherence import joint_agreement, joint_coherence
from pyro_mmvae.evaluation.conditional_fid import fid_given
from pyro_mmvae.evaluation.diagnostics import diagnose
from pyro_mmvae.evaluation.diversity import diversity
from pyro_mmvae.evaluation.frechet import check_fid, fid_of_prior_draws, frechet_classifier
from pyro_mmvae.evaluation.geometry import expert_geometry
from pyro_mmvae.evaluation.judging import judge_generated
from pyro_mmvae.evaluation.latent import latent_usage
from pyro_mmvae.evaluation.likelihood import held_out_log_likelihood
from pyro_mmvae.evaluation.masked_result import MaskOptions
from pyro_mmvae.evaluation.masking import check_maskable, evaluate_masked
from pyro_mmvae.evaluation.metrics import Metric, choose_items, choose_subsets
from pyro_mmvae.evaluation.posterior_fit import khat_part, refinement_part
from pyro_mmvae.evaluation.probe import PROBES, linear_probe
from pyro_mmvae.evaluation.quality import reconstruction
from pyro_mmvae.evaluation.residuals import residuals
from pyro_mmvae.evaluation.result import Evaluation, EvaluationOptions
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.fitted_prior import FittedPrior
from pyro_mmvae.inference.posteriors import encode_dataset, has_all, posterior_means, select, subset_family
from pyro_mmvae.vae.vae import MultimodalVAE


def evaluate(
    vae: MultimodalVAE,
    train: MultimodalDataset,
    test: MultimodalDataset,
    *,
    options: EvaluationOptions | None = None,
    mask: MaskOptions | float | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
    prior: FittedPrior | None = None,
    history: Sequence[Mapping[str, Any]] = (),
) -> Evaluation:
    """Evaluate probes, coherence, likelihoods, quality and diagnostics of a model for subsets of its modalities.

    Each item is encoded once, and every subset is aggregated from the cached experts. Probes and coherence need labels
    and are left out without them.

    Args:
        vae: The model, in eval mode.
        train: Items to fit probes and classifiers on.
        test: Items to evaluate on.
        options: The extent of the evaluation; the defaults of :class:`EvaluationOptions` if left out.
        mask: The extent of the comparison of imputations with held-out observations, or only its rate, 0 to leave out
            one modality at a time; None, the default, for no comparison.
            See :func:`~pyro_mmvae.evaluation.masking.evaluate_masked`.
        cache: A folder for the classifiers trained on this data; by default they are not cached.
        progress: A callback that receives the name of each part as it starts.
        prior: The fitted prior, draws of which are judged beside those of the model's own prior; none by default. Log
            likelihoods, k̂ and KL divergences always refer to the model's own.
        history: The metrics of each epoch of the training, as :func:`~pyro_mmvae.run_files.read_metrics` returns them,
            by which a training that was too short is found; by default its length is not judged.

    Returns:
        The figures and arrays of the evaluation.

    Raises:
        ValueError: If ``mask`` is not in its range, no test item has two modalities of which one can be held out, or
            ``options.fid`` is True without a modality of RGB images.
        ImportError: If ``options.fid`` is True without torchmetrics and torch-fidelity.
    """
    options = options or EvaluationOptions()
    if mask is not None and not isinstance(mask, MaskOptions):
        mask = MaskOptions(rate=mask, seed=options.seed)
    if mask is not None:
        check_maskable(vae.names, train, test)  # before the other parts, which take minutes
    if options.fid:
        check_fid(test)
    return Suite(vae, train, test, options, mask, Parts(progress), prior, history).run(cache)


class Suite:
    """The state that the parts of one evaluation share."""

    def __init__(
        self,
        vae: MultimodalVAE,
        train: MultimodalDataset,
        test: MultimodalDataset,
        options: EvaluationOptions,
        mask: MaskOptions | None,
        parts: Parts,
        prior: FittedPrior | None,
        history: Sequence[Mapping[str, Any]],
        shared: dict[str, Any] | None = None,
    ) -> None:
        self.shared = {} if shared is None else shared
        self.priors = (None,) if prior is None else (None, prior)  # the model's own comes first
        self.vae, self.train, self.test, self.options, self.parts = vae, train, test, options, parts
        self.mask, self.history = mask, history
        self.subsets = choose_subsets(len(vae.names), limit=options.subsets, seed=options.seed)
        self.ends = [subset for subset in self.subsets if len(subset) in {1, len(vae.names)}]
        self.rows: list[Metric] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self.classifiers: Classifiers | None = None

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a part that suites of one model with several aggregations share, computed where it is first needed."""
        if name not in self.shared:
            self.shared[name] = compute()
        return self.shared[name]

    def run(self, cache: Path | None) -> Evaluation:
        """Run all parts."""
        options = self.options
        with self.parts("encoding"):
            self.experts = self.once("test", lambda: encode_dataset(self.vae, self.test))
            self.arrays |= _latent_map(self.vae, self.experts, self.test)
        if self.test.labels is not None and self.train.labels is not None and bool(self.test.labelled.any()):
            self.evaluate_labels(self.train.labels, self.test.labels, cache)
        if options.likelihood_items:
            self.likelihoods()
        self.posterior_fit()
        if options.quality:
            self.quality()
        if options.diagnostics:
            with self.parts("diagnostics"):
                found = [*expert_geometry(self.vae, self.experts), *residuals(self.vae, self.experts, self.test)]
                self.rows += [replace(row, seed=options.seed) for row in found]
                everything = self.subsets[-1]
                if has_all(self.experts, everything).any():
                    self.rows += latent_usage(self.vae, self.experts, subset=everything, draws=200, seed=options.seed)
        masked = None
        if self.mask is not None:
            with self.parts("imputation"):
                masked = evaluate_masked(
                    self.vae, self.train, self.test, options=self.mask, classifiers=self.classifiers
                )
        accuracy = {} if self.classifiers is None else dict(self.classifiers.accuracy)
        mixture = subset_family(self.vae) not in {"all", None}
        warnings = tuple(
            diagnose(
                self.rows, self.vae.names, mixture=mixture, has_fitted_prior=len(self.priors) > 1,
                history=self.history,
            )
        )  # fmt: skip
        frequency = _frequency(self.test)
        return Evaluation(
            tuple(self.rows), self.arrays, accuracy, options, warnings, self.parts.seconds, frequency, masked
        )

    def evaluate_labels(self, train_labels: Tensor, labels: Tensor, cache: Path | None) -> None:
        """Run the parts that need classes or attributes, with the items that have a label."""
        options, vae, test_experts = self.options, self.vae, self.experts
        if not bool(self.test.labelled.all()):
            labels = labels[self.test.labelled]
            test_experts = select(self.experts, self.test.labelled.to(self.experts.loc.device))
        rows = self.train.labelled.nonzero()[:, 0].tolist()
        points = [rows[number] for number in choose_items(len(rows), options.probe_points, options.seed)]
        experts = self.once("train", lambda: encode_dataset(vae, self.train.subset(points)))
        for readout, protocol in PROBES:
            with self.parts(f"probe, {protocol}" if readout == "mean" else f"probe, {readout}"):
                self.rows += linear_probe(
                    vae, experts, train_labels[points], test_experts, labels, subsets=self.subsets,
                    label_names=self.test.label_names, protocol=protocol, readout=readout, draws=options.probe_draws,
                    points=options.probe_points, seed=options.seed,
                )  # fmt: skip
        with self.parts("classifiers"):
            self.classifiers = self.once(
                "classifiers", lambda: train_classifiers(self.train, self.test, cache=cache, seed=options.seed)
            )
        with self.parts("coherence"):
            self.rows += judge_generated(
                vae, self.experts, self.test, self.classifiers, subsets=self.subsets, densities=self.densities(),
                options=options,
            )  # fmt: skip
            if len(self.classifiers.networks) > 1:
                for prior in self.priors:
                    from_prior: dict[str, Any] = {"draws": options.draws, "seed": options.seed, "prior": prior}
                    if self.classifiers.label_names:
                        self.rows += joint_agreement(vae, self.classifiers, **from_prior)
                    else:
                        self.rows.append(joint_coherence(vae, self.classifiers, **from_prior))

    def densities(self) -> tuple[str, ...]:
        """Return the densities to draw from given a subset; one of them if the posterior is a single component."""
        family, mixture = subset_family(self.vae), self.vae.guide.has_mixture(len(self.vae.names))
        return (*["joint"] * (family in {"all", "powerset"}), *["mixture"] * mixture)

    def likelihoods(self) -> None:
        """Estimate importance-weighted log likelihoods."""
        options = self.options
        with self.parts("log likelihood"):
            chosen = choose_items(len(self.test), options.likelihood_items, options.seed)
            self.rows += held_out_log_likelihood(
                self.vae, select(self.experts, torch.as_tensor(chosen)), self.test.subset(chosen),
                subsets=self.ends if options.likelihood_subsets == "ends" else self.subsets, samples=options.samples,
                max_samples=options.max_samples, seed=options.seed,
            )  # fmt: skip

    def posterior_fit(self) -> None:
        """Measure the fit of the guide, and of refined posteriors, given each modality alone and given all of them."""
        parts = (
            ("PSIS k-hat", khat_part, self.options.khat_items),
            ("refinement", refinement_part, self.options.refine),
        )
        for name, part, extent in parts:
            if extent:
                with self.parts(name):
                    rows, arrays = part(self.vae, self.experts, self.test, self.ends, self.options)
                    self.rows, self.arrays = self.rows + rows, self.arrays | arrays

    def quality(self) -> None:
        """Compare generated items with real ones."""
        with self.parts("quality"):
            options, singles = self.options, [subset for subset in self.subsets if len(subset) == 1]
            chosen = choose_items(len(self.test), options.reconstruction_items, options.seed)
            self.rows += reconstruction(
                self.vae, select(self.experts, torch.as_tensor(chosen)), self.test.subset(chosen), subsets=self.ends,
                seed=options.seed,
            )  # fmt: skip
            for prior in self.priors:
                if self.classifiers is not None:
                    self.rows += frechet_classifier(
                        self.vae, self.experts, self.test, self.classifiers, seed=options.seed, prior=prior
                    )
                if options.fid:
                    self.rows += fid_of_prior_draws(self.vae, self.test, seed=options.seed, prior=prior)
            if options.fid:
                self.rows += fid_given(
                    self.vae, self.experts, self.test, subsets=singles, items=options.frechet_items, seed=options.seed
                )
            if options.diversity_items:
                self.rows += diversity(
                    self.vae, self.experts, self.test, self.classifiers, subsets=singles,
                    items=options.diversity_items, draws=options.diversity_draws, seed=options.seed,
                )  # fmt: skip


class Parts:
    """A timer of the parts, which also announces them."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        self.progress, self.seconds = progress, dict[str, float]()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Announce a part and time it."""
        if self.progress is not None:
            self.progress(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def _latent_map(vae: MultimodalVAE, experts: Experts, data: MultimodalDataset) -> dict[str, NDArray[Any]]:
    """Return the first two principal components of the posterior means given all modalities, and the labels.

    With one latent dimension or one item there is one component only, and the second one is 0. The signs of the
    components are those of scikit-learn, which do not depend on the solver.
    """
    means = posterior_means(vae, experts, range(experts.num_modalities)).double().cpu().numpy()
    latent, explained = np.zeros((len(means), 2)), np.zeros(2)
    if (means != means[0]).any():  # otherwise there is no variance to explain
        pca = PCA(min(2, *means.shape), svd_solver="full")
        latent[:, : pca.n_components] = pca.fit_transform(means)
        explained[: pca.n_components] = pca.explained_variance_ratio_
    arrays: dict[str, NDArray[Any]] = {
        "latent": latent.astype(np.float32),
        "explained": explained.astype(np.float32),
    }
    if data.labels is not None and data.label_names:
        frequency = data.labels.double().mean(0)
        attribute = int((frequency - 0.5).abs().argmin())
        arrays["labels"] = data.labels[:, attribute].long().cpu().numpy()
        arrays["label_name"] = np.array(data.label_names[attribute])
    elif data.labels is not None:
        arrays["labels"] = data.labels.cpu().numpy()
        if data.class_names:
            arrays["class_names"] = np.array(data.class_names)
    return arrays


def _frequency(data: MultimodalDataset) -> dict[str, float]:
    """Return the share of items with each attribute."""
    shares = data.labels.double().mean(0).tolist() if data.labels is not None and data.label_names else []
    return dict(zip(data.label_names, shares, strict=False))
