"""Tests of accuracy with random points (TARP): the joint coverage of all latent dimensions by one rank.

References:
    Lemos, Coogan, Hezaveh and Perreault-Levasseur, 2023. Sampling-based accuracy testing of posterior estimators for
    general inference. ICML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch


def tarp_ranks(
    truth: NDArray[np.float64], drawn: NDArray[np.float64], references: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the rank of the true latent's distance from a reference point among those of the draws.

    The draws nearer to the reference than the truth form a credible region, a ball around the reference, whose
    credibility is their share. Under the exact posterior the ranks are uniform for every reference that does not depend
    on the truth other than through the data; over all references that may depend on the data, uniform ranks are
    sufficient, too.

    Args:
        truth: The latents that generated the data, of shape `(simulation, latent)`.
        drawn: The draws given the data, of shape `(draw, simulation, latent)`.
        references: The reference points, of shape `(simulation, latent)`.

    Returns:
        The ranks from 0 to the number of draws, of shape `(simulation,)`. Distances are Euclidean, with each dimension
        in units of the standard deviation of the truth.
    """
    spread = truth.std(0)
    unit = np.where(spread > 0, spread, 1.0)
    limit = (((truth - references) / unit) ** 2).sum(-1)
    return (((((drawn - references) / unit) ** 2).sum(-1)) < limit).sum(0).astype(np.int64)


def reference_points(truth: NDArray[np.float64], seen: Any, *, seed: int = 0) -> NDArray[np.float64]:
    """Return one random reference point per simulation, which depends on the data that the guide sees.

    A point is half noise and half a random projection of the standardised data. References that ignored the data would
    find a guide that ignores it, and returns its prior, accurate.

    Args:
        truth: The latents that generated the data, of shape `(simulation, latent)`, for location and scale alone.
        seen: The arguments of the guide: a tensor, a batch, or any nesting of them. Tensors of real numbers
            `(simulation, …)` are projected.
        seed: The seed of noise and projection, 0 by default.

    Returns:
        The points, of shape `(simulation, latent)`.
    """
    rng = np.random.default_rng((seed, 3))
    points = rng.normal(size=truth.shape)
    arrays = [tensor.reshape(len(truth), -1).double().cpu().numpy() for tensor in _tensors(seen, len(truth))]
    features = np.concatenate(arrays, 1) if arrays else np.empty((len(truth), 0))
    spread = features.std(0)
    features = (features - features.mean(0))[:, spread > 0] / spread[spread > 0]
    if features.shape[1]:
        projection = rng.normal(size=(features.shape[1], truth.shape[1])) / np.sqrt(features.shape[1])
        points = (points + features @ projection) / np.sqrt(2)
    return truth.mean(0) + truth.std(0) * points


def _tensors(seen: Any, items: int) -> list[Tensor]:
    """Return the tensors of numbers with one row per item in the arguments of a guide."""
    if isinstance(seen, Tensor):
        suits = seen.dim() > 0 and len(seen) == items and seen.dtype != torch.bool and not seen.is_complex()
        return [seen] if suits else []
    if isinstance(seen, Batch):
        return _tensors(list(seen.values.values()), items)
    if isinstance(seen, Mapping):
        return _tensors(list(seen.values()), items)
    if isinstance(seen, Sequence) and not isinstance(seen, str):
        return [tensor for value in seen for tensor in _tensors(value, items)]
    return []
