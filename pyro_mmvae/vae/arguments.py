"""The arguments of a multimodal variational autoencoder: their checks, and the aggregation that they describe."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation.base import Aggregation
from pyro_mmvae.aggregation.functional import AggregationLike, make_aggregation
from pyro_mmvae.aggregation.subsets import SubsetWeights
from pyro_mmvae.aggregation.values import ExpertWeights
from pyro_mmvae.vae.modalities import Modality


def make_rule(
    aggregation: AggregationLike,
    expert_weights: ExpertWeights | None,
    subset_weights: SubsetWeights,
    prior_expert: str | None,
) -> Aggregation:
    """Return the aggregation, given those options that differ from the defaults."""
    options: dict[str, Any] = {"expert_weights": expert_weights, "prior_expert": prior_expert}
    if not (isinstance(subset_weights, str) and subset_weights == "uniform"):
        options["subset_weights"] = subset_weights
    return make_aggregation(aggregation, **{name: value for name, value in options.items() if value is not None})


def check_modalities(modalities: Sequence[Modality]) -> Sequence[Modality]:
    """Check that modalities are a sequence of :class:`Modality`.

    Args:
        modalities: The argument of :class:`MultimodalVAE`.

    Returns:
        The modalities, unchanged.

    Raises:
        TypeError: If they are anything else.
    """
    is_sequence = isinstance(modalities, Sequence) and not isinstance(modalities, str)
    wrong = [modality for modality in modalities if not isinstance(modality, Modality)] if is_sequence else [modalities]
    if wrong:
        raise TypeError(
            "modalities must be a sequence of Modality, as in [Modality('image', (3, 32, 32))], got "
            f"{reprlib.repr(wrong[0])}"
        )
    return modalities


def check_arguments(names: tuple[str, ...], latent_size: int, beta: float, expert_weights: Any) -> None:
    """Check the arguments of :class:`MultimodalVAE` that no part of it checks.

    Args:
        names: Names of the modalities.
        latent_size: Number of shared latent dimensions.
        beta: Weight of the KL term.
        expert_weights: Weights λ, or how they are learned.

    Raises:
        ValueError: If one of them is out of its range, or two names clash.
    """
    if not names:
        raise ValueError("modalities must hold at least one modality, got none")
    if len(set(names)) < len(names):
        raise ValueError(f"modalities must have different names, got {', '.join(names)}")
    if latent_size < 1 or int(latent_size) != latent_size:
        raise ValueError(f"latent_size must be a positive integer, got {latent_size}")
    if not beta > 0 or not math.isfinite(beta):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    is_listed = isinstance(expert_weights, (Sequence, Tensor)) and not isinstance(expert_weights, str)
    if is_listed and len(expert_weights) != len(names):
        raise ValueError(
            f"expert_weights must have one number per modality, in the order {', '.join(names)}, got "
            f"{len(expert_weights)}"
        )
