"""Tests of folders of ``.npy`` files and ``.npz`` archives: values, splits, presence, and messages."""

# ruff: noqa: E501  (a table of messages)
from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import ModalitySpec, MultimodalDataset, load_data
from pyro_mmvae.data.storage import mapped

N = 20
META = "modalities: {rna: {kind: counts, likelihood: poisson, weight: 2}, words: {kind: tokens, classes: 7}}\n"


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return {
        "image": generator.integers(0, 256, (N, 3, 9, 8), dtype=np.uint8),
        "rna": generator.poisson(3.0, (N, 5)),
        "vector": generator.normal(size=(N, 4)),
        "words": generator.integers(0, 6, (N, 2), dtype=np.uint8),
        "flags": generator.random((N, 3)) < 0.5,
        "labels": np.arange(N, dtype=np.uint16) % 3,
    }


def write(folder: Path, meta: str = META, **changes: Any) -> Path:
    """Write a folder of arrays; a change of None leaves an array out, and bytes are written unchanged."""
    folder.mkdir(exist_ok=True)
    for name, array in {**arrays(), **changes}.items():
        if isinstance(array, bytes):
            (folder / f"{name}.npy").write_bytes(array)
        elif array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=True)
    (folder / "meta.yaml").write_text(meta)
    return folder


def pack(file: Path, **changes: Any) -> Path:
    np.savez_compressed(file, **{n: a for n, a in {**arrays(), **changes}.items() if a is not None})
    return file


def load_all(where: Path, **options: Any) -> tuple[dict[str, MultimodalDataset], np.ndarray[Any, Any]]:
    """Return the splits, and the row in the files of each of their items, found by its ``vector``."""
    splits = {split: load_data(str(where), split, **options) for split in ("train", "val", "test")}
    whole = arrays()["vector"].astype(np.float32)
    rows = torch.cat([data.tensors["vector"] for data in splits.values()]).numpy()
    order = np.array([int(np.flatnonzero((whole == row).all(1))[0]) for row in rows])
    return splits, order


KINDS = {"rna": "counts", "words": "tokens"}


@pytest.mark.parametrize("how", ["folder", "npz", "mapped"])
def test_load_data_of_each_format_keeps_types_and_pairing(how: str, tmp_path: Path) -> None:
    where = pack(tmp_path / "a.npz") if how == "npz" else write(tmp_path / "a")
    options: dict[str, Any] = {"memory_map": True} if how == "mapped" else {"kinds": KINDS} if how == "npz" else {}
    splits, order = load_all(where, **options)
    assert [len(data) for data in splits.values()] == [16, 2, 2]
    assert sorted(order.tolist()) == list(range(N))
    train, source = splits["train"], arrays()
    assert train.names == ("flags", "image", "rna", "vector", "words")
    assert (train.name, train.split, train.complete) == (where.name, "train", True)
    kinds = {name: spec.data_type for name, spec in train.modality_specs.items()}
    assert kinds == {"flags": "binary", "image": "image", "rna": "counts", "vector": "vector", "words": "tokens"}
    assert {name: value.dtype for name, value in train.modalities.items()} == {
        "flags": torch.float32, "image": torch.uint8, "rna": torch.float32, "vector": torch.float32,
        "words": torch.int16,
    }  # fmt: skip
    for name in train.names:
        whole = torch.cat([data.tensors[name] for data in splits.values()]).numpy()
        np.testing.assert_array_equal(whole, source[name][order].astype(whole.dtype))
    labels = torch.cat([data.labels for data in splits.values() if data.labels is not None])
    np.testing.assert_array_equal(labels.numpy(), source["labels"][order])
    assert train.modality_specs["words"].classes == (6 if how == "npz" else 7)
    if how != "npz":
        assert train.modality_specs["rna"] == ModalitySpec(
            data_type="counts", likelihood="poisson", reconstruction_weight=2.0
        )


