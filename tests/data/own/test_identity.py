"""Tests of item ids and names of features: every source keeps them, and unfit ones are one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pyro_mmvae.cli import main
from pyro_mmvae.data import MultimodalDataset, from_arrays, from_items, load_data

N = 20
IDS = np.array([f"cell {number}" for number in range(N)])
GENES = ("actin", "β-globin", "cd4")


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return {
        "rna": np.arange(3.0 * N).reshape(N, 3),
        "words": generator.integers(0, 6, (N, 2)),
        "features_rna": np.array(GENES),
        "ids": IDS,
    }


def write(folder: Path, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    for name, array in {**arrays(), **changes}.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    (folder / "meta.yaml").write_text("modalities: {words: {data_type: tokens}}\n")
    return str(folder)


def ids_of(data: MultimodalDataset) -> list[str]:
    assert data.item_ids is not None
    return data.item_ids.tolist()


@pytest.mark.parametrize("options", [{}, {"memory_map": True}, {"missing_rate": 0.5}])
def test_load_folder_splits_keep_ids_and_feature_names(tmp_path: Path, options: dict[str, Any]) -> None:
    where, seen = write(tmp_path / "a"), []
    for split in ("train", "val", "test"):
        data = load_data(where, split, **options)
        assert data.names == ("rna", "words")
        assert data.feature_names == {"rna": GENES}
        assert ids_of(data) == [f"cell {int(row) // 3}" for row in data.tensors["rna"][:, 0]]
        assert ids_of(data.subset([0])) == ids_of(data)[:1]
        seen += ids_of(data)
    assert sorted(seen) == sorted(IDS)


def test_load_npz_keeps_integer_ids_as_strings(tmp_path: Path) -> None:
    content = {**arrays(), "ids": np.arange(N) + 7}
    del content["words"]
    np.savez(tmp_path / "a.npz", **content)
    data = load_data(str(tmp_path / "a.npz"), "test", split_seed=3)
    assert ids_of(data) == [str(int(row) // 3 + 7) for row in data.tensors["rna"][:, 0]]
    assert data.feature_names == {"rna": GENES}


def test_from_arrays_takes_ids_and_feature_names_of_any_sequence() -> None:
    table = {"rna": arrays()["rna"]}
    data = from_arrays(table, item_ids=range(N), feature_names={"rna": np.array(GENES, dtype=object)})
    assert ids_of(data) == [str(number) for number in range(N)]
    assert data.feature_names == {"rna": GENES}
    assert from_arrays(table).item_ids is None


@pytest.mark.parametrize("in_folder", [False, True])
def test_from_items_keeps_ids(tmp_path: Path, in_folder: bool) -> None:
    folder = tmp_path / "cells" if in_folder else None
    items = [{"v": np.array([1.0, 2.0 * number]), "id": f"x{number}" * (number + 1)} for number in range(12)]
    data = from_items(items, folder=folder)
    expected = [item["id"] for item in items]
    assert (data.names, ids_of(data)) == (("v",), expected)
    if folder is not None:
        splits = [load_data(str(folder), split) for split in ("train", "val", "test")]
        assert sorted(name for split in splits for name in ids_of(split)) == sorted(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.arange(N - 1)}, "ids.npy: ids must be (item,) = (20,) of strings or integers, got (19,) of int64"),
        ({"ids": np.zeros(N)}, "ids.npy: ids must be (item,) = (20,) of strings or integers, got (20,) of float64"),
        ({"ids": np.arange(N) // 2}, "ids.npy: ids must be distinct, got '0' twice"),
        (
            {"features_rna": np.array(["a", "b"])},
            "features_rna.npy: must be strings (feature,) for a modality 'rna' of vectors (item, feature), got (2,) of "
            "<U1 for items of shape (3,)",
        ),
        (
            {"features_rna": np.array(["a", "b", "a"])},
            "features_rna.npy: names of features of 'rna' must be distinct, got 'a' twice",
        ),
        (
            {"features_dna": np.array(["a"])},
            "features_dna.npy: must name the features of a modality, got names for 'dna', which is none of rna, words: "
            "names of modalities may not begin with 'features_'",
        ),
    ],
)
def test_load_folder_of_unfit_names_raises_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\.npy") as error:
        load_data(write(tmp_path / "a", **changes))
    assert str(error.value) == f"{tmp_path}/a/{message}"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", None], "items: item 1 must have an id as the others have, got none"),
        ([None, "a"], "items: item 0 must have an id as the others have, got none"),
        (["a", 1.5], "items: item 1: id must be a string or an integer, got 1.5"),
        (["a", "a"], "items: ids must be distinct, got 'a' twice"),
    ],
)
def test_from_items_of_unfit_ids_raises_one_line(ids: list[Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        from_items([{"v": np.array([float(number)]), "id": name} for number, name in enumerate(ids)])
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["ids", "features_a", "covariate_a"])
def test_from_items_with_a_reserved_modality_name_raises(tmp_path: Path, name: str) -> None:
    message = r"must be none of labels, present, split, ids and not begin with 'features_' or 'covariate_', got "
    with pytest.raises(ValueError, match=message + repr(name)):
        from_items([{name: np.ones(2)}], folder=tmp_path / "new")


def test_data_info_shows_ids_and_feature_names(tmp_path: Path) -> None:
    output = CliRunner().invoke(main, ["data", "info", write(tmp_path / "a"), "--split", "val"]).stdout
    assert "  rna    3 float32, none missing, features actin, β-globin, cd4\n" in output
    ids = ids_of(load_data(str(tmp_path / "a"), "val"))
    assert f"  ids     {', '.join(ids)}\n" in output
    long = write(tmp_path / "b", rna=np.arange(8.0 * N).reshape(N, 8), features_rna=np.array(list("abcdefgh")))
    output = CliRunner().invoke(main, ["data", "info", long, "--split", "train"]).stdout
    assert "features a, b, c, d, e, …\n" in output
    assert ", cell 5, …\n" in output or output.count("cell ") == 5
