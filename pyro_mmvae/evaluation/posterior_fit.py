"""The parts of an evaluation that measure how well the guide fits the posteriors of single items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.evaluation.psis import khat, khat_threshold
from pyro_mmvae.evaluation.refinement import refined_figures
from pyro_mmvae.evaluation.result import EvaluationOptions
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import has_all, has_several_components
from pyro_mmvae.run_files import join_names
from pyro_mmvae.vae.vae import MultimodalVAE


def khat_part(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    subsets: Sequence[Sequence[int]],
    options: EvaluationOptions,
) -> tuple[list[Metric], dict[str, NDArray[Any]]]:
    """Return PSIS k̂ given each subset, of the joint component too where a mixture has one, and k̂ of single items.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The test items to choose from.
        subsets: The subsets of modalities, each as indices; those that no item has are left out.
        options: The numbers of items and draws, and the seed.
    """
    rows, arrays = list[Metric](), dict[str, NDArray[Any]]()
    settings: dict[str, Any] = {"samples": options.khat_samples, "items": options.khat_items, "seed": options.seed}
    for subset in subsets:
        if not has_all(experts, subset).any():
            continue
        result = khat(vae, experts, data, subset=subset, **settings)
        rows += result.rows
        arrays["khat." + join_names(result.rows[0].given)] = result.values
        if has_several_components(vae, experts, subset):
            joint = khat(vae, experts, data, subset=subset, density="joint", **settings)
            rows += joint.rows
            arrays["khat_joint." + join_names(result.rows[0].given)] = joint.values
    arrays["khat_threshold"] = np.array(khat_threshold(options.khat_samples))
    return rows, arrays


def refinement_part(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    subsets: Sequence[Sequence[int]],
    options: EvaluationOptions,
) -> tuple[list[Metric], dict[str, NDArray[Any]]]:
    """Return the figures of refined posteriors given each subset, and the moments of the reference by subset.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The test items to choose from.
        subsets: The subsets of modalities, each as indices; those that no item has are left out.
        options: The numbers of steps, items and draws, and the seed.
    """
    rows, arrays = list[Metric](), dict[str, NDArray[Any]]()
    for subset in subsets:
        if not has_all(experts, subset).any():
            continue
        result = refined_figures(
            vae, experts, data, subset=subset, steps=options.refine, items=options.refine_items,
            reference_items=options.reference_items, samples=options.khat_samples, seed=options.seed,
        )  # fmt: skip
        rows += result.rows
        given = join_names(result.rows[0].given)
        arrays |= {f"{name}.{given}": array for name, array in result.arrays.items()}
    return rows, arrays
