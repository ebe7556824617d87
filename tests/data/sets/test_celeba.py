"""CelebA from files like the official ones: what is read, what is kept, and what is refused in one line that says where."""

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
def test_a_split_is_what_the_lists_say(home: Path, split: str) -> None:
    data = load_data(str(home), split)
    rows = rows_of(split)
    assert (data.name, data.split, data.names, len(data)) == ("celeba", split, ("image", "text"), len(rows))
    assert data.complete
    assert data.label_names == made.NAMES
    np.testing.assert_array_equal(data.labels, made.attributes()[rows])
    for place, row in enumerate(rows):
        with Image.open(home / IMAGES / made.files()[row]) as opened:
            assert torch.equal(data.modalities["image"][place], OFFICIAL(opened.convert("RGB")))
        there = [n.replace("_", " ").lower() for n, v in zip(made.NAMES, made.attributes()[row], strict=True) if v]
        text = "".join(ALPHABET[token] for token in data.modalities["text"][place].tolist())
        assert text == ", ".join(there) + "*" * (256 - len(", ".join(there)))
    traits = data.modality_specs
    assert (traits["image"].data_type, traits["text"].data_type, traits["text"].classes) == ("image", "tokens", 71)
    assert (traits["text"].alphabet, traits["text"].padding) == (ALPHABET, "*")
    assert data.provenance["absent"] == data.provenance["text"]["truncated"] == 0


def test_the_folder_its_parent_and_the_name_are_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    first = load_data(str(home), "val")
    for data in (
        load_data(str(home.parent), "val"),
        load_data("celeba", "val", root="celeba"),
        load_data("./celeba", "val", cache=False),
    ):
        assert torch.equal(data.tensors["image"], first.tensors["image"])
        assert data.provenance == first.provenance
    # A run keeps where its data is, whatever folder it is opened from.
    assert resolve_options("celeba", {"root": "celeba"})["root"] == str(home)
    with pytest.raises(ValueError, match=r"files that you have: say where by the option root"):
        load_data("celeba", "val")
    with pytest.raises(ValueError, match=r"nowhere: no CelebA, expected a folder with img_align_celeba"):
        load_data("celeba", "val", root="nowhere")


def test_any_part_of_the_images_will_do(home: Path) -> None:
    gone = rows_of("test")[1:3] + rows_of("val")
    for row in gone:
        (home / IMAGES / made.files()[row]).unlink()
    (home / IMAGES / "notes.txt").write_text("not listed, not looked at")
    data = load_data(str(home), "test")
    kept = [row for row in rows_of("test") if row not in gone]
    np.testing.assert_array_equal(data.labels, made.attributes()[kept])
    assert (data.provenance["items"], data.provenance["absent"]) == (5, 2)
    assert load_data(str(home), "train").provenance["absent"] == 0
    with pytest.raises(ValueError, match=r"img_align_celeba: found none of the 5 images .* for split 'val'"):
        load_data(str(home), "val")
    assert len(load_data(str(home), "train", max_items=4)) == 4
    with pytest.raises(ValueError, match="max_items of 'celeba': found 0"):
        load_data(str(home), "train", max_items=0)


def test_long_texts_are_cut_and_counted(home: Path) -> None:
    lines = made.attribute_lines()
    lines[1] = " ".join(name + "_" + "x" * 90 for name in made.NAMES)
    (home / ATTRIBUTES).write_text("\n".join(lines))
    data = load_data(str(home), "train")
    expected = sum(made.attributes()[row].sum() >= 3 for row in rows_of("train"))
    assert data.provenance["text"]["truncated"] == expected > 0
    assert max(map(len, decode_texts(data.tensors["text"]))) == 256


# Messages ------------------------------------------------------------------------------------------------------------


def change(file: str, line: int, text: str | None) -> Callable[[Path], None]:
    """Line ``line`` of a list, counted from 1, becomes another; None takes it away."""

    def apply(home: Path) -> None:
        lines = (home / file).read_text().splitlines()
        lines[line - 1 : line] = [] if text is None else [text]
        (home / file).write_text("\n".join(lines) + "\n")

    return apply


