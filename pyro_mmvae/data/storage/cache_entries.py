"""The entries of the cache: their sizes and last uses, their removal, and the limit on the size of all together."""

from __future__ import annotations

import os
import re
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyro_mmvae.locks import take_lock

LIMIT_VARIABLE = "PYRO_MMVAE_CACHE_LIMIT"
"""The environment variable with the largest size of the cache, such as ``20GB``."""

_DATA = re.compile(r"[^.].*-v\d+-[0-9a-f]{16}\.safetensors")
_CLASSIFIER = re.compile(r"classifier-.+-seed\d+-epochs\d+\.safetensors")
_FOLDER = re.compile(r".+-[0-9a-f]{12}")  # of the classifiers of one data set, named after its fingerprint
_LEFTOVER = re.compile(r"\.(.+\.safetensors)\.(lock|(?:[0-9a-f]{32}|\d{1,9})\.tmp)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class CacheEntry:
    """A file of the cache: one split of a data set, or a classifier for the evaluation.

    Attributes:
        name: The path of the file relative to the folder of the cache.
        path: The path of the file.
        size: The size of the file in bytes.
        last_used: The time at which the file was written or read last, in seconds since 1970.
    """

    name: str
    path: Path
    size: int
    last_used: float


def mark_used(path: Path) -> None:
    """Record that a file of the cache was used now; nothing happens where the file cannot be changed.

    Args:
        path: The path of the file.
    """
    with suppress(OSError):
        os.utime(path)


def list_entries(folder: Path) -> list[CacheEntry]:
    """Return the entries of the cache, the one that was used last first.

    Files whose names this package does not give are not entries, since the folder is the user's choice.

    Args:
        folder: The folder of the cache, see :func:`~pyro_mmvae.data.cache_folder`.

    Raises:
        OSError: If the folder cannot be read.
    """
    found = [
        CacheEntry(path.relative_to(folder).as_posix(), path, about.st_size, about.st_mtime)
        for path, about in _files(folder)
        if (_DATA if path.parent == folder else _CLASSIFIER).fullmatch(path.name)
    ]
    return sorted(found, key=lambda entry: (-entry.last_used, entry.name))


def clear_cache(folder: Path, name: str = "") -> tuple[list[CacheEntry], list[CacheEntry]]:
    """Remove entries of the cache, and what processes have left there that were killed.

    Entries that another process builds at the moment stay.

    Args:
        folder: The folder of the cache, see :func:`~pyro_mmvae.data.cache_folder`.
        name: The beginning of the names of the entries to remove, such as ``"polymnist-mini"``; all by default.

    Returns:
        The entries that were removed, and those that stay because they are in use or cannot be removed.

    Raises:
        ValueError: If no entry has a name that begins so.
        OSError: If the folder cannot be read.
    """
    entries = list_entries(folder)
    chosen = [entry for entry in entries if entry.name.startswith(name)]
    if name and not chosen:
        listed = ", ".join(entry.name for entry in entries[:20]) or "none"
        raise ValueError(f"the name of an entry of the cache {folder} must begin with {name!r}, got {listed}")
    return _remove(chosen, folder)


def limit_cache(folder: Path, limit: int, keep: Path | None = None) -> tuple[list[CacheEntry], list[CacheEntry]]:
    """Remove the entries that were not used for longest until the rest is not larger than a limit.

    Args:
        folder: The folder of the cache, see :func:`~pyro_mmvae.data.cache_folder`.
        limit: The largest size of all entries together in bytes.
        keep: The path of an entry that stays in any case; none by default.

    Returns:
        The entries that were removed, and those that stay because they are in use or cannot be removed.

    Raises:
        OSError: If the folder cannot be read.
    """
    entries = list_entries(folder)
    excess, removed, kept = sum(entry.size for entry in entries) - limit, list[CacheEntry](), list[CacheEntry]()
    for entry in reversed(entries):
        if excess <= 0:
            break
        if entry.path == keep:
            continue
        gone, stay = _remove([entry], folder)
        removed, kept = removed + gone, kept + stay
        excess -= sum(other.size for other in gone)
    return removed, kept


def keep_limit(folder: Path, written: Path) -> None:
    """Keep the cache below the limit of the environment after a file was added; a wrong limit is warned about.

    Args:
        folder: The folder of the cache, see :func:`~pyro_mmvae.data.cache_folder`.
        written: The file that was added, which stays.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return
    try:
        limit_cache(folder, parse_size(text), keep=written)
    except ValueError as error:
        warnings.warn(f"{LIMIT_VARIABLE} {error}; the cache is not limited", stacklevel=4)
    except OSError:  # such as another user's file, which the next write meets again
        return


def parse_size(text: str) -> int:
    """Return the number of bytes of a size in words.

    Args:
        text: A number with a unit: ``B``, ``kB``, ``MB``, ``GB`` or ``TB``, powers of 1,000, or ``GiB`` and the like,
            powers of 1,024; without a unit the number is in bytes.

    Raises:
        ValueError: If the text is not of this form.

    Example:
        >>> parse_size("1.5 GB"), parse_size("2KiB"), parse_size("0")
        (1500000000, 2048, 0)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 40:
        raise ValueError(f"must be a size such as 500MB, 20GB or 1.5GiB, got {text[:80]!r}")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].upper()])


