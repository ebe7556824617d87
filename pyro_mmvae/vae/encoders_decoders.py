"""The networks of all modalities together: a batch to experts, and latents to parameters of likelihoods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.batch import Batch
from pyro_mmvae.experts import Experts
from pyro_mmvae.likelihoods import Likelihood
from pyro_mmvae.vae.covariates import Covariates
from pyro_mmvae.vae.modalities import DecoderNetwork, EncoderNetwork, Groups
from pyro_mmvae.vae.routing import cuts_of

PrivateExpert: TypeAlias = tuple[Tensor, Tensor]
"""Loc and scale of a Gaussian, each `(item, private)`."""


class Encoders(nn.Module):
    """A module from a batch to experts, with one network for all modalities of one shape.

    Args:
        networks: One network per group of modalities; each returns loc, and scale or scale_tril.
        groups: The names of the modalities of each group.
        likelihoods: Modality name to its likelihood, which defines what the encoder sees.
        names: Names of all modalities, in the order of the experts.
        latent_size: Number of latent dimensions.
        expert_kind: Kind of the experts, see :attr:`pyro_mmvae.Experts.kind`; ``"full"`` if the networks return
            scale_tril. ``"normal"`` by default.
        df: Degrees of freedom of ``"student_t"``, without effect on other kinds.
        covariates: The covariates of the model, by default none; networks with a ``covariate_size`` see them.
    """

    def __init__(
        self,
        networks: Sequence[EncoderNetwork],
        groups: Groups,
        likelihoods: nn.ModuleDict,
        names: tuple[str, ...],
        latent_size: int,
        expert_kind: str = "normal",
        df: float | None = None,
        covariates: Covariates | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.likelihoods = likelihoods
        self.covariates = covariates or Covariates()
        self.groups, self.names, self.latent_size = groups, names, latent_size
        self.expert_kind, self.df = expert_kind, df if expert_kind == "student_t" else None

    def forward(self, batch: Batch) -> Experts:
        """Encode the modalities that are present; only their networks run.

        Args:
            batch: Items with at least one modality.

        Returns:
            Experts `(item, modality, latent)`.
        """
        return self.encode(batch)[0]

    def encode(self, batch: Batch) -> tuple[Experts, dict[str, PrivateExpert]]:
        """Encode the modalities that are present, and their private latents.

        Args:
            batch: Items with at least one modality.

        Returns:
            Experts `(item, modality, latent)`; and modality name to loc and scale of the private latent of each present
            modality that has one, each `(item, private)`, which are 0 and 1 for items without the modality.
        """
        loc: dict[str, Tensor] = {}
        scale: dict[str, Tensor] = {}
        private: dict[str, PrivateExpert] = {}
        stacked: tuple[Tensor, Tensor] | None = None
        covariates = self._covariates(batch)
        for network, group in zip(cast("Iterable[EncoderNetwork]", self.networks), self.groups, strict=True):
            names = [name for name in group if name in batch.values]
            if not names:
                continue
            features = torch.stack([self._features(name, batch.values[name]) for name in names], 1)
            seen = (covariates,) if network.covariate_size else ()
            parts = network.run_groups([group.index(name) for name in names], features, *seen)
            if len(parts) > 2:
                private.update(zip(names, zip(*(part.unbind(1) for part in parts[2:]), strict=True), strict=True))
            if tuple(names) == self.names:  # the network's output is that of all modalities, already in order
                stacked = (parts[0], parts[1])
                break
            loc.update(zip(names, parts[0].unbind(1), strict=True))
            scale.update(zip(names, parts[1].unbind(1), strict=True))
        if stacked is None:
            stacked = self._stack(loc, scale, batch)
        experts = self._experts(*stacked, self._present(batch))
        return experts, {n: prior_if_absent(batch.present.get(n), *private[n]) for n in self.names if n in private}

    def blank(self, count: int, reference: Tensor) -> Experts:
        """Return experts of items of which nothing was observed.

        Args:
            count: The number of items.
            reference: A tensor with the floating type and the device of the result.
        """
        ones = reference.new_ones(()).expand(count, len(self.names), self.latent_size)
        absent = torch.zeros(ones.shape[:-1], dtype=torch.bool, device=reference.device)
        return self._experts(ones, torch.diag_embed(ones) if self.expert_kind == "full" else ones, absent)

    def _stack(self, loc: dict[str, Tensor], scale: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return loc and scale of all modalities in order, 1 for those that are absent from the whole batch."""
        if len(batch.values) < len(self.names):
            device = next(iter(batch.values.values())).device
            ones = torch.ones(len(batch), self.latent_size, device=device)
            unit_scale = torch.diag_embed(ones) if self.expert_kind == "full" else ones
            loc, scale = dict.fromkeys(self.names, ones) | loc, dict.fromkeys(self.names, unit_scale) | scale
        return torch.stack([loc[name] for name in self.names], 1), torch.stack([scale[name] for name in self.names], 1)

    def _present(self, batch: Batch) -> Tensor | None:
        """Return the mask `(item, modality)`; None if nothing is absent, so that nothing has to be filled."""
        if not batch.present and len(batch.values) == len(self.names):
            return None
        device = next(iter(batch.values.values())).device
        ones = torch.ones(len(batch), dtype=torch.bool, device=device)
        return torch.stack([batch.present.get(n, ones) if n in batch.values else ~ones for n in self.names], -1)

    def _experts(self, loc: Tensor, scale: Tensor, present: Tensor | None) -> Experts:
        if self.expert_kind == "full":
            return Experts(loc, present=present, scale_tril=scale, validate_args=False)
        return Experts(loc, scale, present, validate_args=False, family=self.expert_kind, df=self.df)

    def _covariates(self, batch: Batch) -> Tensor | None:
        """Return the covariates of a batch with frequencies in the place of unknown categories, `(item, covariate)`."""
        reference = self.covariates.frequencies if self.covariates.size else next(iter(batch.values.values()))
        return self.covariates.fill(batch.covariates, torch.Size((len(batch),)), reference)

    def _features(self, name: str, value: Tensor) -> Tensor:
        likelihood = cast("Likelihood", self.likelihoods[name])
        if value.shape[1:] != likelihood.shape:
            raise ValueError(
                f"batch: modality {name!r} has items of shape {tuple(value.shape[1:])}, the model expects "
                f"{tuple(likelihood.shape)}"
            )
        return likelihood.features(value)