def test_load_folder_with_split_and_present_files_follows_them(tmp_path: Path) -> None:
    present = np.random.default_rng(1).random((N, 5)) < 0.7
    present[:, 3] = True  # the vectors, by which items are told apart
    numbers = np.arange(N) % 3
    write(tmp_path / "a", present=present, split=numbers)
    names = np.array(["train", "val", "test"])[numbers]
    for where in (tmp_path / "a", write(tmp_path / "b", present=present, split=names)):
        splits, order = load_all(where)
        assert order.tolist() == [*range(0, N, 3), *range(1, N, 3), *range(2, N, 3)]
        np.testing.assert_array_equal(torch.cat([d.present for d in splits.values()]).numpy(), present[order])


def test_load_folder_with_random_split_depends_on_the_seed_and_fingerprint_on_content(tmp_path: Path) -> None:
    where = str(write(tmp_path / "a"))
    first, again, other = (load_data(where, "val", split_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.tensors["vector"], again.tensors["vector"])
    assert not torch.equal(first.tensors["vector"], other.tensors["vector"])
    assert first.fingerprint == again.fingerprint != other.fingerprint
    write(tmp_path / "a", vector=np.zeros((N, 6)) + np.arange(6))
    assert load_data(where, "val").fingerprint != first.fingerprint


def test_load_folder_with_nan_raises_unless_the_item_is_absent_or_missing_nan_is_set(tmp_path: Path) -> None:
    vector = arrays()["vector"]
    vector[7, 2] = np.nan
    where = str(write(tmp_path / "a", vector=vector))
    with pytest.raises(
        ValueError, match=r"vector\.npy: modality 'vector': item 7: value at \(2,\) must be a number, got nan: set"
    ):
        load_data(where, "train")
    everywhere = [load_data(where, split, missing_nan=True) for split in ("train", "val", "test")]
    assert sum(int((~data.present).sum()) for data in everywhere) == 1
    assert all(data.tensors["vector"].isfinite().all() for data in everywhere)
    write(tmp_path / "a", META.replace("words: {", "vector: {missing_nan: true}, words: {"), vector=vector)
    assert sum(int((~load_data(where, s).present).sum()) for s in ("train", "val", "test")) == 1
    present = np.ones((N, 5), dtype=bool)
    present[7, 3] = False
    write(tmp_path / "a", vector=vector, present=present)
    assert sum(int((~load_data(where, s).present).sum()) for s in ("train", "val", "test")) == 1


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def changed(name: str, item: tuple[int, ...], value: Any, dtype: Any = None) -> np.ndarray[Any, Any]:
    array = arrays()[name].astype(dtype or arrays()[name].dtype)
    array[item] = value
    return array


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rna": arrays()["rna"][:-1]}, "rna.npy: modality 'rna': must have 20 items as 'flags' has, got 19"),
    ({"labels": np.zeros(3, dtype=int)}, "labels.npy: labels must be (item,) = (20,) of integers or strings, or (item, attribute) = (20, …) of bool, got (3,) of int64"),
    ({"labels": np.full(N, 0.5)}, "labels.npy: item 0: label must be a whole number, or NaN for an item without a label, got 0.5"),
    ({"labels": np.full(N, np.nan)}, "labels.npy: some item must have a label, got none: leave the labels out"),
    ({"labels": changed("labels", (4,), -1, int)}, "labels.npy: item 4: label must be from 0 to 65535, got -1"),
    ({"labels": changed("labels", (4,), 10**9, int)}, "labels.npy: item 4: label must be from 0 to 65535, got 1000000000"),
    ({"present": np.ones((N, 4), dtype=bool)}, "present.npy: present must be (item, modality) = (20, 5) of bool, with columns flags, image, rna, vector, words, got (20, 4) of bool"),
    ({"present": np.ones((N, 5))}, "words, got (20, 5) of float64"),
    ({"present": np.zeros((N, 5), dtype=bool)}, "flags.npy: modality 'flags': must be present in at least one item, got none"),
    ({"split": np.full(N, 3)}, "split.npy: item 0: split must be 0, 1, 2 or train, val, test, got 3"),
    ({"split": np.array(["train"] * 19 + ["dev"])}, "split.npy: item 19: split must be 0, 1, 2 or train, val, test, got dev"),
    ({"split": np.ones(N, dtype=int)}, "split.npy: split 'train' must have at least one item, got none"),
    ({"split": np.zeros((N, 2), dtype=int)}, "split.npy: split must be (item,) = (20,) of 0, 1, 2 or train, val, test, got (20, 2) of int64"),
    ({"vector": changed("vector", (3, 1), np.inf)}, "vector.npy: modality 'vector': item 3: value at (1,) must be finite, got inf"),
    ({"vector": changed("vector", (3, 1), 1e300)}, "vector': item 3: value at (1,) must be finite in the floating type that it is converted to, got inf"),
    ({"vector": np.zeros((N, 4))}, "vector.npy: modality 'vector': values must vary, got 0.0 everywhere"),
    ({"vector": np.zeros((N, 0))}, "vector.npy: modality 'vector': items must hold at least one value, got items of shape (0,)"),
    ({"vector": np.zeros((0, 4))}, "vector.npy: modality 'vector': must be (item, …) with at least one item, got an array of shape (0, 4)"),
    ({"vector": np.float64(3)}, "vector.npy: modality 'vector': must be (item, …) with at least one item, got an array of shape ()"),
    ({"vector": np.array([["x"]] * N)}, "vector.npy: modality 'vector': must be of bool, integers or floats, or strings"),
    ({"vector": np.array(["x\n"] * N)}, "vector.npy: modality 'vector': strings must consist of printable characters"),
    ({"vector": np.zeros((N, 4), dtype=complex)}, "vector': must be of bool, integers or floats, or strings (item,) as text in memory, got complex128"),
    ({"vector": np.array([[1], [1, 2]] * 10, dtype=object)}, "vector.npy: must be a readable .npy file, got an error: Array can't be memory-"),
    ({"vector": npy(np.zeros((N, 4)))[:-9]}, "vector.npy: must be a readable .npy file, got an error: "),
    ({"vector": npy(np.zeros((N, 4))) + b"x"}, "vector.npy: must be a readable .npy file, got an error: 1 bytes follow the array"),
    ({"vector": b""}, "vector.npy: must be a readable .npy file, got an error: "),
    ({"vector": b"PK\x03\x04 a zip"}, "vector.npy: must be a readable .npy file, got an error: "),
    ({"rna": changed("rna", (2, 0), -1)}, "rna.npy: modality 'rna': item 2: value at (0,) must be a count of at least 0, got -1"),
    ({"rna": changed("rna", (2, 0), 1.5, float)}, "rna': item 2: value at (0,) must be an integer, as a count is, got 1.5: these are not whole counts; round them, or set data_type to vector"),
    ({"rna": changed("rna", (2, 0), 2**24 + 1)}, "rna': item 2: value at (0,) must be a count of at most 16777216, got 16777217"),
    ({"words": changed("words", (1, 1), 7)}, "words': item 1: value at (1,) must be a token below classes = 7, got 7"),
    ({"words": changed("words", (1, 1), -2, int)}, "words': item 1: value at (1,) must be a token of at least 0, got -2"),
    ({"words": changed("words", (1, 1), 1, float)}, "words': tokens must be integers, got float64"),
    ({"other": np.zeros((N, 2), dtype=int)}, "other': integers of shape (item, 2) may be tokens, counts or numbers: set"),
]  # fmt: skip


