"""Tests of items written into a folder: equality with memory, messages, and use of memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from pyro_mmvae.data import MappedTensor, from_items, load_data, make_batch
from pyro_mmvae.data.storage.npyfile import ItemFile

META = {"modalities": {"words": {"kind": "tokens"}, "a": {"weight": 2.0}}, "label_names": ["old", "ill"]}


class Streamed(IterableDataset[dict[str, Any]]):
    """An iterable of vectors, images and tokens, some of each missing, with two attributes."""

    def __init__(self, count: int = 30, **changes: Any) -> None:
        self.count, self.changes = count, changes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        generator = np.random.default_rng(0)
        for i in range(self.count):
            item = {
                "words": torch.from_numpy(generator.integers(0, 5, 4)) if i != 1 else None,
                "image": generator.integers(0, 256, (3, 9, 8), dtype=np.uint8),
                "a": generator.normal(size=3).astype(np.float32),
                "label": generator.random(2) < 0.5,
            }
            if i in {0, 7, self.count - 1}:
                del item["a"]
            yield {**item, **{key: value for key, value in self.changes.items() if i == 20}}


def test_from_items_with_a_folder_equals_the_data_set_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cells"
    in_memory = from_items(Streamed(), name="cells", split="val", meta=META)
    on_disk = from_items(Streamed(), name="cells", split="val", meta=META, folder=folder)
    assert on_disk.names == in_memory.names == ("words", "image", "a")
    assert (on_disk.name, on_disk.split, on_disk.label_names) == ("cells", "val", ("old", "ill"))
    assert all(isinstance(value, MappedTensor) for value in on_disk.modalities.values())
    assert torch.equal(in_memory.present, on_disk.present)
    assert in_memory.labels is not None
    assert on_disk.labels is not None
    assert torch.equal(in_memory.labels, on_disk.labels)
    assert in_memory.modality_specs == on_disk.modality_specs
    for name, value in in_memory.tensors.items():
        assert torch.equal(value, on_disk.tensors[name])
        assert value.dtype == on_disk.tensors[name].dtype
    batch = make_batch(on_disk, torch.tensor([29, 0, 5]))
    assert batch.present["a"].tolist() == [False, False, True]
    assert [file.name for file in folder.parent.iterdir()] == ["cells"]
    assert on_disk.provenance["files"].keys() == {"words.npy", "image.npy", "a.npy"}
    assert from_items(Streamed(), meta=META, folder=tmp_path / "b", provenance={"v": 1}).provenance == {"v": 1}


def test_load_data_of_a_written_folder_gives_the_same_items(tmp_path: Path) -> None:
    whole = from_items(Streamed(), meta=META, folder=tmp_path / "cells")
    splits = [load_data(str(tmp_path / "cells"), split) for split in ("train", "val", "test")]
    assert splits[0].names == ("a", "image", "words")
    assert splits[0].modality_specs["words"].data_type == "tokens"
    assert splits[0].label_names == ("old", "ill")
    images = torch.cat([data.tensors["image"] for data in splits])
    order = [int((whole.tensors["image"] == image).flatten(1).all(1).nonzero()) for image in images]
    assert sorted(order) == list(range(30))
    assert torch.equal(torch.cat([data.present for data in splits]), whole.present[order][:, [2, 1, 0]])
    assert whole.labels is not None
    assert torch.equal(torch.cat([data.labels for data in splits if data.labels is not None]), whole.labels[order])
    assert torch.equal(torch.cat([data.tensors["a"] for data in splits]), whole.tensors["a"][order])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"a": np.zeros(4, np.float32)},
            r"items: modality 'a': item 20 must be \(3,\) of float32 as item 1 is, got \(4,\) of",
        ),
        ({"new/one": 1.0}, "items: modality 'new/one': the name of a modality must be a file name"),
        ({"labels": 1.0}, "items: modality 'labels': the name must .* none of labels, present, split"),
        ({"../b": 1.0}, r"items: modality '\.\./b': the name of a modality must be a file name"),
        ({"b": np.array(["text"])}, "items: modality 'b': must be of bool, integers or floats, or strings"),
        ({"b": np.array([{}])}, "items: modality 'b': must be of bool, integers or floats, or strings"),
        ({"b": 3}, r"items: modality 'b': integers of shape \(item, \) may be tokens, counts or numbers"),
        ({"label": None}, "items: item 20 must have a label as the others have, got none"),
        ({"label": {}}, "items: item 20: label must be a number or an array of numbers, got dict"),
        (
            {"words": np.full(4, -1)},
            r"words\.npy: modality 'words': item 20: value at \(0,\) must be a token of at least 0, got -1",
        ),
    ],
)
def test_from_items_with_unfit_items_raises_and_leaves_no_files(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        from_items(Streamed(**changes), meta=META, folder=tmp_path / "cells")
    assert "\n" not in str(error.value)
    assert "tmp" not in str(error.value).replace(str(tmp_path), "")
    assert list(tmp_path.iterdir()) == []


def test_from_items_with_an_existing_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    with pytest.raises(FileExistsError, match="cells must not exist yet: choose another folder"):
        from_items(Streamed(), meta=META, folder=tmp_path / "cells")
    with pytest.raises(ValueError, match="items: must hold at least one item"):
        from_items([], folder=tmp_path / "empty")
    assert [file.name for file in tmp_path.iterdir()] == ["cells"]


def test_from_items_with_a_folder_uses_little_memory(tmp_path: Path) -> None:
    count, size = 400, 25_000  # 40 MB as float32

    def stream() -> Iterator[dict[str, Any]]:
        for i in range(count):
            yield {"x": np.full(size, i, dtype=np.float32), "label": i % 3}

    tracemalloc.start()
    try:
        data = from_items(stream(), folder=tmp_path / "large")
        values = data.modalities["x"][torch.tensor([399, 0, 7])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values[:, -1].tolist() == [399, 0, 7]
    assert peak < 8e6
    assert (tmp_path / "large" / "x.npy").stat().st_size > 4 * count * size


@given(
    st.sampled_from(["?", "|u1", "<i2", ">i4", "<f4", "<f8"]),
    st.lists(st.integers(1, 3), max_size=5),
    st.sets(st.integers(0, 12)),
    st.integers(0, 3),
)
def test_item_file_equals_the_file_that_numpy_writes(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: list[int], items: set[int], more: int
) -> None:
    file = tmp_path_factory.mktemp("npy") / "a.npy"
    count = max(items, default=0) + 1 + more
    expected = np.zeros((count, *shape), dtype=dtype)
    with ItemFile(file, np.dtype(dtype), tuple(shape)) as opened:
        for item in sorted(items):
            expected[item] = item + 1
            opened.write(item, expected[item])
        opened.finish(count)
    written = np.load(file, allow_pickle=False)
    assert written.dtype == expected.dtype
    np.testing.assert_array_equal(written, expected)
    assert np.lib.format.open_memmap(file, mode="r").offset % 64 == 0
    with pytest.raises(FileExistsError):
        ItemFile(file, np.dtype(dtype), tuple(shape))


def test_from_items_given_strings_and_a_folder_writes_texts(tmp_path: Path) -> None:
    items = [{"v": np.array([float(row), 1.0]), "text": "ab" * row if row != 2 else None} for row in range(1, 9)]
    data = from_items(items, folder=tmp_path / "set")
    assert data.names == ("v", "text")
    assert data.present[:, 1].tolist() == [True, False, *[True] * 6]
    again = [load_data(str(tmp_path / "set"), split) for split in ("train", "val", "test")]
    assert sum(len(part) for part in again) == 8
    assert again[0].modality_specs["text"].alphabet == "*ab"
    assert data.modalities["text"].shape == (8, 16)


def test_from_items_given_images_of_16_bits_and_a_folder_takes_them_for_images(tmp_path: Path) -> None:
    items = [{"scan": np.full((1, 8, 8), row * 1000, dtype=np.uint16)} for row in range(4)]
    data = from_items(items, folder=tmp_path / "set")
    assert data.modality_specs["scan"].data_type == "image"
    assert float(data.modalities["scan"][3:4].max()) == pytest.approx(3000 / 65535)
