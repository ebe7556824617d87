"""How good generated modalities are in themselves: against what was observed, and as a population."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

import torch

from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.metrics import Metric, names_of
from pyro_mmvae.evaluation.posteriors import (
    decoded,
    draw_protocol,
    draws_at_once,
    having,
    posterior_draws,
    private_posteriors,
    seeded,
    shown,
    take,
)
from pyro_mmvae.experts import Experts
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.vae import MultimodalVAE

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03  # Wang et al., 2004, section III-B and C


def ssim(images: Float[Tensor, "item channel height width"], others: Float[Tensor, "*image"]) -> Float[Tensor, " item"]:
    r"""Structural similarity of pairs of images of values in [0, 1], mean over channels and over whole windows.

    .. math:: \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}, \qquad C_i = K_i^2

    Gaussian windows of 11 × 11 pixels, σ = 1.5; of the greatest odd side that fits where images are smaller.

    References:
        Wang, Bovik, Sheikh and Simoncelli, 2004. Image quality assessment. IEEE Trans. Image Processing 13(4).

    Args:
        images: `(item, channel, height, width)`.
        others: likewise.

    Returns:
        `(item,)`, float64, 1 for equal images.

    Raises:
        ValueError: if the shapes differ.
    """
    if images.shape != others.shape:
        raise ValueError(f"images of shapes {tuple(images.shape)} and {tuple(others.shape)} cannot be compared")
    least = min(images.shape[-2:])
    side = min(_WINDOW, least - 1 + least % 2)
    offsets = torch.arange(side, dtype=torch.float64, device=images.device) - side // 2
    window = torch.softmax(-offsets.square() / (2 * _SIGMA**2), 0)

    def blur(values: Tensor) -> Tensor:
        rows = (values.unfold(-1, side, 1) * window).sum(-1)
        return (rows.unfold(-2, side, 1) * window).sum(-1)

    x, y = images.double(), others.double()
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (top / bottom).mean((1, 2, 3))


def reconstruction(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subsets: Sequence[Sequence[int]],
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Metric]:
    """How near each modality generated from a subset is to the one observed.

    z, and the private latents of what is given, are one draw from the posterior given the subset, other private latents
    from their priors; what is compared is the likelihood's mean. Items that lack a
    modality of the subset, or the one compared, are left out. A modality of the subset is a reconstruction, another a
    translation.

    Args:
        vae: in eval mode.
        experts: of the items of ``data``.
        data: items.
        subsets: of modalities.
        seed: of the draws of each subset; torch's generators are put back after.
        batch_size: items decoded at once; by default as suits the device.

    Returns:
        For each subset and modality ``mse``, the mean square over items and pixels; ``ssim`` too for images; for
        categorical modalities ``exact_match`` instead, the share of items whose most probable class is right at every
        position.
    """
    device = experts.loc.device
    protocol = draw_protocol(vae, experts.num_modalities)
    size = batch_size or draws_at_once(device)
    rows = []
    for subset in subsets:
        index = having(experts, subset).nonzero()[:, 0]
        totals: dict[tuple[str, str], tuple[float, int]] = {}
        if len(index):
            with seeded(seed, device):
                z = posterior_draws(vae, take(experts, index), subset)
                noise = vae.model.private_draws(z, vae.names)
            for start in range(0, len(z), size):
                part = slice(start, start + size)
                batch = make_batch(data, index[part].to(data.present.device)).to(device)
                with torch.no_grad():
                    private = {name: u[part] for name, u in noise.items()}  # N(0, I), the prior's
                    for name, own in private_posteriors(vae, batch, subset).items():
                        private[name] = own.mean + own.stddev * private[name]
                    shown_means = vae.decode(z[part], private=private)
                for name, value in batch.values.items():
                    there = batch.present.get(name, torch.ones(len(value), dtype=torch.bool, device=device))
                    for metric, each in _compare(vae, name, shown_means[name][there], value[there]).items():
                        total, count = totals.get((metric, name), (0.0, 0))
                        totals[metric, name] = total + float(each.sum()), count + len(each)
        given = names_of(subset, vae.names)
        rows += [Metric(m, protocol, given, n, total / k, k, seed) for (m, n), (total, k) in totals.items() if k]
    return rows


def _compare(vae: MultimodalVAE, name: str, decoded: Tensor, value: Tensor) -> dict[str, Tensor]:
    """Metric to its figure for each item."""
    likelihood = cast("Likelihood", vae.model.likelihoods[name])
    if likelihood.is_categorical:
        return {"exact_match": (likelihood.point(decoded) == value).flatten(1).all(-1).double()}
    result = {"mse": (decoded.double() - value.double()).square().flatten(1).mean(-1)}
    if value.dim() == 4:
        result["ssim"] = ssim(decoded, value.to(decoded))
    return result


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
        kept = having(experts, subset)
        targets = [n for m, n in enumerate(vae.names) if n in real and m not in subset and len(real[n]) > 1]
        if not targets or int(kept.sum()) < 2:
            continue
        found: dict[str, list[Tensor]] = {name: [] for name in targets}
        with seeded(seed, device), torch.no_grad():
            z = posterior_draws(vae, take(experts, kept), subset)
            for images in decoded(vae, z, targets, batch_size or draws_at_once(device)):
                for name in targets:
                    found[name].append(classifiers.features(name, images[name]).cpu())
        given = names_of(subset, vae.names)
        protocol = draw_protocol(vae, experts.num_modalities) if subset else f"prior draws, {shown(vae)}"
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
            drawn = torch.cat([images[name] for images in decoded(vae, z, [name], size)])
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
