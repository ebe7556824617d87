"""Values of modalities that a model decodes, imputes and draws, as users hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.inference.completed import to_storage
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.runs import Run

_AT_ONCE = 500  # items that are decoded at once

Arrays = dict[str, NDArray[Any]]


def decode(run: Run, z: NDArray[Any]) -> Arrays:
    """Return the means of all modalities given latents, with private latents at the means of their priors.

    Args:
        run: The run that was trained.
        z: The latents, `(item, latent)`.
    """
    parts: dict[str, list[NDArray[Any]]] = {}
    for start in range(0, len(z), _AT_ONCE):
        block = torch.from_numpy(np.array(z[start : start + _AT_ONCE], dtype=np.float32))
        private = {name: torch.zeros(len(block), size) for name, size in run.model.private_sizes.items()}
        for name, mean in run.decode(block, private).items():
            parts.setdefault(name, []).append(_as_given(run, name, _likelihood(run, name).point(mean)))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


@torch.no_grad()
def sample(run: Run, count: int, seed: int) -> Arrays:
    """Draw items from the prior that was fitted after the training, with the noise of the likelihoods.

    Args:
        run: The run that was trained.
        count: The number of items to draw.
        seed: The seed of the draws.
    """
    parts: dict[str, list[NDArray[Any]]] = {}
    with seeded(seed, run.device):
        for start in range(0, count, _AT_ONCE):
            z = run.prior().sample(torch.Size((min(_AT_ONCE, count - start),)))
            for name, parameters in run.model.parameters_given(z, run.names).items():
                drawn = _likelihood(run, name)(parameters).sample()
                parts.setdefault(name, []).append(_as_given(run, name, drawn))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def impute(run: Run, data: MultimodalDataset, names: Sequence[str], draws: int, seed: int) -> Arrays:
    """Return modalities that some items lack, with posterior predictive means in their place.

    Args:
        run: The run that was trained.
        data: The items, matched to the run.
        names: The modalities that some items lack.
        draws: The number of draws of the latent per item.
        seed: The seed of the draws.
    """
    result = run.impute(data, targets=names, draws=draws, seed=seed)
    filled: Arrays = {}
    for name in names:
        if name in result.text:
            filled[name] = result.text[name]
        else:
            array = result.arrays.get(f"mode/{name}", result.arrays.get(f"mean/{name}"))
            filled[name] = _as_given(run, name, torch.from_numpy(cast("NDArray[Any]", array)))
    return filled


def absent_items(run: Run, count: int) -> MultimodalDataset:
    """Return items that have none of the modalities.

    Args:
        run: The run that was trained.
        count: The number of items.
    """
    zeros = {name: torch.zeros(count, *shape) for name, shape in run.description.shapes.items()}
    return MultimodalDataset(zeros, None, torch.zeros(count, len(zeros), dtype=torch.bool), "data", "all", {})


def is_absent(part: pd.DataFrame | list[Any]) -> bool:
    """Return True if no item has a modality.

    Args:
        part: The values of the modality, a table or a list of arrays, with None or NaN where it is absent.
    """
    return all(row is None for row in part) if isinstance(part, list) else bool(part.isna().all(axis=None))


def as_mapping(run: Run, data: MultimodalDataset) -> Arrays:
    """Return the values of a data set by modality name.

    Args:
        run: The run that was trained, whose alphabets and tokenizers its texts are in.
        data: The items, matched to the run.
    """
    values = {name: data.modalities[name][torch.arange(len(data))] for name in data.names}
    return {n: run.texts(n, v) if run.is_text(n) else v.numpy() for n, v in values.items()}


def with_names(run: Run, values: Mapping[str, NDArray[Any]], index: Any) -> dict[str, Any]:
    """Return values with tables of pandas for the modalities whose features have names.

    Args:
        run: The run that was trained, which knows the names.
        values: Values by modality name.
        index: The index of the tables, or None for positions.
    """
    names = run.description.feature_names
    return {
        name: pd.DataFrame(array, index=index, columns=list(names[name])) if name in names else array
        for name, array in values.items()
    }


def _likelihood(run: Run, name: str) -> Likelihood:
    return cast("Likelihood", run.model.likelihoods[name])


def _as_given(run: Run, name: str, values: Tensor) -> NDArray[Any]:
    """Return values of the model as strings if they are text, otherwise in the type in which the data were."""
    if run.is_text(name):
        return run.texts(name, values.long())
    spec = run.vae.modalities[run.names.index(name)]
    return to_storage(values, spec, None)
