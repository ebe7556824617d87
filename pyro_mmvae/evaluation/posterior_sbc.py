"""Posterior SBC: simulation-based calibration of a guide around real items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.evaluation.sbc import (
    Arguments,
    calibrate_by_simulation,
    check_names,
    density_of,
    posterior_program,
    simulation_note,
)
from pyro_mmvae.evaluation.sbc_result import SimulationCalibration
from pyro_mmvae.vae.names import modality_site
from pyro_mmvae.vae.vae import MultimodalVAE


def posterior_calibration(
    vae: MultimodalVAE,
    batch: Batch | Mapping[str, Tensor],
    given: Sequence[str],
    *,
    draws: int = 99,
    seed: int = 0,
) -> SimulationCalibration:
    r"""Calibrate the guide around real items: posterior SBC, by the modalities that are not given.

    Per item, :math:`z' \sim q(z \mid x_A)` given real observations A, :math:`x_B \sim p(x_B \mid z')` of all other
    modalities, and draws from :math:`q(z \mid x_A, x_B)`. If the guide is the exact posterior of both, the rank of
    :math:`z'` among these draws is uniform. The latents are those of the data at hand, and A has no simulated noise.

    References:
        Säilynoja, Schmitt, Bürkner and Vehtari, 2025. Posterior SBC: simulation-based calibration checking conditional
        on data. arXiv 2502.03279.

    Args:
        vae: The model, in eval mode.
        batch: The real items, on the model's device; those that lack a modality of ``given`` are left out.
        given: The modalities A that are real, at least one; another one must be left to simulate.
        draws: The number of draws of the guide per item; 99, the default, makes 100 ranks.
        seed: The seed of everything random, 0 by default; the states of torch's generators are restored afterwards.

    Returns:
        Ranks of each latent dimension, of log p and of a distance, one row per item.

    Raises:
        ValueError: If a modality is unknown, all are given, or none, or no item has all modalities of ``given``.
    """
    given = tuple(name for name in vae.names if name in given) if set(given) <= set(vae.names) else tuple(given)
    check_names(vae, given)
    others = tuple(name for name in vae.names if name not in given)
    if not given or not others:
        raise ValueError(
            f"given must name at least one modality and leave one to simulate, of {', '.join(vae.names)}; got "
            f"{', '.join(given) or 'none'}"
        )
    observed = _complete_items(Batch.of(batch, vae.names), given)
    posterior = posterior_program(vae)

    def model(items: Batch, **options: Any) -> Tensor:
        return vae.model(items, weighted=False, **options)

    def condition(values: dict[str, Tensor]) -> Arguments:
        simulated = {name: values[modality_site(name)] for name in others}
        return (Batch({**observed.values, **simulated}, covariates=observed.covariates),), {}

    return calibrate_by_simulation(
        lambda items, **options: model(items, generate=items is observed, **options),
        posterior_program(vae),
        condition,
        observed,
        draws=draws,
        seed=seed,
        given=vae.names,
        density=density_of(vae),
        note=simulation_note(vae, others),
        latents=lambda: posterior(observed),
        data=given,
    )


def _complete_items(batch: Batch, given: tuple[str, ...]) -> Batch:
    """Return the items that have all modalities given, with these modalities alone."""
    missing = [name for name in given if name not in batch.values]
    if missing:
        raise ValueError(f"given must name modalities of the batch ({', '.join(batch.values)}), got {missing[0]!r}")
    masks = [batch.present[name] for name in given if name in batch.present]
    rows = torch.stack(masks).all(0) if masks else torch.ones(len(batch), dtype=torch.bool)
    if not rows.any():
        raise ValueError(f"an item must have all of {', '.join(given)}, got none of {len(batch)} items")
    values = {name: batch.values[name] for name in given}
    if not masks:
        return Batch(values, covariates=batch.covariates)
    covariates = None if batch.covariates is None else batch.covariates[rows]
    return Batch({name: value[rows] for name, value in values.items()}, covariates=covariates)
