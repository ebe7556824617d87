"""The first pass over a shard that another program wrote: its headers, labels and texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_mmvae._bounded import load_json
from pyro_mmvae.data.own.shards.decoding import SUFFIXES, read_text
from pyro_mmvae.data.own.shards.headers import Member, read_member, read_members
from pyro_mmvae.data.own.shards.index import ShardIndex, read_index
from pyro_mmvae.data.storage.cache import cache_folder
from pyro_mmvae.data.storage.cache_entries import mark_used
from pyro_mmvae.files import write_atomically

_VERSION = 1  # of the content of the cached index
_MAX_LABEL, _MAX_META = 64, 2**20  # bytes of a member with a class, and of one with JSON
_NO_CLASS, _MAX_CLASS = -1, 10**9


@dataclass
class _Item:
    """The members of one item.

    Attributes:
        key: The beginning of the names of its members.
        fields: Its members by the rest of their names, such as ``rna.npy``.
    """

    key: str
    fields: dict[str, Member] = field(default_factory=dict)


def scan_shard(path: Path, *, cache: bool) -> ShardIndex:
    """Return the index of a shard without one, from the cache if the shard was scanned before.

    ``about`` of the index has, by modality, the suffix of its first member and, for texts, the characters and the
    length of the longest one.

    Args:
        path: Path of the shard.
        cache: If True, the index is kept in the folder of the cache.

    Raises:
        ValueError: If the shard is damaged or not safe to read; the message is one line that names shard and member.
    """
    stat = path.stat()
    key = f"{_VERSION}:{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    file = cache_folder() / f"shard-v{_VERSION}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if cache:
        with suppress(OSError, ValueError):  # it is made again
            index = read_index(file)
            mark_used(file)
            return index
    index = _scan(path)
    if cache:
        with suppress(OSError):  # a cache that cannot be written costs time only
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, index.to_bytes())
    return index


def _scan(path: Path) -> ShardIndex:
    items = _group(path)
    if not items:
        raise ValueError(f"{path}: must hold at least one item, a file KEY.NAME.SUFFIX, got none")
    suffixes: dict[str, str] = {}
    for item in items:
        for extension in item.fields:
            if extension not in {"json", "cls"}:
                suffixes.setdefault(_modality(extension), extension.rpartition(".")[2].lower())
    names = tuple(sorted(suffixes))
    columns = {name: number for number, name in enumerate(names)}
    offsets = np.zeros((len(items), len(names)), dtype=np.int64)
    sizes = np.zeros_like(offsets)
    about: dict[str, dict[str, Any]] = {
        name: {"suffix": suffix, "characters": "", "longest": 0} for name, suffix in suffixes.items()
    }
    with path.open("rb") as file:
        facts = [_read_facts(path, file.fileno(), item) for item in items]
        for row, item in enumerate(items):
            for extension, member in item.fields.items():
                if extension in {"json", "cls"}:
                    continue
                name = _modality(extension)
                if offsets[row, columns[name]]:
                    raise ValueError(f"{path}: item {item.key!r} must have {name!r} once, got two members of that name")
                offsets[row, columns[name]], sizes[row, columns[name]] = member.offset, member.size
                if SUFFIXES.get(suffixes[name]) == "txt":
                    _note_text(about[name], read_text(_read(path, file.fileno(), member), _name(path, member)))
    labels = np.array([label for label, _ in facts], dtype=np.int64)
    ids = tuple(str(identifier) for _, identifier in facts if identifier is not None)
    return ShardIndex(
        names,
        offsets,
        sizes,
        labels=None if (labels == _NO_CLASS).all() else labels,
        ids=ids if len(ids) == len(items) else None,
        about=about,
    )


def _group(path: Path) -> list[_Item]:
    """Return the items of a shard: members that follow each other and whose names begin with one key."""
    items: list[_Item] = []
    for member in read_members(path):
        folder, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if not stem or not extension or stem.startswith("__"):  # which WebDataset leaves out, too
            continue
        key = f"{folder}{slash}{stem}"
        if not items or items[-1].key != key:
            items.append(_Item(key))
        fields = items[-1].fields
        if extension in fields:
            raise ValueError(f"{path}: item {key!r} must have each member once, got {extension!r} twice")
        fields[extension] = member
    return items


def _modality(extension: str) -> str:
    """Return the name of the modality of a member: what stands before its suffix, or the suffix if nothing does."""
    return extension.rpartition(".")[0] or extension


def _read_facts(path: Path, descriptor: int, item: _Item) -> tuple[int, str | None]:
    """Return the class of an item, -1 without one, and its identifier, by its members ``cls`` and ``json``."""
    label, identifier = _NO_CLASS, None
    if (member := item.fields.get("json")) is not None:
        about = _read_meta(path, descriptor, member)
        identifier = about.get("id") if isinstance(about.get("id"), str) else None
        known = about.get("label")  # other programs store other things under this key
        label = known if type(known) is int and 0 <= known < _MAX_CLASS else _NO_CLASS
    if (member := item.fields.get("cls")) is not None:
        name = _name(path, member)
        text = read_text(_read(path, descriptor, member, _MAX_LABEL), name).strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ValueError(f"{name()}: must be a class, an integer of at least 0, got {text!r}")
        label = int(text)
    return label, identifier


def _read_meta(path: Path, descriptor: int, member: Member) -> Mapping[str, Any]:
    name = _name(path, member)
    try:
        value = load_json(read_text(_read(path, descriptor, member, _MAX_META), name))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name()}: must be JSON, got an error: {error}") from None
    return value if isinstance(value, dict) else {}


def _read(path: Path, descriptor: int, member: Member, limit: int = _MAX_META) -> bytes:
    if member.size > limit:
        raise ValueError(f"{_name(path, member)()}: must have at most {limit:,} bytes, got {member.size:,}")
    try:
        return read_member(descriptor, member.offset, member.size)
    except ValueError as error:
        raise ValueError(f"{_name(path, member)()}: {error}") from None


def _name(path: Path, member: Member) -> Any:
    return lambda: f"{path}: member {member.name!r}"


def _note_text(about: dict[str, Any], text: str) -> None:
    about["longest"] = max(about["longest"], len(text))
    about["characters"] = "".join(sorted({*about["characters"], *text}))


def read_first(path: Path, index: ShardIndex, column: int) -> bytes | None:
    """Return the content of the first member of a modality; None if the shard does not have one.

    Args:
        path: Path of the shard.
        index: Index of the shard.
        column: The column of the modality in the index.

    Raises:
        ValueError: If the member is damaged.
    """
    rows = np.flatnonzero(index.offsets[:, column])
    if not len(rows):
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        row = int(rows[0])
        return read_member(descriptor, int(index.offsets[row, column]), int(index.sizes[row, column]))
    except ValueError as error:
        raise ValueError(f"{path}: the first member of {index.modalities[column]!r} {error}") from None
    finally:
        os.close(descriptor)
