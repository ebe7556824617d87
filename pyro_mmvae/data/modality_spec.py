"""What kind of observations a modality holds, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

KINDS = ("image", "vector", "binary", "tokens", "counts")

LIKELIHOODS: Mapping[str, tuple[str, ...]] = {
    "image": ("laplace", "normal", "bernoulli"),
    "vector": ("normal", "laplace"),
    "binary": ("bernoulli",),
    "tokens": ("categorical",),
    "counts": ("negative_binomial", "poisson"),
}
"""Likelihoods that fit each kind, the default first."""

PIXEL_SCALE = 0.75
"""Of a Laplace or Normal likelihood of uint8 images, divided by 255: PolyMNIST's (Sutter et al., 2021)."""


@dataclass(frozen=True)
class Traits:
    """What is known of one modality; None where nothing was said.

    Attributes:
        kind: one of ``KINDS``. ``image`` is `(channel, height, width)`, ``vector`` any array of floats, ``binary`` of
            numbers in [0, 1], ``tokens`` integers 0…classes-1, ``counts`` integers from 0.
        likelihood: one of ``LIKELIHOODS[kind]``.
        network: ``auto`` or the name of one, see :func:`pyro_mmvae.networks.make_networks`.
        scale: of a Laplace or Normal likelihood, a number or ``"learned"``.
        classes: of tokens.
        size: the median total of training items, of counts.
        weight: w_m.
        pixels: whether values are uint8 and are divided by 255.
        output: of a Laplace or Normal likelihood: ``identity``, or ``sigmoid`` for means in [0, 1].
        alphabet: the characters that tokens stand for, in order, where they are text.
        padding: the one of these that shorter texts end in, which is left out where they are shown.
    """

    kind: str | None = None
    likelihood: str | None = None
    network: str | None = None
    scale: float | str | None = None
    classes: int | None = None
    size: float | None = None
    weight: float | None = None
    pixels: bool = False
    output: str | None = None
    alphabet: str | None = None
    padding: str | None = None

    def updated(self, changes: Mapping[str, Any]) -> Traits:
        """With what is not None in ``changes``."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})

    def settled(self, where: str) -> Traits:
        """With defaults for what nothing was said of; the kind is known. Classes and size may still be None.

        Raises:
            ValueError: if the likelihood does not fit the kind, or something is of no use to the likelihood.
        """
        allowed = LIKELIHOODS[self.kind or "image"]
        likelihood = self.likelihood or ("normal" if self.kind == "image" and not self.pixels else allowed[0])
        if likelihood not in allowed:
            raise ValueError(
                f"{where}: likelihood {likelihood!r} does not fit {self.kind}, expected {' or '.join(allowed)} "
                "(or another kind where the data come from)"
            )
        if self.alphabet is not None and self.kind != "tokens":
            raise ValueError(f"{where}: {self.kind} have no alphabet, tokens have")
        if self.classes is not None and self.kind != "tokens":
            raise ValueError(f"{where}: {self.kind} have no classes, tokens have")
        if self.output not in {None, "identity"} and likelihood not in {"laplace", "normal"}:
            raise ValueError(
                f"{where}: likelihood {likelihood!r} has no output {self.output!r}, laplace and normal have"
            )
        scale = self.scale
        if likelihood in {"laplace", "normal"} and scale is None:
            scale = PIXEL_SCALE if self.pixels else "learned"
        network = self.network or ("auto" if self.kind in {"image", "binary", "tokens"} else "mlp")
        weight = 1.0 if self.weight is None else self.weight
        return replace(self, likelihood=likelihood, scale=scale, network=network, weight=weight)


def kind_of_likelihood(likelihood: str | None) -> str | None:
    """The kind that a likelihood decides, where it decides one."""
    return {"categorical": "tokens", "poisson": "counts", "negative_binomial": "counts"}.get(likelihood or "")


def infer_kind(where: str, dtype_kind: str, is_byte: bool, shape: tuple[int, ...]) -> str:
    """The kind of observations that nothing was said of, by type and shape of one item.

    bool is ``binary``; floats are ``image`` with three axes and else ``vector``; uint8 with three axes is ``image``.
    Any other integers could be tokens or counts, which nothing in the values tells apart, and are refused.

    Args:
        where: file and modality, for the message.
        dtype_kind: NumPy's letter: b, i, u or f.
        is_byte: whether the type is uint8.
        shape: of one item.

    Raises:
        ValueError: if it cannot be told.
    """
    is_image = len(shape) == 3
    if dtype_kind == "b":
        return "binary"
    if dtype_kind == "f" or (is_byte and is_image):
        return "image" if is_image else "vector"
    raise ValueError(
        f"{where}: integers of shape (item, {', '.join(map(str, shape))}) may be tokens, counts or numbers: set kind: "
        "tokens, counts or vector for it, in meta.yaml or by the option kinds"
    )


def check_image(where: str, shape: tuple[int, ...]) -> None:
    """Refuse what is no image, or has its channels last.

    Raises:
        ValueError: in those cases.
    """
    if len(shape) != 3:
        raise ValueError(f"{where}: found items of shape {shape}, expected images (channel, height, width)")
    few = {1, 3, 4}
    if shape[-1] in few and shape[0] not in few:
        raise ValueError(
            f"{where}: found items of shape {shape}, expected the channels first: (channel, height, width)"
        )
