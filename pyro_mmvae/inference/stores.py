"""Arrays that are written part by part, to memory or to files, so that memory need not hold them."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.files import refuse_existing


class Store(ABC):
    """A writer of arrays `(item, …)` whose parts arrive in order."""

    @abstractmethod
    def append(self, key: str, part: NDArray[Any]) -> None:
        """Append the values of the next items to an array.

        Args:
            key: The name of the array, which may contain one slash.
            part: The values of the next items, of the type and item shape of the earlier ones.
        """


class MemoryStore(Store):
    """A store that keeps arrays in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def append(self, key: str, part: NDArray[Any]) -> None:
        """Append the values of the next items to an array."""
        self._parts.setdefault(key, []).append(part)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {key: np.concatenate(parts) for key, parts in self._parts.items()}


class FolderStore(Store):
    """A store that appends arrays to the files ``KEY.npy`` of a folder.

    Args:
        folder: The folder to write to, which exists.
        count: The number of items that all arrays will have at the end.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._keys: set[str] = set()

    def append(self, key: str, part: NDArray[Any]) -> None:
        """Append the values of the next items to an array."""
        path = self.folder / f"{key}.npy"
        if key not in self._keys:
            self._keys.add(key)
            path.parent.mkdir(exist_ok=True)
            header = {"descr": np.lib.format.dtype_to_descr(part.dtype), "fortran_order": False}
            with path.open("xb") as file:
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (self.count, *part.shape[1:])})
        with path.open("ab") as file:  # an open file per array would be too many for hundreds of draws
            file.write(np.ascontiguousarray(part).tobytes())


@contextmanager
def new_folder(folder: Path, mark: str, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder that is renamed on leaving; on an error it is removed.

    Args:
        folder: The folder to make.
        mark: The name of a file that every such folder has, without which an existing folder is not replaced.
        force: If True, an existing folder with the mark is replaced; if False, that is an error.

    Raises:
        FileExistsError: If the folder exists, and ``force`` is False or it does not have the mark.
    """
    refuse_existing(folder, force=force)
    if folder.exists() and not (folder / mark).is_file():
        raise FileExistsError(f"{folder} must be a folder with {mark} to be replaced, got another path: choose another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            folder.replace(replaced)
            temporary.replace(folder)
            shutil.rmtree(replaced)
        else:
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
