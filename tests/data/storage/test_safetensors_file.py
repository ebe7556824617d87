"""Tests of the writer of safetensors files against the reader of the safetensors library."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from pyro_mmvae.data.storage.safetensors_file import checksums, write_arrays


@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wide=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=3),
    narrow=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=3),
    metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=2),
)
def test_write_arrays_is_read_by_the_library(
    wide: list[list[int]],
    narrow: list[list[int]],
    metadata: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and without effect on what is read back
    generator = np.random.default_rng(0)
    arrays = {f"w{i}": generator.integers(-9, 9, shape) for i, shape in enumerate(wide)}
    arrays |= {f"é{i}": generator.integers(0, 256, shape, dtype=np.uint8) for i, shape in enumerate(narrow)}
    layout = {name: (array.dtype.type, array.shape) for name, array in arrays.items()}
    path = tmp_path / "file.safetensors"
    sums = write_arrays(path, layout, iter(arrays.items()), metadata)
    read = load_file(path)
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
        assert sums[name] == zlib.crc32(array.tobytes())
    assert checksums({name: torch.from_numpy(array) for name, array in read.items()}) == sums
    with safe_open(path, framework="np") as file:
        assert (file.metadata() or {}) == metadata


def test_write_arrays_of_an_array_outside_the_layout_raises(tmp_path: Path) -> None:
    for array in (np.zeros(3, dtype=np.uint8), np.zeros(2, dtype=np.int64)):
        with pytest.raises(ValueError, match=r"array 'a' must be \(2,\) of uint8, got 'a', "):
            write_arrays(tmp_path / "file", {"a": (np.uint8, (2,))}, [("a", array)])
    with pytest.raises(ValueError, match="longer"):
        write_arrays(tmp_path / "file", {"a": (np.uint8, (2,))}, [])
