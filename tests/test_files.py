"""Tests of files that are written atomically."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mmvae.files import replacing, write_atomically


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
