"""Tests of MultimodalDataset: checks, selection, and devices."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import MultimodalDataset


def make(**changes: Any) -> MultimodalDataset:  # noqa: ANN401
    parts: dict[str, Any] = {
        "modalities": {
            "a": torch.arange(4 * 12, dtype=torch.uint8).reshape(4, 3, 2, 2),
            "b": torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1),
        },
        "labels": torch.tensor([3, 1, 4, 1]),
        "present": torch.tensor([[True, True], [True, False], [False, True], [True, True]]),
        "name": "small",
        "split": "train",
        "provenance": {"seed": 0},
    }
    return MultimodalDataset(**(parts | changes))


def test_data_set_has_length_names_and_a_one_line_repr() -> None:
    data = make()
    assert len(data) == 4
    assert data.names == ("a", "b")
    assert repr(data) == "MultimodalDataset('small', 'train', 4 items: a (3, 2, 2), b (1, 1, 1))"
    assert json.loads(json.dumps(data.provenance)) == data.provenance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": {}}, "modalities must hold at least one modality, got none"),
        (
            {"modalities": {"a": torch.zeros(4, 1), "b": torch.zeros(3, 1)}},
            "modality 'b' must have 4 items as 'a' has, got 3",
        ),
        (
            {"modalities": {"a": torch.zeros(0, 1), "b": torch.zeros(0, 1)}},
            "modality 'a' must have at least one item, got 0 items",
        ),
        ({"modalities": {"a": [1, 2], "b": torch.zeros(2)}}, "modality 'a' must be a tensor (item, ...), got list"),
        (
            {"present": torch.ones(4, 3, dtype=torch.bool)},
            "present must be (item, modality) = (4, 2) of torch.bool, got (4, 3) of torch.bool",
        ),
        (
            {"present": torch.ones(4, 2)},
            "present must be (item, modality) = (4, 2) of torch.bool, got (4, 2) of torch.float32",
        ),
        (
            {"labels": torch.zeros(5, dtype=torch.int64)},
            "labels must be (item,) = (4,) of torch.int64, got (5,) of torch.int64",
        ),
        (
            {"labels": torch.zeros(4, dtype=torch.int32)},
            "labels must be (item,) = (4,) of torch.int64, got (4,) of torch.int32",
        ),
    ],
)
def test_data_set_of_unfit_parts_raises_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        make(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0])])
def test_subset_selects_the_items_of_every_part_in_order(index: list[int] | torch.Tensor) -> None:
    data = make()
    part = data.subset(index)
    assert part.labels is not None
    assert part.labels.tolist() == [4, 3]
    assert part.present.tolist() == [[False, True], [True, True]]
    for name in data.names:
        assert torch.equal(part.modalities[name], data.modalities[name][[2, 0]])
    assert (part.name, part.split, part.provenance, part.names) == (data.name, data.split, data.provenance, data.names)


def test_subset_by_mask_returns_copies() -> None:
    data = make(labels=None)
    part = data.subset(torch.tensor([False, True, False, True]))
    assert part.labels is None
    assert part.modalities["b"].flatten().tolist() == [1, 3]
    part.modalities["b"].fill_(9)
    assert data.modalities["b"].flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("index", [[], torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)])
def test_subset_of_no_item_raises(index: list[int] | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must select at least one item"):
        make().subset(index)


@pytest.mark.parametrize("index", [[4], [0.5]])
def test_subset_of_an_invalid_index_raises(index: list[int]) -> None:
    with pytest.raises(IndexError):
        make().subset(index)


@pytest.mark.parametrize("labels", [None, torch.tensor([3, 1, 4, 1])])
def test_to_moves_every_tensor(labels: torch.Tensor | None) -> None:
    moved = make(labels=labels).to("meta")
    tensors = [*moved.modalities.values(), moved.present] + ([] if moved.labels is None else [moved.labels])
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == (3 if labels is None else 4)


def test_data_set_with_attributes_checks_their_shape_and_names() -> None:
    attributes = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    data = make(labels=attributes, label_names=("Bald", "Smiling"))
    part = data.subset([2, 0]).to("cpu")
    assert part.label_names == ("Bald", "Smiling")
    assert part.labels is not None
    assert part.labels.tolist() == [[True, True], [True, False]]
    wrong = {
        r"labels must be \(item,\) = \(4,\) of torch.int64, got \(4, 2\) of torch.bool": {"labels": attributes},
        r"labels must be \(item, attribute\) = \(4, 3\) of torch.bool, got \(4, 2\) of torch.bool": {
            "labels": attributes, "label_names": ("a", "b", "c"),
        },
        r"labels must be \(item, attribute\) = \(4, 2\) of torch.bool, got \(4, 2\) of torch.int64": {
            "labels": attributes.long(), "label_names": ("a", "b"),
        },
        r"label_names must be distinct, got 'a' twice": {"labels": attributes, "label_names": ("a", "a")},
    }  # fmt: skip
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            make(**changes)


def make_with_identity(**changes: Any) -> MultimodalDataset:  # noqa: ANN401
    parts: dict[str, Any] = {
        "modalities": {"rna": torch.zeros(4, 2)},
        "present": torch.ones(4, 1, dtype=torch.bool),
        "item_ids": np.array(["c0", "c1", "c2", "c3"]),
        "feature_names": {"rna": ("CD4", "CD8A")},
    }
    return make(**(parts | changes))


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0])])
def test_subset_keeps_identifiers_and_feature_names(index: list[int] | torch.Tensor) -> None:
    part = make_with_identity().subset(index)
    assert part.item_ids is not None
    assert part.item_ids.tolist() == ["c2", "c0"]
    assert part.feature_names == {"rna": ("CD4", "CD8A")}


def test_subset_by_mask_keeps_identifiers() -> None:
    part = make_with_identity().subset(torch.tensor([False, True, False, True]))
    assert part.item_ids is not None
    assert part.item_ids.tolist() == ["c1", "c3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_ids": np.array(["c0", "c1"])}, "item_ids must have 4 entries, one per item, got 2"),
        ({"item_ids": np.array(["c0", "c1", "c0", "c3"])}, "item_ids must be distinct, got 'c0' twice"),
        (
            {"feature_names": {"rna": ("CD4",)}},
            "feature_names of 'rna' must name the features of a modality (item, feature), got 1 names for (4, 2)",
        ),
        (
            {"feature_names": {"adt": ("CD4", "CD8A")}},
            "feature_names of 'adt' must name the features of a modality (item, feature), got 2 names for no such "
            "modality",
        ),
        ({"feature_names": {"rna": ("CD4", "CD4")}}, "feature_names of 'rna' must be distinct, got 'CD4' twice"),
    ],
)
def test_dataset_with_a_wrong_identity_raises(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_with_identity(**changes)
