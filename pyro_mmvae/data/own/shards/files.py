"""The shards that a path stands for, and their splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pyro_mmvae.data.own.shards.index import SUFFIX, ShardIndex, read_index
from pyro_mmvae.data.own.shards.record import FILE, ShardRecord, ShardsRecord, read_record
from pyro_mmvae.data.own.shards.scanning import scan_shard
from pyro_mmvae.data.storage.patterns import matching_paths

SPLITS = ("train", "val", "test")
_HELD_OUT = 10  # one of so many shards is for each of validation and test


def is_shards(path: Path) -> bool:
    """Return True for a folder of shards, a tar file, or a pattern of tar files."""
    if path.is_dir():
        return (path / FILE).is_file() or any(path.glob("*.tar"))
    return path.suffix == ".tar"


@dataclass(frozen=True)
class ShardFiles:
    """The shards that a path stands for.

    Attributes:
        path: The path of the data, a folder, a file or a pattern.
        files: Path of each shard, in order.
        folder: The folder of the description; None without one.
        record: The description of the shards; None for shards of other programs.
        cache: If True, the indices of shards without one are kept in the cache.
    """

    path: Path
    files: tuple[Path, ...]
    folder: Path | None
    record: ShardsRecord | None
    cache: bool

    @cached_property
    def described(self) -> dict[str, ShardRecord]:
        """The description of each exported shard by the name of its file; empty for shards of other programs."""
        return {} if self.record is None else {shard.file: shard for shard in self.record.shards}

    def index(self, file: Path) -> ShardIndex:
        """Return the index of a shard: the one beside it, or one that a first pass over the shard makes.

        Args:
            file: Path of the shard.

        Raises:
            ValueError: If the index or the shard is missing, damaged, or not safe to read.
        """
        if self.record is None:
            return scan_shard(file, cache=self.cache)
        beside = file.with_suffix(SUFFIX)
        advice = f"export again, or remove {FILE} to read the shards without it"
        try:
            index = read_index(beside)
        except FileNotFoundError:
            raise ValueError(f"{beside}: the index of the shard must be there, got no such file: {advice}") from None
        if tuple(index.modalities) != tuple(self.record.modalities):
            raise ValueError(f"{beside}: must be the index of a shard of {FILE}, got that of other data: {advice}")
        return index

    def check(self, file: Path, *, verify: bool) -> None:
        """Check that an exported shard is complete and unchanged.

        Args:
            file: Path of the shard.
            verify: If True, the whole file is read and compared with its SHA-256; if False, its size is compared.

        Raises:
            ValueError: If the shard is missing or has changed.
        """
        if not file.is_file():
            raise ValueError(f"{file}: must be a tar file, got no such file")
        if self.record is None:
            return
        described, size = self.described[file.name], file.stat().st_size
        advice = "it is cut off or was changed since the export: restore it, or export again"
        if size != described.bytes:
            raise ValueError(f"{file}: must have {described.bytes:,} bytes as {FILE} says, got {size:,}: {advice}")
        if verify:
            for path, expected in ((file, described.sha256), (file.with_suffix(SUFFIX), described.index_sha256)):
                found = sha256(path)
                if found != expected:
                    raise ValueError(f"{path}: must have the SHA-256 {expected[:12]}…, got {found[:12]}…: {advice}")


def find_shards(path: Path, *, cache: bool) -> ShardFiles:
    """Return the shards that a path stands for.

    Args:
        path: A folder, a tar file, or a pattern of tar files with braces.
        cache: If True, the indices of shards without one are kept in the cache.

    Raises:
        ValueError: If there are none, a file is missing, or the description of the folder lacks one.
    """
    if path.is_dir():
        record = read_record(path)
        files = sorted(path.glob("*.tar")) if record is None else [path / shard.file for shard in record.shards]
        return ShardFiles(path, tuple(files), path if record else None, record, cache)
    files = _existing(path)
    folders = {file.parent for file in files}
    record = read_record(files[0].parent) if len(folders) == 1 else None
    if record is None:
        return ShardFiles(path, tuple(files), None, None, cache)
    found = ShardFiles(path, tuple(files), files[0].parent, record, cache)
    _check_known(found, files)
    return found


def _check_known(shards: ShardFiles, files: Sequence[Path]) -> None:
    """Check that files are shards of the description, if there is one."""
    if shards.folder is None:
        return
    for file in files:
        if file.name not in shards.described or file.parent != shards.folder:
            raise ValueError(
                f"{file}: must be one of the {len(shards.described)} shards of {shards.folder / FILE}, got another "
                f"file: remove {FILE} to read the shards without it"
            )


def _existing(path: Path) -> list[Path]:
    files = matching_paths(path.expanduser())
    for file in files:
        if not file.is_file():
            raise ValueError(f"{path}: {file} must be a tar file, got no such file")
    if len(set(files)) < len(files):
        raise ValueError(f"{path}: must stand for each file once, got one twice")
    return files


def split_shards(
    shards: ShardFiles, split: str | None, val_shards: Path | None, test_shards: Path | None, seed: int
) -> tuple[Path, ...]:
    """Return the shards of a split.

    Exported shards belong to the splits of their description, where a path that leaves some of them out chooses among
    the training shards. Others are divided at random: one in ten, at least one, for each of validation and test.

    Args:
        shards: The shards of the data.
        split: Name of the split; None for all shards.
        val_shards: Path or pattern of the shards of the validation split, or None.
        test_shards: Path or pattern of the shards of the test split, or None.
        seed: Seed of the random division.

    Raises:
        ValueError: If no shard is left for a split.
    """
    if split is None:
        return shards.files
    given = {"val": val_shards, "test": test_shards}
    chosen: dict[str, Sequence[Path]] = {
        name: find_shards(path, cache=shards.cache).files for name, path in given.items() if path is not None
    }
    for listed in chosen.values():
        _check_known(shards, listed)
    if split in chosen:
        return tuple(chosen[split])
    apart = {file.absolute() for files in chosen.values() for file in files}
    files = [file for file in shards.files if file.absolute() not in apart]
    if shards.record is not None and shards.folder is not None:
        own = [file for file in files if shards.described[file.name].split == split]
        own = own or [shards.folder / shard.file for shard in shards.record.shards if shard.split == split]
        if not own:
            raise ValueError(f"{shards.path}: split {split!r} must have at least one shard, got none")
        return tuple(own)
    held_out = max(round(len(shards.files) / _HELD_OUT), 1)
    order = np.random.default_rng(seed).permutation(len(files)).tolist()
    parts: dict[str, list[int]] = {}
    for name in ("test", "val"):
        if name not in chosen:
            parts[name], order = order[:held_out], order[held_out:]
    parts["train"] = order
    if not parts[split]:
        raise ValueError(
            f"{shards.path}: split {split!r} must have at least one shard, got none of {len(shards.files)}: write more "
            "and smaller shards, or set val_shards and test_shards"
        )
    return tuple(files[number] for number in sorted(parts[split]))


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Args:
        file: Path of the file.

    Raises:
        ValueError: If there is no such file.
    """
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{file}: must be there, got no such file") from None
