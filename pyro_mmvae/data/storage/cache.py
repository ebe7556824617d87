"""A cache of built splits on disk: complete, checksummed files, named after everything that determines them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.storage.cache_entries import keep_limit, mark_used
from pyro_mmvae.data.storage.safetensors_file import checksums, write_arrays


def cache_folder() -> Path:
    """Return the folder of the cache: ``PYRO_MMVAE_CACHE``, else ``pyro_mmvae`` in the platform's folder of caches.

    On Linux the latter is ``XDG_CACHE_HOME`` or ``~/.cache``. A user without a home folder, as in some containers, gets
    a path that cannot be written, so that everything goes on without a cache.
    """
    configured = os.environ.get("PYRO_MMVAE_CACHE")
    try:
        return Path(configured).expanduser() if configured else user_cache_path("pyro_mmvae", appauthor=False)
    except RuntimeError:  # the user has neither HOME nor an entry in the list of users
        return Path(os.devnull, "no home folder, set PYRO_MMVAE_CACHE", "pyro_mmvae")


def cache_file(name: str, split: str, version: int, provenance: Mapping[str, Any]) -> Path:
    """Return the path under which one split is cached.

    Args:
        name: Name of the data.
        split: Name of the split.
        version: Version of the content's format, increased when the same provenance comes to mean other content.
        provenance: Everything that determines the content, serialisable as JSON.
    """
    identity = hashlib.sha256(json.dumps([name, split, provenance], sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{name}-{split}-v{version}-{identity[:16]}.safetensors"


def read_cache(path: Path, names: Sequence[str], provenance: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Read tensors from a file of the cache.

    Args:
        path: Path of the file, from :func:`cache_file`.
        names: Names of the tensors to read.
        provenance: Everything that determines the content, as passed to :func:`write_cache`.

    Returns:
        The tensors by name, or None if there is no file, or it is damaged, which is warned about.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
        if json.loads(metadata.get("provenance", "null")) != provenance:
            raise ValueError("its provenance differs from the one that its name stands for")
        if json.loads(metadata.get("checksums", "null")) != checksums(tensors):
            raise ValueError("its checksums differ from its content")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, SafetensorError) as error:
        warnings.warn(f"{path} is damaged and will be rebuilt: {error}", stacklevel=4)
        return None
    mark_used(path)
    return tensors


def write_cache(path: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> None:
    """Write tensors into a file of the cache, atomically; warn and continue if the folder cannot be written.

    Args:
        path: Path of the file, from :func:`cache_file`.
        tensors: The tensors by name, uint8 or int64.
        provenance: Everything that determines the content, serialisable as JSON.
    """
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    # Wider types come first, so that every array is aligned.
    arrays = dict(sorted(arrays.items(), key=lambda pair: -pair[1].itemsize))
    layout = {name: (array.dtype.type, array.shape) for name, array in arrays.items()}
    metadata = {"provenance": json.dumps(provenance), "checksums": json.dumps(checksums(tensors))}
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(temporary, layout, arrays.items(), metadata)
        temporary.replace(path)
        keep_limit(cache_folder(), path)
    except OSError as error:
        warnings.warn(f"{path.parent} cannot be written, continuing without a cache: {error}", stacklevel=4)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
