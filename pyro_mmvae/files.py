"""Files that are always complete, since they are written under a temporary name and then renamed."""

from __future__ import annotations

import errno
import io
import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae._bounded import check_regular
from pyro_mmvae._printable import one_line

_FREE_BYTES, _MAX_RATIO = 2**28, 100  # of arrays, whatever the size of their file; and as a multiple of it

_DAMAGES = (
    ValueError, OSError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, SyntaxError,
    RecursionError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""The errors that NumPy and zipfile raise on damaged files."""

_BLOCK = 2**24  # bytes that are compared at once

Content: TypeAlias = bytes | Iterable[bytes | memoryview]
"""The content of a file: bytes, or an iterable of the parts of it, which can be iterated over more than once."""


def write_atomically(path: Path, content: Content, *, verify: bool = False) -> None:
    """Write a file under a temporary name in the same folder and rename it, so that readers see all of it or none.

    Args:
        path: The file to write or replace.
        content: The bytes to write into it, as a whole or in parts that need not be in memory at once.
        verify: If True, the file is read back before it replaces the earlier one. False by default.

    Raises:
        IsADirectoryError: If the path is a folder.
        OSError: If the file cannot be written, or what is read back differs; the earlier file is as it was then.
    """
    write_together({path: content}, verify=verify)


def write_together(files: Mapping[Path, Content], *, verify: bool = False) -> None:
    """Write several files as :func:`write_atomically` does, and rename them when all are complete.

    Args:
        files: The content of each file, in the order in which they are renamed.
        verify: If True, the files are read back before they replace earlier ones. False by default.

    Raises:
        IsADirectoryError: If a path is a folder.
        OSError: If a file cannot be written, or what is read back differs; all earlier files are as they were then.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    for path in files:
        _refuse_folder(path)
    try:
        for path, content in files.items():
            with suppress(FileNotFoundError):
                temporary[path].unlink()  # of a process that was killed
            with naming(path), temporary[path].open("xb") as file:  # which does not follow a link
                for part in _parts(content):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            if verify:
                _check_written(temporary[path], content)
        for path in files:
            temporary[path].replace(path)
        for folder in dict.fromkeys(path.parent for path in files):
            sync_folder(folder)
    finally:
        for file_left in temporary.values():
            with suppress(OSError):
                file_left.unlink()


def _parts(content: Content) -> Iterable[bytes | memoryview]:
    return (content,) if isinstance(content, bytes) else content


def _check_written(file: Path, content: Content) -> None:
    """Raise an error if the content of a file on its disk differs from what was written."""
    with file.open("rb") as opened:
        with suppress(OSError, AttributeError):  # so that the disk is read, not the system's copy in memory
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        blocks = (part[start : start + _BLOCK] for part in _parts(content) for start in range(0, len(part), _BLOCK))
        if not all(opened.read(len(block)) == bytes(block) for block in blocks) or opened.read(1):
            raise OSError(errno.EIO, "the disk returns other content than was written", str(file))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system name a file, which those of a full disk leave out.

    Args:
        path: The file that is written.
    """
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to its disk, so that a renamed file is found after a power failure.

    Args:
        folder: The path of the folder; where the system cannot do this, nothing happens.
    """
    with suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a compressed ``.npz`` file without pickles, by :func:`write_atomically`.

    Args:
        path: The file to write or replace.
        arrays: Arrays by name, of numbers, booleans or strings.

    Raises:
        ValueError: If an array holds Python objects, which NumPy would pickle.
        IsADirectoryError: If the path is a folder.
    """
    write_atomically(path, npz_bytes(path, arrays))


def npz_bytes(path: Path, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays as the content of a compressed ``.npz`` file without pickles.

    Args:
        path: The file that they are for, which messages name.
        arrays: Arrays by name, of numbers, booleans or strings.

    Raises:
        ValueError: If an array holds Python objects, which NumPy would pickle.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"{path}: array {name!r} must hold numbers or strings, got Python objects")
    buffer, named = io.BytesIO(), dict[str, Any](arrays)
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file of :func:`write_npz`, whose checksums are verified.

    Args:
        path: The file to read, which may come from anyone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds Python objects, or arrays that are far larger than the file; the
            message is one line and names the file.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size, stored = sum(info.file_size for info in archive.infolist()), path.stat().st_size
            if size > _FREE_BYTES and size > _MAX_RATIO * stored:
                raise ValueError(f"arrays of {size:,} bytes in a file of {stored:,}")
            arrays = {info.filename.removesuffix(".npy"): _read_array(archive, info) for info in archive.infolist()}
    except _DAMAGES as error:
        reason = one_line(error)
        raise ValueError(f"{path}: must be a readable .npz file, got an error: {reason}") from None
    return arrays


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array, after its header was compared with the size of its content, for which NumPy would allocate."""
    content = archive.read(info)  # zipfile compares the checksum
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"array {info.filename[:80]!r} must have as many values as its header says")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


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
