"""Tests of files that are written atomically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyro_mmvae.files import replacing, write_atomically, write_npz


def test_write_atomically_onto_a_folder_raises_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match="run must be a file, got a folder: choose another path"):
        write_atomically(folder, b"content")
    assert list(tmp_path.iterdir()) == [folder]


def test_replacing_a_folder_raises_with_force_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match="must be a file, got a folder"), replacing(folder, force=True):
        pytest.fail("the content must not be written")
    assert list(tmp_path.iterdir()) == [folder]


def test_write_npz_holds_the_arrays_and_nothing_else(tmp_path: Path) -> None:
    arrays = {"z": np.arange(6.0).reshape(2, 3), "name": np.array(["a", "bc"])}
    write_npz(tmp_path / "z.npz", arrays)
    with np.load(tmp_path / "z.npz", allow_pickle=False) as file:
        assert set(file) == {"z", "name"}
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)


def test_write_npz_of_objects_raises_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"z.npz: array 'z' must hold numbers or strings, got Python objects"):
        write_npz(tmp_path / "z.npz", {"z": np.array([{}, []], dtype=object)})
    assert not list(tmp_path.iterdir())
