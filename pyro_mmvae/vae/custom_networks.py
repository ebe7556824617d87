"""Encoders and decoders that users define for one modality, as modules or under a registered name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.networks import NETWORKS, NetworkOptions
from pyro_mmvae.registry import Registry


class Factory(Protocol):
    """A callable that makes an encoder or a decoder for one modality."""

    def __call__(
        self, shape: tuple[int, ...], latent_size: int, options: NetworkOptions, *, private_size: int
    ) -> nn.Module:
        """Return a new network for items of a shape."""


AnyFactory = TypeVar("AnyFactory", bound=Factory)

ENCODERS: Registry[Factory] = Registry("encoder", "Custom ones: register_encoder(name).")
DECODERS: Registry[Factory] = Registry("decoder", "Custom ones: register_decoder(name).")


def register_encoder(name: str) -> Callable[[AnyFactory], AnyFactory]:
    """Return a decorator that registers a factory of encoders, for the field ``encoder`` of a modality.

    Args:
        name: The name, not taken yet.

    Returns:
        A decorator of a callable ``factory(shape, latent_size, options, *, private_size)``, which it returns unchanged.
        The factory is given the shape of one item as the encoder sees it, the number of shared latent dimensions, the
        :class:`~pyro_mmvae.networks.NetworkOptions` of the modality, and the number of its private latent dimensions, 0
        for none. It returns a module as :class:`~pyro_mmvae.Modality` describes it. Such an encoder does not see
        covariates.

    Example:
        >>> @register_encoder("linear")
        ... class Linear(nn.Module):
        ...     def __init__(self, shape, latent_size, options, *, private_size=0):
        ...         super().__init__()
        ...         self.linear = nn.Linear(shape[0], 2 * latent_size)
        ...
        ...     def forward(self, x):
        ...         loc, log_scale = self.linear(x).chunk(2, -1)
        ...         return loc, log_scale.exp()
        >>> ENCODERS.unregister("linear")
    """
    return _register_in(ENCODERS, name)


def register_decoder(name: str) -> Callable[[AnyFactory], AnyFactory]:
    """Return a decorator that registers a factory of decoders, for the field ``decoder`` of a modality.

    Args:
        name: The name, not taken yet.

    Returns:
        A decorator of a callable ``factory(shape, latent_size, options, *, private_size)``, see
        :func:`register_encoder`; here ``shape`` is that of the likelihood's parameters for one item, and
        ``latent_size`` includes the number of categories of all covariates, whose indicators follow the shared latent.
    """
    return _register_in(DECODERS, name)


def check_names(spec: ModalitySpec, where: str) -> None:
    """Check that the networks of a modality are registered.

    Args:
        spec: Description of the modality.
        where: Beginning of the error message, such as a key of a configuration.

    Raises:
        ValueError: If one is not.
    """
    tables: dict[str, Registry[Any]] = {"encoder": ENCODERS, "decoder": DECODERS, "network": NETWORKS}
    for field, registry in tables.items():
        name = getattr(spec, field)
        is_auto = field == "network" and name == "auto"
        if isinstance(name, str) and not is_auto and name not in registry:
            raise ValueError(f"{where}: {registry.unknown(name)}")


def make_registered(
    registry: Registry[Factory],
    name: str,
    shape: tuple[int, ...],
    latent_size: int,
    options: NetworkOptions,
    private_size: int,
) -> nn.Module:
    """Return a new module of a registered factory.

    Args:
        registry: The table, ``ENCODERS`` or ``DECODERS``.
        name: The name of a registered factory.
        shape: Shape of one item as the encoder sees it, or of its parameters.
        latent_size: Number of shared latent dimensions.
        options: Options of the networks of the modality.
        private_size: Number of private latent dimensions, 0 for none.

    Raises:
        TypeError: If the factory cannot be called like this or does not return a module.
    """
    factory = registry.lookup(name)
    try:
        inspect.signature(factory).bind(shape, latent_size, options, private_size=private_size)
    except TypeError as error:
        raise TypeError(
            f"the factory of {registry.kind} {name!r} must take (shape, latent_size, options, *, private_size): {error}"
        ) from None
    module = factory(shape, latent_size, options, private_size=private_size)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"the factory of {registry.kind} {name!r} must return a torch.nn.Module, got {type(module).__name__}"
        )
    return module


class CustomEncoder(nn.Module):
    """A user's encoder in the place of a network for a group of modalities, with the shapes of its output checked.

    Args:
        module: Module from `(item, *shape)` to a tuple of loc and scale `(item, latent)`.
        label: Beginning of error messages.
        latent_size: Number of shared latent dimensions.
        private_size: Number of private latent dimensions; if positive, loc and scale `(item, private)` follow.
        is_full: If True, scale_tril `(item, latent, latent)` takes the place of scale.
    """

    covariate_size = 0  # as of a network for a group: covariates are not passed on

    def __init__(self, module: nn.Module, label: str, latent_size: int, private_size: int, is_full: bool) -> None:
        super().__init__()
        self.module, self.label = module, label
        scale = ("scale_tril", (latent_size, latent_size)) if is_full else ("scale", (latent_size,))
        self.outputs: list[tuple[str, tuple[int, ...]]] = [("loc", (latent_size,)), scale]
        if private_size:
            self.outputs += [("private loc", (private_size,)), ("private scale", (private_size,))]
        self._has_run = False

    def run_groups(self, groups: Sequence[int], features: Tensor) -> tuple[Tensor, ...]:
        """Return loc and scale, each with a group axis of one: `(item, 1, latent)`.

        Args:
            groups: The numbers of the groups, of which there is one.
            features: Items as the encoder sees them, `(item, 1, *shape)`.

        Raises:
            ValueError: If the module returns anything else, or, at the first call, a scale that is not positive.
        """
        output = self.module(features[:, 0])
        expected = [(len(features), *shape) for _, shape in self.outputs]
        if not isinstance(output, (tuple, list)) or [_shape_of(part) for part in output] != expected:
            outputs = ", ".join(f"{name} {shape}" for (name, _), shape in zip(self.outputs, expected, strict=True))
            raise ValueError(f"{self.label}: the encoder must return {outputs}, got {_describe(output)}")
        # Experts are combined in float32 at least, also under autocast, as those of the built-in networks are.
        parts = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in output]
        if not self._has_run:
            self._check_positive(parts)
            self._has_run = True
        return tuple(part.unsqueeze(1) for part in parts)

    def forget_first_call(self) -> None:
        """Let the next call of :meth:`run_groups` check scales as the first one does."""
        self._has_run = False

    def _check_positive(self, parts: Sequence[Tensor]) -> None:
        """Check that scales are positive; only at the first call, because a GPU has to be waited for."""
        for (name, _), part in zip(self.outputs, parts, strict=True):
            scale = part.diagonal(dim1=-2, dim2=-1) if name == "scale_tril" else part
            if "scale" in name and not bool((scale > 0).all()):
                least = float(scale.detach().min())
                raise ValueError(f"{self.label}: the encoder must return a positive {name}, got {least}")


class CustomDecoder(nn.Module):
    """A user's decoder in the place of a network for a group of modalities, with the shape of its output checked.

    Args:
        module: Module from `(item, latent)` to `(item, *shape)`.
        label: Beginning of error messages.
        shape: Shape of the likelihood's parameters for one item.
        has_private: If True, latents come with a group axis, and the last of their dimensions are private.
    """

    def __init__(self, module: nn.Module, label: str, shape: tuple[int, ...], has_private: bool) -> None:
        super().__init__()
        self.module, self.label, self.shape, self.has_private = module, label, shape, has_private

    def run_groups(self, groups: Sequence[int], latents: Tensor) -> Tensor:
        """Return the likelihood's parameters, `(*batch, 1, *shape)`.

        Args:
            groups: The numbers of the groups, of which there is one.
            latents: `(*batch, latent)`, or `(*batch, 1, latent + private)`. The module sees them with one leading
                dimension, because convolutions and batch normalisation take no more.

        Raises:
            ValueError: If the module returns anything else.
        """
        if self.has_private:
            latents = latents.squeeze(-2)
        batch = latents.shape[:-1]
        output = self.module(latents.reshape(-1, latents.shape[-1]))
        expected = (batch.numel(), *self.shape)
        if _shape_of(output) != expected:
            raise ValueError(f"{self.label}: the decoder must return parameters {expected}, got {_describe(output)}")
        return output.reshape(*batch, 1, *self.shape)


def _register_in(registry: Registry[Factory], name: str) -> Callable[[AnyFactory], AnyFactory]:
    def register(factory: AnyFactory) -> AnyFactory:
        registry.register(name, factory)
        return factory

    return register


def _shape_of(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _describe(value: Any) -> str:
    """Return the shapes of tensors in a tuple, or the name of the type of anything else."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(map(_describe, value)) or 'nothing'}"
    return f"{_shape_of(value)}" if isinstance(value, Tensor) else type(value).__name__
