"""Tests of files that are written atomically."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pyro_mmvae.files import replacing, write_atomically, write_npz, write_together


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


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Let no file of this process grow beyond a number of bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_write_together_without_room_for_the_last_file_leaves_all_as_they_were(tmp_path: Path) -> None:
    write_together({tmp_path / "a": b"old a", tmp_path / "b": b"old b"})
    with small_files(100), pytest.raises(OSError, match="File too large") as error:
        write_together({tmp_path / "a": b"new a", tmp_path / "b": b"x" * 1000})
    assert error.value.filename == str(tmp_path / "b")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"old a", "b": b"old b"}


def test_write_atomically_of_content_that_reads_back_differently_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old", verify=True)
    fsync = os.fsync

    def losing(descriptor: int) -> None:
        fsync(descriptor)
        os.ftruncate(descriptor, 2)

    monkeypatch.setattr(os, "fsync", losing)
    with pytest.raises(OSError, match="the disk returns other content than was written"):
        write_atomically(file, b"new content", verify=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}
