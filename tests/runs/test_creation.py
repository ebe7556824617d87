"""The creation of run directories: complete or missing, by one process at a time."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pyro_mmvae.runs import NewRun, RunError, RunFiles, RunWriter, locked_run, new_run
from pyro_mmvae.runs.config import Config


def write(folder: Path, text: str = "x") -> None:
    RunWriter(folder).create(Config(), {"device": "cpu"})
    RunFiles(folder).checkpoint("last").write_text(text)


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


COMPLETE = {".lock", "config.yaml", "environment.json", "checkpoint.safetensors"}


@pytest.mark.parametrize("exists", [False, True])
def test_new_run_appears_complete_and_leaves_nothing_else(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "deep" / "run"
    if exists:
        path.mkdir(parents=True)
    with new_run(path) as place:
        write(place.folder)
        assert not RunFiles(path).config.exists()
        place.commit()
        assert names(path) == COMPLETE
        with pytest.raises(RunError, match="being trained by another process"), locked_run(path):
            pass
    assert names(path.parent) == {"run"}
    with locked_run(path):
        pass


@pytest.mark.parametrize("exists", [False, True])
def test_new_run_that_fails_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "new" / "deep" / "run"
    if exists:
        path.mkdir(parents=True)

    def fail() -> None:
        with new_run(path) as place:
            write(place.folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.rglob("*")) == ([*list(path.parents)[1::-1], path] if exists else [])


def test_new_run_while_another_is_created_raises(tmp_path: Path) -> None:
    with new_run(tmp_path / "run"), pytest.raises(RunError, match="is being created by another process"):
        NewRun(tmp_path / "run")


def test_new_run_that_appeared_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    with new_run(tmp_path / "run") as place:
        write(place.folder)
        write(tmp_path / "run", "precious")
        with pytest.raises(RunError, match="exists already"):
            place.commit()
    assert RunFiles(tmp_path / "run").checkpoint("last").read_text() == "precious"
    assert names(tmp_path) == {"run"}


@pytest.mark.parametrize("exists", [False, True])
def test_new_run_after_a_kill_during_the_creation_begins_anew(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "run"
    if exists:
        path.mkdir()
    child = os.fork()
    if child == 0:
        place = NewRun(path)
        write(place.folder, "torn")
        if exists:  # in the middle of the move
            RunFiles(place.folder).checkpoint("last").replace(RunFiles(path).checkpoint("last"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert not RunFiles(path).config.exists()
    with new_run(path) as place:
        write(place.folder, "whole")
        place.commit()
    assert names(path) == COMPLETE
    assert RunFiles(path).checkpoint("last").read_text() == "whole"


def test_new_run_in_a_folder_with_files_raises(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(RunError, match="exists already"):
        NewRun(tmp_path)
    assert names(tmp_path) == {"data"}


@pytest.mark.parametrize("kind", ["link", "folder", "file"])
def test_new_run_never_touches_what_others_have_put_in_its_place(tmp_path: Path, kind: str) -> None:
    precious, place = tmp_path / "precious", tmp_path / ".run.new"
    (precious / "photos").mkdir(parents=True)
    (precious / "photos" / "one").write_text("a photo")
    if kind == "link":
        place.symlink_to(precious)
    elif kind == "folder":
        precious.rename(place)
        precious = place
    else:
        place.write_text("a text")
    with pytest.raises(RunError, match=r"\.run\.new must be .*: move it away, or give another --out"):
        NewRun(tmp_path / "run")
    assert kind == "file" or (precious / "photos" / "one").read_text() == "a photo"
    assert kind != "file" or place.read_text() == "a text"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folders", [(".new",), (".new", "data")])
def test_new_run_in_a_folder_never_touches_what_others_have_put_in_it(tmp_path: Path, folders: tuple[str, ...]) -> None:
    (tmp_path / ".new").mkdir()
    (tmp_path / folders[-1]).mkdir(exist_ok=True)
    (tmp_path / folders[-1] / "one").write_text("a photo")
    with pytest.raises(RunError, match=r"must be missing|exists already"):
        NewRun(tmp_path)
    assert names(tmp_path) == set(folders)
    assert (tmp_path / folders[-1] / "one").read_text() == "a photo"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_new_run_of_a_name_that_is_not_utf8_raises(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the name of a run directory must be UTF-8: give another --out"):
        NewRun(tmp_path / os.fsdecode(b"nu\xff"))
    assert names(tmp_path) == set()


def test_new_run_of_another_rank_creates_nothing(tmp_path: Path) -> None:
    with new_run(tmp_path / "run", rank=1) as place:
        place.commit()
    assert names(tmp_path) == set()


def test_locked_run_of_a_killed_process_is_free(tmp_path: Path) -> None:
    write(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked_run(tmp_path):
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    with pytest.raises(RunError), locked_run(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked_run(tmp_path):
        pass
