"""The values of a few items, observed and decoded given each subset, in the form in which a report shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Float, Tensor
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.exhibits import ShownModality
from pyro_mmvae.inference.posteriors import draws_at_once, private_posteriors
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.runs.run import Run
from pyro_mmvae.runs.sampling import indicators, is_picture, shown_values, standard_moments, to_pixels

_PIXELS = 6_000_000  # the largest number of pixels of all pictures of a modality, which take 24 MB in a browser
_LARGEST_SIDE = 64  # the largest side of a picture; smaller ones stay as they are
_FEATURES = 24  # the largest number of features of an item that are shown as bars
_LETTERS = 300  # the largest number of characters of a text


class Decoder:
    """A decoder of latents that collects the values to show, one block per subset.

    Args:
        run: The trained run to use.
        data: The items to show, in memory, on the device of the run.
        cells: The number of pictures per modality, by which the size of a picture is chosen.
        seed: The seed of the draws of private latents.
    """

    def __init__(self, run: Run, data: MultimodalDataset, cells: int, seed: int) -> None:
        self.run, self.data = run, data
        self.batch = make_batch(data, slice(None)).to(run.device)
        self.covariates = indicators(data)
        self.moments = standard_moments(run)
        self.side = max(min(_LARGEST_SIDE, int(math.sqrt(_PIXELS / cells))), 8)
        latent = torch.zeros(len(data), run.vae.latent_size, device=run.device)
        with seeded(seed, run.device):
            self.private = run.model.private_draws(latent, run.names)
        self.values: dict[str, list[NDArray[Any]]] = {name: [] for name in run.names}

    def decode(self, z: Float[Tensor, "item latent"], subset: Sequence[int]) -> None:
        """Decode latents and keep the values of every modality.

        Args:
            z: The latent of each item.
            subset: The indices of the modalities that the latents are given.
        """
        given = private_posteriors(self.run.vae, self.batch, subset)(z)
        private = self.private | {name: posterior.mean for name, posterior in given.items()}
        blocks: dict[str, list[NDArray[Any]]] = {name: [] for name in self.run.names}
        size = draws_at_once(self.run.device)
        for start in range(0, len(z), size):
            part = slice(start, start + size)
            categories = {key: value[part] for key, value in self.covariates.items()}
            means = self.run.decode(z[part], {name: u[part] for name, u in private.items()}, **categories)
            for name, block in blocks.items():
                block.append(self._readout(name, means[name]))
        for name, block in blocks.items():
            self.values[name].append(np.concatenate(block))

    def modalities(self) -> tuple[ShownModality, ...]:
        """Return the values of all modalities, observed and decoded given each subset so far."""
        return tuple(self._modality(name) for name in self.run.names)

    def _readout(self, name: str, mean: Tensor) -> NDArray[Any]:
        if is_picture(self.run, name):
            return self._small(mean)
        likelihood = cast("Likelihood", self.run.model.likelihoods[name])
        return self._as_shown(name, likelihood.point(mean))

    def _as_shown(self, name: str, values: Tensor) -> NDArray[Any]:
        """Return texts that are cut off, or numbers `(item, feature)`, in standard deviations if there are moments."""
        shown = shown_values(self.run, name, values, is_image=False)
        if shown.dtype.kind == "U":
            texts = [text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…" for text in shown.tolist()]
            return np.array(texts, dtype=np.str_)
        if name in self.moments:
            center, spread = self.moments[name]
            shown = (shown - center) / spread
        flat: NDArray[Any] = shown.reshape(len(shown), -1).astype(np.float32)
        return flat

    def _small(self, images: Tensor) -> NDArray[np.uint8]:
        """Return images as pixels, reduced to the largest side."""
        pixels = images if images.is_floating_point() else images.float() / 255
        height, width = pixels.shape[-2:]
        scale = min(1.0, self.side / max(height, width))
        if scale < 1:
            size = max(round(height * scale), 1), max(round(width * scale), 1)
            pixels = functional.interpolate(pixels, size=size, mode="area")
        return to_pixels(pixels)

    def _modality(self, name: str) -> ShownModality:
        spec = self.run.modality_specs.get(name)
        about: dict[str, Any] = {
            "name": name,
            "data_type": (spec.data_type if spec else None) or "",
            "likelihood": (spec.likelihood if spec else None) or "",
        }
        generated = np.stack(self.values[name])
        if is_picture(self.run, name):
            observed = self._small(self._observed(name))
            size = tuple(self.run.state["shapes"][name][1:])
            return ShownModality(kind="image", observed=observed, generated=generated, size=size, **about)
        observed = self._as_shown(name, self._observed(name))
        if observed.dtype.kind == "U":
            return ShownModality(kind="text", observed=observed, generated=generated, **about)
        names = self.data.feature_names.get(name) or tuple(str(number) for number in range(observed.shape[1]))
        chosen = _most_variable(observed, self._is_present(name))
        unit = "standard deviations from the training mean" if name in self.moments else ""
        return ShownModality(
            kind="numbers", observed=observed[:, chosen], generated=generated[:, :, chosen],
            features=tuple(names[index] for index in chosen), unit=unit, num_features=observed.shape[1], **about,
        )  # fmt: skip

    def _observed(self, name: str) -> Tensor:
        """Return the observations of a modality, zeros where the data lacks it."""
        if name in self.data.names:
            return self.data.tensors[name]
        shape = tuple(self.run.state["shapes"][name])
        return torch.zeros(len(self.data), *shape, device=self.run.device)

    def _is_present(self, name: str) -> NDArray[np.bool_]:
        if name not in self.data.names:
            return np.zeros(len(self.data), dtype=np.bool_)
        present: NDArray[np.bool_] = self.data.present[:, self.data.names.index(name)].cpu().numpy()
        return present


def _most_variable(values: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the indices of the features that vary most over the observed items, in their order."""
    if values.shape[1] <= _FEATURES:
        return np.arange(values.shape[1])
    variance = np.nan_to_num(values[present].astype(np.float64)).var(0) if present.any() else np.zeros(values.shape[1])
    return np.sort(np.argsort(-variance, kind="stable")[:_FEATURES])
