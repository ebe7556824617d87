"""Tests of covariates in files and Python values: folders, archives, tables, folders of images, and pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pyro_mmvae.data import describe_data, from_arrays, load_data, match_data, to_dataset, write_folder

N = 20
DONORS = np.array(["B", "A", "A", "C"] * (N // 4))
VALUES = np.random.default_rng(0).normal(size=(N, 3))


def save(folder: Path, meta: str = "", **arrays: Any) -> str:  # noqa: ANN401
    folder.mkdir(exist_ok=True)
    for name, array in {"x": VALUES, **arrays}.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "meta.yaml").write_text(meta)
    return str(folder)


def names_of(data: Any, name: str = "donor") -> list[str]:  # noqa: ANN401
    return [data.covariate_names[name][code] if code >= 0 else "" for code in data.covariates[name].tolist()]


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        (DONORS, ["A", "B", "C"]),
        (np.arange(N) % 3, ["0", "1", "2"]),
        (np.where(np.arange(N) == 4, np.nan, np.arange(N) % 3), ["0", "1", "2"]),
        (np.arange(N) % 2 == 0, ["False", "True"]),
    ],
)
def test_load_folder_reads_covariates_with_the_categories_of_all_splits(
    tmp_path: Path,
    values: Any,
    categories: list[str],  # noqa: ANN401
) -> None:
    path = save(tmp_path / "d", covariate_donor=values)
    whole = load_data(path, "all")
    assert whole.names == ("x",)
    assert whole.covariate_names == {"donor": tuple(categories)}
    expected = ["" if str(v) == "nan" else str(v).removesuffix(".0") for v in values.tolist()]
    assert names_of(whole) == expected
    for split in ("train", "val", "test"):
        part = load_data(path, split)
        assert part.covariate_names == whole.covariate_names
        rows = [VALUES.astype(np.float32).tolist().index(row) for row in part.tensors["x"].tolist()]
        assert names_of(part) == [expected[row] for row in rows]


def test_load_npz_reads_covariates_as_a_folder_does(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=VALUES, covariate_donor=DONORS)
    assert names_of(load_data(str(tmp_path / "d.npz"), "all")) == DONORS.tolist()


def test_load_folder_given_categories_in_meta_keeps_their_order(tmp_path: Path) -> None:
    path = save(tmp_path / "d", "categories: {donor: [C, B, A, Z]}", covariate_donor=DONORS)
    data = load_data(path, "all")
    assert data.covariate_names == {"donor": ("C", "B", "A", "Z")}
    assert names_of(data) == DONORS.tolist()


@pytest.mark.parametrize(
    ("meta", "arrays", "message"),
    [
        ("", {"covariate_donor": DONORS[:-1]}, r"covariate_donor.npy: covariate 'donor' must be one .* \(20,\), got"),
        ("", {"covariate_donor": np.full(N, 0.5)}, "item 0 must have a category, a string or a whole number, got 0.5"),
        ("", {"covariate_donor": np.full(N, "")}, "some item must have a category, got none"),
        ("", {"covariate_a=b": DONORS}, "the name of a covariate must be printable characters .* got 'a=b'"),
        ("categories: {donor: [A, B]}", {"covariate_donor": DONORS}, "item 3 must have one of .* A, B, got 'C'"),
        ("categories: {plate: [A, B]}", {"covariate_donor": DONORS}, r"of the data \(donor\), got 'plate'"),
    ],
)
def test_load_folder_of_wrong_covariates_names_file_and_item(
    tmp_path: Path, meta: str, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_data(save(tmp_path / "d", meta, **arrays), "all")


def test_from_arrays_of_too_many_categories_raises() -> None:
    values = np.random.default_rng(0).normal(size=(4_097, 1))
    with pytest.raises(ValueError, match="'cell' must have at most 4096 categories, got 4097"):
        from_arrays({"x": values}, covariates={"cell": [f"c{n}" for n in range(4_097)]})


def test_write_folder_keeps_covariates_and_unused_categories(tmp_path: Path) -> None:
    data = from_arrays({"x": VALUES}, covariates={"donor": ["", *DONORS[1:]]})
    parts = {"train": data.subset(range(12)), "val": data.subset(range(12, 14))}
    write_folder(tmp_path / "d", parts)
    for split, part in parts.items():
        read = load_data(str(tmp_path / "d"), split)
        assert read.covariate_names == data.covariate_names
        assert read.covariates["donor"].tolist() == part.covariates["donor"].tolist()
    other = from_arrays({"x": VALUES[:4]}, covariates={"donor": ["A", "B"] * 2})
    with pytest.raises(ValueError, match="val: categories of covariates must be"):
        write_folder(tmp_path / "e", {"train": data, "val": other})


def test_write_folder_of_a_modality_with_a_reserved_name_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nor begin with 'features_' or 'covariate_'"):
        write_folder(tmp_path / "d", {"train": from_arrays({"covariate_x": VALUES})})


@pytest.mark.parametrize("in_file", [True, False])
def test_load_manifest_given_covariates_reads_columns_that_are_not_modalities(tmp_path: Path, in_file: bool) -> None:
    table = pd.DataFrame({"a": VALUES[:, 0], "donor": DONORS, "plate": np.arange(N) % 2})
    table.loc[2, "donor"] = ""
    table.to_csv(tmp_path / "t.csv", index=False)
    if in_file:
        (tmp_path / "t.yaml").write_text("covariates: [donor, plate]\n")
    data = load_data(str(tmp_path / "t.csv"), "all", **({} if in_file else {"covariates": ("donor", "plate")}))
    assert data.names == ("a",)
    assert names_of(data) == ["B", "A", "", *DONORS[3:]]
    assert names_of(data, "plate") == ["0", "1"] * (N // 2)
    none = load_data(str(tmp_path / "t.csv"), "all", covariates=(), columns={"a": "a"})
    assert none.covariates == {}


def test_load_manifest_without_the_column_says_how_to_go_on(tmp_path: Path) -> None:
    pd.DataFrame({"a": VALUES[:, 0]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"got 'donor', which is not one: add it, or .* \[\] for data without any"):
        load_data(str(tmp_path / "t.csv"), "all", covariates="donor")


def test_load_manifest_of_a_covariate_that_is_a_modality_too_raises(tmp_path: Path) -> None:
    pd.DataFrame({"note": ["one", "two"] * 10, "a": VALUES[:, 0]}).to_csv(tmp_path / "t.csv", index=False)
    columns = {"caption": "note", "a": "a"}
    with pytest.raises(ValueError, match="must not be columns of a modality, got 'note' of modality 'caption': leave"):
        load_data(str(tmp_path / "t.csv"), "all", covariates=("note",), columns=columns)


def test_load_images_reads_covariates_of_labels_csv(tmp_path: Path) -> None:
    (tmp_path / "photo").mkdir()
    generator = np.random.default_rng(0)
    for row in range(4):
        Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / "photo" / f"{row}.png")
    (tmp_path / "labels.csv").write_text("name,device\n0,x\n2,y\n3,x\n")
    data = load_data(str(tmp_path), "all", covariates="device")
    assert data.names == ("photo",)
    assert names_of(data, "device") == ["x", "", "y", "x"]


def test_to_dataset_given_pandas_matches_covariates_by_index() -> None:
    table = pd.DataFrame(VALUES[:4], index=list("wxyz"), columns=list("abc"))
    donors = pd.Series(pd.Categorical(["A", "B", "A"]), index=["z", "x", "w"])
    data = to_dataset({"x": table}, covariates={"donor": donors, "plate": [1, None, 2, 2]})
    assert names_of(data) == ["A", "B", "", "A"]
    assert names_of(data, "plate") == ["1", "", "2", "2"]
    frame = to_dataset({"x": table}, covariates=pd.DataFrame({"donor": donors}))
    assert names_of(frame) == names_of(data)


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        (["donor"], "covariates must be a mapping or a table .* got list"),
        ({"donor": ["A"] * 3}, r"covariate 'donor' must be one category per item, \(20,\), got the shape \(3,\)"),
        ({"donor": np.zeros((N, 2))}, "must be one category per item"),
        ({"donor": [object()] * N}, "must have a category, a string or a whole number"),
        ({"donor": pd.Series(["A"] * N, index=range(100, 100 + N))}, "the index must name items such as"),
    ],
)
def test_to_dataset_of_wrong_covariates_raises(covariates: Any, message: str) -> None:  # noqa: ANN401
    table = pd.DataFrame(VALUES, index=[f"i{n}" for n in range(N)])
    with pytest.raises(ValueError, match=message):
        to_dataset({"x": table}, covariates=covariates)


def test_to_dataset_given_a_tensor_of_codes_names_them_by_number() -> None:
    assert names_of(to_dataset({"x": VALUES[:2]}, covariates={"d": torch.tensor([3, 1])}), "d") == ["3", "1"]


def test_to_dataset_given_a_data_set_and_covariates_raises() -> None:
    data = from_arrays({"x": VALUES})
    with pytest.raises(ValueError, match="labels, present and covariates must be None"):
        to_dataset(data, covariates={"donor": DONORS})


def test_match_data_of_a_table_with_one_donor_uses_the_training_codes() -> None:
    train = to_dataset({"x": VALUES}, covariates={"donor": DONORS})
    new = to_dataset({"x": VALUES[:2]}, covariates={"donor": ["C", "C"]})
    assert match_data(new, describe_data(train)).data.covariates["donor"].tolist() == [2, 2]
