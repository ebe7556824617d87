"""Tests of tensors that repeat rows of another one by index."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae import MultimodalDataset
from pyro_mmvae.data import IndexedTensor, make_batch

BASE = torch.arange(5 * 3).reshape(5, 3)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_indexed_tensor_reads_like_a_copy(rows: list[int], data: Any) -> None:
    indexed, copy = IndexedTensor(BASE, torch.tensor(rows)), BASE[torch.tensor(rows)]
    count = len(rows)
    items = data.draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=8))
    start, stop = data.draw(st.tuples(st.integers(0, count), st.integers(0, count)))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    assert len(indexed) == len(copy)
    assert indexed.shape == copy.shape
    assert (indexed.dtype, indexed.dim(), indexed.device) == (copy.dtype, 2, copy.device)
    assert torch.equal(indexed[items], copy[items])
    assert torch.equal(indexed[torch.tensor(items)], copy[items])
    assert torch.equal(indexed[start:stop], copy[start:stop])
    assert torch.equal(indexed[mask], copy[mask])
    first = indexed.first_of_each(torch.arange(count))
    assert first.tolist() == [i for i in range(count) if rows[i] not in rows[:i]]


def test_indexed_tensor_shares_its_base_and_returns_copies() -> None:
    indexed = IndexedTensor(BASE, torch.tensor([4, 4]))
    assert indexed.to("cpu").base.data_ptr() == BASE.data_ptr()
    read = indexed[:]
    read.fill_(-1)
    assert (BASE >= 0).all()


def test_first_of_each_of_a_selection_ignores_other_items() -> None:
    indexed = IndexedTensor(BASE, torch.tensor([1, 0, 1, 0, 2, 1]))
    assert indexed.first_of_each(torch.tensor([2, 3, 5])).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.tensor([0, 5]), "rows must be from 0 to 4, got 0 to 5"),
        (torch.tensor([-1, 0]), "rows must be from 0 to 4, got -1 to 0"),
        (torch.tensor([[0]]), r"rows must be \(item,\) of integers, got \(1, 1\) of torch.int64"),
        (torch.tensor([0.0]), "got .* of torch.float32"),
        (torch.tensor([True]), "got .* of torch.bool"),
    ],
)
def test_indexed_tensor_with_invalid_rows_raises(rows: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IndexedTensor(BASE, rows)


def dataset() -> MultimodalDataset:
    rows = {0: [0, 1, 2], 1: [2, 2, 4]}
    values = {
        "fixed": IndexedTensor(BASE, torch.tensor([3, 0, 3])),
        "drawn": IndexedTensor(BASE, torch.tensor(rows[0]), lambda epoch: torch.tensor(rows[epoch])),
        "plain": torch.arange(3),
    }
    present = torch.tensor([[True, True, True], [False, True, True], [True, True, True]])
    return MultimodalDataset(values, torch.tensor([0, 1, 0]), present, "small", "train")


def test_data_set_with_indexed_modalities_reads_like_tensors() -> None:
    data = dataset()
    assert repr(data) == "MultimodalDataset('small', 'train', 3 items: fixed (3,), drawn (3,), plain ())"
    assert torch.equal(data.tensors["fixed"], BASE[[3, 0, 3]])
    part = data.subset([2, 0])
    assert isinstance(part.modalities["fixed"], torch.Tensor)
    assert torch.equal(part.tensors["drawn"], BASE[[2, 0]])
    batch = make_batch(data, torch.tensor([1, 2]))
    assert torch.equal(
        batch.values["fixed"], torch.stack([torch.zeros(3, dtype=torch.int64), BASE[3]])
    )  # one is absent
    assert data.to("cpu").names == data.names


def test_at_epoch_redraws_only_modalities_with_redraw() -> None:
    data = dataset()
    later = data.at_epoch(1)
    assert torch.equal(later.tensors["drawn"], BASE[[2, 2, 4]])
    assert later.modalities["fixed"] is data.modalities["fixed"]
    assert later.present is data.present
    assert torch.equal(later.at_epoch(0).tensors["drawn"], data.tensors["drawn"])
    plain = data.subset([0, 1])
    assert plain.at_epoch(1) is plain
