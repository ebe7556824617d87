"""Posteriors and generations of single items from cached experts, without a user interface."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions.torch_distribution import TorchDistribution

from pyro_mmvae._seeding import seeded
from pyro_mmvae._typing import Tensor
from pyro_mmvae.aggregation import Aggregation, aggregations
from pyro_mmvae.aggregation.subsets import SubsetFamily, membership
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.distributions import SubsetMixture
from pyro_mmvae.inference.gaussian_distances import w2
from pyro_mmvae.inference.posteriors import (
    density_of,
    encode_dataset,
    private_posteriors,
    select,
    subset_names,
)
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.runs import Run
from pyro_mmvae.runs.sampling import class_strings
from pyro_mmvae.vae.reaggregation import with_aggregation
from pyro_mmvae.vae.vae import MultimodalVAE

MAX_WEIGHT = 10.0
"""The largest weight λ of an expert."""

_CACHED_MODELS = 64  # of the aggregations and weights that were used last
_SHOWN_COMPONENTS = 8  # of a mixture, the heaviest first


@dataclass(frozen=True)
class Component:
    """A component of a posterior.

    Attributes:
        names: The modalities that it aggregates; empty for the prior, and for aggregations that are not mixtures over
            subsets, of which the components have no names.
        weight: Its weight in the mixture, 1 if the posterior has one component.
    """

    names: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class View:
    """An item as one aggregation sees it, given some of its modalities.

    Attributes:
        given: The names of the modalities that were conditioned on.
        mean: The posterior mean `(latent,)`.
        scale: The posterior standard deviation of each coordinate `(latent,)`.
        experts: The locs and scales of the experts of ``given``, two arrays `(latent,)` by name.
        disagreement: The 2-Wasserstein distance between each two experts of ``given``, by the pair of names.
        components: The heaviest components of the posterior, at most eight.
        num_components: The number of all components.
        generated: Draws of every modality `(draw, *shape)` by name: means of the likelihood given a latent, of tokens
            the most probable. The latents are draws of the posterior.
    """

    given: tuple[str, ...]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    experts: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    disagreement: dict[tuple[str, str], float]
    components: tuple[Component, ...]
    num_components: int
    generated: dict[str, NDArray[Any]]


class Explorer:
    """A trained run and some items, of which each is encoded once.

    Args:
        run: The trained run, on any device.
        data: The items to explore; the first ``count`` of them are encoded.
        count: The largest number of items, 200 by default.

    Raises:
        ValueError: If there are no items.
    """

    def __init__(self, run: Run, data: MultimodalDataset, count: int = 200) -> None:
        if not len(data):
            raise ValueError("the data must have at least one item to explore, got none")
        self.run = run
        self.data = data.subset(torch.arange(min(count, len(data))))
        self._experts = encode_dataset(run.vae, self.data)
        self._models: OrderedDict[tuple[str, tuple[float, ...] | None], MultimodalVAE] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return self.run.names

    def __len__(self) -> int:
        """Return the number of items, without an uploaded one."""
        return len(self.data)

    @property
    def labels(self) -> NDArray[np.str_] | None:
        """The class of each item, None if the data have no classes."""
        return class_strings(self.data)

    @property
    def aggregation(self) -> str:
        """The name of the aggregation that the run was trained with."""
        return self.run.guide.aggregation.name

    def aggregations(self) -> tuple[str, ...]:
        """Return the names of the aggregations that the run can be read with, its own first."""
        usable = [self.aggregation]
        for name in aggregations():
            if name != self.aggregation:
                try:
                    with_aggregation(self.run.vae, name)
                except ValueError:
                    continue
                usable.append(name)
        return tuple(usable)

    def upload(self, values: Mapping[str, Any]) -> Explorer:
        """Return an explorer of one item with these values, which shares the model and the cached aggregations.

        Args:
            values: The values of one item `(1, …)` by modality name, in any form that :meth:`pyro_mmvae.Run.dataset`
                takes; modalities that are left out are absent.

        Raises:
            ValueError: If a value does not fit its modality; the message names it.
        """
        item = object.__new__(Explorer)
        item.run, item.data = self.run, self.run.dataset(dict(values))
        item._experts, item._models = encode_dataset(self.run.vae, item.data), self._models
        return item

    def present(self, item: int) -> tuple[str, ...]:
        """Return the names of the modalities that an item has.

        Args:
            item: The position of the item.
        """
        row = self._experts.mask[self._check(item)]
        return tuple(name for name, has in zip(self.names, row.tolist(), strict=True) if has)

    def observed(self, item: int) -> dict[str, NDArray[Any]]:
        """Return the values of the modalities that an item has, `(*shape)` by name.

        Args:
            item: The position of the item.
        """
        one = self.data.subset(torch.tensor([self._check(item)]))
        return {name: one.tensors[name][0].cpu().numpy() for name in self.present(item)}

    @torch.no_grad()
    def view(
        self,
        item: int,
        given: Sequence[str],
        *,
        aggregation: str | None = None,
        weights: Mapping[str, float] | None = None,
        draws: int = 4,
        seed: int = 0,
    ) -> View:
        """Return an item as an aggregation sees it, given some of its modalities.

        Args:
            item: The position of the item.
            given: The names of the modalities to condition on; those that the item lacks are left out, and without any
                the posterior is the prior.
            aggregation: The name of the aggregation; that of the run by default.
            weights: The weights λ of the experts by modality, from 0 to 10; those of the run by default.
            draws: The number of draws, 4 by default.
            seed: The seed of the draws, 0 by default. Equal seeds give equal noise, so that only the posterior differs.

        Raises:
            ValueError: If an argument is out of its range, or the model cannot be read with the aggregation.
        """
        unknown = [name for name in given if name not in self.names]
        if unknown:
            raise ValueError(f"given must be modalities of the run ({', '.join(self.names)}), got {unknown[0]!r}")
        vae = self._model(aggregation or self.aggregation, weights)
        one = select(self._experts, slice(self._check(item), item + 1))
        has = self.present(item)
        subset = [m for m, name in enumerate(self.names) if name in given and name in has]
        names = subset_names(subset, self.names)
        with seeded(seed, self.run.device):
            posterior = vae.guide.posterior(one.condition_on(subset), density_of(vae, len(self.names)))
            z = posterior.sample(torch.Size((draws,)))
            generated = self._generate(vae, item, subset, z)
        experts = {self.names[m]: (_array(one.loc[0, m]), _array(one.stddev[0, m])) for m in subset}
        components, total = _components(posterior, vae.guide.aggregation, names, self.names)
        distances = {
            (first, second): float(w2(*(torch.from_numpy(part) for part in (*experts[first], *experts[second]))))
            for first, second in combinations(experts, 2)
        }
        return View(
            names, _array(posterior.mean[0]), _array(posterior.variance[0].sqrt()), experts, distances, components,
            total, generated,
        )  # fmt: skip

    def _generate(self, vae: MultimodalVAE, item: int, subset: Sequence[int], z: Tensor) -> dict[str, NDArray[Any]]:
        batch = make_batch(self.data, slice(item, item + 1)).to(self.run.device)
        # The noise of the posteriors of private latents comes after that of z, in the order of the modalities.
        known = {name: private.sample() for name, private in private_posteriors(vae, batch, subset)(z).items()}
        private = vae.model.private_draws(z, self.names, known)
        means = vae.decode(z, self.names, private, batch.covariates)
        likelihoods = {name: cast("Likelihood", vae.model.likelihoods[name]) for name in self.names}
        return {name: _array(likelihoods[name].point(mean)[:, 0]) for name, mean in means.items()}

    def _model(self, aggregation: str, weights: Mapping[str, float] | None) -> MultimodalVAE:
        """Return the model read with an aggregation and weights, which is kept for the next view."""
        numbers = None if weights is None else tuple(float(weights.get(name, 1.0)) for name in self.names)
        if numbers is not None and not (all(0 <= number <= MAX_WEIGHT for number in numbers) and any(numbers)):
            raise ValueError(f"weights must be from 0 to {MAX_WEIGHT:g}, and one of them larger than 0, got {numbers}")
        key = (aggregation, numbers)
        if key not in self._models:
            form: Any = aggregation if numbers is None else {"name": aggregation, "expert_weights": list(numbers)}
            self._models[key] = with_aggregation(self.run.vae, form)
            if len(self._models) > _CACHED_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return self._models[key]

    def _check(self, item: int) -> int:
        if not 0 <= item < len(self.data):
            raise ValueError(f"item must be from 0 to {len(self.data) - 1}, got {item}")
        return item


def _components(
    posterior: TorchDistribution, aggregation: Aggregation, given: tuple[str, ...], names: Sequence[str]
) -> tuple[tuple[Component, ...], int]:
    """Return the heaviest components of the posterior of one item, and the number of those with a weight."""
    if not given or not isinstance(posterior, SubsetMixture):
        return (Component(given, 1.0),), 1
    weights = posterior.probs[0]
    order = weights.argsort(descending=True, stable=True)[: min(_SHOWN_COMPONENTS, int((weights > 0).sum()))]
    family = getattr(aggregation, "component_family", aggregation.subsets)
    if family is None:
        return tuple(Component((), float(weights[k])) for k in order.tolist()), int((weights > 0).sum())
    members = membership(cast("SubsetFamily", family), len(names)).tolist()
    shown = tuple(
        Component(tuple(name for name, is_in in zip(names, members[k], strict=True) if is_in), float(weights[k]))
        for k in order.tolist()
    )
    return shown, int((weights > 0).sum())


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.cpu().numpy()
