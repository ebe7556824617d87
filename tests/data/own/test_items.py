"""Items that are written into a folder as they come: the same data as in memory, and never much of it at once."""

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
    """Vectors, images and tokens, some of each missing, and two attributes."""

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


def test_a_folder_holds_what_memory_would(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cells"
    ours = from_items(Streamed(), name="cells", split="val", meta=META)
    theirs = from_items(Streamed(), name="cells", split="val", meta=META, folder=folder)
    assert theirs.names == ours.names == ("words", "image", "a")
    assert (theirs.name, theirs.split, theirs.label_names) == ("cells", "val", ("old", "ill"))
    assert all(isinstance(value, MappedTensor) for value in theirs.modalities.values())
    assert torch.equal(ours.present, theirs.present)
    assert ours.labels is not None
    assert theirs.labels is not None
    assert torch.equal(ours.labels, theirs.labels)
    assert ours.modality_specs == theirs.modality_specs
    for name, value in ours.tensors.items():
        assert torch.equal(value, theirs.tensors[name])
        assert value.dtype == theirs.tensors[name].dtype
    batch = make_batch(theirs, torch.tensor([29, 0, 5]))
    assert batch.present["a"].tolist() == [False, False, True]
    assert [file.name for file in folder.parent.iterdir()] == ["cells"]
    assert theirs.provenance["files"].keys() == {"words.npy", "image.npy", "a.npy"}
    assert from_items(Streamed(), meta=META, folder=tmp_path / "b", provenance={"v": 1}).provenance == {"v": 1}


def test_a_folder_is_a_data_set_of_its_own(tmp_path: Path) -> None:
    whole = from_items(Streamed(), meta=META, folder=tmp_path / "cells")
    found = [load_data(str(tmp_path / "cells"), split) for split in ("train", "val", "test")]
    assert found[0].names == ("a", "image", "words")
    assert found[0].modality_specs["words"].data_type == "tokens"
    assert found[0].label_names == ("old", "ill")
    images = torch.cat([data.tensors["image"] for data in found])
    order = [int((whole.tensors["image"] == image).flatten(1).all(1).nonzero()) for image in images]
    assert sorted(order) == list(range(30))
    assert torch.equal(torch.cat([data.present for data in found]), whole.present[order][:, [2, 1, 0]])
    assert whole.labels is not None
    assert torch.equal(torch.cat([data.labels for data in found if data.labels is not None]), whole.labels[order])
    assert torch.equal(torch.cat([data.tensors["a"] for data in found]), whole.tensors["a"][order])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": np.zeros(4, np.float32)}, r"items: modality 'a': item 20: found \(4,\) of float32, expected \(3,\) of"),
        ({"new-one": 1.0}, "items: modality 'new-one': expected a name of letters, digits and _"),
        ({"labels": 1.0}, "items: modality 'labels': expected a name .* none of labels, present, split"),
        ({"../b": 1.0}, r"items: modality '\.\./b': expected a name"),
        ({"b": "text"}, "items: modality 'b': found <U4, expected bool, integers or floats"),
        ({"b": np.array([{}])}, "items: modality 'b': found object, expected bool, integers or floats"),
        ({"b": 3}, r"items: modality 'b': integers of shape \(item, \) may be tokens, counts or numbers"),
        ({"label": None}, "items: item 20: found no label, others have one"),
        ({"label": {}}, "items: item 20: found a label that is no number and no array of them"),
        ({"words": np.full(4, -1)}, r"words\.npy: modality 'words': item 20: found -1"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        from_items(Streamed(**changes), meta=META, folder=tmp_path / "cells")
    assert "\n" not in str(error.value)
    assert "tmp" not in str(error.value).replace(str(tmp_path), "")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    with pytest.raises(FileExistsError, match="cells exists already, choose another folder"):
        from_items(Streamed(), meta=META, folder=tmp_path / "cells")
    with pytest.raises(ValueError, match="items: found no items"):
        from_items([], folder=tmp_path / "empty")
    assert [file.name for file in tmp_path.iterdir()] == ["cells"]


def test_writing_and_reading_hold_little_at_once(tmp_path: Path) -> None:
    count, size = 400, 25_000  # 40 MB as float32

    def stream() -> Iterator[dict[str, Any]]:
        for i in range(count):
            yield {"x": np.full(size, i, dtype=np.float32), "label": i % 3}

    tracemalloc.start()
    try:
        data = from_items(stream(), folder=tmp_path / "large")
        some = data.modalities["x"][torch.tensor([399, 0, 7])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert some[:, -1].tolist() == [399, 0, 7]
    assert peak < 8e6
    assert (tmp_path / "large" / "x.npy").stat().st_size > 4 * count * size


@given(
    st.sampled_from(["?", "|u1", "<i2", ">i4", "<f4", "<f8"]),
    st.lists(st.integers(1, 3), max_size=5),
    st.sets(st.integers(0, 12)),
    st.integers(0, 3),
)
def test_a_file_is_what_numpy_would_have_written(
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
    found = np.load(file, allow_pickle=False)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert np.lib.format.open_memmap(file, mode="r").offset % 64 == 0
    with pytest.raises(FileExistsError):
        ItemFile(file, np.dtype(dtype), tuple(shape))
