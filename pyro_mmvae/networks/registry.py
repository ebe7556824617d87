"""Networks by name, and by the shape of a modality where none is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_mmvae.networks.conv import NORMS, ConvDecoder, ConvEncoder
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedNetwork
from pyro_mmvae.networks.mlp import MLPDecoder, MLPEncoder
from pyro_mmvae.networks.residual import ResidualDecoder, ResidualEncoder

NETWORKS = ("auto", "conv", "mlp", "residual")


@dataclass(frozen=True)
class NetworkOptions:
    """Sizes of a pair of networks.

    Args:
        width: channels of the first convolution.
        hidden: size of hidden linear layers; residual networks have none.
        depth: number of hidden layers of a multilayer perceptron.
        decoder_hidden: whether a convolutional decoder has a hidden linear layer before its first image.
        norm: ``none`` or ``group``, in convolutional networks.
        activation: ``relu``, ``silu`` or ``gelu``.
        isotropic: one scale for all latent dimensions.
    """

    width: int = 32
    hidden: int = 512
    depth: int = 1
    decoder_hidden: bool = False
    norm: str = "none"
    activation: str = "relu"
    isotropic: bool = False

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {self.norm!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")


def make_networks(
    name: str,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    latent_size: int,
    options: NetworkOptions,
    groups: int = 1,
) -> tuple[GroupedNetwork, GroupedNetwork]:
    """An encoder and a decoder for one modality, or for several of one shape at once.

    Args:
        name: ``conv``, ``mlp``, ``residual`` for images and sequences, or ``auto``: conv for `(channel, height, width)`
            with sides of 8 at least, else mlp.
        input_shape: of one item as the encoder sees it.
        output_shape: of the likelihood's parameters of one item.
        latent_size: number of latent dimensions.
        options: sizes.
        groups: how many modalities; they share no weights.

    Returns:
        Modules `(*batch, group, *input_shape)` → loc, scale `(*batch, group, latent)`, and `(*batch, latent)` →
        `(*batch, group, *output_shape)`.

    Raises:
        ValueError: for an unknown name, or a convolutional network for something that is no image.
    """
    is_image = len(input_shape) == 3 and min(input_shape[1:]) >= 8
    if name == "auto":
        name = "conv" if is_image else "mlp"
    if name == "conv":
        if len(input_shape) != 3 or len(output_shape) != 3:
            raise ValueError(f"network 'conv' needs images (channel, height, width), not shape {input_shape}")
        encoder: GroupedNetwork = ConvEncoder(
            input_shape,
            latent_size,
            groups=groups,
            width=options.width,
            hidden=options.hidden,
            norm=options.norm,
            activation=options.activation,
            isotropic=options.isotropic,
        )
        decoder: GroupedNetwork = ConvDecoder(
            output_shape,
            latent_size,
            groups=groups,
            width=options.width,
            hidden=options.hidden if options.decoder_hidden else None,
            norm=options.norm,
            activation=options.activation,
        )
        return encoder, decoder
    if name == "mlp":
        hidden, depth, activation = options.hidden, options.depth, options.activation
        encoder = MLPEncoder(
            input_shape,
            latent_size,
            groups=groups,
            hidden=hidden,
            depth=depth,
            activation=activation,
            isotropic=options.isotropic,
        )
        decoder = MLPDecoder(
            output_shape, latent_size, groups=groups, hidden=hidden, depth=depth, activation=activation
        )
        return encoder, decoder
    if name == "residual":
        sizes: dict[str, Any] = {"width": options.width, "norm": options.norm, "activation": options.activation}
        return (
            ResidualEncoder(input_shape, latent_size, groups=groups, isotropic=options.isotropic, **sizes),
            ResidualDecoder(output_shape, latent_size, groups=groups, **sizes),
        )
    raise ValueError(f"unknown network {name!r}; there are {', '.join(NETWORKS)}")