def error_of(where: Path, split: str = "train", **options: Any) -> str:
    with pytest.raises(ValueError, match=r".") as error:
        load_data(str(where), split, **options)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(where))
    return str(error.value)


@pytest.mark.parametrize(("changes", "expected"), REFUSED, ids=[f"{n}-{e[-20:]}" for n, (_, e) in enumerate(REFUSED)])
def test_load_folder_with_an_unfit_array_raises_in_one_line(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert expected in error_of(write(tmp_path / "a", **changes))


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (
            "modalities: {rna: {knd: counts}}",
            "meta.yaml: modalities.rna.knd: no such key; there are data_type, likelihood",
        ),
        ("modality: {}", "meta.yaml: modality: no such key; there are modalities, missing_nan, allow_constant"),
        ("modalities: {rna: {kind: count}}", "meta.yaml: modalities.rna: data_type must be one of image, "),
        (
            "modalities: {rna: {weight: -1}}",
            "meta.yaml: modalities.rna: reconstruction_weight must be finite and not negative, got -1.0",
        ),
        ("modalities: {RNA: {kind: counts}}", "there is an entry for modality 'RNA', the data has flags, image, rna"),
        (
            "modalities: {rna: {kind: counts, likelihood: normal}}",
            "likelihood 'normal' does not fit data_type 'counts'",
        ),
        ("modalities: {rna: {kind: counts, classes: 3}}", "classes must be left out for data_type 'counts', got 3"),
        ("modalities: {rna: {kind: image}}", "rna': image must be uint8, uint16 or floats, got int64"),
        (
            "modalities: {flags: {kind: vector}, vector: {kind: image}, rna: {kind: counts}}",
            "vector': found items of shape (4,), expected images (channel, height,",
        ),
        ("modalities: [1", "meta.yaml, line 1: not valid YAML"),
        ("- a", "meta.yaml: the whole: "),
        ("a: 2001-99-99", "meta.yaml: not a valid value of YAML (month must be in 1..12)"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_load_folder_with_an_invalid_meta_file_raises_in_one_line(meta: str, expected: str, tmp_path: Path) -> None:
    assert expected in error_of(write(tmp_path / "a", meta))


def test_load_folder_options_override_the_meta_file(tmp_path: Path) -> None:
    where = write(tmp_path / "a", "allow_constant: true\n", vector=np.zeros((N, 4)))
    assert "rna.npy: modality 'rna': integers of shape (item, 5)" in error_of(where)
    wrong = "kinds of 'rna' must be one of image, vector, binary, tokens, counts, got 'dots'"
    assert wrong in error_of(where, kinds={"rna": "dots"})
    data = load_data(str(where), kinds=KINDS)
    assert data.modality_specs["rna"].data_type == "counts"
    assert "values must vary, got 0.0 everywhere" in error_of(where, kinds=KINDS, allow_constant=False)
    assert "split_seed must be an integer of at least 0, got -1" in error_of(where, kinds=KINDS, split_seed=-1)
    few = write(tmp_path / "b", **{name: array[:2] for name, array in arrays().items()})
    assert "split 'val' must have at least one item, got none of 2: give the split of each item" in error_of(few, "val")


def member(name: str, content: bytes = npy(np.zeros(3))) -> Callable[[Path], None]:
    def write_zip(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)

    return write_zip


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (member("../a.npy"), "got '../a.npy'"),
        (member("/etc/a.npy"), "got '/etc/a.npy'"),
        (member("a/b.npy"), "got 'a/b.npy'"),
        (member("..\\a.npy"), "members must be NAME.npy"),
        (member("a.txt"), "got 'a.txt'"),
        (member("a.npy", b"x"), "must be a readable .npz file, got an error"),
        (member("a.npy", npy(np.array([{}], dtype=object))), "Object arrays cannot be loaded when allow_pickle=False"),
        (member("a.npy", npy(np.zeros(9))[:-8]), "'a.npy' must have 200 bytes, got 192"),
        (
            member("a.npy", npy(np.zeros(9)).replace(b"(9,)", b"(9999999999999,)")),
            "must be a readable .npz file, got an error",
        ),
        (
            lambda path: path.write_bytes(b"no zip"),
            "must be a readable .npz file, got an error: File is not a zip file",
        ),
        (lambda path: path.write_bytes(b""), "must be a readable .npz file, got an error: File is not a zip file"),
    ],
)
def test_load_npz_of_a_dangerous_or_damaged_archive_raises(
    make: Callable[[Path], None], expected: str, tmp_path: Path
) -> None:
    make(tmp_path / "a.npz")
    assert expected in error_of(tmp_path / "a.npz")
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".npy"] == []


def test_load_folder_of_large_files_maps_them_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = write(tmp_path / "a")
    assert all(isinstance(value, torch.Tensor) for value in load_data(str(where)).modalities.values())
    monkeypatch.setattr(mapped, "LARGE", 500)
    modalities = load_data(str(where)).modalities
    mapped_names = {name for name, value in modalities.items() if not isinstance(value, torch.Tensor)}
    assert mapped_names == {name for name, array in arrays().items() if array.nbytes >= 500} - {"labels"}
