"""Pairs of an encoder and a decoder by name, and the choice of a pair by the shape of a modality."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyro_mmvae.networks.conv import ConvDecoder, ConvEncoder, is_image_shape
from pyro_mmvae.networks.conv4 import Conv4Decoder, Conv4Encoder, fits_conv4
from pyro_mmvae.networks.grouped import GroupedNetwork
from pyro_mmvae.networks.mlp import MLPDecoder, MLPEncoder
from pyro_mmvae.networks.options import NetworkOptions
from pyro_mmvae.networks.residual import ResidualDecoder, ResidualEncoder
from pyro_mmvae.networks.text import TextDecoder, TextEncoder, fits_text
from pyro_mmvae.registry import Registry

_MIN_CONV_SIDE = 8  # of an image for which "auto" chooses "conv"; smaller ones are shorter than the strides allow for


class NetworkFactory(Protocol):
    """A callable with the constructor of :class:`~pyro_mmvae.networks.GroupedNetwork`, such as a subclass of it."""

    def __call__(
        self, shape: tuple[int, ...], latent_size: int, options: NetworkOptions, *, groups: int, private_size: int
    ) -> GroupedNetwork:
        """Return a network for some modalities of one shape."""


@dataclass(frozen=True)
class NetworkPair:
    """A registered encoder and decoder.

    Args:
        encoder: The factory of encoders.
        decoder: The factory of decoders.
        fits: function that returns True for shapes of items that both networks take; None for any shape.
        expects: the shapes that ``fits`` accepts, in words, for the message about another shape.
    """

    encoder: NetworkFactory
    decoder: NetworkFactory
    fits: Callable[[tuple[int, ...]], bool] | None = None
    expects: str = "another shape"


NETWORKS: Registry[NetworkPair] = Registry(
    "network",
    "'auto' chooses one by shape; pyro_mmvae.networks.register_network(name, encoder=…, decoder=…) adds yours",
)
"""Pairs of networks by name, built-in ones and registered ones. ``"auto"`` is not one of them."""


def network_names() -> tuple[str, ...]:
    """Return the names that :func:`make_networks` accepts: ``auto``, the built-in and the registered networks."""
    return ("auto", *NETWORKS)


def register_network(
    name: str,
    *,
    encoder: NetworkFactory,
    decoder: NetworkFactory,
    fits: Callable[[tuple[int, ...]], bool] | None = None,
    expects: str = "another shape",
) -> None:
    """Register a pair of networks under a name that modalities and configurations can then use.

    Both factories are called as ``factory(shape, latent_size, options, groups=groups, private_size=private_size)`` and
    return a :class:`~pyro_mmvae.networks.GroupedNetwork`, which documents the arguments and what ``forward`` takes and
    returns. A subclass of it is such a factory. The modalities of a model that have one shape and one network are the
    groups of a single :class:`~pyro_mmvae.networks.GroupedNetwork`.

    In a model with covariates the latent size of decoders includes the number of categories, whose indicators follow
    the shared latent. An encoder sees covariates if its factory has a parameter ``covariate_size``: for modalities of
    the types vector, counts and binary it is given the number of categories by that keyword, keeps it as the attribute
    ``covariate_size`` and as an argument in :meth:`~pyro_mmvae.networks.GroupedNetwork.with_groups`, and its
    ``forward`` takes their indicators `(*batch, covariate)` as a second argument.

    Args:
        name: name of the pair, not taken yet and not ``auto``.
        encoder: factory of the encoder, from items to the parameters of experts.
        decoder: factory of the decoder, from latents to the parameters of likelihoods.
        fits: function that returns True for shapes of items that both networks take, by default any shape. It is asked
            for the encoder's shape and for the decoder's.
        expects: the shapes that ``fits`` accepts, in words, for the message about another shape, such as ``"images
            (channel, height, width)"``.

    Raises:
        ValueError: If the name is taken, ``auto``, or not a non-empty string.

    Example:
        >>> import torch
        >>> from pyro_mmvae.networks import GaussianHead, GroupedDecoder, GroupedNetwork
        >>> class LinearEncoder(GroupedNetwork):
        ...     def __init__(self, shape, latent_size, options=None, *, groups=1, private_size=0):
        ...         super().__init__(shape, latent_size, options, groups=groups, private_size=private_size)
        ...         self.head = GaussianHead(groups, shape[0], latent_size, self.options, private_size=private_size)
        ...     def forward(self, vectors):
        ...         return self.head(vectors)
        >>> class LinearDecoder(GroupedDecoder):
        ...     def __init__(self, shape, latent_size, options=None, *, groups=1, private_size=0):
        ...         super().__init__(shape, latent_size, options, groups=groups, private_size=private_size)
        ...         self.linear = self.first_layer(shape[0])
        ...     def forward(self, z):
        ...         flat, batch = self.flatten_batch(z)
        ...         return self.linear(flat).reshape(*batch, self.groups, *self.shape)
        >>> register_network(
        ...     "linear", encoder=LinearEncoder, decoder=LinearDecoder,
        ...     fits=lambda shape: len(shape) == 1, expects="vectors (feature,)",
        ... )
        >>> encoder, decoder = make_networks("linear", (6,), (6,), 2, NetworkOptions(), groups=3)
        >>> loc, scale = encoder(torch.zeros(8, 3, 6))
        >>> loc.shape, decoder(torch.zeros(8, 2)).shape
        (torch.Size([8, 3, 2]), torch.Size([8, 3, 6]))
        >>> unregister_network("linear")
    """
    if name == "auto":
        raise ValueError("the name of a network must not be 'auto', which chooses a network by shape")
    NETWORKS.register(name, NetworkPair(encoder, decoder, fits, expects))


def unregister_network(name: str) -> None:
    """Remove a pair of networks that :func:`register_network` added.

    Args:
        name: name of the pair, not a built-in one.

    Raises:
        ValueError: If the name is unknown or built in.
    """
    NETWORKS.unregister(name)


def choose_network(shape: tuple[int, ...], *, tokens: bool = False) -> str:
    """Return the name of the network that ``auto`` stands for.

    Args:
        shape: shape of one item as the encoder sees it.
        tokens: If True, an item consists of one-hot tokens `(position, class)`.

    Returns:
        ``text`` for tokens whose length it accepts, ``conv`` for `(channel, height, width)` with sides of at least 8,
        ``mlp`` for everything else.
    """
    if tokens:
        return "text" if fits_text(shape) else "mlp"
    return "conv" if is_image_shape(shape) and min(shape[1:]) >= _MIN_CONV_SIDE else "mlp"


def make_networks(
    name: str,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    latent_size: int,
    options: NetworkOptions,
    groups: int = 1,
    *,
    private_size: int = 0,
    covariate_size: int = 0,
    condition_encoder: bool = True,
) -> tuple[GroupedNetwork, GroupedNetwork]:
    """Return an encoder and a decoder for one modality, or for several modalities of one shape.

    Args:
        name: one of :func:`network_names`; ``auto`` is resolved by :func:`choose_network`. ``conv4`` is for images
            whose sides are multiples of 16, at least 32; ``text`` for one-hot tokens `(position, class)` whose number
            of positions is a multiple of 4, at least 8; ``residual`` for images and sequences.
        input_shape: shape of one item as the encoder sees it.
        output_shape: shape of the likelihood's parameters for one item.
        latent_size: number of latent dimensions that all modalities share.
        options: sizes and layers of the networks, and the density of the experts.
        groups: number of modalities, which share no weights.
        private_size: number of dimensions of the private latent of each modality, 0 for none.
        covariate_size: number of categories of all covariates, by which the latent of the decoder grows; 0 (default)
            for none.
        condition_encoder: If True (default), an encoder whose factory takes ``covariate_size`` is given it.

    Returns:
        An encoder from `(*batch, group, *input_shape)` to loc and scale `(*batch, group, latent)`, or to loc and
        scale_tril `(*batch, group, latent, latent)` for a full or low-rank covariance, then loc and scale `(*batch,
        group, private)` if there is a private latent; and a decoder from `(*batch, latent)`, or from `(*batch, group,
        latent + private)` if there is a private latent, to `(*batch, group, *output_shape)`.

    Raises:
        ValueError: If the name is unknown, or the network does not take items of one of the shapes.
        TypeError: If a registered factory returns something else than a ``GroupedNetwork``.
    """
    if name == "auto":
        name = choose_network(input_shape)
    pair = NETWORKS.lookup(name)
    for shape in (input_shape, output_shape):
        if pair.fits is not None and not pair.fits(shape):
            raise ValueError(f"network {name!r} needs {pair.expects}, got shape {shape}")
    sizes = {"groups": groups, "private_size": private_size}
    takes_covariates = "covariate_size" in inspect.signature(pair.encoder).parameters
    seen = {"covariate_size": covariate_size} if covariate_size and condition_encoder and takes_covariates else {}
    encoder = pair.encoder(input_shape, latent_size, options, **sizes, **seen)
    decoder = pair.decoder(output_shape, latent_size + covariate_size, options, **sizes)
    for role, network in (("encoder", encoder), ("decoder", decoder)):
        if not isinstance(network, GroupedNetwork):
            raise TypeError(
                f"the {role} of network {name!r} must be a pyro_mmvae.networks.GroupedNetwork, got "
                f"{type(network).__name__}"
            )
    return encoder, decoder


_BUILT_IN = {
    "conv": NetworkPair(ConvEncoder, ConvDecoder, is_image_shape, "images (channel, height, width)"),
    "conv4": NetworkPair(
        Conv4Encoder, Conv4Decoder, fits_conv4, "(channel, height, width) whose sides are 32, 48, 64, …"
    ),
    "mlp": NetworkPair(MLPEncoder, MLPDecoder),
    "residual": NetworkPair(ResidualEncoder, ResidualDecoder),  # the constructors check the sides
    "text": NetworkPair(TextEncoder, TextDecoder, fits_text, "tokens (position, class) of 8, 12, 16, … positions"),
}
for _name, _pair in _BUILT_IN.items():
    NETWORKS.register(_name, _pair, built_in=True)
