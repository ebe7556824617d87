"""Tests of data sets made of Python values: arrays, strings, tables, sparse matrices, AnnData and MuData."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from pyro_mmvae import ModalitySpec
from pyro_mmvae.data import from_arrays, to_dataset
from pyro_mmvae.data.storage import rows
from pyro_mmvae.data.storage.mapped import MappedTensor

TEXT = {"caption": ModalitySpec(data_type="tokens", alphabet="*abc ", padding="*")}


def test_to_dataset_given_data_set_returns_it() -> None:
    data = from_arrays({"v": np.random.default_rng(0).normal(size=(4, 2))})
    assert to_dataset(data) is data
    with pytest.raises(ValueError, match="labels, present and covariates must be None"):
        to_dataset(data, labels=[0, 1, 0, 1])


def test_to_dataset_given_arrays_tensors_and_strings_keeps_order_and_marks_absent() -> None:
    photo = np.random.default_rng(0).integers(0, 255, (3, 12, 10), dtype=np.uint8)
    sensors = torch.tensor([[1.0, 2.0], [float("nan")] * 2, [3.0, 5.0]], dtype=torch.float64)
    data = to_dataset({"photo": photo, "sensors": sensors, "caption": ["ab", None, ""]}, labels=["cat", None, "ant"])
    assert data.names == ("photo", "sensors", "caption")
    assert data.present.tolist() == [[True, True, True], [True, False, False], [True, True, True]]
    assert data.modalities["photo"].shape == (3, 1, 12, 10)
    assert data.modalities["photo"].dtype == torch.uint8
    assert data.tensors["sensors"].tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 5.0]]
    assert data.modality_specs["caption"].alphabet == "*ab"
    assert data.class_names == ("ant", "cat")
    assert data.labels is not None
    assert data.labels.tolist() == [1, -1, 0]
    assert data.item_ids is None


def test_to_dataset_given_tables_of_different_index_aligns_by_key() -> None:
    left = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.5]}, index=["x", "y", "z"])
    right = pd.DataFrame({"c": [7.0, 8.5]}, index=["w", "y"])
    texts = pd.Series(["hi", "ho"], index=["z", "w"], name="caption")
    labels = pd.Series([1, 0], index=["w", "x"])
    data = to_dataset({"left": left, "right": right, "text": texts}, labels=labels)
    assert data.item_ids is not None
    assert data.item_ids.tolist() == ["x", "y", "z", "w"]
    assert data.present.tolist() == [
        [True, False, False],
        [True, True, False],
        [True, False, True],
        [False, True, True],
    ]
    assert data.tensors["right"].flatten().tolist() == [0.0, 8.5, 0.0, 7.0]
    assert data.feature_names == {"left": ("a", "b"), "right": ("c",)}
    assert data.labels is not None
    assert data.labels.tolist() == [0, -1, -1, 1]


def test_to_dataset_given_array_beside_tables_of_different_index_raises() -> None:
    left, right = pd.DataFrame({"a": [1.0, 2]}, index=["x", "y"]), pd.DataFrame({"b": [1.0, 2]}, index=["y", "x"])
    with pytest.raises(ValueError, match="modality 'photo' must have an index, as the indices of left, right differ"):
        to_dataset({"left": left, "right": right, "photo": np.ones((2, 3))})
    data = to_dataset({"left": left, "right": right.loc[["x", "y"]], "v": np.array([[1.0], [4.0]])})
    assert data.tensors["right"].flatten().tolist() == [2.0, 1.0]


def test_to_dataset_given_categories_keeps_their_order() -> None:
    labels = pd.Series(pd.Categorical(["lo", None, "hi"], categories=["lo", "mid", "hi"], ordered=True))
    data = to_dataset({"v": np.array([[1.0], [2.0], [4.0]])}, labels=labels)
    assert data.class_names == ("lo", "hi")
    assert data.labels is not None
    assert data.labels.tolist() == [0, -1, 1]


def test_to_dataset_given_table_of_attributes_takes_names_of_columns() -> None:
    labels = pd.DataFrame({"old": [True, False], "ill": [False, False]})
    data = to_dataset({"v": np.array([[1.0], [2.0]])}, labels=labels)
    assert data.label_names == ("old", "ill")
    assert data.labels is not None
    assert data.labels.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"v": pd.DataFrame({"a": [1.0, 2], "b": [np.nan, 1]}, index=["p", "q"])}, {}, "item 'p': feature 'b' must be"),
        ({"v": np.array([[1.0, np.nan], [1, 2]])}, {}, r"modality 'v': item 0: the value at \(1,\) must be a number"),
        ({"v": ["a", 3]}, {}, "item 1 must be a string as others are"),
        ({"v": [np.ones(2), None, np.ones(3)]}, {}, r"item 2 must have the shape \(2,\) of item 0, got \(3,\)"),
        ({"v": pd.DataFrame({"a": [1.0, 2], "b": ["x", "y"]})}, {}, "column 'b' must hold numbers"),
        ({"v": pd.DataFrame({"a": [1.0, 2]}, index=["x", "x"])}, {}, "must name each item once, got 'x' twice"),
        ({"a": np.ones((2, 1)), "b": np.ones((3, 1))}, {}, "modality 'b' must have 2 items as 'a' has, got 3"),
        ({"a": np.array([[1.0], [2.0]]), "b": None}, {}, "modality 'b' must be present in some item"),
        ({"a": None}, {}, "some modality must have values"),
        ({"a": np.array([[1.0], [2.0]])}, {"labels": [1]}, "labels must be 2, one per item, got 1"),
        ({"a": np.array([[1.0], [2.0]])}, {"labels": [1, "b"]}, "labels must be all strings or all numbers"),
        ({"a": np.array([[1.0], [2.0]])}, {"present": np.ones((3, 1))}, r"present must be \(item, modality\) = "),
        ({"a": np.array([[1.0], [2.0]])}, {"present": {"b": [True]}}, "present must name modalities among a"),
        ({"a": scipy.sparse.csr_matrix(np.eye(3))}, {}, "must have a data type, as it holds whole numbers only"),
        ({"caption": ["ab", "xb"]}, {"specs": TEXT}, "item 1: every character must be in the alphabet"),
        ({"caption": ["ab", "a" * 9]}, {"specs": TEXT, "shapes": {"caption": (8,)}}, "item 1 must have at most 8 char"),
    ],
)  # fmt: skip
def test_to_dataset_given_bad_values_raises_one_line(values: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        to_dataset(values, **options)
    assert "\n" not in str(caught.value)


def test_to_dataset_given_no_mapping_raises_type_error() -> None:
    with pytest.raises(TypeError, match="values must be a mapping"):
        to_dataset(np.ones((2, 2)))


def test_to_dataset_given_specs_encodes_strings_and_fills_absent_modality() -> None:
    specs = {**TEXT, "photo": ModalitySpec(data_type="image", pixels=True)}
    data = to_dataset(
        {"photo": None, "caption": ["cab", None]}, specs=specs, shapes={"caption": (12,), "photo": (3, 8, 8)}
    )
    assert data.tensors["caption"].shape == (2, 12)
    assert data.tensors["caption"][0, :4].tolist() == [3, 1, 2, 0]
    assert data.names == ("photo", "caption")
    assert data.modalities["photo"].shape == (2, 3, 8, 8)
    assert data.present.tolist() == [[False, True], [False, False]]


def test_to_dataset_given_specs_accepts_one_constant_item() -> None:
    data = to_dataset({"v": np.ones((1, 3))}, specs={"v": ModalitySpec(data_type="vector")})
    assert data.tensors["v"].tolist() == [[1.0, 1.0, 1.0]]


def test_to_dataset_large_sparse_matrix_stays_sparse_and_reads_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "DENSE_BYTES", 0)
    counts = np.random.default_rng(0).poisson(0.5, (6, 3)).astype(np.float32)
    data = to_dataset({"rna": scipy.sparse.csr_matrix(counts)}, specs={"rna": ModalitySpec(data_type="counts")})
    assert isinstance(data.modalities["rna"], MappedTensor)
    assert isinstance(data.modalities["rna"].column.array, rows.MatrixRows)
    torch.testing.assert_close(data.tensors["rna"], torch.from_numpy(counts))


def test_to_dataset_large_sparse_matrices_are_matched_by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "DENSE_BYTES", 0)
    first, second = (
        SimpleNamespace(X=scipy.sparse.csr_matrix(matrix), obs_names=names, var_names=["g", "h"])
        for matrix, names in (([[0.5, 0.0], [0.0, 2.0]], ["c1", "c0"]), ([[1.5, 0.0], [0.0, 3.5]], ["c0", "c2"]))
    )
    data = to_dataset({"a": first, "b": second})
    assert data.present.tolist() == [[True, False], [True, True], [False, True]]
    assert data.tensors["a"].tolist() == [[0.5, 0.0], [0.0, 2.0], [0.0, 0.0]]
    assert data.tensors["b"].tolist() == [[0.0, 0.0], [1.5, 0.0], [0.0, 3.5]]
    assert all(isinstance(values, MappedTensor) for values in data.modalities.values())


def test_to_dataset_large_sparse_rows_of_nan_are_absent_and_single_nan_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows, "DENSE_BYTES", 0)
    matrix = scipy.sparse.csr_matrix([[0.5, 0.0], [np.nan, np.nan], [0.0, 2.5]])
    data = to_dataset({"a": matrix})
    assert isinstance(data.modalities["a"], MappedTensor)
    assert data.present[:, 0].tolist() == [True, False, True]
    assert data.tensors["a"].tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 2.5]]
    matrix = scipy.sparse.csr_matrix([[0.5, 0.0], [np.nan, np.nan], [np.nan, 2.5]])
    with pytest.raises(ValueError, match=r"item 2: the value at \(0,\) must be a number, got NaN"):
        to_dataset({"a": matrix})


def test_to_dataset_large_sparse_whole_numbers_need_a_data_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "DENSE_BYTES", 0)
    with pytest.raises(ValueError, match="must have a data type, as it holds whole numbers only"):
        to_dataset({"a": scipy.sparse.csr_matrix(np.eye(3))})


def test_to_dataset_given_sparse_counts_makes_them_dense() -> None:
    counts = np.random.default_rng(0).poisson(1.0, (5, 4))
    data = to_dataset({"rna": scipy.sparse.csr_matrix(counts)}, specs={"rna": ModalitySpec(data_type="counts")})
    assert np.array_equal(data.tensors["rna"].numpy(), counts)


def test_to_dataset_given_present_masks_partial_rows() -> None:
    values = {"v": np.array([[1.0, np.nan], [1.0, 2.0], [3.0, 0.0]]), "w": np.array([[1.0], [2.0], [3.0]])}
    data = to_dataset(values, present={"v": [False, True, True]})
    assert data.present.tolist() == [[False, True], [True, True], [True, True]]


def test_to_dataset_given_nullable_table_reads_numbers() -> None:
    table = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": pd.array([2, None, 4], dtype="Int64")})
    data = to_dataset({"v": table})
    assert data.present[:, 0].tolist() == [True, False, True]
    assert data.tensors["v"][2].tolist() == [3.0, 4.0]


def test_to_dataset_given_object_with_observations_takes_names() -> None:
    cells = SimpleNamespace(
        X=scipy.sparse.csr_matrix([[0.5, 0.0], [0.0, 2.0]]), obs_names=["c1", "c0"], var_names=["g", "h"]
    )
    protein = pd.DataFrame({"p": [1.5, 2.5]}, index=["c0", "c1"])
    data = to_dataset({"rna": cells, "protein": protein})
    assert data.item_ids is not None
    assert data.item_ids.tolist() == ["c1", "c0"]
    assert data.feature_names == {"rna": ("g", "h"), "protein": ("p",)}
    assert data.tensors["protein"].flatten().tolist() == [2.5, 1.5]


def test_to_dataset_given_mudata_and_anndata_aligns_observations_and_reads_labels() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata, mudata = pytest.importorskip("anndata"), pytest.importorskip("mudata")
        obs = pd.DataFrame({"type": ["T", "B", "T"]}, index=["c0", "c1", "c2"])
        rna = anndata.AnnData(scipy.sparse.csr_matrix(np.array([[0, 1.0], [2, 0], [3, 4]])), obs=obs)
        protein = anndata.AnnData(np.array([[0.5], [1.5]]), obs=obs.iloc[[2, 0]])
        both = mudata.MuData({"rna": rna, "protein": protein})
        specs = {"rna": ModalitySpec(data_type="counts"), "x": ModalitySpec(data_type="counts")}
        data = to_dataset(both, labels="rna:type", specs=specs)
        single = to_dataset(rna, labels="type", specs=specs)
    assert data.names == ("protein", "rna")
    assert data.item_ids is not None
    assert data.item_ids.tolist() == ["c0", "c1", "c2"]
    assert data.present.tolist() == [[True, True], [False, True], [True, True]]
    assert data.tensors["protein"].flatten().tolist() == [1.5, 0.0, 0.5]
    assert data.class_names == ("B", "T")
    assert single.names == ("x",)
    assert single.labels is not None
    assert single.labels.tolist() == [1, 0, 1]
