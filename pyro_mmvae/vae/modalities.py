"""The modalities of a model, and the networks of each group of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from pyro_mmvae.likelihoods import Likelihood, make_likelihood
from pyro_mmvae.modality_spec import ModalitySpec, check_modality_name, resolve_modality
from pyro_mmvae.networks import GroupedNetwork, NetworkOptions, choose_network, make_networks
from pyro_mmvae.vae.custom_networks import (
    DECODERS,
    ENCODERS,
    CustomDecoder,
    CustomEncoder,
    check_names,
    make_registered,
)

Groups: TypeAlias = tuple[tuple[str, ...], ...]
EncoderNetwork: TypeAlias = GroupedNetwork | CustomEncoder
DecoderNetwork: TypeAlias = GroupedNetwork | CustomDecoder

_CONDITIONED = ("vector", "counts", "binary")
"""The data types whose encoders see covariates. Images and texts of odd sizes have the network ``mlp``, too."""


@dataclass(frozen=True)
class Modality(ModalitySpec):
    """A modality of a model: a :class:`~pyro_mmvae.ModalitySpec` with a name and a shape, open to users' own modules.

    Every field but name and shape is a keyword argument. Those that are left out have the defaults of the command line.
    Modules are used as they are, not copied: they are trained, saved and loaded with the model, and two modalities that
    are given one module share it.

    Args:
        name: Name of the modality, any name that a file can have, see
            :func:`~pyro_mmvae.modality_spec.check_modality_name`, and of its Pyro site, see
            :func:`~pyro_mmvae.vae.names.modality_site`.
        shape: Shape of one item.
        likelihood: Name of a likelihood, or a :class:`~pyro_mmvae.Likelihood`.
        encoder: Name of a registered encoder, or a module from `(item, *feature_shape)`, where ``feature_shape`` is the
            likelihood's, to a tuple of loc and scale, each `(item, latent)`; with a full covariance scale_tril
            `(item, latent, latent)` takes the place of scale. With a private latent its loc and scale, each
            `(item, private)`, follow.
        decoder: Name of a registered decoder, or a module from `(item, latent)`, or `(item, latent + private)` with a
            private latent, to `(item, *parameter_shape)`, where ``parameter_shape`` is the likelihood's. In a model
            with covariates the indicators of all categories follow the shared latent.

    Raises:
        ValueError: If the name cannot be that of a file, the shape is not a tuple of positive integers, or a value is
            out of its range.
        TypeError: If a likelihood, encoder or decoder is neither a name nor a module of the right class.
    """

    name: str
    shape: tuple[int, ...]
    # A name in what files can hold, widened to objects here: nothing reads these fields through the base class.
    likelihood: str | Likelihood | None = field(default=None, kw_only=True)  # type: ignore[assignment]
    encoder: str | nn.Module | None = field(default=None, kw_only=True)  # type: ignore[assignment]
    decoder: str | nn.Module | None = field(default=None, kw_only=True)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the name, and each value by itself."""
        check_modality_name(self.name)
        for part, kind in (("likelihood", Likelihood), ("encoder", nn.Module), ("decoder", nn.Module)):
            value = getattr(self, part)
            if value is not None and not isinstance(value, (str, kind)):
                raise TypeError(f"{self._label}{part} must be a name or a {kind.__name__}, got {type(value).__name__}")
        super().__post_init__()
        try:
            shape = torch.Size(self.shape)
        except TypeError:
            shape = torch.Size([-1])
        if any(size < 1 for size in shape):
            raise ValueError(f"{self._label}shape must be a tuple of positive integers, got {self.shape!r}")
        object.__setattr__(self, "shape", tuple(shape))

    @property
    def _label(self) -> str:
        return f"modality {self.name!r}: "

    def resolved(self) -> Modality:
        """Return a copy with defaults for what was left out, see :func:`~pyro_mmvae.modality_spec.resolve_modality`.

        Raises:
            ValueError: If something does not fit, or a name is not registered.
        """
        where = f"modality {self.name!r}"
        check_names(self, where)
        for setting in ("scale", "output", "standardize") if isinstance(self.likelihood, Likelihood) else ():
            value = getattr(self, setting)
            if value is not None:
                kind = type(self.likelihood).__name__
                raise ValueError(f"{where}: {setting} must be left out with a likelihood of type {kind}, got {value!r}")
        return resolve_modality(self, where=where, shape=self.shape)

    def make_likelihood(self) -> Likelihood:
        """Return the likelihood that was passed, or a new one by its name.

        Raises:
            ValueError: If it does not fit the shape.
        """
        likelihood = self.likelihood
        if not isinstance(likelihood, Likelihood):
            likelihood = make_likelihood(
                cast("str", likelihood),
                self.shape,
                scale=self.scale,
                classes=self.classes,
                reference_total=self.reference_total,
                output=self.output,
                standardize=self.standardize,
            )
        if tuple(likelihood.shape) != self.shape:
            raise ValueError(
                f"{self._label}the shape of the likelihood must be {self.shape}, got {tuple(likelihood.shape)}"
            )
        return likelihood

    def network_options(self, options: NetworkOptions) -> NetworkOptions:
        """Return the options of its networks: those of the model with its own sizes."""
        sizes: dict[str, Any] = {"width": self.width, "hidden": self.hidden, "depth": self.depth}
        return replace(options, **{key: value for key, value in sizes.items() if value is not None})


