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
"""The height and width of a digit and of a crop, in pixels."""

INK_THRESHOLD = 128
"""The pixel value, 0 to 255, above which a digit's pixel is ink."""


def make_polymnist(
    digits: NDArray[np.uint8],
    labels: NDArray[np.int64],
    photographs: Sequence[NDArray[np.uint8]],
    *,
    num_items: int,
    seed: int | np.random.SeedSequence = 0,
    balanced: bool = True,
) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.int64]]:
    """Make tuples of images, one modality per photograph, whose images share only their label.

    Each modality draws from a generator of its own, so that a longer list of photographs leaves the images of the
    earlier ones unchanged.

    Args:
        digits: Digit images, `(digit, 28, 28)`, pixel values 0 to 255.
        labels: Class of each digit image, `(digit,)`.
        photographs: One RGB photograph per modality, `(height, width, 3)`, at least 28 x 28 pixels.
        num_items: Number of tuples to make, at least 1.
        seed: Seed of all random draws; 0 by default.
        balanced: If True, every class is equally frequent; if False, classes are as frequent as among the digit images.
            True by default.

    Returns:
        Images, `m0`, `m1`, ... to `(item, 3, 28, 28)`, and the label of each tuple, `(item,)`.

    Raises:
        ValueError: If an array has the wrong shape or type, a photograph is too small, or there are no digits, no
            photographs or no tuples to make.
    """
    _check_digits(digits, labels)
    if num_items < 1 or not photographs:
        raise ValueError(
            "PolyMNIST must be made of at least 1 tuple and 1 photograph, got "
            f"{num_items} tuples and {len(photographs)} photographs"
        )
    for modality, photograph in enumerate(photographs):
        check_photograph(f"m{modality}", photograph)
    tuple_labels = draw_labels(labels, num_items, np.random.default_rng(child_seed(seed, 0)), balanced=balanced)
    return dict(draw_modalities(digits, labels, photographs, tuple_labels, seed)), tuple_labels


