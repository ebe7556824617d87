"""Fréchet distances between the distributions of real and generated items given their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.frechet import real_features, squared_distance
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import (
    decode_in_batches,
    draw_protocol,
    draws_at_once,
    has_all,
    posterior_draws,
    select,
    subset_names,
)
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
    device, rows = experts.loc.device, []
    labelled = data.labelled.cpu().nonzero()[:, 0]
    order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))[:items]
    chosen = labelled[order].sort().values
    data, experts = data.subset(chosen.tolist()), select(experts, chosen.to(device))
    labels = cast("Tensor", data.labels).cpu()
    present = {name: data.present[:, column].cpu() for column, name in enumerate(data.names)}
    real = {name: real_features(data, classifiers, name) for name in classifiers.networks if present[name].any()}
    protocol = f"given the {'attributes' if classifiers.label_names else 'class'}, "
    protocol += draw_protocol(vae, experts.num_modalities)
    for subset in subsets:
        kept = has_all(experts, subset)
        targets = [name for m, name in enumerate(vae.names) if name in real and m not in subset]
        if not targets or not kept.any():
            continue
        features: dict[str, list[Tensor]] = {name: [] for name in targets}
        with seeded(seed, device), torch.no_grad():
            z = posterior_draws(vae, select(experts, kept), subset)
            known = one_hot(data.covariates, data.covariate_names, kept.to(data.present.device))
            for images in decode_in_batches(vae, z, targets, batch_size or draws_at_once(device), known):
                for name in targets:
                    features[name].append(classifiers.features(name, images[name]).cpu())
        given = subset_names(subset, vae.names)
        for name in targets:
            parts = ((real[name], labels[present[name]]), (torch.cat(features[name]), labels[kept.cpu()]))
            pair = _of_common_classes(*parts)
            if all(len(found) > len(found_labels.unique(dim=0)) for found, found_labels in pair):
                value = conditional_frechet_distance(*pair[0], *pair[1])
                rows.append(Metric("frechet_conditional", protocol, given, name, value, len(pair[1][0]), seed))
    return rows


def _of_common_classes(
    real: tuple[Tensor, Tensor], generated: tuple[Tensor, Tensor]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return features and labels of the items whose class both sets have; all if the labels are attributes."""
    if real[1].dim() > 1:
        return real, generated
    of_real, of_generated = torch.isin(real[1], generated[1]), torch.isin(generated[1], real[1])
    return (real[0][of_real], real[1][of_real]), (generated[0][of_generated], generated[1][of_generated])
