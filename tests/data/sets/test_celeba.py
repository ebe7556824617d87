"""Tests of CelebA on small files in the official layout: reading, caching, and messages."""

# ruff: noqa: E501  (a table of messages)
from __future__ import annotations

import os
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from pyro_mmvae.data import MappedTensor, decode_texts, load_data, resolve_options
from pyro_mmvae.data.sets import celeba_images
from pyro_mmvae.data.text import ALPHABET
from tests.data import celeba_files as made

SPLITS = ("train", "val", "test")
ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
OFFICIAL = transforms.Compose([transforms.CenterCrop(148), transforms.Resize(64), transforms.PILToTensor()])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return made.write(tmp_path / "data")


def rows_of(split: str) -> list[int]:
    return [row for row, part in enumerate(made.PARTITION) if part == SPLITS.index(split)]


@pytest.mark.parametrize("split", SPLITS)
def test_load_celeba_split_follows_the_lists(home: Path, split: str) -> None:
    data = load_data(str(home), split)
    rows = rows_of(split)
    assert (data.name, data.split, data.names, len(data)) == ("celeba", split, ("image", "text"), len(rows))
    assert data.complete
    assert data.label_names == made.NAMES
    np.testing.assert_array_equal(data.labels, made.attributes()[rows])
    for place, row in enumerate(rows):
        with Image.open(home / IMAGES / made.files()[row]) as opened:
            assert torch.equal(data.modalities["image"][place], OFFICIAL(opened.convert("RGB")))
        shown = [n.replace("_", " ").lower() for n, v in zip(made.NAMES, made.attributes()[row], strict=True) if v]
        text = "".join(ALPHABET[token] for token in data.modalities["text"][place].tolist())
        assert text == ", ".join(shown) + "*" * (256 - len(", ".join(shown)))
    specs = data.modality_specs
    assert (specs["image"].data_type, specs["text"].data_type, specs["text"].classes) == ("image", "tokens", 71)
    assert (specs["text"].alphabet, specs["text"].padding) == (ALPHABET, "*")
    assert data.provenance["absent"] == data.provenance["text"]["truncated"] == 0