def prior_if_absent(present: Tensor | None, loc: Tensor, scale: Tensor) -> PrivateExpert:
    """Return loc and scale of a private latent, or those of its prior for items without the modality.

    Args:
        present: Mask of the items with the modality, `(item,)`; None if all have it.
        loc: The location, of shape `(item, private)`.
        scale: Standard deviation, `(item, private)`.
    """
    if present is None:
        return loc, scale
    return torch.where(present.unsqueeze(-1), loc, 0.0), torch.where(present.unsqueeze(-1), scale, 1.0)


class Decoders(nn.Module):
    """A module from latents to the parameters of every likelihood, with one network for modalities of one shape.

    Args:
        networks: One network per group of modalities.
        groups: The names of the modalities of each group.
    """

    def __init__(self, networks: Sequence[DecoderNetwork], groups: Groups) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.groups = groups

    def forward(
        self,
        z: Tensor,
        names: Iterable[str],
        private: Mapping[str, Tensor] | None = None,
        covariates: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Decode some modalities; only their networks run.

        Args:
            z: The latents, of shape `(*batch, latent)`.
            names: Names of the modalities to decode.
            private: Modality name to private latents `(*batch, private)`, for those of the modalities that have them.
            covariates: The covariates `(*batch, covariate)`, which follow z as the input of each network; None
                (default) if the model does not have any.

        Returns:
            Modality name to `(*batch, *parameter_shape)`.
        """
        requested = set(names)
        if (cuts := cuts_of(z)) is not None:  # each modality has a path of its own, though the values are equal
            each = {name: self(z + cuts[name], [name], private, covariates) for name in requested}
            return {name: parameters[name] for name, parameters in each.items()}
        if covariates is not None:
            z = torch.cat([z, covariates.to(z.dtype)], -1)
        result: dict[str, Tensor] = {}
        for network, group in zip(cast("Iterable[DecoderNetwork]", self.networks), self.groups, strict=True):
            chosen = [name for name in group if name in requested]
            if not chosen:
                continue
            latents = z
            if private and chosen[0] in private:
                u = torch.stack([private[name] for name in chosen], -2)
                shared = z.unsqueeze(-2).expand(*z.shape[:-1], len(chosen), -1)
                latents = torch.cat([shared, u.to(z.dtype)], -1)
            parameters = network.run_groups([group.index(name) for name in chosen], latents)
            result.update(zip(chosen, parameters.unbind(z.dim() - 1), strict=True))
        return result
