"""Fréchet distances between the distributions of real and generated items."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.metrics import Metric, subset_names
from pyro_mmvae.evaluation.posteriors import (
    decode_in_batches,
    draw_protocol,
    draws_at_once,
    has_all,
    posterior_draws,
    readout,
    seeded,
    select,
)
from pyro_mmvae.experts import Experts
from pyro_mmvae.vae.vae import MultimodalVAE


def frechet_distance(real: Float[Tensor, "real feature"], generated: Float[Tensor, "generated features"]) -> float:
    r"""Squared 2-Wasserstein distance of the Gaussians with the moments of two sets of features.

    .. math:: \lVert \mu_1 - \mu_2 \rVert^2
        + \operatorname{tr}\left(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\right)

    In float64, the roots by eigenvalues of symmetric matrices, which singular covariances do not disturb.

    References:
        Dowson and Landau, 1982. The Fréchet distance between multivariate normal distributions. J. Multivariate
        Analysis 12(3).

    Args:
        real: two rows at least.
        generated: likewise.

    Raises:
        ValueError: for fewer rows, or different numbers of features.
    """
    if min(len(real), len(generated)) < 2 or real.shape[1:] != generated.shape[1:]:
        raise ValueError(
            f"a Frechet distance needs two rows at least of as many features on both sides, got {tuple(real.shape)} "
            f"and {tuple(generated.shape)}"
        )
    first, second = real.double(), generated.double()
    cov_first, cov_second = (x.mT.cov().reshape(x.shape[1], x.shape[1]) for x in (first, second))
    values, vectors = torch.linalg.eigh(cov_first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    between = torch.linalg.eigvalsh(root @ cov_second @ root).clamp(min=0).sqrt().sum()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    # Rounding can leave a trace of zero a little below it.
    return max(float(shift + cov_first.trace() + cov_second.trace() - 2 * between), 0.0)


def frechet_classifier(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    classifiers: Classifiers,
    *,
    subsets: Sequence[Sequence[int]] = ((),),
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Metric]:
    """Fréchet distance of real and generated items in the features of our own classifiers.

    It compares models judged by the same classifiers, and nothing else: it is no FID.

    Args:
        vae: in eval mode.
        experts: of the items of ``data``.
        data: items. They should outnumber the features, 128 in our classifiers.
        classifiers: whose penultimate layers are looked at.
        subsets: what images are generated from; nothing, that is the prior, by default. Each is judged on the
            modalities it does not hold.
        seed: of the draws of each subset; torch's generators are put back after.
        batch_size: items decoded at once; by default as suits the device.

    Returns:
        One row a subset and modality with a classifier, ``n`` the generated images; none where there are fewer than
        two images, real or generated.
    """
    device = experts.loc.device
    real = {name: _real_features(data, classifiers, name) for name in classifiers.networks if name in data.names}
    rows = []
    for subset in subsets:
        kept = has_all(experts, subset)
        targets = [n for m, n in enumerate(vae.names) if n in real and m not in subset and len(real[n]) > 1]
        if not targets or int(kept.sum()) < 2:
            continue
        found: dict[str, list[Tensor]] = {name: [] for name in targets}
        with seeded(seed, device), torch.no_grad():
            z = posterior_draws(vae, select(experts, kept), subset)
            for images in decode_in_batches(vae, z, targets, batch_size or draws_at_once(device)):
                for name in targets:
                    found[name].append(classifiers.features(name, images[name]).cpu())
        given = subset_names(subset, vae.names)
        protocol = draw_protocol(vae, experts.num_modalities) if subset else f"prior draws, {readout(vae)}"
        for name in targets:
            value = frechet_distance(real[name], torch.cat(found[name]))
            rows.append(Metric("frechet_classifier", protocol, given, name, value, len(z), seed))
    return rows


def _real_features(data: MultimodalDataset, classifiers: Classifiers, name: str) -> Tensor:
    rows = data.present[:, data.names.index(name)].nonzero()[:, 0]
    images = (data.modalities[name][part] for part in rows.split(1000))
    parts = (part.float() / 255 if part.dtype == torch.uint8 else part for part in images)
    return torch.cat([classifiers.features(name, part).cpu() for part in parts])


def fid_of_prior_draws(
    vae: MultimodalVAE, data: MultimodalDataset, *, seed: int = 0, batch_size: int | None = None
) -> list[Metric]:
    """Fréchet inception distance of as many prior draws as there are real images; see :func:`fid`.

    Args:
        vae: in eval mode.
        data: real images.
        seed: of the draws; torch's generators are put back after.
        batch_size: draws decoded at once; by default as suits the device.

    Returns:
        One row a modality of RGB images.

    Raises:
        ImportError: if torchmetrics or torch-fidelity is not installed.
    """
    device = next(vae.parameters()).device
    rows = []
    for column, name in enumerate(data.names):
        real = data.modalities[name]
        if real.dim() != 4 or real.shape[1] != 3:
            continue
        real = real[data.present[:, column]].to(device)
        with seeded(seed, device), torch.no_grad():
            z = vae.model.prior().sample(torch.Size((len(real),)))
            size = batch_size or draws_at_once(device)
            drawn = torch.cat([images[name] for images in decode_in_batches(vae, z, [name], size)])
        value = fid(real.float() / 255 if real.dtype == torch.uint8 else real, drawn)
        rows.append(Metric("fid", "Inception, prior draws, mean of the likelihood", (), name, value, len(real), seed))
    return rows


def fid(
    real: Float[Tensor, "real channel height width"],
    generated: Float[Tensor, "generated channel height width"],
    *,
    feature: int = 2048,
    batch_size: int = 100,
) -> float:
    """Fréchet inception distance (Heusel et al., 2017) by torchmetrics, which fetches Inception's weights once.

    Args:
        real: RGB images in [0, 1].
        generated: likewise; clamped to that range.
        feature: 64, 192, 768 or 2048, the layer of Inception; fewer images than that give a singular covariance.
        batch_size: images at once.

    Raises:
        ImportError: if torchmetrics or torch-fidelity is not installed.
    """
    try:
        metric = importlib.import_module("torchmetrics.image.fid").FrechetInceptionDistance(
            feature=feature, normalize=True
        )
    except ImportError as error:
        raise ImportError(
            f"fid needs torchmetrics and torch-fidelity: pip install 'pyro-mmvae[fid]' ({error})"
        ) from None
    metric = metric.to(real.device)
    for images, is_real in ((real, True), (generated, False)):
        for part in images.split(batch_size):
            metric.update(part.float().clamp(0, 1), real=is_real)
    return float(cast("Tensor", metric.compute()))
