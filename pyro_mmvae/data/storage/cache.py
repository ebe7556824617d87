"""Splits that took time to make, kept on disk: whole, checked, and found by what determines them."""

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

from safetensors import SafetensorError, safe_open

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.storage.safetensors_file import checksums, write_arrays


def cache_folder() -> Path:
    """Where built splits are kept: `PYRO_MMVAE_CACHE`, else `pyro_mmvae` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    own = os.environ.get("PYRO_MMVAE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyro_mmvae"


def cache_file(name: str, split: str, version: int, provenance: Mapping[str, Any]) -> Path:
    """File of one split.

    Args:
        name: of the data.
        split: of it.
        version: of what the provenance means; another one is another file.
        provenance: everything that determines the content, fit for JSON.
    """
    identity = hashlib.sha256(json.dumps([name, split, provenance], sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{name}-{split}-v{version}-{identity[:16]}.safetensors"


def read_cache(path: Path, names: Sequence[str], provenance: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Tensors from a file of the cache, or None where there is none or it is damaged; the latter with a warning."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
        if json.loads(metadata.get("provenance", "null")) != provenance:
            raise ValueError("made from something else than its name says")
        if json.loads(metadata.get("checksums", "null")) != checksums(tensors):
            raise ValueError("checksums differ")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, SafetensorError) as error:
        warnings.warn(f"{path} is damaged and is built again: {error}", stacklevel=4)
        return None
    return tensors


def write_cache(path: Path, tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]) -> None:
    """Keep tensors, all or none; where that cannot be done, say so and go on."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda pair: -pair[1].itemsize))
    layout = {name: (array.dtype.type, array.shape) for name, array in arrays.items()}
    metadata = {"provenance": json.dumps(provenance), "checksums": json.dumps(checksums(tensors))}
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(temporary, layout, arrays.items(), metadata)
        temporary.replace(path)
    except OSError as error:
        warnings.warn(f"{path.parent} cannot be written, going on without a cache: {error}", stacklevel=4)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
