"""Matrices whose rows are made dense as they are read: sparse ones in memory, and those of HDF5 files."""

from __future__ import annotations

from typing import Any, Protocol, cast

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

DENSE_BYTES = 2**26
"""The number of bytes up to which a sparse matrix is made dense at once, since batches are faster then."""

_BLOCK_BYTES = 2**24  # of dense rows of a file, read before columns are chosen


class RowSource(Protocol):
    """A matrix that rows can be read from."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def read(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | None) -> NDArray[Any]:
        """Return rows `(row, column)` of some columns, or of all if they are None, as a new dense array."""
        ...


class MatrixRows:
    """A lazy array `(item, feature)` whose rows are read from a matrix, and made dense, as they are indexed.

    It can be used as the array of a :class:`~pyro_mmvae.data.storage.mapped.Column`. The matrix is never dense as a
    whole.

    Args:
        source: The matrix, see :func:`row_source`.
        rows: Row of the matrix that each item is, `(item,)`, -1 for an item of zeros. All rows in order by default.
        columns: Indices of the columns that are the features, `(feature,)`. All columns by default.

    Example:
        >>> matrix = scipy.sparse.csr_array(np.eye(3, dtype=np.float32))
        >>> MatrixRows(row_source(matrix), rows=np.array([2, -1]))[np.array([0, 1])].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """

    ndim = 2

    def __init__(
        self, source: RowSource, rows: NDArray[np.int64] | None = None, columns: NDArray[np.int64] | None = None
    ) -> None:
        self.source, self.columns = source, columns
        self.rows = np.arange(source.shape[0]) if rows is None else rows
        self.shape = (len(self.rows), source.shape[1] if columns is None else len(columns))
        self.dtype = source.dtype

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.rows)

    @property
    def size(self) -> int:
        """The number of values, with zeros."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """The number of bytes that the dense array would have."""
        return self.size * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """The number of bytes of one dense item."""
        return self.shape[1] * self.dtype.itemsize

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return the dense rows of some items, as a new array."""
        chosen = np.atleast_1d(self.rows[index])
        stored = chosen >= 0
        if stored.all():
            dense = self.source.read(chosen, self.columns)
        else:
            dense = np.zeros((len(chosen), self.shape[1]), dtype=self.dtype)
            if stored.any():
                dense[stored] = self.source.read(chosen[stored], self.columns)
        return dense if np.ndim(self.rows[index]) else dense[0]

    def take(self, items: NDArray[np.int64]) -> MatrixRows:
        """Return some items; of a matrix in memory only their rows and the chosen columns are kept.

        Args:
            items: Indices of the items, `(item,)`.
        """
        rows = self.rows[items]
        if not isinstance(self.source, SparseSource):
            return MatrixRows(self.source, rows, self.columns)
        stored = rows >= 0
        part = self.source.matrix[rows[stored]]
        places = np.where(stored, np.cumsum(stored) - 1, -1)
        return MatrixRows(SparseSource(part if self.columns is None else part[:, self.columns]), places)

    def stored_values(self) -> NDArray[Any] | None:
        """Return the values of all rows and columns that are stored in memory; None for a matrix that is not there."""
        return self.source.matrix.data if isinstance(self.source, SparseSource) else None

    def nonzero_items(self) -> NDArray[np.bool_]:
        """Return True for the items with a value other than zero, `(item,)`, reading the matrix once."""
        block = max(_BLOCK_BYTES // max(self.row_bytes, 1), 1)
        parts = [self[start : start + block].any(-1) for start in range(0, len(self), block)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


class SparseSource:
    """A sparse matrix in memory.

    Args:
        matrix: The matrix, a SciPy array or matrix of any sparse format; one in CSR format is not copied.
    """

    def __init__(self, matrix: Any) -> None:
        check_sparse(matrix)
        self.matrix = scipy.sparse.csr_array(matrix)
        if not self.matrix.has_canonical_format:
            self.matrix = self.matrix.copy()
            self.matrix.sum_duplicates()
        self.shape, self.dtype = self.matrix.shape, self.matrix.dtype

    def read(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | None) -> NDArray[Any]:
        """Return rows `(row, column)` of some columns, or of all if they are None, as a new dense array."""
        part = self.matrix[rows]
        return cast("NDArray[Any]", (part if columns is None else part[:, columns]).toarray())


class StoredSparseSource:
    """A sparse matrix in CSR format in an HDF5 file, of which only the pointers to rows are in memory.

    Args:
        group: The open group with ``data``, ``indices`` and ``indptr``, and the attribute ``shape``.
    """

    def __init__(self, group: Any) -> None:
        self.data, self.indices = group["data"], group["indices"]
        self.pointers = np.asarray(group["indptr"][:], dtype=np.int64)
        rows, columns = (int(length) for length in group.attrs["shape"])
        self.shape, self.dtype = (rows, columns), self.data.dtype

    def read(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | None) -> NDArray[Any]:
        """Return rows `(row, column)` of some columns, or of all if they are None, as a new dense array."""
        distinct, place = np.unique(rows, return_inverse=True)
        spans = [(int(self.pointers[a]), int(self.pointers[b])) for a, b in _find_runs(distinct)]
        data = np.concatenate([self.data[a:b] for a, b in spans])
        indices = np.concatenate([self.indices[a:b] for a, b in spans])
        if len(indices) and not (indices.min() >= 0 and indices.max() < self.shape[1]):
            raise ValueError(f"indices of the sparse matrix must be from 0 to {self.shape[1] - 1}, got others")
        lengths = self.pointers[distinct + 1] - self.pointers[distinct]
        pointers = np.concatenate([[0], lengths.cumsum()])
        part = scipy.sparse.csr_array((data, indices, pointers), shape=(len(distinct), self.shape[1]))[place]
        return cast("NDArray[Any]", (part if columns is None else part[:, columns]).toarray())


class StoredDenseSource:
    """A dense matrix in an HDF5 file.

    Args:
        values: The open data set `(row, column)`.
    """

    def __init__(self, values: Any) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def read(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | None) -> NDArray[Any]:
        """Return rows `(row, column)` of some columns, or of all if they are None, as a new dense array."""
        distinct, place = np.unique(rows, return_inverse=True)
        block = max(_BLOCK_BYTES // max(self.shape[1] * self.dtype.itemsize, 1), 1)
        parts = []
        for first, last in _find_runs(distinct):
            for start in range(first, last, block):
                rows_read = self.values[start : min(start + block, last)]
                parts.append(rows_read if columns is None else rows_read[:, columns])
        return np.concatenate(parts)[place]


def check_sparse(matrix: Any) -> None:
    """Check the indices of a compressed sparse matrix, which compiled code trusts.

    Args:
        matrix: A SciPy array or matrix; other formats than CSR and CSC are not checked.

    Raises:
        ValueError: If an index is out of range.
    """
    if getattr(matrix, "format", None) in {"csr", "csc"}:
        matrix.check_format(full_check=True)


def row_source(matrix: Any) -> RowSource:
    """Return the source of the rows of a matrix.

    Args:
        matrix: A SciPy sparse matrix, an open HDF5 data set `(row, column)`, or an open HDF5 group of a CSR matrix as
            AnnData stores it.
    """
    if scipy.sparse.issparse(matrix):
        return SparseSource(matrix)
    return StoredDenseSource(matrix) if hasattr(matrix, "dtype") else StoredSparseSource(matrix)


def read_rows(
    matrix: Any, rows: NDArray[np.int64] | None = None, columns: NDArray[np.int64] | None = None
) -> NDArray[Any] | MatrixRows:
    """Return rows of a matrix, as a dense array if the matrix is sparse, in memory and small, and lazily otherwise.

    Args:
        matrix: The matrix, see :func:`row_source`.
        rows: Row of the matrix that each item is, `(item,)`, -1 for an item of zeros. All rows in order by default.
        columns: Indices of the columns that are the features, `(feature,)`. All columns by default.
    """
    lazy = MatrixRows(row_source(matrix), rows, columns)
    return lazy[:] if isinstance(lazy.source, SparseSource) and lazy.nbytes <= DENSE_BYTES else lazy


def _find_runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return first and last, exclusive, of each run of consecutive numbers among sorted distinct ones."""
    breaks = np.flatnonzero(np.diff(rows) > 1)
    firsts, lasts = rows[np.concatenate([[0], breaks + 1])], rows[np.concatenate([breaks, [len(rows) - 1]])] + 1
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