def draw_modalities(
    digits: NDArray[np.uint8],
    labels: NDArray[np.int64],
    photographs: Sequence[NDArray[np.uint8]],
    tuple_labels: NDArray[np.int64],
    seed: int | np.random.SeedSequence,
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the images of :func:`make_polymnist` one modality after the other, so that memory need hold only one.

    Args:
        digits: Digit images, `(digit, 28, 28)`, pixel values 0 to 255.
        labels: Class of each digit image, `(digit,)`.
        photographs: One RGB photograph per modality, `(height, width, 3)`.
        tuple_labels: Class of each tuple, `(item,)`.
        seed: Seed of all random draws.

    Yields:
        Name of the modality, and its images, `(item, 3, 28, 28)`.
    """
    for modality, photograph in enumerate(photographs):
        generator = np.random.default_rng(child_seed(seed, 1 + modality))
        chosen = draw_digits(labels, tuple_labels, generator)
        crops = draw_crops(photograph, len(tuple_labels), generator)
        yield f"m{modality}", invert_on_ink(crops, digits[chosen])


def child_seed(seed: int | np.random.SeedSequence, key: int) -> np.random.SeedSequence:
    """Return the ``key``-th child that a seed would spawn, without changing the seed's count of children.

    Args:
        seed: The parent seed, an integer or a sequence.
        key: Index of the child, at least 0.
    """
    parent = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return np.random.SeedSequence(parent.entropy, spawn_key=(*parent.spawn_key, key))


def draw_labels(
    labels: NDArray[np.int64], num_items: int, generator: np.random.Generator, *, balanced: bool = True
) -> NDArray[np.int64]:
    """Draw the labels of tuples, in random order.

    Args:
        labels: Class of each digit image, `(digit,)`.
        num_items: Number of tuples to label.
        generator: Source of the order, and of the choice of the classes that occur once more than others.
        balanced: If True, every class is equally frequent, up to 1; if False, the labels of the digit images are
            repeated equally often, up to 1. True by default.

    Returns:
        Class of each tuple, `(item,)`.
    """
    classes = generator.permutation(np.unique(labels) if balanced else labels)
    return generator.permutation(np.resize(classes, num_items)).astype(np.int64)


def draw_digits(
    labels: NDArray[np.int64], tuple_labels: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a digit image for every tuple: within each class a random permutation, renewed whenever it is exhausted.

    Args:
        labels: Class of each digit image, `(digit,)`.
        tuple_labels: Class of each tuple, `(item,)`.
        generator: Source of the permutations.

    Returns:
        Index of a digit image of each tuple's class, `(item,)`.

    Raises:
        ValueError: If a class has no digit image.
    """
    chosen = np.empty(len(tuple_labels), dtype=np.int64)
    for label in np.unique(tuple_labels):
        members, slots = np.flatnonzero(labels == label), np.flatnonzero(tuple_labels == label)
        if not len(members):
            raise ValueError(f"digits must hold at least one image of class {label}, got none")
        rounds = -(-len(slots) // len(members))
        permutations = generator.permuted(np.tile(members, (rounds, 1)), axis=1)
        chosen[slots] = permutations.ravel()[: len(slots)]
    return chosen


def draw_crops(photograph: NDArray[np.uint8], num_items: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw crops of 28 x 28 pixels at uniformly random positions.

    Args:
        photograph: RGB pixels, `(height, width, 3)`, at least 28 x 28.
        num_items: Number of crops to draw.
        generator: Source of the positions.

    Returns:
        Crops, `(item, 3, 28, 28)`.
    """
    channels_first = np.ascontiguousarray(np.moveaxis(photograph, -1, 0))
    windows = np.moveaxis(sliding_window_view(channels_first, (SIDE, SIDE), axis=(1, 2)), 0, 2)
    rows = generator.integers(windows.shape[0], size=num_items)
    columns = generator.integers(windows.shape[1], size=num_items)
    return np.ascontiguousarray(windows[rows, columns])


def invert_on_ink(crops: NDArray[np.uint8], digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw digits into crops: where a digit's pixel is above ``INK_THRESHOLD``, the crop's value `x` becomes `255 - x`.

    Args:
        crops: Background images, `(item, 3, 28, 28)`, values 0 to 255.
        digits: Digit images, `(item, 28, 28)`, values 0 to 255.

    Returns:
        Images, `(item, 3, 28, 28)`.
    """
    ink = np.where(digits > INK_THRESHOLD, np.uint8(255), np.uint8(0))
    return crops ^ ink[:, np.newaxis]  # 255 - x is x with all bits flipped, which needs no wider type


def _check_digits(digits: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Check shapes and types of digit images and their labels."""
    if digits.ndim != 3 or digits.shape[1:] != (SIDE, SIDE) or digits.dtype != np.uint8 or not len(digits):
        raise ValueError(
            f"digits must be (digit, {SIDE}, {SIDE}) of uint8, with at least one, got {digits.shape} of {digits.dtype}"
        )
    if labels.shape != digits.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be ({len(digits)},) of integers, got {labels.shape} of {labels.dtype}")


def check_photograph(name: str, photograph: NDArray[np.uint8]) -> None:
    """Check that crops can be cut from an array of pixels.

    Args:
        name: Name of the photograph or its modality, for the message.
        photograph: The array to check.

    Raises:
        ValueError: If it is not an RGB photograph of at least 28 x 28 pixels.
    """
    shape, dtype = photograph.shape, photograph.dtype
    if photograph.ndim != 3 or shape[2] != 3 or dtype != np.uint8:
        raise ValueError(f"photograph of {name!r} must be (height, width, 3) of uint8, got {shape} of {dtype}")
    if min(shape[:2]) < SIDE:
        raise ValueError(
            f"photograph of {name!r} must have at least {SIDE} x {SIDE} pixels, got {shape[0]} x {shape[1]}"
        )
