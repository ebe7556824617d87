"""The modalities of a model, and the networks between them and its latent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.likelihoods import CategoricalLikelihood, Likelihood
from pyro_mmvae.networks import GroupedNetwork, choose_network
from pyro_mmvae.stacked import side_by_side

Groups: TypeAlias = tuple[tuple[str, ...], ...]
PrivateExpert: TypeAlias = tuple[Tensor, Tensor]
"""Loc and scale of a Gaussian, each `(item, private)`."""

_RESERVED = ("z", "data", "present")  # sites, keys of a batch


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
        private_size: number of dimensions of a latent that this modality alone has; 0 for none.
        width: of its networks, in place of that of all; see :class:`~pyro_mmvae.networks.NetworkOptions`.
        hidden: likewise.
        depth: likewise.

    Raises:
        ValueError: for a name that a site of the model has already, or a weight or size that is negative or not finite.
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
    private_size: int = 0
    width: int | None = None
    hidden: int | None = None
    depth: int | None = None

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
        if self.private_size < 0:
            raise ValueError(f"modality {self.name!r}: private_size must not be negative, not {self.private_size}")
        for size, least in (("width", 1), ("hidden", 1), ("depth", 0)):
            value = getattr(self, size)
            if value is not None and value < least:
                raise ValueError(f"modality {self.name!r}: {size} must be at least {least}, not {value}")

    @property
    def sizes(self) -> dict[str, Any]:
        """Of its networks, as far as they are its own."""
        sizes = {"width": self.width, "hidden": self.hidden, "depth": self.depth}
        return {key: value for key, value in sizes.items() if value is not None}


def private_site(name: str) -> str:
    """The name of the Pyro site of a modality's private latent."""
    return f"{name}_private"


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
        return self.encode(batch)[0]

    def encode(self, batch: Batch) -> tuple[Experts, dict[str, PrivateExpert]]:
        """The same, and what each modality that is there says of its private latent, if it has one.

        Args:
            batch: items, at least one modality.

        Returns:
            Experts `(item, modality, latent)`; and modality name to loc and scale, each `(item, private)`, which are 0
            and 1 where the modality is absent.
        """
        reference = next(iter(batch.values.values()))
        count, device = len(batch), reference.device
        loc: dict[str, Tensor] = {}
        spread: dict[str, Tensor] = {}
        if len(batch.values) < len(self.names):
            ones = torch.ones(count, self.latent_size, device=device)
            loc = dict.fromkeys(self.names, ones)
            spread = dict.fromkeys(self.names, torch.diag_embed(ones) if self.kind == "full" else ones)
        private: dict[str, PrivateExpert] = {}
        whole: tuple[Tensor, Tensor] | None = None
        for network, group in zip(cast("Iterable[GroupedNetwork]", self.networks), self.groups, strict=True):
            given = [name for name in group if name in batch.values]
            if not given:
                continue
            features = side_by_side([self._features(name, batch.values[name]) for name in given])
            parts = network.run_groups([group.index(name) for name in given], features)
            if len(parts) > 2:
                of_each = zip(*(part.unbind(1) for part in parts[2:]), strict=True)
                private.update(zip(given, of_each, strict=True))
            if tuple(given) == self.names:  # one network has them all, in order
                whole = (parts[0], parts[1])
                break
            loc.update(zip(given, parts[0].unbind(1), strict=True))
            spread.update(zip(given, parts[1].unbind(1), strict=True))
        present = None  # where nothing is absent, nothing has to be filled
        if batch.present or len(batch.values) < len(self.names):
            there = torch.ones(count, dtype=torch.bool, device=device)
            present = torch.stack(
                [batch.present.get(n, there) if n in batch.values else ~there for n in self.names], -1
            )
        if whole is None:
            whole = (
                torch.stack([loc[name] for name in self.names], 1),
                torch.stack([spread[name] for name in self.names], 1),
            )
        experts = self._experts(*whole, present)
        return experts, {n: only_where(batch.present.get(n), *private[n]) for n in self.names if n in private}

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


def only_where(present: Tensor | None, loc: Tensor, scale: Tensor) -> PrivateExpert:
    """Loc and scale `(item, private)` of a private latent, those of its prior where ``present`` `(item,)` is False."""
    if present is None:
        return loc, scale
    return torch.where(present.unsqueeze(-1), loc, 0.0), torch.where(present.unsqueeze(-1), scale, 1.0)


class Decoders(nn.Module):
    """Latents to the parameters of every modality, by one network for all modalities of one shape.

    Args:
        networks: one a group of modalities.
        groups: the names of each group.
    """

    def __init__(self, networks: Sequence[GroupedNetwork], groups: Groups) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.groups = groups

    def forward(
        self, z: Tensor, names: Iterable[str], private: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Decode; only the networks of the modalities wanted run.

        Args:
            z: `(*batch, latent)`.
            names: which modalities are wanted.
            private: modality name to `(*batch, private)`, of those wanted that have a private latent.

        Returns:
            Modality name to `(*batch, *parameter_shape)`.
        """
        parameters: dict[str, Tensor] = {}
        for chosen, values in self.by_group(z, names, private):
            parameters.update(zip(chosen, values.unbind(z.dim() - 1), strict=True))
        return parameters

    def by_group(
        self, z: Tensor, names: Iterable[str], private: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[list[str], Tensor]]:
        """The same, modalities of one shape together.

        Yields:
            The names of some modalities, and their parameters `(*batch, modality, *parameter_shape)`.
        """
        wanted = set(names)
        for network, group in zip(cast("Iterable[GroupedNetwork]", self.networks), self.groups, strict=True):
            chosen = [name for name in group if name in wanted]
            if chosen:
                latents = z
                if private and chosen[0] in private:
                    own = torch.stack([private[name] for name in chosen], -2)
                    shared = z.unsqueeze(-2).expand(*z.shape[:-1], len(chosen), -1)
                    latents = torch.cat([shared, own.to(z.dtype)], -1)
                yield chosen, network.run_groups([group.index(name) for name in chosen], latents)


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
        sizes = (*modality.sizes.items(), ("private", modality.private_size))
        key = (modality.network, network_of(modality, likelihood), likelihood.parameter_shape, sizes)
        groups.setdefault(key, []).append(modality.name)
    return tuple(tuple(group) for group in groups.values())
