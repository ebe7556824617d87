"""Rows of sparse and stored matrices against dense arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse
import torch

from pyro_mmvae.data import MappedTensor, MultimodalDataset, from_arrays, make_batch
from pyro_mmvae.data.storage import rows as rows_module
from pyro_mmvae.data.storage.mapped import Column
from pyro_mmvae.data.storage.rows import MatrixRows, read_rows, row_source

DENSE = np.random.default_rng(0).poisson(0.3, (50, 12)).astype(np.float32)
DENSE[3] = 0


@pytest.fixture(params=["csr", "csc", "duplicates", "stored csr", "stored dense"])
def matrix(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    csr = scipy.sparse.csr_matrix(DENSE)
    if request.param == "csc":
        return csr.tocsc()
    if request.param == "csr":
        return csr
    if request.param == "duplicates":  # each value stored as two halves
        halves = np.repeat(csr.data / 2, 2), np.repeat(csr.indices, 2), 2 * csr.indptr
        return scipy.sparse.csr_matrix(halves, shape=csr.shape)
    file = h5py.File(tmp_path / "a.h5", "w")
    if request.param == "stored dense":
        return file.create_dataset("x", data=DENSE)
    group = file.create_group("x")
    group.attrs["shape"] = csr.shape
    for name in ("data", "indices", "indptr"):
        group[name] = getattr(csr, name)
    return group


@pytest.mark.parametrize("columns", [None, np.array([11, 0, 5])])
def test_matrix_rows_indexed_in_any_order_equal_the_dense_rows(matrix: Any, columns: Any) -> None:
    lazy = MatrixRows(row_source(matrix), columns=columns)
    expected = DENSE if columns is None else DENSE[:, columns]
    assert (lazy.shape, lazy.dtype, len(lazy), lazy.nbytes) == (expected.shape, DENSE.dtype, 50, expected.nbytes)
    for index in (np.array([4, 3, 4, 49, 0]), slice(2, 30), slice(None), np.array([3])):
        np.testing.assert_array_equal(lazy[index], expected[index])
    np.testing.assert_array_equal(lazy[7], expected[7])
    np.testing.assert_array_equal(lazy.nonzero_items(), expected.any(-1))


def test_matrix_rows_with_absent_items_give_zeros(matrix: Any) -> None:
    lazy = MatrixRows(row_source(matrix), rows=np.array([5, -1, 0]))
    np.testing.assert_array_equal(lazy[:], np.stack([DENSE[5], np.zeros(12), DENSE[0]]))
    np.testing.assert_array_equal(lazy[np.array([1])], np.zeros((1, 12)))


@pytest.mark.parametrize("columns", [None, np.array([11, 0, 5])])
def test_take_of_matrix_rows_equals_the_dense_rows(matrix: Any, columns: Any) -> None:
    lazy = MatrixRows(row_source(matrix), rows=np.array([5, -1, 0, 7]), columns=columns)
    part = lazy.take(np.array([3, 1, 0]))
    np.testing.assert_array_equal(part[:], lazy[:][[3, 1, 0]])
    stored = part.stored_values()
    assert stored is None or len(stored) == np.count_nonzero(lazy[:][[3, 1, 0]])


def test_stored_dense_source_reads_long_runs_in_blocks(matrix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_BLOCK_BYTES", 3 * DENSE[0].nbytes)
    np.testing.assert_array_equal(MatrixRows(row_source(matrix))[:], DENSE)


def test_read_rows_of_a_small_sparse_matrix_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    csr = scipy.sparse.csr_array(DENSE)
    assert isinstance(read_rows(csr), np.ndarray)
    monkeypatch.setattr(rows_module, "DENSE_BYTES", 0)
    assert isinstance(read_rows(csr), MatrixRows)


@pytest.fixture
def sparse_data(monkeypatch: pytest.MonkeyPatch) -> MultimodalDataset:
    monkeypatch.setattr(rows_module, "DENSE_BYTES", 0)
    meta = {"modalities": {"rna": {"kind": "counts"}}}
    return from_arrays({"rna": scipy.sparse.csr_array(DENSE), "v": DENSE[:, :2] + 1.5}, meta=meta)


def test_from_arrays_of_a_large_sparse_matrix_gives_dense_batches(sparse_data: MultimodalDataset) -> None:
    assert isinstance(sparse_data.modalities["rna"], MappedTensor)
    index = torch.tensor([9, 2])
    batch = make_batch(sparse_data, index)
    torch.testing.assert_close(batch.values["rna"], torch.from_numpy(DENSE[[9, 2]]))
    assert batch.values["rna"].dtype == torch.float32
    torch.testing.assert_close(sparse_data.tensors["rna"], torch.from_numpy(DENSE))


@pytest.mark.parametrize("index", [[4, 1], torch.arange(50) % 7 == 0])
def test_subset_of_sparse_rows_stays_sparse(sparse_data: MultimodalDataset, index: Any) -> None:
    part = sparse_data.subset(index).to("cpu").subset([1])
    assert isinstance(part.modalities["rna"], MappedTensor)
    expected = DENSE[np.asarray(index)][[1]]
    torch.testing.assert_close(part.tensors["rna"], torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1.0, "a count of at least 0"), (0.5, "an integer, as a count is"), (np.nan, "a number"), (np.inf, "finite")],
)
def test_from_arrays_of_sparse_counts_with_a_wrong_value_names_its_item(
    value: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "DENSE_BYTES", 0)
    wrong = DENSE.copy()
    wrong[6, 4] = value
    sparse, meta = scipy.sparse.csr_array(wrong), {"modalities": {"rna": {"kind": "counts"}}}
    with pytest.raises(ValueError, match=rf"modality 'rna': item 6: value at \(4,\) must be {message}"):
        from_arrays({"rna": sparse}, meta=meta)
    present = np.ones((50, 1), dtype=bool)
    present[6] = False  # values in absent slots are never checked
    torch.testing.assert_close(
        from_arrays({"rna": sparse}, present=present, meta=meta).tensors["rna"][7], torch.from_numpy(DENSE[7])
    )


def test_column_of_constant_sparse_rows_is_constant() -> None:
    ones = MatrixRows(row_source(scipy.sparse.csr_array(np.ones((4, 3), dtype=np.float32))))
    column = Column("here", ones, "counts", np.ones(4, dtype=bool))
    assert column.is_constant()
    assert column.first_value() == 1
    assert not Column(
        "here", MatrixRows(row_source(scipy.sparse.csr_array(DENSE))), "counts", np.ones(50, bool)
    ).is_constant()
