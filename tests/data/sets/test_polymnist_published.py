"""The published PolyMNIST, read from both of its layouts."""

from __future__ import annotations

import os
import pickle
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
from pyro_mmvae.data.sets.polymnist_png import decode, read_names
from tests.data.samples import random_set, same, tree_keys, write_tensors, write_tree

ITEMS, TEST = 30, 8


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small published set as PNG files."""
    root = tmp_path / "set" / "MMNIST"
    write_tree(root / "train", *random_set(ITEMS))
    write_tree(root / "test", *random_set(TEST, seed=1), seed=5)
    return root


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    """A small published set as tensors."""
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
    """Which items of the whole set these are, by their first modality."""
    whole = {image.numpy().tobytes(): row for row, image in enumerate(images)}
    return [whole[image.numpy().tobytes()] for image in data.modalities["m0"]]


@pytest.mark.parametrize("above", [0, 1])
def test_images_of_the_tree_belong_together_by_index_and_label(tree: Path, above: int) -> None:
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
def test_tensors_are_read_as_bytes_whatever_their_type(
    tmp_path: Path, dtype: torch.dtype, label_dtype: torch.dtype
) -> None:
    images, labels = random_set(TEST)
    given = {name: x if dtype == torch.uint8 else (x.double() / 255).to(dtype) for name, x in images.items()}
    write_tensors(tmp_path / "test", given, labels.to(label_dtype))
    data = load_data(str(tmp_path), "test")
    assert data.labels is not None
    assert torch.equal(data.labels, labels)
    assert all(torch.equal(data.modalities[name], x) for name, x in images.items())


def test_floats_between_two_bytes_go_to_the_nearer_one(tmp_path: Path) -> None:
    images, labels = random_set(TEST, modalities=1)
    for shift in (-0.4, 0.4):
        moved = (images["m0"].double() + shift).clamp(0, 255) / 255
        write_tensors(tmp_path / "test", {"m0": moved}, labels)
        assert torch.equal(load_data(str(tmp_path), "test").modalities["m0"], images["m0"])


@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_val_is_a_seeded_share_of_train_and_train_is_the_rest(layout: str, request: pytest.FixtureRequest) -> None:
    path = str(request.getfixturevalue(layout))
    images, _ = random_set(ITEMS)
    train, val = load_data(path, "train"), load_data(path, "val")
    rows = [rows_of(data, images["m0"]) for data in (train, val)]
    assert (len(train), len(val)) == (27, 3)  # never more than a tenth
    assert sorted(rows[0] + rows[1]) == list(range(ITEMS))
    for data, own in zip((train, val), rows, strict=True):
        for name, tensor in images.items():
            assert torch.equal(data.modalities[name], tensor[own])
    assert same(val, load_data(path, "val"))
    others = [rows_of(load_data(path, "val", seed=seed), images["m0"]) for seed in range(1, 6)]
    assert any(other != rows[1] for other in others)
    assert len(load_data(path, "val", val_size=2)) == 2
    assert len(load_data(path, "train", val_size=2)) == 28
    some = load_data(path, "train", train_size=5, modalities=2)
    assert set(rows_of(some, images["m0"])) < set(rows[0])
    assert (len(some), some.names) == (5, ("m0", "m1"))
    assert len(load_data(path, "test", test_size=3)) == 3
    assert same(load_data(path, "test", seed=1), load_data(path, "test"))
    assert train.provenance["seed"] == 0
    assert len({data.fingerprint for data in (train, val, some, load_data(path, "train", seed=1))}) == 4


def test_the_default_is_five_thousand() -> None:
    from pyro_mmvae.data.options import choose_val_size

    assert [choose_val_size("x", total, None) for total in (60_000, 50_000, 49_999, 25, 9)] == [5000, 5000, 4999, 2, 0]


@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_options_that_cannot_be_used_are_refused(layout: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(layout)
    assert error_of(path, val_size=4) == (
        "val_size of 'polymnist': found 4, expected at most a tenth of the 30 of train"
    )
    assert error_of(path, train_size=28) == ("train_size of 'polymnist': found 28, expected at most 27, all there are")
    assert "test_size of 'polymnist': found 9, expected at most 8" in error_of(path, "test", test_size=9)
    assert "modality m3 is missing, found m0, m1, m2, expected m0, m1, … to m3" in error_of(path, modalities=4)
    for option in ("modalities", "train_size", "val_size", "test_size"):
        assert f"{option} of 'polymnist': found 0, expected a whole number of at least 1" in error_of(
            path, **{option: 0}
        )
    assert "seed of 'polymnist': found -1" in error_of(path, seed=-1)
    assert "unknown option 'photographs'" in error_of(path, photographs=("a",))


@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_a_split_without_a_folder_and_one_that_is_too_small(layout: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(layout)
    (path / "train").rename(path / "away")
    (path / "test").rename(path / "train")
    assert error_of(path, "test").startswith(f"{path / 'test'}: the folder is missing")
    assert len(load_data(str(path), "train")) == TEST
    assert error_of(path, "val") == "val of 'polymnist': 8 items of train are too few to set a tenth aside"


@pytest.mark.parametrize("layout", ["tree", "tensors"])
def test_train_and_val_never_open_test(
    layout: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(layout)
    for file in (path / "test").rglob("*.*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    (path / "test" / "stray").touch()
    scanned: list[str] = []
    scandir = os.scandir

    def spy(folder: Any) -> Any:
        scanned.append(str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", spy)
    assert len(load_data(str(path), "train", cache=False)) == 27
    assert len(load_data(str(path), "val", cache=False)) == 3
    assert not [folder for folder in scanned if folder.startswith(str(path / "test"))]
    error_of(path, "test")


def test_nothing_is_detected_where_there_is_nothing_or_more_than_one(tree: Path) -> None:
    assert polymnist_published.find_root(tree, ("m0",)) == tree
    assert polymnist_published.find_root(tree.parent, ("m0",)) == tree
    assert polymnist_published.find_root(tree.parent.parent, ("m0",)) is None
    assert polymnist_published.find_root(tree / "train" / "m0" / "0.0.png", ("m0",)) is None
    (tree.parent / "copy" / "test" / "m0").mkdir(parents=True)
    assert polymnist_published.find_root(tree.parent, ("m0",)) == tree  # MMNIST is the published name
    tree.rename(tree.with_name("other"))
    assert polymnist_published.find_root(tree.parent, ("m0",)) is None
    assert "in none of the known formats" in error_of(tree.parent)


# The tree ------------------------------------------------------------------------------------------------------------


def first(tree: Path) -> tuple[Path, int, int]:
    """The first item of train, its file in m1."""
    index, label = min(tree_keys(random_set(ITEMS)[1]))
    return tree / "train" / "m1" / f"{index}.{label}.png", index, label


def test_an_item_that_modalities_lack_is_refused(tree: Path) -> None:
    path, index, label = first(tree)
    path.unlink()
    assert error_of(tree) == (
        f"{tree / 'train'}: index {index}, label {label}: {path.name} is in m0, m2 and missing in m1, expected it in "
        "all modalities"
    )
    (tree / "train" / "m2" / path.name).unlink()
    other = max((tree / "train" / "m0").iterdir())
    other.unlink()
    said = error_of(tree)
    assert f"{path.name} is in m0 and missing in m1, m2" in said
    assert said.endswith("(2 items like it)")


def test_two_labels_for_one_image_are_refused(tree: Path) -> None:
    keys = tree_keys(random_set(ITEMS)[1])
    index = max(keys)[0] + 1
    for name, label in (("m0", 3), ("m1", 4), ("m2", 3)):
        Image.new("RGB", (28, 28)).save(tree / "train" / name / f"{index}.{label}.png")
    assert error_of(tree) == (
        f"{tree / 'train'}: index {index} has label 3 in m0 (m0/{index}.3.png) and label 4 in m1 (m1/{index}.4.png), "
        "expected one label (2 items like it)"
    )


@pytest.mark.parametrize(
    ("make", "found"),
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
def test_an_image_that_cannot_be_used_is_named(make: Callable[[Path], None], found: str, tree: Path) -> None:
    path, index, label = first(tree)
    make(path)
    assert error_of(tree) == (
        f"{path}: modality m1, index {index}, label {label}: found {found}, expected a PNG of 28 x 28 RGB pixels"
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
def test_other_files_are_refused(name: str, tree: Path) -> None:
    (tree / "train" / "m2" / name).touch()
    said = error_of(tree)
    assert said == f"{tree / 'train' / 'm2' / name}: modality m2: found another file, expected {{index}}.{{label}}.png"


@pytest.mark.parametrize("name", ["m3.zip", "x", "m03", "labels.csv"])
def test_other_things_beside_the_modalities_are_refused(name: str, tree: Path) -> None:
    (tree / "train" / name).touch()
    assert error_of(tree).startswith(f"{tree / 'train' / name}: found something else, expected only folders m0, m1, …")


def test_a_folder_of_an_images_name_a_gap_and_empty_folders_are_refused(tree: Path) -> None:
    path, _, _ = first(tree)
    path.unlink()
    path.mkdir()
    assert "modality m1: found another file" in error_of(tree)
    path.rmdir()
    (tree / "train" / "m4").mkdir()
    assert "modality m3 is missing, found m0, m1, m2, m4, expected m0, m1, … to m4" in error_of(tree)
    for file in (tree / "test").rglob("*.png"):
        file.unlink()
    assert error_of(tree, "test").startswith(f"{tree / 'test'}: found no images, expected m0, m1, m2 to hold")


few = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_ALPHABET = st.sampled_from("0123456789.pngPNGm-_ ٣é")
_NAMES = st.one_of(
    st.tuples(st.integers(0, 120), st.integers(0, 12)).map(lambda key: f"{key[0]}.{key[1]}.png"),
    st.text(_ALPHABET, min_size=1, max_size=12).filter(lambda name: name.strip(".") != ""),
)


@few
@given(names=st.lists(st.lists(_NAMES, max_size=4, unique=True), min_size=1, max_size=3))
def test_any_names_are_read_as_whole_items_or_refused(
    names: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for modality, own in enumerate(names):
        (folder / f"m{modality}").mkdir()
        for name in own:
            (folder / f"m{modality}" / name).touch()

    def plain(name: str) -> bool:
        index, *rest = name.split(".")
        return (
            index.isascii() and index.isdigit() and str(int(index)) == index
            and len(rest) == 2 and rest[0] in set("0123456789") and rest[1] == "png"
        )  # fmt: skip

    fits = all(plain(name) for own in names for name in own) and all(set(own) == set(names[0]) for own in names)
    if fits and names[0]:
        tree = read_names(folder)
        assert {f"{index}.{label}.png" for index, label in tree.items} == set(names[0])
        assert list(tree.items) == sorted(tree.items)
    else:
        with pytest.raises(ValueError, match=r"expected") as error:
            read_names(folder)
        assert str(error.value).startswith(str(folder))


def test_more_files_than_a_thread_takes_at_once_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = random_set(40, modalities=2)
    write_tree(tmp_path / "train", images, labels)
    whole = decode(read_names(tmp_path / "train"))
    monkeypatch.setattr("pyro_mmvae.data.sets.polymnist_png._CHUNK", 7)
    parts = decode(read_names(tmp_path / "train"))
    order = sorted(range(40), key=tree_keys(labels).__getitem__)
    for name, tensor in images.items():
        assert torch.equal(whole[name], tensor[order])
        assert torch.equal(parts[name], tensor[order])


def test_decoded_images_are_kept_until_a_file_changes(tree: Path, cache_folder: Path) -> None:
    load_data(str(tree), "train", cache=False)
    assert not cache_folder.exists()
    before = load_data(str(tree), "train")
    (kept,) = cache_folder.iterdir()
    assert kept.name.startswith("polymnist-png-train-v1-")
    path, index, label = first(tree)
    status, content = path.stat(), bytearray(path.read_bytes())
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert same(load_data(str(tree), "train"), before)  # the same name, size and time: not opened
    assert same(load_data(str(tree.parent), "train"), before)
    assert len(load_data(str(tree), "val")) == 3  # of the same file
    assert len(list(cache_folder.iterdir())) == 1
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert f"index {index}, label {label}" in error_of(tree)
    Image.new("RGB", (28, 28), (9, 9, 9)).save(path)
    after = load_data(str(tree), "train", val_size=1)
    assert not same(after, load_data(str(tree), "train", val_size=1, seed=1))
    whole = torch.cat([after.modalities["m1"], load_data(str(tree), "val", val_size=1).modalities["m1"]])
    assert (whole == 9).flatten(1).all(1).sum() == 1
    assert len(list(cache_folder.iterdir())) == 2


def test_a_damaged_cache_is_decoded_again(tree: Path, cache_folder: Path) -> None:
    before = load_data(str(tree), "test")
    (kept,) = cache_folder.iterdir()
    content = bytearray(kept.read_bytes())
    content[-50] ^= 1
    kept.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="checksums differ"):
        assert same(load_data(str(tree), "test"), before)
    assert same(load_data(str(tree), "test"), before)


# Tensors -------------------------------------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("m1", torch.zeros(29, 3, 28, 28), "found 29 images, expected 30, one a label"),
        ("m1", torch.zeros(30, 3, 28, 27), r"modality m1: found shape (30, 3, 28, 27), expected (item, 3, 28, 28)"),
        ("m1", torch.zeros(30, 1, 28, 28), "found shape (30, 1, 28, 28)"),
        ("m1", torch.zeros(30, 3, 28, 28, dtype=torch.int64), "found torch.int64, expected uint8, or floats in [0, 1]"),
        ("m1", torch.full((30, 3, 28, 28), 1.01), "modality m1, index 0: found values from 1.01 to 1.01, expected"),
        ("m1", torch.full((30, 3, 28, 28), torch.nan), "index 0: found values from nan to nan"),
        ("m1", {"m1": torch.zeros(1)}, "found a dict, expected a tensor"),
        ("m1", torch.zeros(30, 3, 28, 28).to_sparse(), "cannot be read as a tensor, expected one saved by torch.save"),
        ("labels", torch.zeros(30, 1, dtype=torch.int64), "found (30, 1) of torch.int64, expected whole numbers"),
        ("labels", torch.zeros(0, dtype=torch.int64), "found (0,) of torch.int64"),
        ("labels", torch.zeros(30, dtype=torch.bool), "found (30,) of torch.bool"),
        ("labels", torch.arange(30), "label 10 is 10, expected a whole number from 0 to 9"),
        ("labels", torch.arange(30) - 1, "label 0 is -1, expected"),
        ("labels", torch.full((30,), 0.5), "label 0 is 0.5, expected"),
        ("labels", torch.full((30,), torch.nan), "label 0 is nan, expected"),
    ],
    ids=range(15),
)
def test_tensors_that_cannot_be_used_are_refused(name: str, value: object, said: str, tensors: Path) -> None:
    torch.save(value, tensors / "train" / f"{name}.pt")
    found = error_of(tensors)
    assert found.startswith(str(tensors / "train" / f"{name}.pt"))
    assert said in found


def test_a_value_out_of_range_is_found_where_it_is(tensors: Path) -> None:
    images = torch.rand(30, 3, 28, 28)
    images[17, 2, 3, 4] = -0.25
    torch.save(images, tensors / "train" / "m2.pt")
    assert "m2.pt: modality m2, index 17: found values from -0.25 to" in error_of(tensors)


def test_a_file_that_would_run_code_is_refused_and_runs_none(
    tensors: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Harmful(), tensors / "train" / "m0.pt")
    assert error_of(tensors) == (
        f"{tensors / 'train' / 'm0.pt'}: cannot be read as a tensor, expected one saved by torch.save"
    )
    (tensors / "train" / "m0.pt").write_bytes(pickle.dumps(Harmful()))
    assert "cannot be read as a tensor" in error_of(tensors)
    assert not (tmp_path / "harm").exists()


@few
@given(cut=st.floats(0, 1, exclude_max=True), place=st.floats(0, 1, exclude_max=True), bits=st.integers(0, 255))
def test_a_damaged_file_is_refused_or_still_has_its_shape(
    cut: float, place: float, bits: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    write_tensors(root / "test", {"m0": torch.zeros(2, 3, 28, 28, dtype=torch.uint8)}, torch.tensor([1, 2]))
    path = root / "test" / "labels.pt"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= bits
    path.write_bytes(bytes(content if bits else content[: int(cut * len(content))]))
    refused = ""
    try:
        assert len(load_data(str(root), "test")) == 2
    except ValueError as error:
        refused = str(error)
    assert not refused or refused.startswith(str(path))


def test_missing_tensors_are_named(tensors: Path) -> None:
    (tensors / "train" / "labels.pt").unlink()
    assert error_of(tensors) == f"{tensors / 'train' / 'labels.pt'}: the file is missing"
    (tensors / "train" / "m1.pt").unlink()
    assert error_of(tensors) == (f"{tensors / 'train'}: modality m1 is missing, found m0, m2, expected m0, m1, … to m2")


def test_a_changed_file_is_another_content(tensors: Path) -> None:
    before = load_data(str(tensors), "test").fingerprint
    assert load_data(str(tensors), "test").fingerprint == before
    write_tensors(tensors / "test", *random_set(TEST, seed=2))
    os.utime(tensors / "test" / "m0.pt", ns=(1, 1))
    assert load_data(str(tensors), "test").fingerprint != before
