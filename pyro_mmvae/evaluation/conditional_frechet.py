"""Fréchet distances between the distributions of real and generated items given their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.frechet import squared_distance
from pyro_mmvae.evaluation.generation import Generation, RealItems
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import select
from pyro_mmvae.vae.vae import MultimodalVAE


def conditional_frechet_distance(
    real: Float[Tensor, "real feature"], real_labels: Tensor, generated: Tensor, generated_labels: Tensor
) -> float:
    r"""Return the mean squared 2-Wasserstein distance of two sets of features given their labels.

    .. math:: E_y \lVert \mu_1(y) - \mu_2(y) \rVert^2
        + \operatorname{tr}\left(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\right)

    Each :math:`\mu(y)` is the linear regression of the features on the labels, which for classes is the mean of each
    class, and Σ the covariance of its residuals, pooled over the labels; the mean over y is that of the generated
    items. Unlike one Fréchet distance over all items, it is large if generated items have a wrong class, or do not vary
    within it. Pooling needs far fewer items per class than features.

    References:
        Soloveitchik, Diskin, Morin and Wiesel, 2021. Conditional Frechet inception distance. arXiv 2103.11521.

    Args:
        real: Features of real items, `(real, feature)`.
        real_labels: Their classes `(real,)`, or attributes `(real, attribute)`.
        generated: Features of generated items, `(generated, feature)`.
        generated_labels: The labels of the items from which they were generated.

    Returns:
        The squared distance, at least 0.

    Raises:
        ValueError: If the numbers of features differ, there are not more items than distinct labels in each set, or
            the sets do not have the same classes.
    """
    if real.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"real and generated must have as many features as the other, got shapes {tuple(real.shape)} and "
            f"{tuple(generated.shape)}"
        )
    designs = [_design(labels.cpu()) for labels in (real_labels, generated_labels)]
    if real_labels.dim() == 1 and not torch.equal(real_labels.unique().cpu(), generated_labels.unique().cpu()):
        raise ValueError("real and generated items must have the same classes, got different ones")
    fits = [
        _regress(design, features.cpu().double()) for design, features in zip(designs, (real, generated), strict=True)
    ]
    (first, cov_first), (second, cov_second) = fits
    shift = (designs[1] @ (first - second)).square().sum(-1).mean()
    return squared_distance(float(shift), cov_first, cov_second)


def _design(labels: Tensor) -> Tensor:
    """Return the regressors of labels: indicators of classes, or 1 and the attributes."""
    if labels.dim() == 1:
        return (labels[:, None] == labels.unique()).double()
    return torch.cat([torch.ones(len(labels), 1, dtype=torch.float64), labels.double()], -1)


def _regress(design: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients of a regression and the covariance of its residuals."""
    free = len(design) - int(torch.linalg.matrix_rank(design))
    if free < 1:
        raise ValueError(
            f"real and generated must have more items each than distinct labels, got {len(design)} items of "
            f"{len(design) - free}"
        )
    coefficients = torch.linalg.pinv(design) @ features
    residuals = features - design @ coefficients
    return coefficients, residuals.mT @ residuals / free


def frechet_conditional(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    classifiers: Classifiers,
    *,
    subsets: Sequence[Sequence[int]],
    items: int = 2000,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Metric]:
    """Return the conditional Fréchet distance of modalities that are generated from a subset to real items.

    One draw per item, z from its posterior and private latents from their priors, is compared with the real items in
    the features of trained classifiers, given the labels; see :func:`conditional_frechet_distance`.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The real items, with labels. They should outnumber the features, of which the classifiers of this package
            have 128.
        classifiers: The classifiers whose penultimate layers give the features.
        subsets: Subsets of the modalities to generate from, each as indices, judged on the modalities outside it.
        items: The largest number of labelled items, 2,000 by default, chosen at random.
        seed: The seed of items and draws, 0 by default; the states of torch's generators are restored afterwards.
        batch_size: The number of items to decode at once; by default it depends on the device.

    Returns:
        One row per subset and modality with a classifier, where ``n`` is the number of generated items. A row is left
        out if there are too few items of the classes that real and generated ones have in common.
    """
    chosen = choose_labelled(data, items, seed)
    data, experts = data.subset(chosen.tolist()), select(experts, chosen.to(experts.loc.device))
    known = one_hot(data.covariates, data.covariate_names, slice(None))
    generation = Generation(vae, experts, classifiers, covariates=known, seed=seed, batch_size=batch_size)
    real = RealItems(data, classifiers)
    return [row for subset in subsets for row in conditional_frechet_rows(generation, real, subset)]


def choose_labelled(data: MultimodalDataset, items: int, seed: int) -> Tensor:
    """Return the indices of randomly chosen labelled items in ascending order, at most ``items`` of them."""
    labelled = data.labelled.cpu().nonzero()[:, 0]
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))[:items]
    return labelled[order].sort().values


def conditional_frechet_rows(generation: Generation, real: RealItems, subset: Sequence[int]) -> list[Metric]:
    """Return the conditional Fréchet distance of each modality outside a subset; see :func:`frechet_conditional`.

    Args:
        generation: The generator of the modalities.
        real: The real items from which they are generated, all of them labelled.
        subset: Indices of the modalities to generate from.
    """
    labels, rows = cast("Tensor", real.data.labels).cpu(), []
    kind = "attributes" if generation.classifiers.label_names else "class"
    protocol = f"given the {kind}, {generation.protocol()}"
    kept = generation.kept(subset).cpu()
    for name, (features, _) in generation.from_subset(subset).items():
        if not real.present(name).any():
            continue
        pair = _of_common_classes((real.features(name), labels[real.present(name)]), (features.cpu(), labels[kept]))
        if all(len(found) > len(found_labels.unique(dim=0)) for found, found_labels in pair):
            value, count = conditional_frechet_distance(*pair[0], *pair[1]), len(pair[1][0])
            given = generation.given(subset)
            rows.append(Metric("frechet_conditional", protocol, given, name, value, count, generation.seed))
    return rows


def _of_common_classes(
    real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return features and labels of the items whose class both sets have; all if the labels are attributes."""
    if real[1].dim() > 1:
        return real, generated
    of_real, of_generated = torch.isin(real[1], generated[1]), torch.isin(generated[1], real[1])
    return (real[0][of_real], real[1][of_real]), (generated[0][of_generated], generated[1][of_generated])
