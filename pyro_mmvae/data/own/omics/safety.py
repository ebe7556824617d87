"""The check of an HDF5 file before a package reads it: no links out of the file, no bombs, no invalid sparse matrices.

HDF5 follows external links, external storage and virtual data sets to any file that the user can read, and libraries
allocate what a file declares, however little it stores.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

_MAX_DEPTH = 32  # of groups in groups
_MAX_OBJECTS = 200_000
_FREE_BYTES = 2**28  # which an array may take whatever its file stores of it
_MAX_RATIO = 1500  # of the size of an array to that in the file; deflate reaches about 1,000
_BLOCK = 2**22  # the number of column indices of a sparse matrix that are checked at once


def check_hdf5(file: Any, path: Path, *, whole: bool) -> None:
    """Check that an open HDF5 file can be read without harm.

    Args:
        file: The open file of h5py.
        path: Path of the file, the beginning of error messages.
        whole: If True, the column indices of sparse matrices are checked, too; if False, they are checked as rows are
            read.

    Raises:
        ValueError: If the file has a link that leads elsewhere, an array larger than what it stores can stand for, or a
            sparse matrix that is not valid; the message names the object.
    """
    import h5py  # noqa: PLC0415  (an optional dependency)

    waiting: list[tuple[Any, int]] = [(file, 0)]
    seen = {_address(h5py, file)}
    count = 0
    while waiting:
        group, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(
                f"{path}: groups must be nested at most {_MAX_DEPTH} deep, got more at {group.name[:80]!r}"
            )
        for name in group:
            count += 1
            where = f"{path}: {group.name.rstrip('/')}/{name}"
            if count > _MAX_OBJECTS:
                raise ValueError(f"{path}: must hold at most {_MAX_OBJECTS:,} objects, got more")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{where}: must be stored in the file, got a link")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                _check_dataset(item, where)
            elif isinstance(item, h5py.Group):
                if (address := _address(h5py, item)) in seen:
                    raise ValueError(f"{where}: must be a group of its own, got one that occurs twice")
                seen.add(address)
                waiting.append((item, depth + 1))
                if item.attrs.get("encoding-type") in {"csr_matrix", "csc_matrix"}:
                    _check_sparse(h5py, item, where, whole=whole)


def _address(h5py: Any, group: Any) -> int:
    return int(h5py.h5o.get_info(group.id).addr)


def _check_dataset(values: Any, where: str) -> None:
    if values.is_virtual or values.external:
        raise ValueError(f"{where}: must be stored in the file, got values of another file")
    if values.shape is None:  # no values at all
        return
    size, stored = math.prod(values.shape) * values.dtype.itemsize, int(values.id.get_storage_size())
    if size > _FREE_BYTES and size > _MAX_RATIO * stored:
        raise ValueError(
            f"{where}: an array of {size:,} bytes must be stored in at least {size // _MAX_RATIO:,}, got {stored:,}"
        )


def _check_sparse(h5py: Any, group: Any, where: str, *, whole: bool) -> None:
    """Check a compressed sparse matrix, whose indices compiled code trusts."""
    parts = [group.get(name) for name in ("data", "indices", "indptr")]
    shape = np.asarray(group.attrs.get("shape", ()))
    if any(not isinstance(part, h5py.Dataset) or part.ndim != 1 for part in parts) or shape.shape != (2,):
        raise ValueError(f"{where}: a sparse matrix must have a shape of two numbers, data, indices and indptr")
    data, indices, pointers = parts
    for part in parts:
        _check_dataset(part, where)
    is_row = group.attrs["encoding-type"] == "csr_matrix"
    major, minor = (int(number) for number in (shape if is_row else shape[::-1]))
    if indices.dtype.kind not in "iu" or pointers.dtype.kind not in "iu" or data.shape != indices.shape:
        raise ValueError(f"{where}: indices and indptr must be integers, and as many indices as data")
    if len(pointers) != major + 1:
        raise ValueError(f"{where}: indptr must have {major + 1} numbers as the shape says, got {len(pointers)}")
    bounds = pointers[:].astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != len(indices) or (np.diff(bounds) < 0).any():
        raise ValueError(f"{where}: indptr must rise from 0 to {len(indices)}, the number of values")
    for start in range(0, len(indices) if whole else 0, _BLOCK):
        check_columns(indices[start : start + _BLOCK], minor, where)


def check_columns(indices: Any, count: int, where: str) -> None:
    """Check that the column indices of a sparse matrix are columns.

    Args:
        indices: The indices of some values, integers.
        count: Number of columns of the matrix.
        where: Name of the matrix, the beginning of the error message.

    Raises:
        ValueError: If an index is out of range.
    """
    if len(indices) and not (indices.min() >= 0 and indices.max() < count):
        raise ValueError(f"{where}: indices of a sparse matrix must be from 0 to {count - 1}, got others")
