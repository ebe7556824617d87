"""Locks on files, which vanish with the process that holds them, so that a killed one leaves nothing locked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(path: Path, busy: Exception) -> Iterator[None]:
    """Hold a lock, or raise an error at once if another process holds it.

    Args:
        path: The file of the lock, which is created in an existing folder, and stays there.
        busy: The error to raise if the lock is taken.
    """
    lock = take_lock(path)
    if lock is None:
        raise busy
    try:
        yield
    finally:
        lock.release(force=True)


@contextmanager
def waiting(path: Path) -> Iterator[bool]:
    """Hold a lock, after waiting for another process that holds it; without one where the folder cannot be written.

    Args:
        path: The file of the lock, whose folder is created if it does not exist.

    Yields:
        True if another process held the lock before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path)
        waited = lock is None
        if lock is None:
            lock = FileLock(path)
            lock.acquire()
    except (OSError, NotImplementedError):
        yield False
        return
    try:
        yield waited
    finally:
        lock.release(force=True)


@contextmanager
def building(file: Path | None) -> Iterator[bool]:
    """Hold the lock of a file that is built, so that processes that need it at the same time do the work once.

    Args:
        file: The file, beside which the lock stands meanwhile; None for no file and no lock.

    Yields:
        True if another process held the lock before, which has probably built the file by now.
    """
    if file is None:
        yield False
        return
    path = file.with_name(f".{file.name}.lock")
    with waiting(path) as waited:
        try:
            yield waited
        finally:
            # A process that comes now takes a new lock: at worst the work is done twice, by complete files.
            with suppress(OSError):
                path.unlink()


def take_lock(path: Path) -> FileLock | None:
    """Take a lock without waiting.

    Args:
        path: The file of the lock, which is created in an existing folder, and stays there.

    Returns:
        The lock, to be released; None if another process or another lock of this one holds it.

    Raises:
        OSError: If the file cannot be created.
    """
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
