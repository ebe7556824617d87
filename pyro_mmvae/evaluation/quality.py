"""Quality of generated items compared with the observed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.evaluation.metrics import Metric
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import (
    draw_protocol,
    draws_at_once,
    has_all,
    posterior_draws,
    private_posteriors,
    select,
    subset_names,
)
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.vae import MultimodalVAE

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03  # Wang et al., 2004, section III-B and C


def ssim(images: Float[Tensor, "item channel height width"], others: Float[Tensor, "*image"]) -> Float[Tensor, " item"]:
    r"""Return the structural similarity of pairs of images with values in [0, 1].

    .. math:: \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}, \qquad C_i = K_i^2

    It is averaged over channels and over all windows that lie inside the image. The windows are Gaussian with 11 × 11
    pixels and σ = 1.5; for smaller images their side is the largest odd number that fits.

    References:
        Wang, Bovik, Sheikh and Simoncelli, 2004. Image quality assessment. IEEE Trans. Image Processing 13(4).

    Args:
        images: Images of shape `(item, channel, height, width)`.
        others: Images of the same shape to compare with.

    Returns:
        The similarity of each pair, of shape `(item,)` in float64; 1 for equal images.

    Raises:
        ValueError: If the shapes differ.
    """
    if images.shape != others.shape:
        raise ValueError(
            f"images and others must have the same shape, got {tuple(images.shape)} and {tuple(others.shape)}"
        )
    least = min(images.shape[-2:])
    side = min(_WINDOW, least - 1 + least % 2)
    height, width = (_windows(length, side).to(images.device) for length in images.shape[-2:])

    def blur(values: Tensor) -> Tensor:
        return height @ values @ width.mT

    x, y = images.double(), others.double()
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (top / bottom).mean((1, 2, 3))


def _windows(length: int, side: int) -> Float[Tensor, "window length"]:
    """Return the weights of each window along an axis; a product with them is faster than a sum over windows."""
    offsets = torch.arange(length, dtype=torch.float64) - torch.arange(length - side + 1)[:, None] - side // 2
    inside = offsets.abs() <= side // 2
    return torch.softmax((-offsets.square() / (2 * _SIGMA**2)).masked_fill(~inside, -torch.inf), -1)


def reconstruction(
    vae: MultimodalVAE,
    experts: Experts,
    data: MultimodalDataset,
    *,
    subsets: Sequence[Sequence[int]],
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Metric]:
    """Compare each modality generated from a subset with the observed one.

    z and the private latents of the modalities given are one draw from the posterior given the subset; other private
    latents are drawn from their priors. The mean of the likelihood is compared with the observation. Items that lack a
    modality of the subset, or the modality compared, are left out. For a modality of the subset the figure measures
    reconstruction, for another modality translation; the protocol says which, so that means never mix the two.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items of ``data``.
        data: The data set of observed items.
        subsets: Subsets of the modalities to condition on, each as indices.
        seed: The seed of the draws of each subset, 0 by default; the states of torch's generators are restored
            afterwards.
        batch_size: The number of items to decode at once; by default it depends on the device.

    Returns:
        For each subset and modality ``mse``, the mean square over items and pixels, and for images also ``ssim``. For
        categorical modalities ``exact_match`` instead, the share of items whose most probable class is right at every
        position.
    """
    device = experts.loc.device
    protocol = draw_protocol(vae, experts.num_modalities)
    size = batch_size or draws_at_once(device)
    rows = []
    for subset in subsets:
        index = has_all(experts, subset).nonzero()[:, 0]
        totals: dict[tuple[str, str], tuple[float, int]] = {}
        if len(index):
            with seeded(seed, device):
                z = posterior_draws(vae, select(experts, index), subset)
                noise = vae.model.private_draws(z, vae.names)
            for start in range(0, len(z), size):
                part = slice(start, start + size)
                batch = make_batch(data, index[part].to(data.present.device)).to(device)
                with torch.no_grad():
                    # The draws from the prior N(0, I) double as the noise of the reparametrised private posteriors.
                    private = {name: u[part] for name, u in noise.items()}
                    for name, posterior in private_posteriors(vae, batch, subset)(z[part]).items():
                        private[name] = posterior.mean + posterior.stddev * private[name]
                    means = vae.decode(z[part], private=private, covariates=batch.covariates)
                for name, value in batch.values.items():
                    present = batch.present.get(name, torch.ones(len(value), dtype=torch.bool, device=device))
                    for metric, figures in _compare(vae, name, means[name][present], value[present]).items():
                        total, count = totals.get((metric, name), (0.0, 0))
                        totals[metric, name] = total + float(figures.sum()), count + len(figures)
        given = subset_names(subset, vae.names)
        for (metric, name), (total, count) in totals.items():
            kind = "reconstruction" if name in given else "translation"
            if count:
                rows.append(Metric(metric, f"{kind}, {protocol}", given, name, total / count, count, seed))
    return rows


def _compare(vae: MultimodalVAE, name: str, decoded: Tensor, value: Tensor) -> dict[str, Tensor]:
    """Return the figures of each item, by metric."""
    likelihood = cast("Likelihood", vae.model.likelihoods[name])
    if likelihood.is_categorical:
        return {"exact_match": (likelihood.point(decoded) == value).flatten(1).all(-1).double()}
    result = {"mse": (decoded.double() - value.double()).square().flatten(1).mean(-1)}
    if value.dim() == 4:
        result["ssim"] = ssim(decoded, value.to(decoded))
    return result
