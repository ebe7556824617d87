"""Modalities that are generated from subsets of the others, seen by their classifiers once for several metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Bool, Float, Tensor
from pyro_mmvae.aggregation import Aggregation
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.frechet import real_features
from pyro_mmvae.evaluation.nearest_neighbours import neighbour_radii
from pyro_mmvae.experts import Experts
from pyro_mmvae.inference.posteriors import (
    decode_in_batches,
    density_of,
    draw_protocol,
    draws_at_once,
    has_all,
    posterior_draws,
    select,
    subset_names,
)
from pyro_mmvae.vae.vae import MultimodalVAE


class Generated(NamedTuple):
    """The outputs of the classifier of a modality for generated items.

    Attributes:
        features: The inputs of the last layer, `(item, feature)`.
        scores: The logits, `(item, class)` or `(item, attribute)`.
    """

    features: Tensor
    scores: Tensor


class Generation:
    """A generator of the modalities outside a subset, judged by classifiers.

    Several metrics judge one and the same draw, so the last subset that was generated is remembered.

    Args:
        vae: The model, in eval mode.
        experts: Experts of the items to generate from.
        classifiers: The classifiers that see the generated items.
        covariates: The indicators of the items' categories, on any device; None (default) if they are unknown.
        seed: The seed of the draws of each subset, 0 by default; the states of torch's generators are restored
            afterwards.
        batch_size: The number of items to decode at once; by default it depends on the device.
    """

    def __init__(
        self,
        vae: MultimodalVAE,
        experts: Experts,
        classifiers: Classifiers,
        *,
        covariates: Float[Tensor, "item covariate"] | None = None,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        device = experts.loc.device
        self.vae, self.experts, self.classifiers, self.seed = vae, experts, classifiers, seed
        self.covariates = None if covariates is None else covariates.to(device)
        self.batch_size = batch_size or draws_at_once(device)
        self._last: tuple[tuple[tuple[int, ...], str], dict[str, Generated]] | None = None

    def given(self, subset: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the modalities of a subset, in data order."""
        return subset_names(subset, self.vae.names)

    def kept(self, subset: Sequence[int]) -> Bool[Tensor, " item"]:
        """Return a mask of the items that have every modality of a subset, on the device of the experts."""
        return has_all(self.experts, subset)

    def protocol(self, density: str | None = None) -> str:
        """Describe how the modalities are generated, in words for the ``protocol`` column."""
        return draw_protocol(self.vae, self.experts.num_modalities, density)

    def from_subset(self, subset: Sequence[int], density: str | None = None) -> dict[str, Generated]:
        """Return all modalities outside a subset that have a classifier, generated from one draw of z per item.

        Private latents are drawn from their priors.

        Args:
            subset: Indices of the modalities to generate from.
            density: ``mixture`` for the whole posterior or ``joint`` for the component of the subset; by default the
                choice of :func:`~pyro_mmvae.inference.posteriors.density_of`.

        Returns:
            A mapping from modality to the features and scores of the items that have the subset, on the device of the
            experts; empty if there are no such modalities or items.
        """
        # An aggregation that does not define the component of everything given has only the whole posterior.
        if type(self.vae.guide.aggregation).joint is Aggregation.joint:
            density = None
        key = tuple(subset), density or density_of(self.vae, self.experts.num_modalities)
        if self._last is None or self._last[0] != key:
            self._last = key, self._generate(*key)
        return self._last[1]

    def _generate(self, subset: tuple[int, ...], density: str) -> dict[str, Generated]:
        """Draw and decode once."""
        targets = [n for m, n in enumerate(self.vae.names) if m not in subset and n in self.classifiers.networks]
        kept = self.kept(subset)
        if not targets or not kept.any():
            return {}
        found: dict[str, list[Generated]] = {name: [] for name in targets}
        known = None if self.covariates is None else self.covariates[kept]
        with seeded(self.seed, self.experts.loc.device), torch.no_grad():
            z = posterior_draws(self.vae, select(self.experts, kept), subset, density)
            for items in decode_in_batches(self.vae, z, targets, self.batch_size, known):
                for name in targets:
                    features = self.classifiers.features(name, items[name])
                    found[name].append(Generated(features, self.classifiers.scores_of_features(name, features)))
        return {name: Generated(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}


class RealItems:
    """The real items in the features of their classifiers, each modality computed once.

    Args:
        data: The real items, on any device.
        classifiers: The classifiers whose penultimate layers give the features.
    """

    def __init__(self, data: MultimodalDataset, classifiers: Classifiers) -> None:
        self.data, self.classifiers = data, classifiers
        self._features: dict[str, Tensor] = {}
        self._firsts: dict[str, NDArray[Any]] = {}
        self._radii: dict[tuple[str, int], Tensor] = {}

    def present(self, name: str) -> Bool[Tensor, " item"]:
        """Return a mask of the items that have a modality, on the CPU."""
        return self.data.present[:, self.data.names.index(name)].cpu()

    def features(self, name: str) -> Float[Tensor, "real feature"]:
        """Return the features of the items that have a modality, on the CPU."""
        if name not in self._features:
            self._features[name] = real_features(self.data, self.classifiers, name)
        return self._features[name]

    def distinct(self, name: str) -> Float[Tensor, "distinct feature"]:
        """Return the features of the items that have a modality, of equal images only the first.

        A data set of pairs may use an image in several of them, which would shorten the distances to its neighbours.
        """
        features, values = self.features(name), self.data.modalities[name]
        if values.dim() != 4:
            return features
        if name not in self._firsts:
            rows = self.present(name).nonzero()[:, 0].to(self.data.present.device)
            pixels = torch.cat([values[part].flatten(1).cpu() for part in rows.split(1000)])
            self._firsts[name] = np.sort(np.unique(_as_bytes(pixels.numpy()), return_index=True)[1])
        return features[self._firsts[name]]

    def radii(self, name: str, neighbours: int) -> Float[Tensor, " distinct"]:
        """Return the distances of the distinct items to their k-th nearest neighbours."""
        if (name, neighbours) not in self._radii:
            self._radii[name, neighbours] = neighbour_radii(self.distinct(name), neighbours)
        return self._radii[name, neighbours]


def _as_bytes(rows: NDArray[Any]) -> NDArray[Any]:
    """Return each row as one value of raw bytes, which sorts fast."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
