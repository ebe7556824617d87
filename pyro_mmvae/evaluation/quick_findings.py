"""The findings that do not need an evaluation: those about experts, the latent, residuals and the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.diagnostics import diagnose
from pyro_mmvae.evaluation.finding import Finding
from pyro_mmvae.evaluation.geometry import expert_geometry
from pyro_mmvae.evaluation.latent import latent_usage
from pyro_mmvae.evaluation.metrics import choose_items
from pyro_mmvae.evaluation.residuals import residuals
from pyro_mmvae.inference.posteriors import encode_dataset, has_all, subset_family
from pyro_mmvae.vae.vae import MultimodalVAE


def quick_findings(
    vae: MultimodalVAE,
    data: MultimodalDataset,
    *,
    items: int = 500,
    history: Sequence[Mapping[str, Any]] = (),
    has_fitted_prior: bool = False,
    seed: int = 0,
) -> list[Finding]:
    """Find the failure modes that a few items and the history of the training show, within seconds.

    Probes, coherence, log likelihoods and k̂ are left to :func:`~pyro_mmvae.evaluation.evaluate`.

    Args:
        vae: The model, in eval mode.
        data: The items to judge the model on, on any device.
        items: The largest number of items, 500 by default, chosen at random.
        history: The metrics of each epoch of the training; by default its length is not judged.
        has_fitted_prior: If True, a prior was fitted to the aggregated posterior; False by default.
        seed: The seed of all choices and draws, 0 by default.

    Returns:
        The findings of :func:`~pyro_mmvae.evaluation.diagnose`.
    """
    device = next(vae.parameters()).device
    chosen = data.subset(choose_items(len(data), items, seed)).to(device)
    experts = encode_dataset(vae, chosen)
    rows = [*expert_geometry(vae, experts), *residuals(vae, experts, chosen)]
    everything = tuple(range(len(vae.names)))
    if has_all(experts, everything).any():
        rows += latent_usage(vae, experts, subset=everything, draws=200, seed=seed)
    mixture = subset_family(vae) not in {"all", None}
    return diagnose(rows, vae.names, mixture=mixture, has_fitted_prior=has_fitted_prior, history=history)
