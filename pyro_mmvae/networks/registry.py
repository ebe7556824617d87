"""Networks by name, and by the shape of a modality where none is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyro_mmvae.experts import FAMILIES
from pyro_mmvae.networks.conv import NORMS, ConvDecoder, ConvEncoder
from pyro_mmvae.networks.conv4 import Conv4Decoder, Conv4Encoder, fits_conv4
from pyro_mmvae.networks.grouped import ACTIVATIONS, GroupedNetwork
from pyro_mmvae.networks.head import check_covariance
from pyro_mmvae.networks.mlp import MLPDecoder, MLPEncoder
from pyro_mmvae.networks.residual import ResidualDecoder, ResidualEncoder
from pyro_mmvae.networks.text import TextDecoder, TextEncoder, fits_text

NETWORKS = ("auto", "conv", "conv4", "mlp", "residual", "text")


@dataclass(frozen=True)
class NetworkOptions:
    """Sizes of a pair of networks.

    Args:
        width: channels of the first convolution; of ``text`` a quarter of those of each.
        hidden: size of hidden linear layers; residual networks have none.
        depth: number of hidden layers of a multilayer perceptron.
        decoder_hidden: whether a convolutional decoder has a hidden linear layer before its first image.
        norm: ``none`` or ``group``, in convolutional networks.
        activation: ``relu``, ``silu`` or ``gelu``.
        isotropic: the same as ``covariance="isotropic"``.
        covariance: of the experts: ``diagonal``; ``isotropic``, one scale for all latent dimensions; ``full``; or
            ``low_rank``, a diagonal and a matrix of low rank.
        rank: of ``low_rank``.
        family: of the experts and of the prior: ``normal``, ``laplace``, ``student_t`` or ``logistic``.
        df: degrees of freedom of ``student_t``, above 2; of no effect on the others.

    Raises:
        ValueError: for unknown names, or options that exclude each other.
    """

    width: int = 16
    hidden: int = 512
    depth: int = 1
    decoder_hidden: bool = False
    norm: str = "group"
    activation: str = "silu"
    isotropic: bool = False
    covariance: str = "diagonal"
    rank: int = 4
    family: str = "normal"
    df: float = 5.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {self.norm!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")
        covariance = check_covariance(self.covariance, self.isotropic)
        for name, least in (("width", 1), ("hidden", 1), ("depth", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.rank < 1:
            raise ValueError(f"rank must be positive, not {self.rank}")
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        if not self.df > 2:
            raise ValueError(f"df must be above 2, where the variance exists, not {self.df}")
        if self.family != "normal" and covariance in {"full", "low_rank"}:
            raise ValueError(
                f"family {self.family!r} has independent dimensions, no covariance={covariance!r}; 'normal' has"
            )

    @property
    def expert_kind(self) -> str:
        """Of the experts, see :attr:`pyro_mmvae.Experts.kind`."""
        return "full" if self.covariance in {"full", "low_rank"} else self.family


def choose_network(shape: tuple[int, ...], *, tokens: bool = False) -> str:
    """What ``auto`` is.

    Args:
        shape: of one item as the encoder sees it.
        tokens: whether that is one-hot tokens `(position, class)`.

    Returns:
        ``text`` for tokens that it can take, ``conv`` for `(channel, height, width)` with sides of 8 at least, else
        ``mlp``.
    """
    if tokens:
        return "text" if fits_text(shape) else "mlp"
    return "conv" if len(shape) == 3 and min(shape[1:]) >= 8 else "mlp"


def make_networks(
    name: str,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    latent_size: int,
    options: NetworkOptions,
    groups: int = 1,
    *,
    private_size: int = 0,
) -> tuple[GroupedNetwork, GroupedNetwork]:
    """An encoder and a decoder for one modality, or for several of one shape at once.

    Args:
        name: ``conv``, ``conv4``, ``mlp``, ``residual`` or ``text``, or ``auto``, see :func:`choose_network`. ``conv4``
            is for images whose sides are multiples of 16, 32 at least; ``text`` for one-hot tokens `(position, class)`
            whose positions are a multiple of 4, 8 at least; ``residual`` for images and sequences.
        input_shape: of one item as the encoder sees it.
        output_shape: of the likelihood's parameters of one item.
        latent_size: number of latent dimensions.
        options: sizes.
        groups: how many modalities; they share no weights.
        private_size: number of dimensions of the private latent of each.

    Returns:
        Modules `(*batch, group, *input_shape)` → loc, scale `(*batch, group, latent)`, or scale_tril `(*batch, group,
        latent, latent)` for a full or low-rank covariance, then loc, scale `(*batch, group, private)` if there is a
        private latent; and `(*batch, latent)` → `(*batch, group, *output_shape)`, or with a private latent `(*batch,
        group, latent + private)` → the same.

    Raises:
        ValueError: for an unknown name, or a network for something that it cannot take.
    """
    if name == "auto":
        name = choose_network(input_shape)
    if name not in _PAIRS:
        raise ValueError(f"unknown network {name!r}; there are {', '.join(NETWORKS)}")
    encoder, decoder, fits, wanted = _PAIRS[name]
    for shape in (input_shape, output_shape):
        if not fits(shape):
            raise ValueError(f"network {name!r} needs {wanted}, not shape {shape}")
    sizes: dict[str, Any] = {"groups": groups, "activation": options.activation}
    encoding: dict[str, Any] = {
        "isotropic": options.isotropic, "covariance": options.covariance, "rank": options.rank,
        "private_size": private_size,
    }  # fmt: skip
    decoding: dict[str, Any] = {"own_latents": private_size > 0}
    if name == "mlp":
        sizes |= {"hidden": options.hidden, "depth": options.depth}
    else:
        sizes |= {"width": options.width, "norm": options.norm}
    if name == "conv":
        encoding["hidden"] = options.hidden
        decoding["hidden"] = options.hidden if options.decoder_hidden else None
    return (
        encoder(input_shape, latent_size, **sizes, **encoding),
        decoder(output_shape, latent_size + private_size, **sizes, **decoding),
    )


def _anything(_: tuple[int, ...]) -> bool:
    return True


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


_PAIRS: dict[str, tuple[Any, Any, Any, str]] = {
    "conv": (ConvEncoder, ConvDecoder, _is_image, "images (channel, height, width)"),
    "conv4": (Conv4Encoder, Conv4Decoder, fits_conv4, "(channel, height, width) whose sides are 32, 48, 64, …"),
    "mlp": (MLPEncoder, MLPDecoder, _anything, ""),
    "residual": (ResidualEncoder, ResidualDecoder, _anything, ""),  # which refuses by itself what it cannot halve
    "text": (TextEncoder, TextDecoder, fits_text, "tokens (position, class) of 8, 12, 16, … positions"),
}
"""Networks by name: encoder, decoder, whether they can take a shape, and which those are."""
