"""Locks on files that are built."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pyro_mmvae.locks import building, take_lock


def test_building_waits_for_another_process_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "built"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with building(file):
            os.write(writing, b"x")
            time.sleep(0.3)
            file.write_text("done")
        os._exit(0)
    os.read(reading, 1)
    with building(file) as waited:
        assert waited
        assert file.read_text() == "done"
    os.waitpid(child, 0)
    with building(file) as waited:
        assert not waited


def test_building_where_nothing_can_be_written_goes_on_without_a_lock() -> None:
    with building(Path(os.devnull, "folder", "file")) as waited:
        assert not waited
    with building(None) as waited:
        assert not waited


def test_take_lock_twice_returns_none(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    assert take_lock(tmp_path / "lock") is None
    lock.release()
    again = take_lock(tmp_path / "lock")
    assert again is not None
    again.release()
