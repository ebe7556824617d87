"""The creation of a run directory, which exists with everything that a training needs to go on, or not at all."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_mmvae._bounded import kind_of
from pyro_mmvae.files import sync_folder
from pyro_mmvae.locks import locked, take_lock
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.layout import RunError, check_new


class NewRun:
    """A run directory in the making: a folder under a temporary name, which :meth:`commit` moves to its place.

    Args:
        path: The path of the run directory.
        rank: The rank of this process among those that train together; only rank 0 creates anything.

    Attributes:
        folder: The folder to write to, ``.NAME.new`` beside the run directory, or in it if that exists and is empty.

    Raises:
        RunError: If the path is a file or has content, the folder is a link or has content that no creation of a run
            has left there, or another process creates or trains a run there.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path, self.rank = path, rank
        self._inside = path.is_dir()  # such as a mounted volume, which cannot be renamed
        self.folder = RunFiles(path).unfinished if self._inside else path.with_name(f".{path.name or 'run'}.new")
        self._lock = None
        self._made = list[Path]()  # the folders above it that did not exist, from the inmost
        if rank == 0:
            check_new(path)
            self._made = [parent for parent in self.folder.parents if not parent.exists()]
            self._make_folder()
            self._lock = take_lock(self._lock_file)
            if self._lock is None:
                raise RunError(f"{path} is being created by another process: give another --out, or wait for it")
            self._clear()

    @property
    def _lock_file(self) -> Path:
        return RunFiles(self.path if self._inside else self.folder).lock

    def commit(self) -> None:
        """Move everything to the run directory, in one step where it did not exist, and keep the lock on it.

        Raises:
            RunError: If a run directory has been created there in the meantime.
        """
        if self.rank:
            return
        sync_folder(self.folder)
        if self._inside:
            # The configuration comes last, since it makes a folder a run directory.
            last = RunFiles(self.folder).config
            for entry in [*(entry for entry in self.folder.iterdir() if entry != last), last]:
                entry.replace(self.path / entry.name)
            self.folder.rmdir()
            sync_folder(self.path)
        else:
            check_new(self.path)
            try:
                os.rename(self.folder, self.path)
            except OSError:
                check_new(self.path)
                raise
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Remove what was not committed, and release the lock."""
        if self._lock is None:
            return
        if not RunFiles(self.path).config.exists() or self.folder.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            if self._inside:
                self._lock_file.unlink(missing_ok=True)
            with suppress(OSError):  # a folder that another process uses by now
                for parent in self._made:
                    parent.rmdir()
        self._lock.release(force=True)

    def _make_folder(self) -> None:
        """Make the folder, or accept the one that a process has left that was killed while it created a run here.

        Such a folder is empty or has a lock, since the lock is its first file; :meth:`_clear` empties no other one.
        """
        remedy = "move it away, or give another --out"
        with suppress(FileExistsError):
            self.folder.mkdir(parents=True)
            return
        try:
            mode = os.lstat(self.folder).st_mode
            if not stat.S_ISDIR(mode):
                raise RunError(f"{self.folder} must be a folder of its own or missing, got {kind_of(mode)}: {remedy}")
            if any(self.folder.iterdir()) and not self._lock_file.exists():
                check_new(self.path)  # which another process may have moved there meanwhile
                raise RunError(
                    f"{self.folder} must be missing, since the run directory is made there, got a folder with files: "
                    f"{remedy}"
                )
        except FileNotFoundError:  # another process has moved it to its place
            self.folder.mkdir(parents=True, exist_ok=True)

    def _clear(self) -> None:
        """Remove what a process has left that was killed while it created a run directory here."""
        try:
            check_new(self.path)  # once more: it may have been created before the lock was taken
        except RunError:
            self.close()
            raise
        for entry in self.folder.iterdir():
            if entry != self._lock_file:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        if self._inside:
            for entry in self.path.iterdir():
                if entry not in {self._lock_file, self.folder}:
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


@contextmanager
def new_run(path: Path, rank: int = 0) -> Iterator[NewRun]:
    """Create a run directory, and hold its lock; what was not committed on leaving is removed.

    Args:
        path: The path of the run directory, which must not exist or be empty.
        rank: The rank of this process among those that train together; only rank 0 creates anything.

    Raises:
        RunError: If the path is a file or has content, or another process creates or trains a run there.
    """
    place = NewRun(path, rank)
    try:
        yield place
    finally:
        with suppress(OSError):
            place.close()


@contextmanager
def locked_run(path: Path, rank: int = 0) -> Iterator[None]:
    """Hold the lock of a run directory while its training goes on.

    Args:
        path: The path of the run directory.
        rank: The rank of this process among those that train together; only rank 0 takes the lock.

    Raises:
        RunError: If another process trains it.
    """
    files = RunFiles(path)
    if rank:
        yield
        return
    with locked(files.lock, RunError(f"{path} is being trained by another process: wait for it, or stop it first")):
        yield
