"""All metrics of generated items that need classifiers, from as few draws and decodings as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.coherence import conditional_coherence
from pyro_mmvae.evaluation.conditional_frechet import choose_labelled, conditional_frechet_rows
from pyro_mmvae.evaluation.generated_quality import generated_agreement, generated_quality
from pyro_mmvae.evaluation.generation import Generation, RealItems
from pyro_mmvae.evaluation.metrics import Metric, choose_items
from pyro_mmvae.evaluation.result import EvaluationOptions
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import select
from pyro_mmvae.vae.vae import MultimodalVAE


def judge_generated(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    classifiers: Classifiers,
    *,
    subsets: Sequence[Sequence[int]],
    densities: Sequence[str],
    options: EvaluationOptions,
) -> list[Metric]:
    """Judge coherence, agreement and quality of the modalities that are generated from each subset.

    Coherence and quality judge one draw together if they are of the same items, which is so unless
    ``options.frechet_items`` is less than the number of items for coherence.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The test items, some of them labelled.
        classifiers: The classifiers that judge the generated modalities.
        subsets: Subsets of the modalities to generate from, each as indices.
        densities: The densities to draw from for coherence and agreement, ``joint`` or ``mixture``. Quality is judged
            by draws of the default density.
        options: The extent of the evaluation, of which the numbers of items, ``quality`` and ``seed`` are used.

    Returns:
        The rows, sorted by metric and protocol.
    """
    labelled = data.labelled.cpu().nonzero()[:, 0]
    chosen = labelled[choose_items(len(labelled), options.coherence_items, options.seed)]
    experts, data = _select(experts, data, chosen)
    generation = _generation(vae, experts, data, classifiers, options.seed)
    judged = choose_labelled(data, options.frechet_items * options.quality, options.seed)
    shared = len(judged) == len(data)
    real = RealItems(data, classifiers) if shared else None
    labels, rows = cast("Tensor", data.labels), list[Metric]()
    for subset in subsets:
        for density in densities:
            rows += conditional_coherence(
                vae, experts, labels, classifiers, subsets=[subset], density=density, generation=generation
            )
            rows += generated_agreement(generation, labels, subset, density)
        rows += _quality(generation, real, subset)
    if not shared and len(judged):
        experts, data = _select(experts, data, judged)
        generation = _generation(vae, experts, data, classifiers, options.seed)
        real = RealItems(data, classifiers)
        rows += [row for subset in subsets for row in _quality(generation, real, subset)]
    return sorted(rows, key=lambda row: (row.metric, row.protocol))


def _select(experts: Experts, data: MultimodalDataset, index: Tensor) -> tuple[Experts, MultimodalDataset]:
    """Return the experts and the data of some items; all of them are not copied."""
    if len(index) == len(data):
        return experts, data
    return select(experts, index.to(experts.loc.device)), data.subset(index.tolist())


def _generation(
    vae: MultimodalVAE, experts: Experts, data: MultimodalDataset, classifiers: Classifiers, seed: int
) -> Generation:
    """Return a generator that knows the categories of the items."""
    covariates = one_hot(data.covariates, data.covariate_names, slice(None))
    return Generation(vae, experts, classifiers, covariates=covariates, seed=seed)


def _quality(generation: Generation, real: RealItems | None, subset: Sequence[int]) -> list[Metric]:
    """Return all metrics that compare generated items with real ones; nothing without real items."""
    if real is None:
        return []
    return [*conditional_frechet_rows(generation, real, subset), *generated_quality(generation, real, subset)]
