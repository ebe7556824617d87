"""MultimodalDataset: what it refuses, and what it hands on."""

from __future__ import annotations

import json
from typing import Any

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


def test_length_names_and_one_line_repr() -> None:
    data = make()
    assert len(data) == 4
    assert data.names == ("a", "b")
    assert repr(data) == "MultimodalDataset('small', 'train', 4 items: a (3, 2, 2), b (1, 1, 1))"
    assert json.loads(json.dumps(data.provenance)) == data.provenance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": {}}, "modalities: found none, expected at least one"),
        (
            {"modalities": {"a": torch.zeros(4, 1), "b": torch.zeros(3, 1)}},
            "modality 'b': found 3 items, expected 4 as in 'a'",
        ),
        (
            {"modalities": {"a": torch.zeros(0, 1), "b": torch.zeros(0, 1)}},
            "modality 'a': found 0 items, expected at least one",
        ),
        ({"modalities": {"a": [1, 2], "b": torch.zeros(2)}}, "modality 'a': found list, expected a tensor (item, ...)"),
        (
            {"present": torch.ones(4, 3, dtype=torch.bool)},
            "present: found (4, 3) of torch.bool, expected (item, modality) = (4, 2) of torch.bool",
        ),
        (
            {"present": torch.ones(4, 2)},
            "present: found (4, 2) of torch.float32, expected (item, modality) = (4, 2) of torch.bool",
        ),
        (
            {"labels": torch.zeros(5, dtype=torch.int64)},
            "labels: found (5,) of torch.int64, expected (item,) = (4,) of torch.int64",
        ),
        (
            {"labels": torch.zeros(4, dtype=torch.int32)},
            "labels: found (4,) of torch.int32, expected (item,) = (4,) of torch.int64",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="found") as error:
        make(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize("index", [[2, 0], torch.tensor([2, 0])])
def test_subset_takes_the_same_items_of_every_part_in_the_order_of_the_index(index: list[int] | torch.Tensor) -> None:
    data = make()
    part = data.subset(index)
    assert part.labels is not None
    assert part.labels.tolist() == [4, 3]
    assert part.present.tolist() == [[False, True], [True, True]]
    for name in data.names:
        assert torch.equal(part.modalities[name], data.modalities[name][[2, 0]])
    assert (part.name, part.split, part.provenance, part.names) == (data.name, data.split, data.provenance, data.names)


def test_subset_by_mask_and_its_copies() -> None:
    data = make(labels=None)
    part = data.subset(torch.tensor([False, True, False, True]))
    assert part.labels is None
    assert part.modalities["b"].flatten().tolist() == [1, 3]
    part.modalities["b"].fill_(9)
    assert data.modalities["b"].flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("index", [[], torch.zeros(0, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)])
def test_an_empty_subset_is_refused(index: list[int] | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        make().subset(index)


@pytest.mark.parametrize("index", [[4], [0.5]])
def test_an_index_out_of_range_or_not_whole_is_refused(index: list[int]) -> None:
    with pytest.raises(IndexError):
        make().subset(index)


@pytest.mark.parametrize("labels", [None, torch.tensor([3, 1, 4, 1])])
def test_to_moves_every_tensor(labels: torch.Tensor | None) -> None:
    moved = make(labels=labels).to("meta")
    tensors = [*moved.modalities.values(), moved.present] + ([] if moved.labels is None else [moved.labels])
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == (3 if labels is None else 4)


def test_labels_may_be_attributes() -> None:
    attributes = torch.tensor([[True, False], [False, False], [True, True], [False, True]])
    data = make(labels=attributes, label_names=("Bald", "Smiling"))
    some = data.subset([2, 0]).to("cpu")
    assert some.label_names == ("Bald", "Smiling")
    assert some.labels is not None
    assert some.labels.tolist() == [[True, True], [True, False]]
    wrong = {
        r"labels: found \(4, 2\) of torch.bool, expected \(item,\)": {"labels": attributes},
        r"labels: found \(4, 2\) of torch.bool, expected \(item, attribute\) = \(4, 3\) of torch.bool": {
            "labels": attributes, "label_names": ("a", "b", "c"),
        },
        r"labels: found \(4, 2\) of torch.int64, expected \(item, attribute\)": {
            "labels": attributes.long(), "label_names": ("a", "b"),
        },
        r"label_names: found 2 names, expected no two alike": {"labels": attributes, "label_names": ("a", "a")},
    }  # fmt: skip
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            make(**changes)