def size_in_words(size: int) -> str:
    """Return a number of bytes in words, with units of powers of 1,000.

    Args:
        size: The number of bytes.

    Example:
        >>> size_in_words(999), size_in_words(1_500_000)
        ('999 B', '1.5 MB')
    """
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{size} B" if unit == "B" else f"{number:.1f} {unit}"


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the regular files in the folder of the cache and in the folders of classifiers, without following links."""
    try:
        with os.scandir(folder) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in listed:
        with suppress(FileNotFoundError):  # a file that another process has removed
            about = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(about.st_mode):
                yield folder / entry.name, about
            elif stat.S_ISDIR(about.st_mode) and _FOLDER.fullmatch(entry.name):
                for path in sorted((folder / entry.name).iterdir()):
                    with suppress(FileNotFoundError):
                        inner = path.lstat()
                        if stat.S_ISREG(inner.st_mode):
                            yield path, inner


def _remove(entries: list[CacheEntry], folder: Path) -> tuple[list[CacheEntry], list[CacheEntry]]:
    """Remove entries that no process builds, and the temporary files of builds of them that were killed."""
    removed, kept, leftovers = list[CacheEntry](), list[CacheEntry](), dict[Path, list[Path]]()
    for path, about in _files(folder):
        match = _LEFTOVER.fullmatch(path.name)
        # A file that is written without a lock, as a classifier's by a process of another version, is younger.
        if match and (match[2] == "lock" or about.st_mtime < time.time() - 3600):
            leftovers.setdefault(path.with_name(match[1]), []).append(path)
    for entry in entries:
        (removed if _remove_file(entry.path, leftovers.pop(entry.path, [])) else kept).append(entry)
    if entries:
        for built, files in leftovers.items():
            if not built.exists():
                _remove_file(built, files)
    for parent in {entry.path.parent for entry in removed} - {folder}:
        with suppress(OSError):  # a folder that still has files
            parent.rmdir()
    return removed, kept


def _remove_file(path: Path, leftovers: list[Path]) -> bool:
    """Remove a file of the cache and what is left of its builds; return False if it is in use."""
    lock_file = path.with_name(f".{path.name}.lock")
    try:
        lock = take_lock(lock_file)
    except (OSError, NotImplementedError):
        return False
    if lock is None:
        return False
    try:
        for file in [path, *leftovers]:
            file.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        with suppress(OSError):
            lock_file.unlink()
        lock.release(force=True)
    return True
