"""Tests of the published PolyMNIST in both of its layouts."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pyro_mmvae.data import MultimodalDataset, load_data
from pyro_mmvae.data.sets import polymnist_published
from pyro_mmvae.data.sets.polymnist_png import decode_images, read_names
from tests.data.samples import random_set, same, tree_keys, write_tensors, write_tree

ITEMS, TEST = 30, 8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write a small published set as PNG files."""
    root = tmp_path / "set" / "MMNIST"
    write_tree(root / "train", *random_set(ITEMS))
    write_tree(root / "test", *random_set(TEST, seed=1), seed=5)
    return root


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    """Write a small published set as tensors."""
    root = tmp_path / "set" / "MMNIST"
    write_tensors(root / "train", *random_set(ITEMS))
    write_tensors(root / "test", *random_set(TEST, seed=1))
    return root


def error_of(path: Path, split: str = "train", **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        load_data(str(path), split, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows_of(data: MultimodalDataset, images: torch.Tensor) -> list[int]:
    """Return the index in the whole set of each item, found by its first modality."""
    whole = {image.numpy().tobytes(): row for row, image in enumerate(images)}
    return [whole[image.numpy().tobytes()] for image in data.modalities["m0"]]


@pytest.mark.parametrize("above", [0, 1])
def test_load_polymnist_png_pairs_images_by_index_and_label(tree: Path, above: int) -> None:
    images, labels = random_set(TEST, seed=1)
    data = load_data(str((tree, tree.parent)[above]), "test")
    order = sorted(range(TEST), key=tree_keys(labels).__getitem__)
    assert data.names == ("m0", "m1", "m2")
    assert data.labels is not None
    assert torch.equal(data.labels, labels[order])
    for name, tensor in images.items():
        assert torch.equal(data.modalities[name], tensor[order])
    assert data.complete
    assert (data.name, data.split) == ("polymnist", "test")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("label_dtype", [torch.int64, torch.uint8, torch.float32])
def test_load_polymnist_pt_of_any_dtype_returns_uint8(
    tmp_path: Path, dtype: torch.dtype, label_dtype: torch.dtype
) -> None:
    images, labels = random_set(TEST)
    stored = {name: x if dtype == torch.uint8 else (x.double() / 255).to(dtype) for name, x in images.items()}
    write_tensors(tmp_path / "test", stored, labels.to(label_dtype))
    data = load_data(str(tmp_path), "test")
    assert data.labels is not None
    assert torch.equal(data.labels, labels)
    assert all(torch.equal(data.modalities[name], x) for name, x in images.items())


def test_load_polymnist_pt_of_floats_rounds_to_the_nearest_byte(tmp_path: Path) -> None:
    images, labels = random_set(TEST, modalities=1)
    for shift in (-0.4, 0.4):
        moved = (images["m0"].double() + shift).clamp(0, 255) / 255
        write_tensors(tmp_path / "test", {"m0": moved}, labels)
        assert torch.equal(load_data(str(tmp_path), "test").modalities["m0"], images["m0"])


@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_load_polymnist_published_val_is_a_seeded_part_of_train(layout: str, request: pytest.FixtureRequest) -> None:
    path = str(request.getfixturevalue(layout))
    images, _ = random_set(ITEMS)
    train, val = load_data(path, "train"), load_data(path, "val")
    rows = [rows_of(data, images["m0"]) for data in (train, val)]
    assert (len(train), len(val)) == (27, 3)  # never more than a tenth
    assert sorted(rows[0] + rows[1]) == list(range(ITEMS))
    for data, indices in zip((train, val), rows, strict=True):
        for name, tensor in images.items():
            assert torch.equal(data.modalities[name], tensor[indices])
    assert same(val, load_data(path, "val"))
    others = [rows_of(load_data(path, "val", seed=seed), images["m0"]) for seed in range(1, 6)]
    assert any(other != rows[1] for other in others)
    assert len(load_data(path, "val", val_size=2)) == 2
    assert len(load_data(path, "train", val_size=2)) == 28
    small = load_data(path, "train", train_size=5, modalities=2)
    assert set(rows_of(small, images["m0"])) < set(rows[0])
    assert (len(small), small.names) == (5, ("m0", "m1"))
    assert len(load_data(path, "test", test_size=3)) == 3
    assert same(load_data(path, "test", seed=1), load_data(path, "test"))
    assert train.provenance["seed"] == 0
    assert len({data.fingerprint for data in (train, val, small, load_data(path, "train", seed=1))}) == 4


def test_resolve_val_size_by_default_is_5000_or_a_tenth() -> None:
    from pyro_mmvae.data.options import resolve_val_size

    assert [resolve_val_size("x", total, None) for total in (60_000, 50_000, 49_999, 25, 9)] == [5000, 5000, 4999, 2, 0]


@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_load_polymnist_published_with_an_invalid_option_raises(layout: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(layout)
    assert error_of(path, val_size=4) == (
        "val_size of 'polymnist' must be at most a tenth of the 30 items of train, got 4"
    )
    assert error_of(path, train_size=28) == (
        "train_size of 'polymnist' must be at most 27, the number of items available, got 28"
    )
    assert "test_size of 'polymnist' must be at most 8, the number of items available, got 9" in error_of(
        path, "test", test_size=9
    )
    assert "modality 'm3' is missing: the modalities must be m0, m1, … to m3, got m0, m1, m2" in error_of(
        path, modalities=4
    )
    for option in ("modalities", "train_size", "val_size", "test_size"):
        assert f"{option} of 'polymnist' must be an integer of at least 1, got 0" in error_of(path, **{option: 0})
    assert "seed of 'polymnist' must be an integer of at least 0, got -1" in error_of(path, seed=-1)
    assert "got 'photographs'" in error_of(path, photographs=("a",))


@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_load_polymnist_published_without_a_folder_or_with_few_items_raises(
    layout: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(layout)
    (path / "train").rename(path / "away")
    (path / "test").rename(path / "train")
    assert error_of(path, "test").startswith(f"{path / 'test'}: must be a folder that holds m0")
    assert len(load_data(str(path), "train")) == TEST
    assert error_of(path, "val") == (
        "'polymnist': train must have at least 10 items to set a tenth aside for val, got 8"
    )


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_load_polymnist_published_of_train_and_val_never_opens_test(
    layout: str, is_folder: bool, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(layout)
    if is_folder:  # reading one of its files would raise
        for file in (path / "test").rglob("*.*"):
            if file.is_file():
                file.write_bytes(b"damaged")
        (path / "test" / "stray").touch()
    else:  # listing it would raise
        shutil.rmtree(path / "test")
        (path / "test").touch()
    assert len(load_data(str(path), "train", cache=False)) == 27
    assert len(load_data(str(path), "val", cache=False)) == 3
    error_of(path, "test")


def test_find_root_without_a_unique_folder_returns_none(tree: Path) -> None:
    assert polymnist_published.find_root(tree, ("m0",)) == tree
    assert polymnist_published.find_root(tree.parent, ("m0",)) == tree
    assert polymnist_published.find_root(tree.parent.parent, ("m0",)) is None
    assert polymnist_published.find_root(tree / "train" / "m0" / "0.0.png", ("m0",)) is None
    (tree.parent / "copy" / "test" / "m0").mkdir(parents=True)
    assert polymnist_published.find_root(tree.parent, ("m0",)) == tree  # MMNIST is the published name
    tree.rename(tree.with_name("other"))
    assert polymnist_published.find_root(tree.parent, ("m0",)) is None
    assert "must be in one of the formats" in error_of(tree.parent)


def first(tree: Path) -> tuple[Path, int, int]:
    """Return the file in m1 of the first item of train, with its index and label."""
    index, label = min(tree_keys(random_set(ITEMS)[1]))
    return tree / "train" / "m1" / f"{index}.{label}.png", index, label


def test_load_polymnist_png_with_an_incomplete_item_raises(tree: Path) -> None:
    path, index, label = first(tree)
    path.unlink()
    assert error_of(tree) == (
        f"{tree / 'train'}: index {index}, label {label}: {path.name} must be in all modalities, got it in m0, m2 "
        "and not in m1"
    )
    (tree / "train" / "m2" / path.name).unlink()
    other = max((tree / "train" / "m0").iterdir())
    other.unlink()
    message = error_of(tree)
    assert f"{path.name} must be in all modalities, got it in m0 and not in m1, m2" in message
    assert message.endswith("(2 such items)")


def test_load_polymnist_png_with_two_labels_for_an_index_raises(tree: Path) -> None:
    keys = tree_keys(random_set(ITEMS)[1])
    index = max(keys)[0] + 1
    for name, label in (("m0", 3), ("m1", 4), ("m2", 3)):
        Image.new("RGB", (28, 28)).save(tree / "train" / name / f"{index}.{label}.png")
    assert error_of(tree) == (
        f"{tree / 'train'}: index {index} must have one label, got 3 in m0 (m0/{index}.3.png) and 4 in m1 "
        f"(m1/{index}.4.png) (2 such items)"
    )


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (lambda path: Image.new("RGB", (28, 27)).save(path), "28 x 27 RGB pixels"),
        (lambda path: Image.new("RGB", (32, 32)).save(path), "32 x 32 RGB pixels"),
        (lambda path: Image.new("L", (28, 28)).save(path), "28 x 28 L pixels"),
        (lambda path: Image.new("RGBA", (28, 28)).save(path), "28 x 28 RGBA pixels"),
        (lambda path: Image.new("RGB", (28, 28)).save(path, format="JPEG"), "a file that cannot be read as PNG"),
        (lambda path: path.write_bytes(b""), "a file that cannot be read as PNG"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "a file that cannot be read as PNG"),
        (lambda path: path.write_bytes(path.read_bytes()[:60] + b"\0" * 600), "a file that cannot be read as PNG"),
    ],
    ids=range(8),
)
def test_load_polymnist_png_with_an_unusable_image_names_it(
    make: Callable[[Path], None], received: str, tree: Path
) -> None:
    path, index, label = first(tree)
    make(path)
    assert error_of(tree) == (
        f"{path}: modality m1, index {index}, label {label}: must be a PNG of 28 x 28 RGB pixels, got {received}"
    )


@pytest.mark.parametrize(
    "name",
    [
        "readme.txt",
        "1.png",
        "1.2.jpg",
        "1.2.PNG",
        "01.2.png",
        "1.12.png",
        "-1.2.png",
        "1.2.png~",
        ".DS_Store",
        "١.2.png",
    ],
)
def test_load_polymnist_png_with_another_file_in_a_modality_raises(name: str, tree: Path) -> None:
    (tree / "train" / "m2" / name).touch()
    assert error_of(tree) == (
        f"{tree / 'train' / 'm2' / name}: files of modality m2 must be named {{index}}.{{label}}.png, got {name!r}"
    )


@pytest.mark.parametrize("name", ["m3.zip", "x", "m03", "labels.csv"])
def test_load_polymnist_png_with_another_file_beside_the_modalities_raises(name: str, tree: Path) -> None:
    (tree / "train" / name).touch()
    assert error_of(tree).startswith(f"{tree / 'train' / name}: the folder of a part must hold nothing but folders m0")


def test_load_polymnist_png_with_misplaced_missing_or_empty_folders_raises(tree: Path) -> None:
    path, _, _ = first(tree)
    path.unlink()
    path.mkdir()
    assert "files of modality m1 must be named" in error_of(tree)
    path.rmdir()
    (tree / "train" / "m4").mkdir()
    assert "modality 'm3' is missing: the modalities must be m0, m1, … to m4, got m0, m1, m2, m4" in error_of(tree)
    for file in (tree / "test").rglob("*.png"):
        file.unlink()
    assert error_of(tree, "test").startswith(f"{tree / 'test'}: m0, m1, m2 must hold images")


FUZZ = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_ALPHABET = st.sampled_from("0123456789.pngPNGm-_ ٣é")
_NAMES = st.one_of(
    st.tuples(st.integers(0, 120), st.integers(0, 12)).map(lambda key: f"{key[0]}.{key[1]}.png"),
    st.text(_ALPHABET, min_size=1, max_size=12).filter(lambda name: name.strip(".") != ""),
)


@FUZZ
@given(names=st.lists(st.lists(_NAMES, max_size=4, unique=True), min_size=1, max_size=3))
def test_read_names_of_any_files_returns_complete_items_or_raises(
    names: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for modality, files in enumerate(names):
        (folder / f"m{modality}").mkdir()
        for name in files:
            (folder / f"m{modality}" / name).touch()

    def is_valid(name: str) -> bool:
        index, *rest = name.split(".")
        return (
            index.isascii() and index.isdigit() and str(int(index)) == index
            and len(rest) == 2 and rest[0] in set("0123456789") and rest[1] == "png"
        )  # fmt: skip

    fits = all(is_valid(name) for files in names for name in files) and all(
        set(files) == set(names[0]) for files in names
    )
    if fits and names[0]:
        tree = read_names(folder)
        assert {f"{index}.{label}.png" for index, label in tree.items} == set(names[0])
        assert list(tree.items) == sorted(tree.items)
    else:
        with pytest.raises(ValueError, match=r"must ") as error:
            read_names(folder)
        assert str(error.value).startswith(str(folder))


def test_decode_images_in_several_chunks_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = random_set(40, modalities=2)
    write_tree(tmp_path / "train", images, labels)
    whole = decode_images(read_names(tmp_path / "train"))
    monkeypatch.setattr("pyro_mmvae.data.sets.polymnist_png._CHUNK_SIZE", 7)
    parts = decode_images(read_names(tmp_path / "train"))
    order = sorted(range(40), key=tree_keys(labels).__getitem__)
    for name, tensor in images.items():
        assert torch.equal(whole[name], tensor[order])
        assert torch.equal(parts[name], tensor[order])


def test_load_polymnist_png_decodes_again_only_after_a_change(tree: Path, cache_folder: Path) -> None:
    load_data(str(tree), "train", cache=False)
    assert not cache_folder.exists()
    before = load_data(str(tree), "train")
    (kept,) = cache_folder.iterdir()
    assert kept.name.startswith("polymnist-png-train-v1-")
    path, index, label = first(tree)
    status, content = path.stat(), bytearray(path.read_bytes())
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert same(load_data(str(tree), "train"), before)  # name, size and time are unchanged: the file is not opened
    assert same(load_data(str(tree.parent), "train"), before)
    assert len(load_data(str(tree), "val")) == 3  # taken from the same part, hence the same cache file
    assert len(list(cache_folder.iterdir())) == 1
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert f"index {index}, label {label}" in error_of(tree)
    Image.new("RGB", (28, 28), (9, 9, 9)).save(path)
    after = load_data(str(tree), "train", val_size=1)
    assert not same(after, load_data(str(tree), "train", val_size=1, seed=1))
    whole = torch.cat([after.modalities["m1"], load_data(str(tree), "val", val_size=1).modalities["m1"]])
    assert (whole == 9).flatten(1).all(1).sum() == 1
    assert len(list(cache_folder.iterdir())) == 2


def test_load_polymnist_png_with_a_damaged_cache_decodes_again(tree: Path, cache_folder: Path) -> None:
    before = load_data(str(tree), "test")
    (kept,) = cache_folder.iterdir()
    content = bytearray(kept.read_bytes())
    content[-50] ^= 1
    kept.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="its checksums differ"):
        assert same(load_data(str(tree), "test"), before)
    assert same(load_data(str(tree), "test"), before)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("m1", torch.zeros(29, 3, 28, 28), "must hold 30 images, one per label, got 29"),
        ("m1", torch.zeros(30, 3, 28, 27), r"modality m1: must be (item, 3, 28, 28), got (30, 3, 28, 27)"),
        ("m1", torch.zeros(30, 1, 28, 28), "must be (item, 3, 28, 28), got (30, 1, 28, 28)"),
        ("m1", torch.zeros(30, 3, 28, 28, dtype=torch.int64), "must be uint8, or floats in [0, 1], got torch.int64"),
        (
            "m1",
            torch.full((30, 3, 28, 28), 1.01),
            "modality m1, index 0: floats must be in [0, 1], got values from 1.01 to 1.01",
        ),
        ("m1", torch.full((30, 3, 28, 28), torch.nan), "index 0: floats must be in [0, 1], got values from nan to nan"),
        ("m1", {"m1": torch.zeros(1)}, "must be a dense tensor, got a dict"),
        (
            "m1",
            torch.zeros(30, 3, 28, 28).to_sparse(),
            "must be a ",  # newer versions of torch do not load it, older ones load a tensor that is not dense
        ),
        ("labels", torch.zeros(30, 1, dtype=torch.int64), "must be (item,) of integers, got (30, 1) of torch.int64"),
        ("labels", torch.zeros(0, dtype=torch.int64), "must be (item,) of integers, got (0,) of torch.int64"),
        ("labels", torch.zeros(30, dtype=torch.bool), "must be (item,) of integers, got (30,) of torch.bool"),
        ("labels", torch.arange(30), "label 10 must be an integer from 0 to 9, got 10"),
        ("labels", torch.arange(30) - 1, "label 0 must be an integer from 0 to 9, got -1"),
        ("labels", torch.full((30,), 0.5), "label 0 must be an integer from 0 to 9, got 0.5"),
        ("labels", torch.full((30,), torch.nan), "label 0 must be an integer from 0 to 9, got nan"),
    ],
    ids=range(15),
)
def test_load_polymnist_pt_of_unfit_tensors_raises(name: str, value: object, expected: str, tensors: Path) -> None:
    torch.save(value, tensors / "train" / f"{name}.pt")
    message = error_of(tensors)
    assert message.startswith(str(tensors / "train" / f"{name}.pt"))
    assert expected in message


def test_load_polymnist_pt_with_a_value_out_of_range_names_its_index(tensors: Path) -> None:
    images = torch.rand(30, 3, 28, 28)
    images[17, 2, 3, 4] = -0.25
    torch.save(images, tensors / "train" / "m2.pt")
    assert "m2.pt: modality m2, index 17: floats must be in [0, 1], got values from -0.25 to" in error_of(tensors)


def test_load_polymnist_pt_of_a_malicious_pickle_raises_without_running_it(
    tensors: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Harmful(), tensors / "train" / "m0.pt")
    assert error_of(tensors) == (
        f"{tensors / 'train' / 'm0.pt'}: must be a tensor saved by torch.save, got a file that cannot be read as one"
    )
    (tensors / "train" / "m0.pt").write_bytes(pickle.dumps(Harmful()))
    assert "got a file that cannot be read as one" in error_of(tensors)
    assert not (tmp_path / "harm").exists()


def write_labels(root: Path) -> Path:
    write_tensors(root / "test", {"m0": torch.zeros(2, 3, 28, 28, dtype=torch.uint8)}, torch.tensor([1, 2]))
    return root / "test" / "labels.pt"


@FUZZ
@given(cut=st.floats(0, 1, exclude_max=True))
def test_load_polymnist_pt_of_a_truncated_file_raises(cut: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_labels(tmp_path_factory.mktemp("damaged"))
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    assert error_of(path.parents[1], "test").startswith(str(path))


@FUZZ
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255))
def test_load_polymnist_pt_with_a_changed_byte_returns_valid_labels_or_raises(
    place: float, bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_labels(tmp_path_factory.mktemp("damaged"))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= bits
    path.write_bytes(content)
    message, labels = "", None
    try:
        labels = load_data(str(path.parents[1]), "test").labels
    except ValueError as error:
        message = str(error)
    if labels is None:
        assert message.startswith(str(path))
    else:
        assert labels.shape == (2,)
        assert set(labels.tolist()) <= set(range(10))


def test_load_polymnist_pt_with_missing_files_names_them(tensors: Path) -> None:
    (tensors / "train" / "labels.pt").unlink()
    assert (
        error_of(tensors)
        == f"{tensors / 'train' / 'labels.pt'}: must be a tensor saved by torch.save, got no such file"
    )
    (tensors / "train" / "m1.pt").unlink()
    assert error_of(tensors) == (
        f"{tensors / 'train'}: modality 'm1' is missing: the modalities must be m0, m1, … to m2, got m0, m2"
    )


def test_load_polymnist_pt_after_a_change_has_another_fingerprint(tensors: Path) -> None:
    before = load_data(str(tensors), "test").fingerprint
    assert load_data(str(tensors), "test").fingerprint == before
    write_tensors(tensors / "test", *random_set(TEST, seed=2))
    os.utime(tensors / "test" / "m0.pt", ns=(1, 1))
    assert load_data(str(tensors), "test").fingerprint != before
