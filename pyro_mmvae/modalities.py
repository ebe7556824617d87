"""The modalities of a model, and the networks between them and its latent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.networks import GroupedNetwork

Groups: TypeAlias = tuple[tuple[str, ...], ...]

_RESERVED = ("z", "data", "present", "kl", "loss", "elbo", "seconds")  # sites, keys of a batch, terms of the ELBO


@dataclass(frozen=True)
class Modality:
    """One kind of observation.

    Args:
        name: also the name of its Pyro site.
        shape: of one item.
        network: ``auto``, ``conv``, ``mlp`` or ``residual``.
        likelihood: one of :data:`~pyro_mmvae.likelihoods.LIKELIHOODS`.
        scale: of a Laplace or Normal likelihood, a number or ``"learned"``.
        classes: of a categorical likelihood.
        size: of a likelihood of counts: the total of an item of which it is not known.
        weight: w_m on its reconstruction term in training; 0 leaves its site out.

    Raises:
        ValueError: for a name that a site of the model has already, or a weight that is negative or not finite.
    """

    name: str
    shape: tuple[int, ...]
    network: str = "auto"
    likelihood: str = "laplace"
    scale: float | str = 0.75
    classes: int | None = None
    size: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check."""
        taken = self.name in _RESERVED or hasattr(nn.ModuleDict(), self.name)
        if not self.name.isidentifier() or taken:
            raise ValueError(
                f"a modality's name must be an identifier other than {', '.join(_RESERVED)} and the "
                f"attributes of torch modules, not {self.name!r}"
            )
        if not self.weight >= 0 or not math.isfinite(self.weight):
            raise ValueError(f"modality {self.name!r}: weight must be finite and not negative, not {self.weight}")


class Encoders(nn.Module):
    """A batch to experts, by one network for all modalities of one shape.

    Args:
        networks: one a group of modalities; each gives loc and scale.
        groups: the names of each group.
        likelihoods: modality name to its likelihood, which says what the encoder sees.
        names: of all modalities, in the order of the experts.
        latent_size: number of latent dimensions.
    """

    def __init__(
        self,
        networks: Sequence[GroupedNetwork],
        groups: Groups,
        likelihoods: nn.ModuleDict,
        names: tuple[str, ...],
        latent_size: int,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.likelihoods = likelihoods
        self.groups, self.names, self.latent_size = groups, names, latent_size

    def forward(self, batch: Batch) -> Experts:
        """Encode what is there; only the networks of those modalities run.

        Args:
            batch: items, at least one modality.

        Returns:
            Experts `(item, modality, latent)`.
        """
        reference = next(iter(batch.values.values()))
        count, device = len(batch), reference.device
        ones = torch.ones(count, self.latent_size, device=device)
        loc, scale = dict.fromkeys(self.names, ones), dict.fromkeys(self.names, ones)
        for network, group in zip(cast("Iterable[GroupedNetwork]", self.networks), self.groups, strict=True):
            given = [name for name in group if name in batch.values]
            if not given:
                continue
            features = torch.stack([self._features(name, batch.values[name]) for name in given], 1)
            group_loc, group_scale = network.run_groups([group.index(name) for name in given], features)
            loc.update(zip(given, group_loc.unbind(1), strict=True))
            scale.update(zip(given, group_scale.unbind(1), strict=True))
        there = torch.ones(count, dtype=torch.bool, device=device)
        present = [batch.present.get(n, there) if n in batch.values else ~there for n in self.names]
        return Experts(
            torch.stack([loc[name] for name in self.names], -2),
            torch.stack([scale[name] for name in self.names], -2),
            torch.stack(present, -1),
            validate_args=False,
        )

    def _features(self, name: str, value: Tensor) -> Tensor:
        likelihood = cast("Likelihood", self.likelihoods[name])
        if value.shape[1:] != likelihood.shape:
            raise ValueError(
                f"batch: modality {name!r} has items of shape {tuple(value.shape[1:])}, the model expects "
                f"{tuple(likelihood.shape)}"
            )
        return likelihood.features(value)


class Decoders(nn.Module):
    """A latent to the parameters of every modality, by one network for all modalities of one shape.

    Args:
        networks: one a group of modalities.
        groups: the names of each group.
    """

    def __init__(self, networks: Sequence[GroupedNetwork], groups: Groups) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.groups = groups

    def forward(self, z: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Decode; only the networks of the modalities wanted run.

        Args:
            z: `(*batch, latent)`.
            names: which modalities are wanted.

        Returns:
            Modality name to `(*batch, *parameter_shape)`.
        """
        wanted = set(names)
        parameters: dict[str, Tensor] = {}
        for network, group in zip(cast("Iterable[GroupedNetwork]", self.networks), self.groups, strict=True):
            chosen = [name for name in group if name in wanted]
            if chosen:
                values = network.run_groups([group.index(name) for name in chosen], z)
                parameters.update(zip(chosen, values.unbind(z.dim() - 1), strict=True))
        return parameters


def group_modalities(modalities: Sequence[Modality], likelihoods: nn.ModuleDict) -> Groups:
    """Modalities whose networks are alike, together."""
    groups: dict[Any, list[str]] = {}
    for modality in modalities:
        shape = cast("Likelihood", likelihoods[modality.name]).parameter_shape
        groups.setdefault((modality.network, shape), []).append(modality.name)
    return tuple(tuple(group) for group in groups.values())
