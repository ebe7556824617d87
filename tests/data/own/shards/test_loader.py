"""Data sets from shards: those of an export, and those of other programs."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_mmvae.data import (
    MultimodalDataset,
    find_data,
    find_moments,
    from_arrays,
    infer_specs,
    load_data,
    make_batch,
    select_items,
    write_shards,
)
from pyro_mmvae.data.fingerprint import find_changes, take_fingerprint
from pyro_mmvae.data.infer import complete_specs
from pyro_mmvae.data.storage.cache import cache_folder
from pyro_mmvae.data.storage.cache_entries import list_entries
from pyro_mmvae.modality_spec import ModalitySpec
from tests.data.own.shards.test_headers import write_tar


def make_split(count: int, split: str, seed: int) -> MultimodalDataset:
    """Return a data set with a modality of each encoding, of which some items lack some."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "photo": rng.integers(0, 256, (count, 3, 5, 4), dtype=np.uint8),
        "rna": rng.poisson(3.0, (count, 4)),
        "sensor": 100 + 5 * rng.normal(size=(count, 3)).astype(np.float32),
        "words": rng.integers(0, 4, (count, 8)),
    }
    kinds: dict[str, Any] = {
        "rna": {"kind": "counts"}, "words": {"data_type": "tokens", "alphabet": "*abc", "padding": "*"},
    }  # fmt: skip
    present = rng.random((count, 4)) < 0.8
    present[:, 2] = True
    return from_arrays(
        arrays, rng.integers(0, 3, count), present, split=split, name="made",
        meta={"modalities": kinds, "class_names": ["a", "b", "c"]},
        item_ids=[f"{split}{number}" for number in range(count)], feature_names={"rna": ["g1", "g2", "g3", "g4"]},
        covariates={"site": rng.choice(["Bonn", "Kyiv"], count)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, MultimodalDataset]:
    sizes = {"train": 23, "val": 6, "test": 7}
    return {split: make_split(count, split, seed) for seed, (split, count) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def exported(made: dict[str, MultimodalDataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "made"
    assert write_shards(folder, made, shard_size=5) == 9
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def assert_equal(first: MultimodalDataset, second: MultimodalDataset) -> None:
    assert first.names == second.names
    assert torch.equal(first.present, second.present)
    for number, name in enumerate(first.names):
        rows = first.present[:, number].nonzero()[:, 0]
        assert first.modalities[name].dtype == second.modalities[name].dtype
        assert torch.equal(first.modalities[name][rows], second.modalities[name][rows])
    assert torch.equal(first.labels, second.labels)  # type: ignore[arg-type]
    assert first.item_ids.tolist() == second.item_ids.tolist()  # type: ignore[union-attr]
    assert torch.equal(first.covariates["site"], second.covariates["site"])
    for what in ("label_names", "class_names", "feature_names", "covariate_names"):
        assert getattr(first, what) == getattr(second, what)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_load_shards_of_export_returns_the_data(made: dict[str, MultimodalDataset], exported: Path, split: str) -> None:
    data = load_data(str(exported), split)
    assert_equal(made[split], data)
    assert data.shards is not None
    assert data.shards.sizes == {"train": (5, 5, 5, 5, 3), "val": (5, 1), "test": (5, 2)}[split]
    assert data.modality_specs["words"].alphabet == "*abc"
    index = torch.tensor([4, 0, 4])
    batch, expected = make_batch(data, index), make_batch(made[split], index)
    assert all(torch.equal(batch.values[name], expected.values[name]) for name in data.names)


def test_load_shards_by_pattern_takes_the_shards_it_names(exported: Path) -> None:
    pattern = str(exported / "train-00000{1..3}.tar")
    assert find_data(pattern).format == "webdataset"
    assert len(load_data(pattern, "train")) == 15
    assert len(load_data(pattern, "val")) == 6  # of shards.json
    assert len(load_data(str(exported / "val-000000.tar"), "all")) == 5
    with pytest.raises(ValueError, match=r"train-000005.tar must be a tar file, got no such file"):
        load_data(str(exported / "train-00000{1..5}.tar"), "train")
    with pytest.raises(ValueError, match="must be an existing file or folder"):
        load_data(str(exported / "x-{0..1}.tar"), "train")


def test_load_shards_of_some_modalities_ignores_the_others(exported: Path) -> None:
    data = load_data(str(exported), "train", modalities=("words", "photo"))
    assert data.names == ("words", "photo")
    with pytest.raises(ValueError, match="modalities must be some of photo, rna, sensor, words, got 'x'"):
        load_data(str(exported), "train", modalities=("x",))
    with pytest.raises(ValueError, match=r"kinds must be left out, as shards.json describes"):
        load_data(str(exported), "train", kinds={"rna": "vector"})


def test_subset_and_selection_of_shards_hold_the_items_and_no_shards(exported: Path) -> None:
    data = load_data(str(exported), "train")
    rows = [22, 3]
    for part in (data.subset(rows), select_items(data, np.array(rows))):
        assert part.shards is None
        assert part.item_ids.tolist() == ["train22", "train3"]  # type: ignore[union-attr]
        assert torch.equal(part.modalities["sensor"][:], data.modalities["sensor"][rows])


def test_find_moments_of_shards_takes_the_stored_ones(
    made: dict[str, MultimodalDataset], exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data(str(exported), "train")
    specs = {"sensor": ModalitySpec(data_type="vector", standardize=True)}
    expected = find_moments(made["train"], specs)["sensor"]
    sparser = load_data(str(exported), "train", missing_rate={"sensor": 0.5})
    assert not torch.equal(find_moments(sparser, specs)["sensor"][0], expected[0])
    monkeypatch.setattr("pyro_mmvae.data.infer._present_values", None)  # no value is read
    assert all(torch.equal(a, b) for a, b in zip(find_moments(data, specs)["sensor"], expected, strict=True))
    assert complete_specs(data, infer_specs(data))["rna"].reference_total is not None


def test_fingerprint_of_shards_follows_their_checksums(exported: Path, made: dict[str, MultimodalDataset]) -> None:
    before = take_fingerprint(load_data(str(exported), "train"))
    assert find_changes(before, take_fingerprint(load_data(str(exported), "train"))) == ()
    description = json.loads((exported / "shards.json").read_text())
    data = load_data(str(exported), "train")
    description["shards"][0]["sha256"] = "0" * 64
    (exported / "shards.json").rename(exported / "kept.json")
    try:
        (exported / "shards.json").write_text(json.dumps(description))
        changes = find_changes(before, take_fingerprint(load_data(str(exported), "train")))
        assert changes == tuple(f"modality {name!r}: the values differ" for name in data.names)
    finally:
        (exported / "kept.json").rename(exported / "shards.json")


def flip(file: Path, where: bytes, shift: int = 0) -> None:
    content = bytearray(file.read_bytes())
    place = content.index(where) + shift
    content[place] ^= 1
    file.write_bytes(bytes(content))


def test_load_shards_with_flipped_bit_raises_and_names_shard_and_member(copy: Path) -> None:
    flip(copy / "train-000001.tar", b"\x93NUMPY", 140)
    data = load_data(str(copy), "train")
    with pytest.raises(ValueError, match="got other bytes: the file was changed or is damaged") as error:
        [value[:] for value in data.modalities.values()]
    assert "train-000001.tar: member '000000005." in str(error.value)
    with pytest.raises(ValueError, match=r"train-000001.tar: must have the SHA-256"):
        load_data(str(copy), "train", verify=True)


def test_load_shards_of_truncated_or_missing_files_raises(copy: Path) -> None:
    os.truncate(copy / "train-000002.tar", 1000)
    with pytest.raises(ValueError, match=r"train-000002.tar: must have .* bytes as shards.json says, got 1,000"):
        load_data(str(copy), "train")
    (copy / "train-000002.tar").unlink()
    with pytest.raises(ValueError, match=r"train-000002.tar: must be a tar file, got no such file"):
        load_data(str(copy), "train")
    (copy / "val-000001.index").unlink()
    with pytest.raises(ValueError, match=r"val-000001.index: the index of the shard must be there"):
        load_data(str(copy), "val")
    flip(copy / "test-000000.index", b"offsets", 20)
    with pytest.raises(ValueError, match=r"test-000000.index: must be the index of a shard, got a damaged one"):
        load_data(str(copy), "test")


@pytest.mark.parametrize(
    ("path", "value"),
    [(("shards", 0, "file"), "../../secret.tar"), (("shards", 0, "file"), "/etc/passwd.tar"), (("format",), 2),
     (("modalities", "rna", "form", "shape"), [10**12]), (("shards", 0, "items"), -1), (("extra",), 1),
     (("modalities", "rna", "spec"), {"data_type": "nonsense"}), (("shards",), [])],
)  # fmt: skip
def test_load_shards_of_hostile_description_raises_one_line(copy: Path, path: tuple[Any, ...], value: Any) -> None:
    description = json.loads((copy / "shards.json").read_text())
    place = description
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (copy / "shards.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"shards.json") as error:
        load_data(str(copy), "train")
    assert "\n" not in str(error.value)


def encode(array: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    if array.dtype == np.uint8:
        Image.fromarray(array).save(file, format="jpeg" if array.ndim == 3 else "png")
    else:
        np.save(file, array)
    return file.getvalue()


def write_foreign(folder: Path, shards: int = 10, items: int = 4) -> Path:
    """Write shards as another program does: jpg, npy, txt and cls, of which the second item of each lacks the text."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for shard in range(shards):
        members = {}
        for item in range(items):
            key = f"part/{shard:03d}{item:04d}"
            members[f"{key}.jpg"] = encode(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            members[f"{key}.pose.npy"] = encode(rng.normal(size=3).astype(np.float32))
            if item != 1:
                members[f"{key}.txt"] = f"a cat {item}".encode()
            members[f"{key}.cls"] = str(item % 3).encode()
        write_tar(folder / f"shard-{shard:04d}.tar", members)
    return folder


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(tmp_path / "cache"))
    return write_foreign(tmp_path / "foreign")


def test_load_shards_of_other_programs_holds_out_shards(foreign: Path) -> None:
    pattern = str(foreign / "shard-{0000..0009}.tar")
    splits = {split: load_data(pattern, split) for split in ("train", "val", "test")}
    assert {split: len(data) for split, data in splits.items()} == {"train": 32, "val": 4, "test": 4}
    data = splits["train"]
    assert data.names == ("jpg", "pose", "txt")
    assert data.labels is not None
    assert data.labels.tolist()[:4] == [0, 1, 2, 0]
    assert data.present[:4, 2].tolist() == [True, False, True, True]
    assert (data.modalities["jpg"].dtype, data.modalities["jpg"].shape[1:]) == (torch.uint8, (3, 6, 6))
    assert data.modality_specs["txt"].alphabet == "* 023act"
    assert len(load_data(str(foreign), "all")) == 40
    chosen = load_data(pattern, "val", val_shards=str(foreign / "shard-0003.tar"))
    assert chosen.modalities["pose"][:].shape == (4, 3)
    assert load_data(str(foreign), "train", image_size=4).modalities["jpg"][:2].shape == (2, 3, 4, 4)
    assert "shards" in data.provenance


def test_load_shards_of_other_programs_keeps_the_first_pass(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(str(foreign), "train")
    assert len(list_entries(cache_folder())) == 10  # which data cache lists and removes
    monkeypatch.setattr("pyro_mmvae.data.own.shards.scanning._scan", None)
    again = load_data(str(foreign), "train")
    assert torch.equal(first.present, again.present)
    assert torch.equal(first.modalities["pose"][:], again.modalities["pose"][:])


@pytest.mark.parametrize(
    ("members", "message"),
    [({"a.x.pkl": b"cos\nsystem\n"}, "pickles are never loaded"),
     ({"a.txt": b"x", "a.cls": b"cat"}, "must be a class, an integer of at least 0, got 'cat'"),
     ({"a.txt": b"x", "a.json": b"{"}, "must be JSON"),
     ({"a.txt": b"\xff\xfe"}, "must be text in UTF-8"),
     ({"a.v.npy": b"no array"}, "must be an array of NumPy"),
     ({"a.jpg": b"no image"}, "must be a readable image"),
     ({"a.v.npy": b"", "a.v.txt": b""}, "must have 'v' once"),
     ({"README": b"x"}, "must hold at least one item")],
)  # fmt: skip
def test_load_shards_of_unreadable_members_raises_one_line(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message) as error:
        load_data(str(tmp_path / "a.tar"), "all", cache=False)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_load_shards_of_member_of_other_shape_raises_and_names_it(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{n}.v.npy": encode(np.zeros(2 + n // 2)) for n in range(3)})
    data = load_data(str(tmp_path / "a.tar"), "all", cache=False)
    assert data.modalities["v"][:2].shape == (2, 2)
    with pytest.raises(ValueError, match=r"a.tar: member '2.v.npy': must be an array of shape \(2,\) of float64"):
        data.modalities["v"][:]


def test_load_shards_of_too_few_shards_raises_with_advice(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.txt": b"x"})
    write_tar(tmp_path / "b.tar", {"1.txt": b"y"})
    with pytest.raises(ValueError, match="split 'train' must have at least one shard, got none of 2: write more"):
        load_data(str(tmp_path), "train", cache=False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves the file open
def test_write_shards_writes_what_webdataset_reads(exported: Path, made: dict[str, MultimodalDataset]) -> None:
    webdataset = pytest.importorskip("webdataset")
    items = list(webdataset.WebDataset(str(exported / "train-000000.tar"), shardshuffle=False).decode("rgb8"))
    assert [item["__key__"] for item in items] == [f"{row:09d}" for row in range(5)]
    for row, item in enumerate(items):
        assert np.array_equal(item["sensor.npy"], made["train"].modalities["sensor"][row])
        assert ("photo.png" in item) == bool(made["train"].present[row, 0])
        assert item["json"]["label"] == int(made["train"].labels[row])  # type: ignore[index]


def test_load_shards_reads_what_webdataset_writes(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    rng, values = np.random.default_rng(0), rng_values()
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for row, value in enumerate(values):
            writer.write({"__key__": f"k{row}", "v.npy": value, "cls": int(rng.integers(3)), "caption.txt": "hello"})
    data = load_data(str(tmp_path / "a.tar"), "all", cache=False)
    assert np.array_equal(data.modalities["v"][:].numpy(), values)
    assert data.names == ("caption", "v")


def rng_values() -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def test_write_shards_of_other_data_raises_and_leaves_nothing(
    made: dict[str, MultimodalDataset], tmp_path: Path
) -> None:
    other = from_arrays({"photo": np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)})
    cases: list[tuple[Any, str]] = [
        ({"train": made["train"], "val": other}, "val: modalities must be photo, rna, sensor, words as in train"),
        ({"half": made["train"]}, "splits must be some of train, val, test"),
        ({}, "splits must hold at least one data set"),
    ]
    for splits, message in cases:
        with pytest.raises(ValueError, match=message):
            write_shards(tmp_path / "new", splits)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FileExistsError, match="must be empty or not exist yet"):
        write_shards(tmp_path / "full", made)


def test_write_shards_twice_writes_equal_bytes(
    made: dict[str, MultimodalDataset], exported: Path, tmp_path: Path
) -> None:
    write_shards(tmp_path / "again", made, shard_size=5)
    for file in exported.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_reading_shards_keeps_few_files_open(tmp_path: Path) -> None:
    large = from_arrays({"sensor": np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)})
    write_shards(tmp_path / "many", {"train": large}, shard_size=1)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    data = load_data(str(tmp_path / "many"), "train")
    assert torch.equal(data.modalities["sensor"][:], large.modalities["sensor"])
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= 32
