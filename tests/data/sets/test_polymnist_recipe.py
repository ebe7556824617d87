"""Tests of the PolyMNIST recipe, on arrays from whose images every draw can be read back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyro_mmvae.data import make_polymnist
from pyro_mmvae.data.sets.polymnist_recipe import child_seed, draw_crops, draw_digits, draw_labels, invert_on_ink

Bytes = NDArray[np.uint8]


def numbered_digits(labels: NDArray[np.int64]) -> Bytes:
    """Return digit images whose ink encodes their index in binary, so that images can be identified."""
    bits = (np.arange(len(labels))[:, np.newaxis] >> np.arange(16)) & 1
    digits = np.zeros((len(labels), 28, 28), dtype=np.uint8)
    digits[:, 0, :16] = bits * 255
    return digits


def read_index(images: Bytes, colour: int) -> NDArray[np.int64]:
    """Return the index of the digit of each image on a photograph of one colour."""
    ink = images[:, 0, 0, :16] == 255 - colour
    index: NDArray[np.int64] = (ink << np.arange(16)).sum(axis=1)
    return index


def plain(colour: int, height: int = 40, width: int = 50) -> Bytes:
    return np.full((height, width, 3), colour, dtype=np.uint8)


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(1, 6),
    each=st.integers(1, 5),
    num_items=st.integers(1, 40),
    sides=st.lists(st.tuples(st.integers(28, 60), st.integers(28, 60)), min_size=1, max_size=4),
    seed=st.integers(0, 2**40),
)
def test_make_polymnist_returns_documented_shapes_types_and_balance(
    classes: int, each: int, num_items: int, sides: list[tuple[int, int]], seed: int
) -> None:
    labels = np.repeat(np.arange(classes), each)
    photographs = [plain(17, *side) for side in sides]
    images, drawn = make_polymnist(numbered_digits(labels), labels, photographs, num_items=num_items, seed=seed)
    assert list(images) == [f"m{modality}" for modality in range(len(sides))]
    assert all(image.shape == (num_items, 3, 28, 28) and image.dtype == np.uint8 for image in images.values())
    assert all(image.flags.c_contiguous for image in images.values())
    assert drawn.shape == (num_items,)
    assert drawn.dtype == np.int64
    counts = np.bincount(drawn, minlength=classes)
    assert counts.max() - counts.min() <= 1
    for image in images.values():
        np.testing.assert_array_equal(labels[read_index(image, 17)], drawn)


def test_make_polymnist_tuples_share_only_their_label() -> None:
    labels = np.repeat(np.arange(10), 50)
    colours = (0, 60, 200)
    photographs = [plain(colour) for colour in colours]
    images, drawn = make_polymnist(numbered_digits(labels), labels, photographs, num_items=500, seed=3)
    chosen = [read_index(images[f"m{m}"], colour) for m, colour in enumerate(colours)]
    for index in chosen:
        np.testing.assert_array_equal(labels[index], drawn)
        assert len(np.unique(index)) == 500  # with as many tuples as images, each occurs once
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(chosen[one] == chosen[other]) < 0.1  # 1 in 50 by chance
    assert np.mean(drawn[:-1] == drawn[1:]) < 0.25  # tuples are shuffled, not sorted by class


def test_draw_digits_after_exhausting_a_class_draws_a_new_permutation() -> None:
    labels = np.repeat(np.arange(2), 30)
    tuple_labels = np.repeat(np.arange(2), 75)
    chosen = draw_digits(labels, tuple_labels, np.random.default_rng(0))
    np.testing.assert_array_equal(labels[chosen], tuple_labels)
    first, second, rest = chosen[:30], chosen[30:60], chosen[60:75]
    for whole in (first, second):
        np.testing.assert_array_equal(np.sort(whole), np.arange(30))
    assert len(np.unique(rest)) == 15
    assert np.mean(first == second) < 0.3
    assert np.mean(first[:15] == rest) < 0.4


def test_draw_digits_of_a_class_without_images_raises() -> None:
    with pytest.raises(ValueError, match="must hold at least one image of class 7, got none"):
        draw_digits(np.array([1, 1]), np.array([1, 7]), np.random.default_rng(0))


def test_draw_labels_with_a_remainder_chooses_random_classes() -> None:
    labels = np.arange(10)
    extra = set()
    for seed in range(20):
        counts = np.bincount(draw_labels(labels, 13, np.random.default_rng(seed)), minlength=10)
        assert sorted(counts) == [1] * 7 + [2] * 3
        extra.add(tuple(np.flatnonzero(counts == 2)))
    assert len(extra) > 5


def test_invert_on_ink_inverts_only_above_the_threshold() -> None:
    generator = np.random.default_rng(0)
    crops = generator.integers(256, size=(3, 3, 28, 28), dtype=np.uint8)
    digits = np.zeros((3, 28, 28), dtype=np.uint8)
    digits[0, :, 0], digits[0, :, 1], digits[1], digits[2, 5, 6] = 128, 129, 255, 200
    images = invert_on_ink(crops, digits)
    expected = crops.astype(int)
    expected[0, :, :, 1] = 255 - expected[0, :, :, 1]
    expected[1] = 255 - expected[1]
    expected[2, :, 5, 6] = 255 - expected[2, :, 5, 6]
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, expected)


def test_draw_crops_are_uniformly_placed_windows() -> None:
    height, width = 31, 30
    photograph = np.empty((height, width, 3), dtype=np.uint8)
    photograph[..., 0] = np.arange(height)[:, np.newaxis]
    photograph[..., 1] = 100 + np.arange(width)
    photograph[..., 2] = 7
    crops = draw_crops(photograph, 2000, np.random.default_rng(0))
    tops, lefts = crops[:, 0, 0, 0].astype(int), crops[:, 1, 0, 0].astype(int) - 100
    places = np.bincount(tops * 3 + lefts, minlength=12)
    assert len(places) == 12
    assert places.min() > 110  # 2000 draws over 4 x 3 places
    for crop, top, left in zip(crops[:50], tops, lefts, strict=False):
        window = photograph[top : top + 28, left : left + 28]
        np.testing.assert_array_equal(np.moveaxis(crop, 0, -1), window)


def test_make_polymnist_depends_on_the_seed_alone() -> None:
    labels = np.repeat(np.arange(10), 20)
    digits, photographs = numbered_digits(labels), [plain(10), plain(20)]
    seed = np.random.SeedSequence(5)
    once, first = make_polymnist(digits, labels, photographs, num_items=60, seed=seed)
    again, second = make_polymnist(digits, labels, photographs, num_items=60, seed=seed)
    other, third = make_polymnist(digits, labels, photographs, num_items=60, seed=6)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)
    for name, images in once.items():
        np.testing.assert_array_equal(images, again[name])
        assert not np.array_equal(images, other[name])


def test_make_polymnist_with_more_photographs_keeps_the_earlier_modalities() -> None:
    labels = np.repeat(np.arange(10), 20)
    photograph = np.random.default_rng(1).integers(256, size=(64, 48, 3), dtype=np.uint8)
    two, first = make_polymnist(numbered_digits(labels), labels, [photograph] * 2, num_items=30, seed=1)
    four, second = make_polymnist(numbered_digits(labels), labels, [photograph] * 4, num_items=30, seed=1)
    np.testing.assert_array_equal(first, second)
    for name, images in two.items():
        np.testing.assert_array_equal(images, four[name])
    assert not np.array_equal(four["m0"], four["m1"])


def test_child_seed_equals_the_spawned_seed_without_spawning() -> None:
    parent = np.random.SeedSequence(11)
    spawned = np.random.SeedSequence(11).spawn(3)[2]
    for child in (child_seed(parent, 2), child_seed(parent, 2), child_seed(11, 2)):
        np.testing.assert_array_equal(child.generate_state(4), spawned.generate_state(4))
    grandchild = np.random.SeedSequence(11).spawn(3)[2].spawn(1)[0]
    np.testing.assert_array_equal(child_seed(child, 0).generate_state(4), grandchild.generate_state(4))


@pytest.mark.parametrize(
    ("digits", "labels", "photographs", "num_items", "message"),
    [
        (
            np.zeros((2, 28, 27), np.uint8),
            np.zeros(2, int),
            [plain(0)],
            1,
            r"digits must be .* got \(2, 28, 27\) of uint8",
        ),
        (np.zeros((2, 28, 28)), np.zeros(2, int), [plain(0)], 1, r"digits must be .* got \(2, 28, 28\) of float64"),
        (np.zeros((0, 28, 28), np.uint8), np.zeros(0, int), [plain(0)], 1, r"digits must be .* got \(0, 28, 28\)"),
        (
            np.zeros((2, 28, 28), np.uint8),
            np.zeros(3, int),
            [plain(0)],
            1,
            r"labels must be \(2,\) of integers, got \(3,\) of int64",
        ),
        (
            np.zeros((2, 28, 28), np.uint8),
            np.zeros(2),
            [plain(0)],
            1,
            r"labels must be \(2,\) of integers, got \(2,\) of float64",
        ),
        (
            np.zeros((2, 28, 28), np.uint8),
            np.zeros(2, int),
            [],
            1,
            "must be made of at least 1 tuple and 1 photograph, got 1 tuples and 0 photographs",
        ),
        (
            np.zeros((2, 28, 28), np.uint8),
            np.zeros(2, int),
            [plain(0)],
            0,
            "must be made of .* got 0 tuples and 1 photographs",
        ),
        (
            np.zeros((2, 28, 28), np.uint8),
            np.zeros(2, int),
            [plain(0), plain(0, 27, 90)],
            1,
            "photograph of 'm1' must have at least 28 x 28 pixels, got 27 x 90",
        ),
        (
            np.zeros((2, 28, 28), np.uint8),
            np.zeros(2, int),
            [plain(0)[..., :2]],
            1,
            r"photograph of 'm0' must be \(height, width, 3\) of uint8, got \(40, 50, 2\) of uint8",
        ),
    ],
)
def test_make_polymnist_of_unfit_arrays_raises(
    digits: Bytes, labels: NDArray[np.int64], photographs: list[Bytes], num_items: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_polymnist(digits, labels, photographs, num_items=num_items)