FIRST, SECOND = made.files()[:2]
BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda home: (home / ATTRIBUTES).unlink(), r"list_attr_celeba.txt: missing, expected CelebA's list of attributes"),
    (lambda home: (home / PARTITION).unlink(), r"list_eval_partition.txt: missing, expected CelebA's official partition"),
    (lambda home: (home / IMAGES).rename(home / "images"), r"img_align_celeba: missing or unreadable, expected a folder of images"),
    (lambda home: (home / ATTRIBUTES).write_bytes(b"\xff\xfe\x00"), r"list_attr_celeba.txt: cannot be read \(not UTF-8 text\)"),
    (lambda home: (home / ATTRIBUTES).write_text(""), r"list_attr_celeba.txt: line 1: found an empty file"),
    (change(ATTRIBUTES, 1, "many"), r"list_attr_celeba.txt: line 1: found 'many', expected the number of images"),
    (change(ATTRIBUTES, 1, "31"), r"list_attr_celeba.txt: line 1: found 31 images, expected 30, as many as lines follow"),
    (change(ATTRIBUTES, 32, None), r"list_attr_celeba.txt: line 1: found 30 images, expected 29"),
    (change(ATTRIBUTES, 2, "Bald Bald Hat Old"), r"list_attr_celeba.txt: line 2: found 4 names of attributes, expected some and no two alike"),
    (change(ATTRIBUTES, 3, f"{FIRST} 1 1 -1"), r"list_attr_celeba.txt: line 3: found 3 values, expected an image's name and 4 values"),
    (change(ATTRIBUTES, 3, f"{FIRST} 1 0 -1 1"), rf"list_attr_celeba.txt: line 3: found '0' for Bald of {FIRST}, expected 1 or -1"),
    (change(ATTRIBUTES, 4, f"{FIRST} 1 1 -1 1"), rf"list_attr_celeba.txt: line 4: found {FIRST}, which line 3 names already"),
    (change(ATTRIBUTES, 4, "../secret.jpg 1 1 -1 1"), r"list_attr_celeba.txt: line 4: found '../secret.jpg', expected the name of a file"),
    (change(ATTRIBUTES, 2, "Bald Ångst Hat Old"), r"the alphabet lacks the character 'å'"),
    (change(PARTITION, 2, f"{SECOND} 3"), rf"list_eval_partition.txt: line 2: found '{SECOND} 3', expected an image's name and 0, 1 or 2"),
    (change(PARTITION, 2, SECOND), r"list_eval_partition.txt: line 2: found .* expected an image's name and 0, 1 or 2"),
    (change(PARTITION, 2, f"{FIRST} 0"), rf"list_eval_partition.txt: line 2: found {FIRST}, which line 1 names already"),
    (change(PARTITION, 2, "other.jpg 0"), r"list_eval_partition.txt: line 2: found other.jpg, which list_attr_celeba.txt does not name"),
    (change(PARTITION, 2, None), rf"list_eval_partition.txt: found 29 lines and none for {SECOND}, which line 4 of list_attr_celeba.txt names"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_what_is_wrong_is_said_in_one_line(home: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(home)
    with pytest.raises(ValueError, match=message) as error:
        load_data(str(home), "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cache", [True, False])
def test_an_image_that_is_none_is_named(home: Path, cache: bool, cache_folder: Path) -> None:
    file = home / IMAGES / made.files()[3]
    whole = file.read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "no whole JPEG or PNG image (image file is truncated"),
        (b"", "no whole JPEG or PNG image (cannot identify"),
        (b"GIF89a" + whole, "no whole JPEG or PNG image (cannot identify"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="no whole JPEG") as error:
            load_data(str(home), "train", cache=cache)
        assert str(error.value).startswith(f"{file.parent}: {file.name}: {message}")
        assert "\n" not in str(error.value)
    made.picture(3, 140, 300).save(file)
    with pytest.raises(
        ValueError, match=rf"{file.name}: found 140 x 300 pixels, expected 64 x 64, or 148 x 148 at least"
    ):
        load_data(str(home), "train", cache=cache)
    assert not list(cache_folder.glob("*")) if cache_folder.exists() else True


def test_small_and_grey_images_are_taken(home: Path) -> None:
    small, grey = rows_of("test")[:2]
    made.picture(0, 64, 64).save(home / IMAGES / made.files()[small], quality=95)
    made.picture(1).convert("L").save(home / IMAGES / made.files()[grey])
    images = load_data(str(home), "test").tensors["image"]
    with Image.open(home / IMAGES / made.files()[small]) as opened:
        np.testing.assert_array_equal(images[0], np.moveaxis(np.asarray(opened), -1, 0))
    assert torch.equal(images[1, 0], images[1, 2])
    assert images[1].float().std() > 10


# Cache ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were decoded."""
    seen: list[str] = []
    decode = celeba_images.decode_face
    monkeypatch.setattr(
        celeba_images, "decode_face", lambda place, source: (seen.append(place), decode(place, source))[1]
    )
    return seen


def test_images_are_decoded_once_as_long_as_they_stay_the_same(
    home: Path, decoded: list[str], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(celeba_images, "_BLOCK", 4)
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
    # The lists say nothing of pixels: other attributes need no decoding, and are other content all the same.
    change(ATTRIBUTES, 3, f"{FIRST} 1 1 1 1")(home)
    third = load_data(str(home), "train")
    assert len(decoded) == 36
    assert third.labels is not None
    assert third.labels[0].all()
    assert third.fingerprint != second.fingerprint


def test_a_damaged_cache_is_mended_with_a_warning(home: Path, decoded: list[str], cache_folder: Path) -> None:
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
        with pytest.warns(UserWarning, match=r"is damaged and is built again"):
            again = load_data(str(home), "val").tensors["image"]
        assert torch.equal(again, first)
        assert file.read_bytes() == whole
    assert len(decoded) == 6 * 5


def test_a_cache_that_cannot_be_written_is_done_without(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(str(home), "val").tensors["image"]
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(home / ATTRIBUTES / "below"))
    with pytest.warns(UserWarning, match=r"cannot be written, going on without a cache"):
        again = load_data(str(home), "val", memory_map=True)
    assert torch.equal(again.tensors["image"], first)


def test_images_stay_on_disk_when_they_are_many(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_memory_stays_bounded_while_images_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celeba_images, "_BLOCK", 50)
    made.picture(0, 64, 64).save(tmp_path / "one.jpg")
    places = [f"image {i}" for i in range(1000)]
    tracemalloc.start()
    try:
        found = celeba_images.load_faces(
            tmp_path / "c.safetensors", {}, places, lambda i: tmp_path / "one.jpg", memory_map=True
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.nbytes == 1000 * 12_288
    assert peak < found.nbytes / 4


# Arrays --------------------------------------------------------------------------------------------------------------


def test_an_npz_gives_what_the_folder_gives(home: Path, tmp_path: Path) -> None:
    packed = made.write_npz(home, tmp_path / "faces.npz")
    for split in SPLITS:
        folder, arrays = load_data(str(home), split), load_data(str(packed), split)
        assert all(torch.equal(arrays.tensors[name], folder.tensors[name]) for name in folder.names)
        assert torch.equal(arrays.labels, folder.labels)  # type: ignore[arg-type]
        assert arrays.label_names == folder.label_names
    np.savez(tmp_path / "own.npz", image=np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8))
    assert load_data(str(tmp_path / "own.npz"), "train").name == "own.npz"
    with pytest.raises(ValueError, match=r"own.npz: no CelebA"):
        load_data("celeba", "train", root=str(tmp_path / "own.npz"))


WRONG = [
    ({"attributes": np.zeros((30, 4), dtype=np.int8)}, r"\[attributes\]: item 0: found 0, expected 1 or -1"),
    ({"attributes": np.ones((29, 4), dtype=np.int8)}, r"\[attributes\]: found \(29, 4\) of int8, expected \(30, 4\)"),
    ({"partition": np.full(30, 7)}, r"\[partition\]: item 0: found 7, expected 0, 1 or 2"),
    ({"offsets": np.arange(31) * 10**9}, r"\[offsets\]: item 0: found bytes 0 to 1000000000, expected some of"),
    ({"offsets": np.zeros(31, dtype=int)}, r"\[offsets\]: item 0: found bytes 0 to 0"),
    ({"jpeg": np.zeros(9, dtype=np.uint16)}, r"\[jpeg\]: found uint16, expected bytes"),
    ({"filenames": np.arange(30)}, r"\[filenames\]: found \(30,\) of int64"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_arrays_are_named(home: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    packed = made.write_npz(home, tmp_path / "faces.npz", **changes)
    with pytest.raises(ValueError, match=r"faces.npz" + message):
        load_data(str(packed), "train")


def test_a_broken_image_of_an_npz_is_named(home: Path, tmp_path: Path) -> None:
    file = home / IMAGES / made.files()[3]
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match=rf"faces.npz: {made.files()[3]}: no whole JPEG"):
        load_data(str(made.write_npz(home, tmp_path / "faces.npz")), "train")


# The real files ------------------------------------------------------------------------------------------------------


def test_the_real_files() -> None:
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
        ("smiling" in text.split(", ")) == there for text, there in zip(texts, data.labels[:, 31].tolist(), strict=True)
    )
    # Faces are in the middle: brighter there than at the edges, and all colours differ.
    image = data.tensors["image"].float().mean(0)
    assert image[0, 20:44, 20:44].mean() > image[0, :, :8].mean() + 20
