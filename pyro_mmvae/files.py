"""Files that are always complete, since they are written under a temporary name and then renamed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name in the same folder and rename it, so that readers see all of it or none.

    Args:
        path: The file to write or replace.
        content: The bytes to write into it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file by :func:`write_atomically`."""
    write_atomically(path, text.encode())
