"""Tests of a folder of images per modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyro_mmvae.data import find_data, load_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for modality, shape, suffix, rows in (
        ("photos", (10, 8, 3), "png", range(10)),
        ("split", (8, 8), "jpg", range(2, 12)),
    ):
        (tmp_path / modality).mkdir()
        for row in rows:
            image = Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8))
            image.save(tmp_path / modality / f"{row:04}.{suffix}")
    return tmp_path


def test_load_images_given_folders_pairs_files_by_name(folder: Path) -> None:
    assert find_data(str(folder)).format == "images"
    parts = [load_data(str(folder), split) for split in ("train", "val", "test")]
    ids = sorted(np.concatenate([part.item_ids for part in parts if part.item_ids is not None]).tolist())
    assert ids == [f"{row:04}" for row in range(12)]
    train = parts[0]
    assert train.item_ids is not None
    assert train.names == ("photos", "split")  # a folder may have the name of a role
    assert train.modalities["photos"].shape[1:] == (3, 10, 8)
    assert train.modalities["split"].shape[1:] == (1, 8, 8)
    numbers = train.item_ids.astype(int)
    assert np.array_equal(train.present.numpy(), np.stack([numbers < 10, numbers >= 2], -1))
    expected = np.asarray(Image.open(folder / "photos" / f"{train.item_ids[1]}.png"))
    assert np.array_equal(train.modalities["photos"][1:2][0].numpy(), np.moveaxis(expected, -1, 0))


def test_load_images_given_labels_reads_classes_and_splits(folder: Path) -> None:
    rows = "".join(
        f"{row:04}.png,{'cat' if row % 2 else 'dog'},{'train' if row < 9 else 'test'}\n" for row in range(12)
    )
    (folder / "labels.csv").write_text("file,label,split\n" + rows)
    data = load_data(str(folder), "test", image_size=8)
    assert data.item_ids is not None
    assert data.item_ids.tolist() == ["0009", "0010", "0011"]
    assert data.class_names == ("cat", "dog")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 0]


def test_load_images_given_labels_of_attributes_keeps_their_names(folder: Path) -> None:
    rows = "".join(f"{row:04},{row % 2},0\n" for row in range(12))
    (folder / "labels.csv").write_text("id,old,ill\n" + rows)
    assert load_data(str(folder), "train", labels=("old", "ill")).label_names == ("old", "ill")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\n0099,cat\n", "labels.csv: row 0: column 'id' must name an item with an image, got '0099'"),
        ("id,label\n0001,cat\n0001,dog\n", "labels.csv: column 'id' must name each item once, got '0001' twice"),
    ],
)
def test_load_images_given_bad_labels_raises_one_line(folder: Path, content: str, message: str) -> None:
    (folder / "labels.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_data(str(folder), "train")


def test_load_images_given_two_files_of_one_item_raises(folder: Path) -> None:
    (folder / "photos" / "0003.jpg").write_bytes((folder / "split" / "0003.jpg").read_bytes())
    with pytest.raises(ValueError, match="item '0003' must have one image, got two files of that name"):
        load_data(str(folder), "train")