def test_load_celeba_by_folder_parent_or_name_gives_the_same_data(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    first = load_data(str(home), "val")
    for data in (
        load_data(str(home.parent), "val"),
        load_data("celeba", "val", root="celeba"),
        load_data("./celeba", "val", cache=False),
    ):
        assert torch.equal(data.tensors["image"], first.tensors["image"])
        assert data.provenance == first.provenance
    # A run must find its data again, whatever folder it is opened from.
    assert resolve_options("celeba", {"root": "celeba"})["root"] == str(home)
    with pytest.raises(ValueError, match=r"root must be the folder of the files, which are not downloaded, got none"):
        load_data("celeba", "val")
    with pytest.raises(ValueError, match=r"nowhere: must be a folder with img_align_celeba"):
        load_data("celeba", "val", root="nowhere")


def test_load_celeba_with_missing_images_leaves_them_out(home: Path) -> None:
    removed = rows_of("test")[1:3] + rows_of("val")
    for row in removed:
        (home / IMAGES / made.files()[row]).unlink()
    (home / IMAGES / "notes.txt").write_text("not listed, hence ignored")
    data = load_data(str(home), "test")
    kept = [row for row in rows_of("test") if row not in removed]
    np.testing.assert_array_equal(data.labels, made.attributes()[kept])
    assert (data.provenance["items"], data.provenance["absent"]) == (5, 2)
    assert load_data(str(home), "train").provenance["absent"] == 0
    with pytest.raises(
        ValueError, match=r"img_align_celeba: must hold at least one of the 5 images listed for split 'val', got none"
    ):
        load_data(str(home), "val")
    assert len(load_data(str(home), "train", max_items=4)) == 4
    with pytest.raises(ValueError, match="max_items of 'celeba' must be an integer of at least 1, got 0"):
        load_data(str(home), "train", max_items=0)


def test_load_celeba_with_long_texts_truncates_and_counts_them(home: Path) -> None:
    lines = made.attribute_lines()
    lines[1] = " ".join(name + "_" + "x" * 90 for name in made.NAMES)
    (home / ATTRIBUTES).write_text("\n".join(lines))
    data = load_data(str(home), "train")
    expected = sum(made.attributes()[row].sum() >= 3 for row in rows_of("train"))
    assert data.provenance["text"]["truncated"] == expected > 0
    assert max(map(len, decode_texts(data.tensors["text"]))) == 256


def change(file: str, line: int, text: str | None) -> Callable[[Path], None]:
    """Return a function that replaces a line of a list, counted from 1, or removes it if the text is None."""

    def apply(home: Path) -> None:
        lines = (home / file).read_text().splitlines()
        lines[line - 1 : line] = [] if text is None else [text]
        (home / file).write_text("\n".join(lines) + "\n")

    return apply


FIRST, SECOND = made.files()[:2]
BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda home: (home / ATTRIBUTES).unlink(), r"list_attr_celeba.txt: must be CelebA's list of attributes, got no file"),
    (lambda home: (home / PARTITION).unlink(), r"list_eval_partition.txt: must be CelebA's official partition, got no file"),
    (lambda home: (home / IMAGES).rename(home / "images"), r"img_align_celeba: must be a readable folder of images, got none"),
    (lambda home: (home / ATTRIBUTES).write_bytes(b"\xff\xfe\x00"), r"list_attr_celeba.txt: must be .*, got a file that cannot be read \(it is not UTF-8 text\)"),
    (lambda home: (home / ATTRIBUTES).write_text(""), r"list_attr_celeba.txt: line 1: must be the number of images, .* got an empty file"),
    (change(ATTRIBUTES, 1, "many"), r"list_attr_celeba.txt: line 1: must be the number of images, .* got 'many'"),
    (change(ATTRIBUTES, 1, "31"), r"list_attr_celeba.txt: line 1: number of images must be 30, the number of lines below line 2, got 31"),
    (change(ATTRIBUTES, 32, None), r"list_attr_celeba.txt: line 1: number of images must be 29, .* got 30"),
    (change(ATTRIBUTES, 2, "Bald Bald Hat Old"), r"list_attr_celeba.txt: line 2: names of attributes must be distinct and at least one, got 4 names of which 3"),
    (change(ATTRIBUTES, 3, f"{FIRST} 1 1 -1"), r"list_attr_celeba.txt: line 3: must be an image's name and 4 values, got 3 values"),
    (change(ATTRIBUTES, 3, f"{FIRST} 1 0 -1 1"), rf"list_attr_celeba.txt: line 3: Bald of {FIRST} must be 1 or -1, got '0'"),
    (change(ATTRIBUTES, 4, f"{FIRST} 1 1 -1 1"), rf"list_attr_celeba.txt: line 4: images must be listed once, got {FIRST} again, after line 3"),
    (change(ATTRIBUTES, 4, "../secret.jpg 1 1 -1 1"), r"list_attr_celeba.txt: line 4: must begin with the name of a file, got '../secret.jpg'"),
    (change(ATTRIBUTES, 2, "Bald Ångst Hat Old"), r"every character must be in the alphabet .* got 'å'"),
    (change(PARTITION, 2, f"{SECOND} 3"), rf"list_eval_partition.txt: line 2: must be an image's name and 0, 1 or 2, got '{SECOND} 3'"),
    (change(PARTITION, 2, SECOND), r"list_eval_partition.txt: line 2: must be an image's name and 0, 1 or 2, got "),
    (change(PARTITION, 2, f"{FIRST} 0"), rf"list_eval_partition.txt: line 2: images must be listed once, got {FIRST} again, after line 1"),
    (change(PARTITION, 2, "other.jpg 0"), r"list_eval_partition.txt: line 2: image must be one that list_attr_celeba.txt lists, got other.jpg"),
    (change(PARTITION, 2, None), rf"list_eval_partition.txt: must have a line for {SECOND}, which line 4 of list_attr_celeba.txt lists, got none in 29"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_load_celeba_with_a_damaged_list_raises_in_one_line(
    home: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(home)
    with pytest.raises(ValueError, match=message) as error:
        load_data(str(home), "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cache", [True, False])
def test_load_celeba_with_a_damaged_image_names_it(home: Path, cache: bool, cache_folder: Path) -> None:
    file = home / IMAGES / made.files()[3]
    whole = file.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "must be a readable JPEG or PNG image, got an error: image file is truncated"),
        (b"", "must be a readable JPEG or PNG image, got an error: cannot identify"),
        (b"GIF89a" + whole, "must be a readable JPEG or PNG image, got an error: cannot identify"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="must be a readable JPEG") as error:
            load_data(str(home), "train", cache=cache)
        assert str(error.value).startswith(f"{file.parent}: {file.name}: {message}")
        assert "\n" not in str(error.value)
    made.picture(3, 140, 300).save(file)
    with pytest.raises(
        ValueError, match=rf"{file.name}: must have 64 x 64 pixels, or at least 148 x 148, got 140 x 300"
    ):
        load_data(str(home), "train", cache=cache)
    assert sorted(cache_folder.glob("*")) == []


def test_load_celeba_with_small_and_grey_images_reads_them(home: Path) -> None:
    small, grey = rows_of("test")[:2]
    made.picture(0, 64, 64).save(home / IMAGES / made.files()[small], quality=95)
    made.picture(1).convert("L").save(home / IMAGES / made.files()[grey])
    images = load_data(str(home), "test").tensors["image"]
    with Image.open(home / IMAGES / made.files()[small]) as opened:
        np.testing.assert_array_equal(images[0], np.moveaxis(np.asarray(opened), -1, 0))
    assert torch.equal(images[1, 0], images[1, 2])
    assert images[1].float().std() > 10


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the images that are decoded."""
    seen: list[str] = []
    decode = celeba_images.decode_face
    monkeypatch.setattr(
        celeba_images, "decode_face", lambda place, source: (seen.append(place), decode(place, source))[1]
    )
    return seen


def test_load_celeba_decodes_images_again_only_after_a_change(
    home: Path, decoded: list[str], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celeba_images, "_BLOCK_SIZE", 4)
    first = load_data(str(home), "train")
    assert len(decoded) == 18
    assert torch.equal(load_data(str(home), "train").tensors["image"], first.tensors["image"])
    load_data(str(home), "train", memory_map=True)
    assert len(decoded) == 18
    (file,) = cache_folder.iterdir()
    assert file.name.startswith("celeba-train-v1-")
    changed = home / IMAGES / made.files()[2]
    made.picture(99).save(changed, quality=95)
    os.utime(changed, ns=(1, 1))
    second = load_data(str(home), "train")
    assert len(decoded) == 36
    differs = (second.tensors["image"] != first.tensors["image"]).flatten(1).any(1)
    assert differs.nonzero().flatten().tolist() == [2]
    assert second.fingerprint != first.fingerprint
    # The lists do not determine pixels: other attributes need no decoding, but are other content.
    change(ATTRIBUTES, 3, f"{FIRST} 1 1 1 1")(home)
    third = load_data(str(home), "train")
    assert len(decoded) == 36
    assert third.labels is not None
    assert third.labels[0].all()
    assert third.fingerprint != second.fingerprint


def test_load_celeba_with_a_damaged_cache_warns_and_rebuilds_it(
    home: Path, decoded: list[str], cache_folder: Path
) -> None:
    first = load_data(str(home), "val").tensors["image"]
    (file,) = cache_folder.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    for content in (
        whole[:-1],
        b"nonsense",
        b"",
        bytes(flipped),
        whole.replace(b'\\"format\\": 1', b'\\"format\\": 2'),
    ):
        assert content != whole
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"is damaged and will be rebuilt"):
            again = load_data(str(home), "val").tensors["image"]
        assert torch.equal(again, first)
        assert file.read_bytes() == whole
    assert len(decoded) == 6 * 5


def test_load_celeba_with_an_unwritable_cache_warns_and_decodes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(str(home), "val").tensors["image"]
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(home / ATTRIBUTES / "below"))
    with pytest.warns(UserWarning, match=r"cannot be written, continuing without a cache"):
        again = load_data(str(home), "val", memory_map=True)
    assert torch.equal(again.tensors["image"], first)


def test_load_celeba_with_many_images_maps_them(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load_data(str(home), "train")
    assert isinstance(held.modalities["image"], torch.Tensor)
    mapped = load_data(str(home), "train", memory_map=True)
    image = mapped.modalities["image"]
    assert isinstance(image, MappedTensor)
    assert (image.shape, image.dtype) == (held.tensors["image"].shape, torch.uint8)
    assert torch.equal(image[torch.tensor([5, 0])], held.tensors["image"][[5, 0]])
    assert mapped.fingerprint == held.fingerprint
    monkeypatch.setattr(celeba_images, "LARGE", 64 * 64 * 3 * 10)
    assert isinstance(load_data(str(home), "train").modalities["image"], MappedTensor)
    assert isinstance(load_data(str(home), "val").modalities["image"], torch.Tensor)


def test_load_faces_of_many_images_uses_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celeba_images, "_BLOCK_SIZE", 50)
    made.picture(0, 64, 64).save(tmp_path / "one.jpg")
    places = [f"image {i}" for i in range(1000)]
    tracemalloc.start()
    try:
        faces = celeba_images.load_faces(
            tmp_path / "c.safetensors", {}, places, lambda i: tmp_path / "one.jpg", memory_map=True
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert faces.nbytes == 1000 * 12_288
    assert peak < faces.nbytes / 4


def test_load_celeba_of_an_npz_equals_the_folder(home: Path, tmp_path: Path) -> None:
    packed = made.write_npz(home, tmp_path / "faces.npz")
    for split in SPLITS:
        folder, arrays = load_data(str(home), split), load_data(str(packed), split)
        assert all(torch.equal(arrays.tensors[name], folder.tensors[name]) for name in folder.names)
        assert torch.equal(arrays.labels, folder.labels)  # type: ignore[arg-type]
        assert arrays.label_names == folder.label_names
    np.savez(tmp_path / "own.npz", image=np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8))
    assert load_data(str(tmp_path / "own.npz"), "train").name == "own.npz"
    with pytest.raises(ValueError, match=r"own.npz: must be a folder with img_align_celeba"):
        load_data("celeba", "train", root=str(tmp_path / "own.npz"))


WRONG = [
    ({"attributes": np.zeros((30, 4), dtype=np.int8)}, r"\[attributes\]: item 0: value must be 1 or -1, got 0"),
    ({"attributes": np.ones((29, 4), dtype=np.int8)}, r"\[attributes\]: must be \(30, 4\) of signed integers, not empty, got \(29, 4\) of int8"),
    ({"partition": np.full(30, 7)}, r"\[partition\]: item 0: value must be 0, 1 or 2, got 7"),
    ({"offsets": np.arange(31) * 10**9}, r"\[offsets\]: item 0: offsets must increase from 0 to at most .* got 0 to 1000000000"),
    ({"offsets": np.zeros(31, dtype=int)}, r"\[offsets\]: item 0: offsets must increase from 0 .* got 0 to 0"),
    ({"jpeg": np.zeros(9, dtype=np.uint16)}, r"\[jpeg\]: must be bytes of type uint8, got uint16"),
    ({"filenames": np.arange(30)}, r"\[filenames\]: must be \(30,\) of text, not empty, got \(30,\) of int64"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message for _, message in WRONG])
def test_load_celeba_of_an_npz_with_wrong_arrays_names_them(
    home: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    packed = made.write_npz(home, tmp_path / "faces.npz", **changes)
    with pytest.raises(ValueError, match=r"faces.npz" + message):
        load_data(str(packed), "train")


def test_load_celeba_of_an_npz_with_a_damaged_image_names_it(home: Path, tmp_path: Path) -> None:
    file = home / IMAGES / made.files()[3]
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match=rf"faces.npz: {made.files()[3]}: must be a readable JPEG"):
        load_data(str(made.write_npz(home, tmp_path / "faces.npz")), "train")


def test_load_celeba_of_the_real_files_matches_their_attributes() -> None:
    folder = Path(os.environ.get("MMVAE_SHARED_DATA", "../shared/data"))
    if not (folder / "celeba64.npz").exists():
        pytest.skip(f"no celeba64.npz in {folder} (MMVAE_SHARED_DATA)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(str(folder / "celeba64.npz"), "test")
    assert len(data) == 557
    assert data.labels is not None
    assert (data.label_names[31], data.labels.shape) == ("Smiling", (557, 40))
    texts = decode_texts(data.tensors["text"])
    assert all(
        ("smiling" in text.split(", ")) == smiles
        for text, smiles in zip(texts, data.labels[:, 31].tolist(), strict=True)
    )
    # Faces are in the middle of the image, which is therefore brighter than the edges.
    image = data.tensors["image"].float().mean(0)
    assert image[0, 20:44, 20:44].mean() > image[0, :, :8].mean() + 20
