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
from pyro_mmvae.likelihoods import CategoricalLikelihood, Likelihood
from pyro_mmvae.networks import GroupedNetwork, choose_network

Groups: TypeAlias = tuple[tuple[str, ...], ...]

_RESERVED = ("z", "data", "present", "kl", "loss", "elbo", "seconds")  # sites, keys of a batch, terms of the ELBO


@dataclass(frozen=True)
class Modality:
    """One kind of observation.

    Args:
        name: also the name of its Pyro site.
        shape: of one item.
        network: ``auto`` or the name of one, see :func:`~pyro_mmvae.networks.make_networks`.
        likelihood: one of :data:`~pyro_mmvae.likelihoods.LIKELIHOODS`.
        scale: of a Laplace or Normal likelihood, a number or ``"learned"``.
        classes: of a categorical likelihood.
        size: of a likelihood of counts: the total of an item of which it is not known.
        weight: w_m on its reconstruction term in training; 0 leaves its site out.
        output: of a Laplace or Normal likelihood, ``identity`` or ``sigmoid``.

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
    output: str = "identity"

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
        networks: one a group of modalities; each gives loc, and scale or scale_tril.
        groups: the names of each group.
        likelihoods: modality name to its likelihood, which says what the encoder sees.
        names: of all modalities, in the order of the experts.
        latent_size: number of latent dimensions.
        kind: of the experts, see :attr:`pyro_mmvae.Experts.kind`; ``"full"`` where the networks give scale_tril.
        df: degrees of freedom of ``"student_t"``.
    """

    def __init__(
        self,
        networks: Sequence[GroupedNetwork],
        groups: Groups,
        likelihoods: nn.ModuleDict,
        names: tuple[str, ...],
        latent_size: int,
        kind: str = "normal",
        df: float | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.likelihoods = likelihoods
        self.groups, self.names, self.latent_size = groups, names, latent_size
        self.kind, self.df = kind, df if kind == "student_t" else None

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
        loc = dict.fromkeys(self.names, ones)
        spread = dict.fromkeys(self.names, torch.diag_embed(ones) if self.kind == "full" else ones)
        for network, group in zip(cast("Iterable[GroupedNetwork]", self.networks), self.groups, strict=True):
            given = [name for name in group if name in batch.values]
            if not given:
                continue
            features = torch.stack([self._features(name, batch.values[name]) for name in given], 1)
            group_loc, group_spread = network.run_groups([group.index(name) for name in given], features)
            loc.update(zip(given, group_loc.unbind(1), strict=True))
            spread.update(zip(given, group_spread.unbind(1), strict=True))
        present = None  # where nothing is absent, nothing has to be filled
        if batch.present or len(batch.values) < len(self.names):
            there = torch.ones(count, dtype=torch.bool, device=device)
            present = torch.stack(
                [batch.present.get(n, there) if n in batch.values else ~there for n in self.names], -1
            )
        return self._experts(
            torch.stack([loc[name] for name in self.names], 1),
            torch.stack([spread[name] for name in self.names], 1),
            present,
        )

    def blank(self, count: int, reference: Tensor) -> Experts:
        """Experts of items of which nothing was observed, of the type and on the device of ``reference``."""
        ones = reference.new_ones(()).expand(count, len(self.names), self.latent_size)
        absent = torch.zeros(ones.shape[:-1], dtype=torch.bool, device=reference.device)
        return self._experts(ones, torch.diag_embed(ones) if self.kind == "full" else ones, absent)

    def _experts(self, loc: Tensor, spread: Tensor, present: Tensor | None) -> Experts:
        if self.kind == "full":
            return Experts(loc, present=present, scale_tril=spread, validate_args=False)
        return Experts(loc, spread, present, validate_args=False, family=self.kind, df=self.df)

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


def network_of(modality: Modality, likelihood: Likelihood) -> str:
    """The name of its pair of networks, which follows from shape and kind where it is ``auto``."""
    if modality.network != "auto":
        return modality.network
    return choose_network(likelihood.parameter_shape, tokens=isinstance(likelihood, CategoricalLikelihood))


def group_modalities(modalities: Sequence[Modality], likelihoods: nn.ModuleDict) -> Groups:
    """Modalities whose networks are alike, together."""
    groups: dict[Any, list[str]] = {}
    for modality in modalities:
        likelihood = cast("Likelihood", likelihoods[modality.name])
        key = (modality.network, network_of(modality, likelihood), likelihood.parameter_shape)
        groups.setdefault(key, []).append(modality.name)
    return tuple(tuple(group) for group in groups.values())
