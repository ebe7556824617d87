"""Files that are always complete, since they are written under a temporary name and then renamed."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder and rename it, so that readers see all of it or none.

    Args:
        path: The file to write or replace.
        content: The bytes to write into it.

    Raises:
        IsADirectoryError: If the path is a folder.
    """
    _refuse_folder(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()  # of a process that was killed
        with temporary.open("xb") as file:  # which does not follow a link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a compressed ``.npz`` file without pickles, by :func:`write_atomically`.

    Args:
        path: The file to write or replace.
        arrays: Arrays by name, of numbers, booleans or strings.

    Raises:
        ValueError: If an array holds Python objects, which NumPy would pickle.
        IsADirectoryError: If the path is a folder.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"{path}: array {name!r} must hold numbers or strings, got Python objects")
    buffer, named = io.BytesIO(), dict[str, Any](arrays)
    np.savez_compressed(buffer, **named)
    write_atomically(path, buffer.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file by :func:`write_atomically`."""
    write_atomically(path, text.encode())


@contextmanager
def replacing(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary path for a writer that needs one, and rename it on leaving; on an error it is removed.

    Args:
        path: The file to write, whose suffix the temporary path has.
        force: If True, a file that exists is replaced; if False, that is an error.

    Raises:
        FileExistsError: If the file exists and ``force`` is False.
        IsADirectoryError: If the path is a folder.
    """
    refuse_existing(path, force=force)
    _refuse_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with suppress(FileNotFoundError):
        temporary.unlink()  # a writer would follow a link of this name
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise an error if a path exists that may not be replaced.

    Args:
        path: The file or folder to write.
        force: If True, a path that exists may be replaced.

    Raises:
        FileExistsError: If the path exists and ``force`` is False.
    """
    if path.exists() and not force:
        raise FileExistsError(
            f"{path} must not exist, got an existing path: choose another one, or pass --force (force=True in Python)"
        )


def _refuse_folder(path: Path) -> None:
    """Raise an error if a path to write a file to is a folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a file, got a folder: choose another path")
