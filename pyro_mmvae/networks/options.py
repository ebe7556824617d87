"""The options that all encoders and decoders share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from pyro_mmvae.experts import FAMILIES

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}
"""Nonlinearities by name."""

NORMS = ("none", "group")
"""Names of the normalisations of convolutional networks."""

COVARIANCES = ("diagonal", "isotropic", "full", "low_rank")
"""Names of the covariances that an encoder can give its experts."""


@dataclass(frozen=True)
class NetworkOptions:
    """The sizes and layers of an encoder and a decoder, and the density of the encoder's experts.

    Each network reads the options that apply to it and ignores the others, so that one object serves all networks of
    a model.

    Args:
        width: Number of channels after the first convolution; of ``text``, a quarter of the channels of each one.
        hidden: Number of features of each hidden linear layer; residual networks do not have any.
        depth: Number of hidden layers of a multilayer perceptron, 0 for a linear map.
        decoder_hidden: If True, a ``conv`` decoder has a hidden linear layer before its first image.
        norm: Normalisation in convolutional networks, ``none`` or ``group``.
        activation: Nonlinearity after each layer, ``relu``, ``silu`` or ``gelu``.
        isotropic: If True, an abbreviation of ``covariance="isotropic"``.
        covariance: Covariance of the experts: ``diagonal``; ``isotropic``, one scale for all latent dimensions;
            ``full``; or ``low_rank``, a diagonal matrix plus one of low rank.
        rank: Rank of that matrix, for ``low_rank`` only.
        family: Family of the densities of the experts and of the prior: ``normal``, ``laplace``, ``student_t`` or
            ``logistic``.
        df: Degrees of freedom, above 2, for ``student_t`` only.

    Raises:
        ValueError: If a name is unknown, a number is out of range, or two options exclude each other.
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
        """Check names, ranges and combinations."""
        _check_name("norm", self.norm, NORMS)
        _check_name("activation", self.activation, ACTIVATIONS)
        _check_name("covariance", self.covariance, COVARIANCES)
        _check_name("family", self.family, FAMILIES)
        if self.isotropic and self.covariance not in {"diagonal", "isotropic"}:
            raise ValueError(
                f"covariance must be 'isotropic' or left out where isotropic is True, got {self.covariance!r}"
            )
        for name, least in (("width", 1), ("hidden", 1), ("depth", 0), ("rank", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.df > 2:
            raise ValueError(f"df must be above 2, where the variance exists, got {self.df}")
        if self.family != "normal" and self.covariance in {"full", "low_rank"}:
            raise ValueError(
                f"family must be 'normal' for covariance={self.covariance!r}, got {self.family!r}, whose dimensions "
                f"are independent"
            )

    @property
    def effective_covariance(self) -> str:
        """The covariance that ``covariance`` and ``isotropic`` ask for together."""
        return "isotropic" if self.isotropic else self.covariance

    @property
    def expert_kind(self) -> str:
        """The kind of the experts, one of the values of :attr:`pyro_mmvae.Experts.kind`."""
        return "full" if self.covariance in {"full", "low_rank"} else self.family


def _check_name(option: str, name: str, names: Collection[str]) -> None:
    """Check that an option has one of its names."""
    if name not in names:
        raise ValueError(f"{option} must be one of {', '.join(names)}, got {name!r}")
