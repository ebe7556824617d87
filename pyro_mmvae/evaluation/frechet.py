"""Fréchet distances between the distributions of real and generated items."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import cast

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.covariates import one_hot
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.fitted_prior import FittedPrior, prior_draws, prior_protocol
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


def frechet_distance(real: Float[Tensor, "real feature"], generated: Float[Tensor, "generated features"]) -> float:
    r"""Return the squared 2-Wasserstein distance of the Gaussians with the moments of two sets of features.

    .. math:: \lVert \mu_1 - \mu_2 \rVert^2
        + \operatorname{tr}\left(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\right)

    It is computed in float64, with matrix roots from the eigenvalues of symmetric matrices, so that singular
    covariances do no harm.

    References:
        Dowson and Landau, 1982. The Fréchet distance between multivariate normal distributions. J. Multivariate
        Analysis 12(3).

    Args:
        real: Features of real items, of shape `(real, feature)` with at least two rows.
        generated: Features of generated items, of shape `(generated, feature)` with at least two rows.

    Returns:
        The squared distance, at least 0.

    Raises:
        ValueError: If there are fewer rows, or the numbers of features differ.
    """
    if min(len(real), len(generated)) < 2 or real.shape[1:] != generated.shape[1:]:
        raise ValueError(
            "real and generated must have at least two rows each and as many features as the other, got shapes "
            f"{tuple(real.shape)} and {tuple(generated.shape)}"
        )
    first, second = real.double(), generated.double()
    cov_first, cov_second = (x.mT.cov().reshape(x.shape[1], x.shape[1]) for x in (first, second))
    shift = (first.mean(0) - second.mean(0)).square().sum()
    return squared_distance(float(shift), cov_first, cov_second)


def squared_distance(
    shift: float, first: Float[Tensor, "feature feature"], second: Float[Tensor, "feature feature"]
) -> float:
    """Return the squared 2-Wasserstein distance of two Gaussians.

    Args:
        shift: The squared distance of their means.
        first: The covariance of one of them, float64.
        second: The covariance of the other one, float64.

    Returns:
        The squared distance, at least 0.
    """
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    between = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    # Rounding can leave a trace that is zero slightly below zero.
    return max(float(shift + first.trace() + second.trace() - 2 * between), 0.0)


def frechet_classifier(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    classifiers: Classifiers,
    *,
    subsets: Sequence[Sequence[int]] = ((),),
    seed: int = 0,
    batch_size: int | None = None,
    prior: FittedPrior | None = None,
) -> list[Metric]:
    """Return the Fréchet distance of real and generated items in the features of trained classifiers.

    It compares models that are judged by the same classifiers only, and must not be confused with the FID.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The real items. They should outnumber the features, of which the classifiers of this package have 128.
        classifiers: The classifiers whose penultimate layers give the features.
        subsets: Subsets of the modalities to generate from, by default only the empty one, which stands for the prior.
            Each is judged on the modalities outside it.
        seed: The seed of the draws of each subset, 0 by default; the states of torch's generators are restored
            afterwards.
        batch_size: The number of items to decode at once; by default it depends on the device.
        prior: The fitted prior that the empty subset stands for; by default the prior of the model.

    Returns:
        One row per subset and modality with a classifier, where ``n`` is the number of generated items. A row is left
        out if there are fewer than two items, real or generated.
    """
    device = experts.loc.device
    real = {name: real_features(data, classifiers, name) for name in classifiers.networks if name in data.names}
    rows = []
    for subset in subsets:
        kept = has_all(experts, subset)
        targets = [n for m, n in enumerate(vae.names) if n in real and m not in subset and len(real[n]) > 1]
        if not targets or int(kept.sum()) < 2:
            continue
        features: dict[str, list[Tensor]] = {name: [] for name in targets}
        with seeded(seed, device), torch.no_grad():
            if subset or prior is None:
                z = posterior_draws(vae, select(experts, kept), subset)
            else:
                z = prior_draws(vae, int(kept.sum()), prior)
            known = one_hot(data.covariates, data.covariate_names, kept.to(data.present.device))
            for images in decode_in_batches(vae, z, targets, batch_size or draws_at_once(device), known):
                for name in targets:
                    features[name].append(classifiers.features(name, images[name]).cpu())
        given = subset_names(subset, vae.names)
        protocol = draw_protocol(vae, experts.num_modalities) if subset else prior_protocol(vae, prior)
        for name in targets:
            value = frechet_distance(real[name], torch.cat(features[name]))
            rows.append(Metric("frechet_classifier", protocol, given, name, value, len(z), seed))
    return rows


def real_features(data: MultimodalDataset, classifiers: Classifiers, name: str) -> Float[Tensor, "item feature"]:
    """Return the features of all real items of a modality, on the CPU.

    Args:
        data: The real items, of which those that have the modality are taken.
        classifiers: The classifiers whose penultimate layers give the features.
        name: The name of the modality.
    """
    rows = data.present[:, data.names.index(name)].nonzero()[:, 0]
    images = (data.modalities[name][part] for part in rows.split(1000))
    parts = (part.float() / 255 if part.dtype == torch.uint8 else part for part in images)
    return torch.cat([classifiers.features(name, part).cpu() for part in parts])


def rgb_modalities(data: MultimodalDataset) -> list[str]:
    """Return the names of the modalities of RGB images, which the Fréchet inception distance can judge.

    Args:
        data: The data set, whose images are `(item, channel, height, width)`.
    """
    return [name for name, values in data.modalities.items() if values.dim() == 4 and values.shape[1] == 3]


def check_fid(data: MultimodalDataset) -> None:
    """Check that the Fréchet inception distance of a data set can be computed.

    Args:
        data: The data set of real images.

    Raises:
        ValueError: If none of its modalities holds RGB images; the message lists those there are.
        ImportError: If torchmetrics or torch-fidelity is not installed.
    """
    if not rgb_modalities(data):
        shapes = ", ".join(f"{name} {tuple(values.shape[1:])}" for name, values in data.modalities.items())
        raise ValueError(f"fid must have a modality of RGB images (3, height, width), got {shapes}: leave fid out")
    if missing := [name for name in ("torchmetrics", "torch_fidelity") if importlib.util.find_spec(name) is None]:
        raise ImportError(_needs_extra(f"no module {' and '.join(missing)}"))


def _needs_extra(reason: object) -> str:
    """Return a message that names the extra."""
    return f"fid needs torchmetrics and torch-fidelity: pip install 'pyro-mmvae[fid]' ({reason})"


def fid_of_prior_draws(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    prior: FittedPrior | None = None,
) -> list[Metric]:
    """Return the Fréchet inception distance of real images and as many draws from a prior; see :func:`fid`.

    Args:
        vae: The model, in eval mode.
        data: The data set of real images.
        seed: The seed of the draws, 0 by default; the states of torch's generators are restored afterwards.
        batch_size: The number of draws to decode at once; by default it depends on the device.
        prior: The fitted prior to draw from; by default that of the model.

    Returns:
        One row per modality of RGB images.

    Raises:
        ImportError: If torchmetrics or torch-fidelity is not installed.
    """
    device = next(vae.parameters()).device
    rows = []
    for column, name in enumerate(data.names):
        if name not in rgb_modalities(data):
            continue
        real = data.modalities[name][data.present[:, column]].to(device)
        with seeded(seed, device), torch.no_grad():
            z = prior_draws(vae, len(real), prior)
            size = batch_size or draws_at_once(device)
            known = one_hot(data.covariates, data.covariate_names, data.present[:, column])
            drawn = torch.cat([images[name] for images in decode_in_batches(vae, z, [name], size, known)])
        value = fid(real.float() / 255 if real.dtype == torch.uint8 else real, drawn)
        source = "prior draws" if prior is None else f"draws of the fitted prior ({prior.label})"
        protocol = f"Inception, {source}, mean of the likelihood"
        rows.append(Metric("fid", protocol, (), name, value, len(real), seed))
    return rows


def fid(
    real: Float[Tensor, "real channel height width"],
    generated: Float[Tensor, "generated channel height width"],
    *,
    feature: int = 2048,
    batch_size: int = 100,
) -> float:
    """Return the Fréchet inception distance (Heusel et al., 2017) as computed by torchmetrics.

    torchmetrics downloads the weights of Inception at the first call.

    Args:
        real: Real RGB images with values in [0, 1], of shape `(real, channel, height, width)`.
        generated: Generated RGB images of shape `(generated, channel, height, width)`; values are clamped to [0, 1].
        feature: The width of the layer of Inception: 64, 192, 768 or 2048 (the default). Fewer images than features
            give a singular covariance.
        batch_size: The number of images to process at once, 100 by default.

    Returns:
        The distance, 0 for equal moments.

    Raises:
        ImportError: If torchmetrics or torch-fidelity is not installed.
    """
    try:
        metric = importlib.import_module("torchmetrics.image.fid").FrechetInceptionDistance(
            feature=feature, normalize=True
        )
    except ImportError as error:
        raise ImportError(_needs_extra(error)) from None
    metric = metric.to(real.device)
    for images, is_real in ((real, True), (generated, False)):
        for part in images.split(batch_size):
            metric.update(part.float().clamp(0, 1), real=is_real)
    return float(cast("Tensor", metric.compute()))
