"""What a trained model makes of a few validation items, as arrays that reports draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.runs.run import Run

_ITEMS = 10


def sample_pictures(run: Run, data: MultimodalDataset, count: int = _ITEMS, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Reconstructions, and each modality generated from each other one.

    The latent is the posterior's mean of the component of everything given, or the mean itself for a mixture without
    such a component; what is shown is the mean of the likelihood. The private latent of a modality that is given is its
    posterior's mean, of another one a draw from its prior.

    Args:
        run: a trained run.
        data: to take the first items from, one of each class where there are classes.
        count: how many items.
        seed: of the draws; torch's generator is put back after.

    Returns:
        ``observed.NAME``, ``reconstruction.NAME`` (given everything) and ``generated.GIVEN.NAME``: images as uint8
        `(item, channel, height, width)`, text as strings `(item,)`, of the most probable tokens. Empty if no modality
        is an image or text.
    """
    images = [name for name, value in data.modalities.items() if value.dim() == 4 and value.shape[1] in {1, 3}]
    written = [name for name in data.names if run.alphabet(name) is not None]
    names = [name for name in data.names if name in images or name in written]
    if not names:
        return {}
    some = data.subset(_one_of_each(data, count))
    values = some.tensors
    if not some.complete:
        values["present"] = some.present

    def show(decoded: Mapping[str, Tensor], name: str) -> NDArray[Any]:
        return run.texts(name, decoded[name].argmax(-1)) if name in written else to_pixels(decoded[name])

    arrays = {
        f"observed.{name}": observed_texts(run, some, name) if name in written else observed_pixels(some, name)
        for name in names
    }
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(seed)
        decoded = _decoded(run, values, run.names)
        arrays.update({f"reconstruction.{name}": show(decoded, name) for name in names})
        for given in names:
            decoded = _decoded(run, values, (given,))
            arrays.update({f"generated.{given}.{name}": show(decoded, name) for name in names})
    return arrays


def observed_texts(run: Run, data: MultimodalDataset, name: str) -> NDArray[Any]:
    """The texts of a modality, empty where it is absent."""
    there = data.present[:, data.names.index(name)].cpu().numpy()
    return np.where(there, run.texts(name, data.tensors[name]), "")


def observed_pixels(data: MultimodalDataset, name: str) -> NDArray[np.uint8]:
    """The images of a modality, black where it is absent."""
    images = data.tensors[name]
    there = data.present[:, data.names.index(name)].reshape(-1, 1, 1, 1)
    pixels = to_pixels(images) if images.is_floating_point() else images.cpu().numpy()
    return np.where(there.cpu().numpy(), pixels, np.uint8(0))


def _decoded(run: Run, values: dict[str, Tensor], given: tuple[str, ...]) -> dict[str, Tensor]:
    private = {name: posterior.mean for name, posterior in run.private_posterior(values, given).items()}
    return run.decode(_mean(run, values, given), private)


def _mean(run: Run, values: dict[str, Tensor], given: tuple[str, ...]) -> Tensor:
    try:
        return run.posterior(values, given, density="joint").mean
    except ValueError:
        return run.posterior(values, given).mean


def _one_of_each(data: MultimodalDataset, count: int) -> list[int]:
    if data.labels is None or data.label_names:
        return list(range(min(count, len(data))))
    labels = data.labels.cpu().numpy()
    _, first = np.unique(labels, return_index=True)
    chosen = list(first[:count])
    rest = [i for i in range(len(labels)) if i not in set(chosen)]
    return [int(i) for i in (chosen + rest)[:count]]


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """Images in [0, 1], clipped, as uint8; what is no number is 0."""
    pixels: NDArray[np.uint8] = (image.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return pixels
