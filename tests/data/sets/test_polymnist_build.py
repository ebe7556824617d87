"""Tests of building PolyMNIST from MNIST and photographs, on numbered digit images."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save_file

from pyro_mmvae.data import build_polymnist, load_data, make_polymnist
from pyro_mmvae.data.sets import polymnist_build
from pyro_mmvae.data.sets.photographs import read_photograph
from pyro_mmvae.data.sets.polymnist_build import pick_evenly
from pyro_mmvae.data.sets.polymnist_recipe import child_seed
from tests.data.samples import NAMES, mnist_arrays, read_numbers, write_mnist, write_photographs

TRAIN, TEST = 200, 50
COLOURS = (0, 60, 200)
SPLITS = ("train", "val", "test")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    write_mnist(tmp_path / "mnist" / "MNIST" / "raw", mnist_arrays(TRAIN, TEST))
    folder = write_photographs(tmp_path / "photographs", COLOURS)
    (folder / "SOURCES.json").write_text("{}")
    return {"mnist": tmp_path / "mnist", "photographs": folder, "train_size": TRAIN, "test_size": TEST}


def build(out: Path, sources: dict[str, Any], **options: Any) -> dict[str, Any]:
    return build_polymnist(out, **({"modalities": 3} | sources | options))


def numbers_of(path: Path, split: str) -> list[np.ndarray]:
    data = load_data(str(path), split)
    return [read_numbers(data.modalities[f"m{m}"], colour) for m, colour in enumerate(COLOURS)]


def test_build_polymnist_uses_each_digit_image_in_one_split_and_once_per_modality(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    build(tmp_path / "out", sources)
    arrays = mnist_arrays(TRAIN, TEST)
    classes = np.concatenate([arrays[NAMES[1]], arrays[NAMES[3]]])
    used: dict[str, set[int]] = {}
    for split, size in zip(SPLITS, (180, 20, 50), strict=True):
        data = load_data(str(tmp_path / "out"), split)
        assert (len(data), data.names, data.complete) == (size, ("m0", "m1", "m2"), True)
        assert data.labels is not None
        numbers = numbers_of(tmp_path / "out", split)
        for indices in numbers:
            assert len(set(indices.tolist())) == size
            np.testing.assert_array_equal(classes[indices], data.labels.numpy())
            assert set(indices.tolist()) == set(numbers[0].tolist())
        used[split] = set(numbers[0].tolist())
    one, other, _ = numbers_of(tmp_path / "out", "train")
    assert np.mean(one == other) < 0.2  # they share only their label: 1 in 18 by chance
    assert used["train"] | used["val"] == set(range(TRAIN))
    assert used["test"] == set(range(TRAIN, TRAIN + TEST))
    assert sum(map(len, used.values())) == TRAIN + TEST


def test_build_polymnist_keeps_the_class_frequencies_of_mnist(tmp_path: Path, sources: dict[str, Any]) -> None:
    build(tmp_path / "out", sources)
    counts = np.bincount(mnist_arrays(TRAIN, TEST)[NAMES[1]], minlength=10)
    for split, fraction in (("train", 0.9), ("val", 0.1)):
        labels = load_data(str(tmp_path / "out"), split).labels
        assert labels is not None
        assert np.abs(np.bincount(labels.numpy(), minlength=10) - fraction * counts).max() < 1 + 1e-9


def test_build_polymnist_split_equals_make_polymnist_of_its_digits(tmp_path: Path, sources: dict[str, Any]) -> None:
    build(tmp_path / "out", sources, seed=4)
    arrays = mnist_arrays(TRAIN, TEST)
    photographs = [read_photograph(path) for path in sorted(sources["photographs"].glob("[abc].*"))]
    images, labels = make_polymnist(
        arrays[NAMES[2]], arrays[NAMES[3]].astype(np.int64), photographs, num_items=TEST, seed=child_seed(4, 3),
        balanced=False,
    )  # fmt: skip
    data = load_data(str(tmp_path / "out"), "test")
    assert data.labels is not None
    np.testing.assert_array_equal(data.labels.numpy(), labels)
    for name, image in images.items():
        np.testing.assert_array_equal(data.modalities[name].numpy(), image)


def test_build_polymnist_with_more_tuples_than_digits_keeps_splits_disjoint(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    build(tmp_path / "out", sources, train_size=1000, val_size=30, test_size=120)
    numbers = {split: np.concatenate(numbers_of(tmp_path / "out", split)) for split in SPLITS}
    assert {split: len(indices) // 3 for split, indices in numbers.items()} == {"train": 970, "val": 30, "test": 120}
    assert len(set(numbers["val"].tolist())) == 6  # 3 % of 200 digit images
    assert not set(numbers["val"].tolist()) & set(numbers["train"].tolist())


def test_build_polymnist_with_the_same_seed_writes_the_same_bytes(tmp_path: Path, sources: dict[str, Any]) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(tmp_path / name, sources, seed=seed)
    for file in ("train.safetensors", "val.safetensors", "test.safetensors", "provenance.json"):
        one, same, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert one == same
        assert one != other


def test_build_polymnist_with_more_modalities_keeps_the_earlier_ones_and_labels(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    build(tmp_path / "two", sources, modalities=2)
    write_photographs(sources["photographs"], range(0, 240, 20))
    build(tmp_path / "twelve", sources, modalities=12)
    for split in SPLITS:
        two, twelve = (load_data(str(tmp_path / name), split) for name in ("two", "twelve"))
        assert two.labels is not None
        assert twelve.labels is not None
        assert torch.equal(two.labels, twelve.labels)
        assert twelve.names == tuple(f"m{m}" for m in range(12))
        assert torch.equal(twelve.modalities["m0"], two.modalities["m0"])
        part = load_data(str(tmp_path / "twelve"), split, modalities=2)
        assert part.names == ("m0", "m1")


def test_build_polymnist_provenance_names_its_sources(tmp_path: Path, sources: dict[str, Any]) -> None:
    returned = build(tmp_path / "out", sources, seed=3)
    written = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert written == returned
    assert written["seed"] == 3
    assert written["sizes"] == {"train": 180, "val": 20, "test": 50}
    assert [photograph["file"] for photograph in written["photographs"]] == ["a.png", "b.bmp", "c.PNG"]
    assert all(len(photograph["sha256"]) == 64 for photograph in written["photographs"])
    assert [about["file"] for about in written["mnist"]] == list(NAMES)
    assert len(written["warnings"]) == 4  # these small files are not the published ones
    assert written["warnings"][0].startswith(f"{NAMES[0]} is not the published file: MD5 ")
    data = load_data(str(tmp_path / "out"), "val")
    assert data.provenance["photographs"] == written["photographs"]
    assert data.fingerprint != load_data(str(tmp_path / "out"), "val", val_size=19).fingerprint
    json.dumps(data.provenance)


def build_error(out: Path, sources: dict[str, Any], kind: type[Exception] = ValueError, **options: Any) -> str:
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind) as error:
        build(out, sources, **options)
    assert "\n" not in str(error.value)
    assert sorted(out.parent.iterdir()) == before
    return str(error.value)


def test_build_polymnist_into_an_existing_path_raises(tmp_path: Path, sources: dict[str, Any]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert build_error(out, sources, FileExistsError) == f"{out} must not exist yet: choose another folder"
    assert list(out.iterdir()) == []
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "must not exist yet" in build_error(tmp_path / "link", sources, FileExistsError)


def test_build_polymnist_with_unusable_sources_or_options_raises(tmp_path: Path, sources: dict[str, Any]) -> None:
    out, photographs = tmp_path / "out", sources["photographs"]
    assert build_error(out, sources, modalities=10).startswith(
        f"photographs: the folder {photographs} must hold at least 10 image files, one per modality, got 3 "
    )
    assert build_error(out, sources, photographs=tmp_path / "no") == (
        f"photographs must be a folder of image files, got {str(tmp_path / 'no')!r}, which is not a folder"
    )
    assert "got no such file" in build_error(out, sources, mnist=tmp_path / "no")
    assert "val_size of 'polymnist' must be at most a tenth of the 200 items of train, got 21" in build_error(
        out, sources, val_size=21
    )
    assert "train_size of 'polymnist' must be an integer of at least 10, got 9" in build_error(
        out, sources, train_size=9
    )
    assert "seed of 'polymnist' must be an integer of at least 0, got -1" in build_error(out, sources, seed=-1)
    assert "modalities of 'polymnist' must be an integer of at least 1, got 0" in build_error(
        out, sources, modalities=0
    )
    (photographs / "b.bmp").write_text("no image")
    assert build_error(out, sources).startswith(
        f"photograph {str(photographs / 'b.bmp')!r} must be a readable image file, got an error: "
    )
    write_photographs(photographs, COLOURS)
    write_mnist(sources["mnist"] / "MNIST" / "raw", mnist_arrays(4, 4))
    assert "MNIST must have enough training images to set 10% of them aside for val, got 4" in build_error(out, sources)


def test_build_polymnist_with_a_small_photograph_raises(tmp_path: Path, sources: dict[str, Any]) -> None:
    from PIL import Image

    Image.new("RGB", (27, 80)).save(sources["photographs"] / "a.png")
    assert "photograph of 'a.png' must have at least 28 x 28 pixels, got 80 x 27" in build_error(
        tmp_path / "out", sources
    )


def test_build_polymnist_when_interrupted_leaves_no_files(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(folder: Path, *args: Any) -> None:
        assert folder.name.startswith(".out.")
        (folder / "train.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(polymnist_build, "_write_splits", interrupt)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out", sources)
    assert sorted(tmp_path.iterdir()) == before


def test_load_polymnist_built_with_a_size_takes_the_first_items(tmp_path: Path, sources: dict[str, Any]) -> None:
    build(tmp_path / "out", sources)
    path = str(tmp_path / "out")
    for split, size in zip(SPLITS, (180, 20, 50), strict=True):
        whole, part = load_data(path, split), load_data(path, split, **{f"{split}_size": 7})
        assert torch.equal(part.modalities["m2"], whole.modalities["m2"][:7])
        with pytest.raises(ValueError, match=f"{split}_size of 'polymnist' must be at most {size}, .* got {size + 1}"):
            load_data(path, split, **{f"{split}_size": size + 1})


def loading_error(path: Path, split: str = "train", **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        load_data(str(path), split, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_load_polymnist_built_of_train_opens_no_other_split(tmp_path: Path, sources: dict[str, Any]) -> None:
    out = tmp_path / "out"
    build(out, sources)
    for split in ("val", "test"):
        (out / f"{split}.safetensors").write_bytes(b"damaged")
    assert len(load_data(str(out), "train")) == 180
    assert loading_error(out, "val").startswith(
        f"{out / 'val.safetensors'}: must be a readable safetensors file, got an error: "
    )
    (out / "test.safetensors").unlink()
    assert (
        loading_error(out, "test") == f"{out / 'test.safetensors'}: must be the file of split 'test', got no such file"
    )


def test_load_polymnist_built_of_a_changed_file_raises(tmp_path: Path, sources: dict[str, Any]) -> None:
    out = tmp_path / "out"
    build(out, sources)
    file = out / "train.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert f"{file}: CRC-32 of m2 must be " in loading_error(out)
    assert len(load_data(str(out), "train", modalities=2)) == 180
    file.write_bytes(whole[:-1])
    assert loading_error(out).startswith(f"{file}: must be a readable safetensors file, got an error: ")
    file.write_bytes(whole)
    tensors = load(whole)  # in memory, as a file cannot be written over while it is mapped
    for name, wrong, expected in [
        ("m1", tensors["m1"][:5], "m1 must be (180, 3, 28, 28) of torch.uint8, got (5, 3, 28, 28) of torch.uint8"),
        (
            "m1",
            tensors["m1"].float(),
            "m1 must be (180, 3, 28, 28) of torch.uint8, got (180, 3, 28, 28) of torch.float32",
        ),
        ("labels", tensors["labels"].int(), "labels must be (180,) of torch.int64, got (180,) of torch.int32"),
        ("labels", tensors["labels"] + 1, "CRC-32 of labels must be "),
    ]:
        save_file({**tensors, name: wrong.contiguous()}, file)
        assert expected in loading_error(out)
    save_file({name: tensor for name, tensor in tensors.items() if name != "m1"}, file)
    assert loading_error(out).startswith(f"{file}: must be a readable safetensors file, got an error: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, "version must be 1, got 2"),
        ({"version": None}, "version must be 1, got None"),
        ({"crc32": {}}, "of split 'train', got an error: 'train'"),
        ({"crc32": None}, "must hold version, sizes and crc32 of split 'train', got an error: "),
        ({"sizes": []}, "must hold version, sizes and crc32 of split 'train', got an error: "),
    ],
)
def test_load_polymnist_built_with_a_changed_provenance_raises(
    change: dict[str, Any], expected: str, tmp_path: Path, sources: dict[str, Any]
) -> None:
    build(tmp_path / "out", sources)
    file = tmp_path / "out" / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    message = loading_error(tmp_path / "out")
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_load_data_of_a_folder_with_another_provenance_recognises_no_format(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    build(tmp_path / "out", sources)
    for content in ("", "{", "[]", "3", '{"format": "other"}', "{}"):
        (tmp_path / "out" / "provenance.json").write_text(content)
        assert "must be in one of the formats" in loading_error(tmp_path / "out")


def test_build_polymnist_files_are_safetensors_with_aligned_arrays(tmp_path: Path, sources: dict[str, Any]) -> None:
    build(tmp_path / "out", sources)
    path = tmp_path / "out" / "test.safetensors"
    with safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == ["labels", "m0", "m1", "m2"]
        assert file.get_tensor("labels").dtype == np.int64
    content = path.read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["labels"]["data_offsets"] == [0, 400]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=10),
    fraction=st.floats(0.01, 0.1),
    seed=st.integers(0, 1000),
)
def test_pick_evenly_takes_each_class_in_proportion(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    count = max(1, round(fraction * len(labels)))
    assume(count <= len(labels) // 2)
    picked = pick_evenly(labels, count, np.random.default_rng(seed))
    assert len(set(picked.tolist())) == count
    assert (np.diff(picked) > 0).all()
    counted = Counter(labels[picked].tolist())
    for label, size in enumerate(counts):
        assert abs(counted[label] - size * count / len(labels)) < 1 + 1e-9


def test_pick_evenly_takes_each_image_with_equal_probability() -> None:
    labels = np.repeat(np.arange(3), (20, 30, 50))
    picks = [pick_evenly(labels, 10, np.random.default_rng(seed)) for seed in range(3000)]
    frequencies = np.bincount(np.concatenate(picks), minlength=100) / 3000
    assert np.abs(frequencies - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 3000)
