"""Tests of data sets made of arrays and items in memory, and of the inference of their descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from pyro_mmvae import MultimodalDataset
from pyro_mmvae.data import ModalitySpec, complete_specs, from_arrays, from_items, infer_specs
from pyro_mmvae.modality_spec import resolve_modality

ITEMS: list[dict[str, Any]] = [
    {"v": torch.tensor([1.0, 2.0]), "w": np.array([3, 1]), "label": 2},
    {"v": np.array([3.0, 4.0], dtype=np.float32), "w": None, "label": torch.tensor(0)},
    {"w": np.array([0, 5]), "label": np.int64(1)},
]
META = {"modalities": {"w": {"kind": "tokens"}}}


class Mapped(Dataset[dict[str, Any]]):
    """A data set that ``iter`` would read without end, as is common for torch data sets."""

    def __len__(self) -> int:
        return len(ITEMS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return ITEMS[index % len(ITEMS)]


class Streamed(IterableDataset[dict[str, Any]]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(ITEMS)


@pytest.mark.parametrize("items", [ITEMS, Mapped(), Streamed(), (item for item in ITEMS)])
def test_from_items_of_any_iterable_reads_values_labels_and_presence(items: Any) -> None:
    data = from_items(items, name="mine", split="val", meta=META)
    assert (data.name, data.split, data.names) == ("mine", "val", ("v", "w"))
    assert data.present.tolist() == [[True, True], [True, False], [False, True]]
    assert data.labels is not None
    assert data.labels.tolist() == [2, 0, 1]
    assert data.tensors["v"].tolist() == [[1, 2], [3, 4], [0, 0]]
    assert data.tensors["w"].tolist() == [[3, 1], [0, 0], [0, 5]]
    assert data.modality_specs["w"] == ModalitySpec(data_type="tokens", classes=6)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "items: must hold at least one item, got none"),
        (
            [{"v": 1.0}, {"v": [1.0, 2.0]}],
            "items: modality 'v': item 1 must be () of float64 as item 0 is, got (2,) of float64",
        ),
        ([{"v": 1.0}, {"v": 2}], "items: modality 'v': item 1 must be () of float64 as item 0 is, got () of int64"),
        ([{"v": 1.0, "label": 1}, {"v": 2.0}], "items: item 1 must have a label as the others have, got none"),
        ([{"label": 1}], "items: must hold at least one array of a modality, got none"),
        ([{"v/1": 1.0}, {"v/1": 2.0}], "items: modality 'v/1': the name of a modality must be a file name"),
        ([{"v": ["a"]}, {"v": ["b"]}], "items: modality 'v': must be of bool, integers or floats, or strings"),
    ],
)
def test_from_items_of_unfit_items_raises_in_one_line(items: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match="items") as error:
        from_items(items)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="items: item 1 must be a mapping from modality names to values, got list"):
        from_items([{"v": 1.0}, [2.0]])


def test_from_arrays_checks_and_converts_values() -> None:
    values = {"v": np.arange(6.0).reshape(3, 2), "x": torch.arange(3 * 64, dtype=torch.uint8).reshape(3, 1, 8, 8)}
    data = from_arrays(values, labels=[0, 1, 1], present=np.eye(3, 2, dtype=bool), provenance={"made": "here"})
    assert (data.name, data.split, data.provenance) == ("arrays", "train", {"made": "here"})
    assert data.tensors["v"].dtype == torch.float32
    assert torch.equal(data.tensors["v"][0], torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"arrays: modality 'v': item 1: value at \(0,\) must be a number, got nan"):
        from_arrays({"v": np.array([[1.0], [np.nan]])})
    data = from_arrays({"v": np.array([[1.0], [np.nan], [2.0]])}, meta={"missing_nan": True})
    assert data.present.tolist() == [[True], [False], [True]]
    with pytest.raises(
        ValueError, match=r"meta: modalities\.v: data_type must be one of image, vector, .*, got \'picture\'"
    ):
        from_arrays(values, meta={"modalities": {"v": {"kind": "picture"}}})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), ("image", "laplace", 0.75, "auto")),
        (np.zeros((2, 3, 8, 8), np.float64), ("image", "normal", "learned", "auto")),
        (np.zeros((2, 4)), ("vector", "normal", "learned", "mlp")),
        (np.zeros(2), ("vector", "normal", "learned", "mlp")),
        (np.zeros((2, 4, 5), np.float16), ("vector", "normal", "learned", "mlp")),
        (np.zeros((2, 4), bool), ("binary", "bernoulli", None, "auto")),
    ],
)
def test_infer_specs_of_unambiguous_types_follow_type_and_shape(value: Any, expected: tuple[Any, ...]) -> None:
    data = from_arrays({"x": value}, meta={"allow_constant": True})
    spec = resolve_modality(infer_specs(data)["x"], where="x")
    assert (spec.data_type, spec.likelihood, spec.scale, spec.network) == expected
    assert spec.reconstruction_weight == 1.0


@pytest.mark.parametrize(
    ("kind", "likelihood", "rest"),
    [
        ("tokens", "categorical", (None, "auto", 4, None)),
        ("counts", "negative_binomial", (None, "mlp", None, 4.0)),
        ("vector", "normal", ("learned", "mlp", None, None)),
    ],
)
def test_infer_specs_of_integers_follow_the_stated_kind(kind: str, likelihood: str, rest: tuple[Any, ...]) -> None:
    value = np.array([[0, 3, 1], [2, 0, 1], [0, 0, 0], [2, 2, 2]])
    with pytest.raises(ValueError, match="may be tokens, counts or numbers: set data_type"):
        from_arrays({"x": value})
    data = from_arrays({"x": value}, meta={"modalities": {"x": {"kind": kind}}})
    spec = complete_specs(data, {"x": resolve_modality(infer_specs(data)["x"], where="x")})["x"]
    assert (spec.data_type, spec.likelihood) == (kind, likelihood)
    assert (spec.scale, spec.network, spec.classes, spec.reference_total) == rest


def test_complete_specs_of_counts_takes_the_median_of_positive_totals() -> None:
    value = np.array([[1, 1], [5, 5], [20, 20], [0, 0], [900, 900]])
    present = np.array([[True], [True], [True], [True], [False]])
    data = from_arrays({"x": value}, present=present, meta={"modalities": {"x": {"likelihood": "poisson"}}})
    assert complete_specs(data, infer_specs(data))["x"].reference_total == 10.0


def test_infer_specs_of_a_bare_data_set_uses_present_items_only() -> None:
    present = torch.tensor([[True], [False]])
    tokens = MultimodalDataset(
        {"t": torch.tensor([[1, 2], [9, 9]])},
        None,
        present,
        "bare",
        "train",
        modality_specs={"t": ModalitySpec(data_type="tokens")},
    )
    assert complete_specs(tokens, infer_specs(tokens))["t"].classes == 3  # what is absent does not count
    bare = MultimodalDataset({"t": torch.tensor([[1, 2], [9, 9]])}, None, present, "bare", "train")
    with pytest.raises(ValueError, match="bare: modality 't': integers of shape"):
        infer_specs(bare)
