"""The PolyMNIST recipe: one digit class seen through several photographs.

The recipe is that of Sutter, Daunhawer and Vogt, "Generalized Multimodal ELBO", ICLR 2021, arXiv 2105.02470. Everything
here is a pure function of arrays and a seed: the images of one tuple share their label and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SIDE = 28
"""Height and width of a digit and of a crop, in pixels."""

INK = 128
"""A digit's pixel is ink where its value, 0 to 255, is greater than this."""


def make_polymnist(
    digits: NDArray[np.uint8],
    labels: NDArray[np.int64],
    photographs: Sequence[NDArray[np.uint8]],
    *,
    size: int,
    seed: int | np.random.SeedSequence = 0,
    balanced: bool = True,
) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]:
    """Make tuples of images, one modality a photograph, whose images share only their label.

    Each modality draws from its own generator, so a longer list of photographs leaves the images of the earlier ones as
    they were.

    Args:
        digits: digit images, `(digit, 28, 28)`, pixel values 0 to 255.
        labels: class of each digit image, `(digit,)`.
        photographs: one RGB photograph a modality, `(height, width, 3)`, at least 28 x 28 pixels.
        size: number of tuples to make.
        seed: where all randomness comes from.
        balanced: every class as often as the others; else as often as among the digit images.

    Returns:
        Images, `m0`, `m1`, ... to `(item, 3, 28, 28)`, and the label of each tuple, `(item,)`.

    Raises:
        ValueError: if an array has the wrong shape or type, a photograph is too small, or there are no digits, no
            photographs or no tuples to make.
    """
    _check_digits(digits, labels)
    if size < 1 or not photographs:
        raise ValueError(f"PolyMNIST: found {size} tuples of {len(photographs)} photographs, expected at least 1 of 1")
    for modality, photograph in enumerate(photographs):
        check_photograph(f"m{modality}", photograph)
    wanted = draw_labels(labels, size, np.random.default_rng(child_seed(seed, 0)), balanced=balanced)
    return dict(draw_modalities(digits, labels, photographs, wanted, seed)), wanted


def draw_modalities(
    digits: NDArray[np.uint8],
    labels: NDArray[np.int64],
    photographs: Sequence[NDArray[np.uint8]],
    wanted: NDArray[np.int64],
    seed: int | np.random.SeedSequence,
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The images of `make_polymnist`, one modality after the other, for whoever cannot hold all of them at once.

    Args:
        digits: digit images, `(digit, 28, 28)`.
        labels: class of each digit image, `(digit,)`.
        photographs: one RGB photograph a modality, `(height, width, 3)`.
        wanted: class of each tuple, `(item,)`.
        seed: where all randomness comes from.

    Yields:
        Name of the modality, and its images, `(item, 3, 28, 28)`.
    """
    for modality, photograph in enumerate(photographs):
        generator = np.random.default_rng(child_seed(seed, 1 + modality))
        chosen = draw_digits(labels, wanted, generator)
        crops = draw_crops(photograph, len(wanted), generator)
        yield f"m{modality}", invert_on_ink(crops, digits[chosen])


def child_seed(seed: int | np.random.SeedSequence, key: int) -> np.random.SeedSequence:
    """The ``key``-th child that ``seed`` would spawn, without counting it as spawned."""
    parent = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return np.random.SeedSequence(parent.entropy, spawn_key=(*parent.spawn_key, key))


def draw_labels(
    labels: NDArray[np.int64], size: int, generator: np.random.Generator, *, balanced: bool = True
) -> NDArray[np.int64]:
    """Labels of ``size`` tuples in random order.

    Args:
        labels: class of each digit image, `(digit,)`.
        size: number of tuples.
        generator: source of the order, and of which classes come once more.
        balanced: every class as often as the others, or once more; else the labels of the digit images themselves,
            each as often as the others, or once more.

    Returns:
        Labels, `(item,)`.
    """
    classes = generator.permutation(np.unique(labels) if balanced else labels)
    return generator.permutation(np.resize(classes, size)).astype(np.int64)


def draw_digits(
    labels: NDArray[np.int64], wanted: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """A digit image for every tuple: within each class a random permutation, and a fresh one whenever it is used up.

    Args:
        labels: class of each digit image, `(digit,)`.
        wanted: class of each tuple, `(item,)`.
        generator: source of the permutations.

    Returns:
        Index of a digit image of the wanted class, `(item,)`.

    Raises:
        ValueError: if a wanted class has no digit image.
    """
    chosen = np.empty(len(wanted), dtype=np.int64)
    for label in np.unique(wanted):
        members, slots = np.flatnonzero(labels == label), np.flatnonzero(wanted == label)
        if not len(members):
            raise ValueError(f"digits: found no image of class {label}, expected at least one")
        rounds = -(-len(slots) // len(members))
        permutations = generator.permuted(np.tile(members, (rounds, 1)), axis=1)
        chosen[slots] = permutations.ravel()[: len(slots)]
    return chosen


def draw_crops(photograph: NDArray[np.uint8], size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Crops of 28 x 28 pixels at random places, each place as likely as any other.

    Args:
        photograph: `(height, width, 3)`, at least 28 x 28 pixels.
        size: number of crops.
        generator: source of the places.

    Returns:
        Crops, `(item, 3, 28, 28)`.
    """
    channels_first = np.ascontiguousarray(np.moveaxis(photograph, -1, 0))
    windows = np.moveaxis(sliding_window_view(channels_first, (SIDE, SIDE), axis=(1, 2)), 0, 2)
    rows = generator.integers(windows.shape[0], size=size)
    columns = generator.integers(windows.shape[1], size=size)
    return np.ascontiguousarray(windows[rows, columns])


def invert_on_ink(crops: NDArray[np.uint8], digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw digits into crops: where a digit's pixel is greater than 128, the crop's value `x` becomes `255 - x`.

    Args:
        crops: `(item, 3, 28, 28)`.
        digits: `(item, 28, 28)`.

    Returns:
        Images, `(item, 3, 28, 28)`.
    """
    ink = np.where(digits > INK, np.uint8(255), np.uint8(0))
    return crops ^ ink[:, np.newaxis]  # 255 - x has all bits of x turned over


def _check_digits(digits: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    if digits.ndim != 3 or digits.shape[1:] != (SIDE, SIDE) or digits.dtype != np.uint8 or not len(digits):
        raise ValueError(f"digits: found {digits.shape} of {digits.dtype}, expected (digit, {SIDE}, {SIDE}) of uint8")
    if labels.shape != digits.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: found {labels.shape} of {labels.dtype}, expected ({len(digits)},) of int64")


def check_photograph(name: str, photograph: NDArray[np.uint8]) -> None:
    """Check that crops can be cut from an array.

    Raises:
        ValueError: if it is no RGB photograph of at least 28 x 28 pixels; the message has ``name``.
    """
    shape, dtype = photograph.shape, photograph.dtype
    if photograph.ndim != 3 or shape[2] != 3 or dtype != np.uint8:
        raise ValueError(f"photograph of {name!r}: found {shape} of {dtype}, expected (height, width, 3) of uint8")
    if min(shape[:2]) < SIDE:
        raise ValueError(
            f"photograph of {name!r}: found {shape[0]} x {shape[1]} pixels, expected at least {SIDE} x {SIDE}"
        )