def group_modalities(modalities: Sequence[Modality], likelihoods: nn.ModuleDict, covariate_size: int = 0) -> Groups:
    """Return the names of modalities in groups that one network can serve; a custom encoder or decoder stays alone.

    Args:
        modalities: The modalities, with resolved descriptions.
        likelihoods: Modality name to likelihood.
        covariate_size: Number of categories of all covariates, which some encoders see; 0 (default) for none.
    """
    groups: dict[Any, list[str]] = {}
    for modality in modalities:
        likelihood = cast("Likelihood", likelihoods[modality.name])
        shapes = (likelihood.feature_shape, likelihood.parameter_shape)
        sizes = (modality.width, modality.hidden, modality.depth, modality.private_size)
        is_alone = modality.encoder is not None or modality.decoder is not None
        is_conditioned = covariate_size > 0 and modality.data_type in _CONDITIONED
        key = (
            network_name(modality, likelihood), shapes, sizes, is_conditioned, modality.name if is_alone else None,
        )  # fmt: skip
        groups.setdefault(key, []).append(modality.name)
    return tuple(tuple(group) for group in groups.values())


def make_group(
    modality: Modality,
    likelihood: Likelihood,
    latent_size: int,
    options: NetworkOptions,
    count: int,
    covariate_size: int = 0,
) -> tuple[EncoderNetwork, DecoderNetwork]:
    """Return the encoder and the decoder of a group of modalities.

    Args:
        modality: One of them, resolved.
        likelihood: The likelihood of the modality.
        latent_size: Number of shared latent dimensions.
        options: Options of the model's networks.
        count: Number of modalities in the group.
        covariate_size: Number of categories of all covariates, which follow the shared latent as the input of the
            decoder; 0 (default) for none.

    Raises:
        ValueError: If a network cannot take the shape.
    """
    options = modality.network_options(options)
    custom_encoder = _custom_encoder(modality, likelihood, latent_size, options)
    custom_decoder = _custom_decoder(modality, likelihood, latent_size + covariate_size, options)
    if custom_encoder is not None and custom_decoder is not None:
        return custom_encoder, custom_decoder
    encoder, decoder = make_networks(
        network_name(modality, likelihood),
        likelihood.feature_shape,
        likelihood.parameter_shape,
        latent_size,
        options,
        count,
        private_size=modality.private_size or 0,
        covariate_size=covariate_size,
        condition_encoder=modality.data_type in _CONDITIONED,
    )
    return custom_encoder or encoder, custom_decoder or decoder


def _custom_encoder(
    modality: Modality, likelihood: Likelihood, latent_size: int, options: NetworkOptions
) -> CustomEncoder | None:
    """Return the encoder of a modality that has its own, None if it has that of a network."""
    module, private_size = modality.encoder, modality.private_size or 0
    if module is None:
        return None
    if isinstance(module, str):
        module = make_registered(ENCODERS, module, likelihood.feature_shape, latent_size, options, private_size)
    label, is_full = f"modality {modality.name!r}", options.expert_kind == "full"
    return CustomEncoder(module, label, latent_size, private_size, is_full)


def _custom_decoder(
    modality: Modality, likelihood: Likelihood, latent_size: int, options: NetworkOptions
) -> CustomDecoder | None:
    """Return the decoder of a modality that has its own, None if it has that of a network."""
    module, shape, private_size = modality.decoder, likelihood.parameter_shape, modality.private_size or 0
    if module is None:
        return None
    if isinstance(module, str):
        module = make_registered(DECODERS, module, shape, latent_size, options, private_size)
    return CustomDecoder(module, f"modality {modality.name!r}", shape, private_size > 0)


def network_name(modality: Modality, likelihood: Likelihood) -> str:
    """Return the name of a modality's pair of networks; ``auto`` is resolved by its shapes.

    Args:
        modality: The modality, with its defaults resolved.
        likelihood: The likelihood of the modality.
    """
    if modality.network is not None and modality.network != "auto":
        return modality.network
    tokens, shapes = likelihood.is_categorical, (likelihood.feature_shape, likelihood.parameter_shape)
    names = {choose_network(shape, tokens=tokens) for shape in shapes}
    return names.pop() if len(names) == 1 else "mlp"  # a pair has to fit both
