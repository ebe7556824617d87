"""The index of one shard: where each member stands, and what is known of each item without reading it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pyro_mmvae._bounded import load_json
from pyro_mmvae._printable import one_line

SUFFIX = ".index"
"""The suffix of the index beside a shard, in place of ``.tar``."""

_COVARIATE = "covariate."
_FACTS = "index"  # the key of the metadata


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The index of one shard.

    Attributes:
        modalities: Names of the modalities, in the order of the columns.
        offsets: Position of the content of each member in the shard, int64 `(item, modality)`, 0 where an item lacks a
            modality.
        sizes: Number of bytes of each member, int64 `(item, modality)`.
        checksums: CRC-32 of each member, int64 `(item, modality)`; None in the index of a shard of other programs.
        labels: Class of each item, int64 `(item,)`, -1 without one, or attributes, bool `(item, attribute)`; None for
            items without labels.
        ids: Identifiers of the items, or None.
        covariates: Code of each item's category by the name of the covariate, int64 `(item,)`.
        about: Further facts about the shard, serialisable as JSON; empty by default.
    """

    modalities: tuple[str, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.int64] | None = None
    labels: NDArray[Any] | None = None
    ids: tuple[str, ...] | None = None
    covariates: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.offsets)

    @property
    def present(self) -> NDArray[np.bool_]:
        """True where an item has a modality, bool `(item, modality)`."""
        return self.offsets > 0

    def to_bytes(self) -> bytes:
        """Return the content of a file of the index."""
        arrays: dict[str, NDArray[Any]] = {"offsets": self.offsets, "sizes": self.sizes.astype(np.int32)}
        if self.checksums is not None:
            arrays["checksums"] = self.checksums.astype(np.uint32).view(np.int32)
        if self.labels is not None:
            arrays["labels"] = self.labels.astype(np.uint8) if self.labels.dtype == np.bool_ else self.labels
        if self.ids is not None:
            arrays["ids"] = np.frombuffer(json.dumps(self.ids).encode(), dtype=np.uint8)
        arrays |= {_COVARIATE + name: codes for name, codes in self.covariates.items()}
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        facts = {"modalities": self.modalities, "about": self.about, "crc": _crc(arrays)}
        return save(arrays, metadata={_FACTS: json.dumps(facts)})  # one entry, as the order of several is random


def read_index(path: Path) -> ShardIndex:
    """Read the index of a shard.

    Args:
        path: Path of the index.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged; the message is one line that names the file.
    """
    try:
        with safe_open(path, framework="np") as file:
            facts = load_json((file.metadata() or {})[_FACTS])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        if facts["crc"] != _crc(arrays):
            raise ValueError("its checksum differs")
        return _make_index(arrays, facts)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = one_line(error, 100)
        raise ValueError(f"{path}: must be the index of a shard, got a damaged one ({reason}): export again") from None


def _make_index(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> ShardIndex:
    modalities = tuple(str(name) for name in facts["modalities"])
    offsets, sizes = arrays["offsets"], arrays["sizes"].astype(np.int64)
    shape = (len(offsets), len(modalities))
    checksums, labels = arrays.get("checksums"), arrays.get("labels")
    ids = None if "ids" not in arrays else tuple(map(str, load_json(arrays["ids"].tobytes().decode())))
    covariates = {name.removeprefix(_COVARIATE): a for name, a in arrays.items() if name.startswith(_COVARIATE)}
    if checksums is not None:
        checksums = checksums.view(np.uint32).astype(np.int64)
    if labels is not None and labels.dtype == np.uint8:
        labels = labels.astype(bool)
    for what, array in (("sizes", sizes), ("checksums", checksums)):
        if array is not None and array.shape != shape:
            raise ValueError(f"{what} must be {shape}, got {array.shape}")
    columns: Sequence[Any] = (labels, ids, *covariates.values())
    if offsets.shape != shape or any(column is not None and len(column) != len(offsets) for column in columns):
        raise ValueError("its parts have different lengths")
    return ShardIndex(modalities, offsets, sizes, checksums, labels, ids, covariates, facts["about"])


def _crc(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the checksum of all arrays."""
    value = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(f"{name}{array.shape}".encode(), value))
    return str(value)
