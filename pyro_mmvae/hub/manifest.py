"""The list of the files of a run that is shared, with their sizes and checksums."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

from pyro_mmvae.run_files import CHECKPOINTS, RunFiles

MANIFEST = "files.json"
"""The name of the list in a repository."""

MAX_TOTAL = 20 * 2**30
"""The largest size of all files of a run that is pulled, in bytes."""

_FORMAT = 1
_FILES = RunFiles(Path())
_NEEDED = (str(_FILES.config), str(_FILES.environment))
_TOP = (
    *_NEEDED, str(_FILES.data_record), str(_FILES.metrics), str(_FILES.prior), str(_FILES.calibration),
    *CHECKPOINTS.values(),
)  # fmt: skip
_EVALUATION = re.compile(r"evaluation/(metrics|imputation|readings|ppc|summary)\.(csv|md|json|tex)")
_ITEMS = re.compile(r"samples\.npz|evaluation/(arrays\.npz|ppc[^/\\]{0,130}\.nc)|plots/[^/\\]{1,150}\.(png|pdf|svg)")
_MAX_FILES = 2000
_BLOCK = 2**20


class ManifestError(ValueError):
    """An error about the files of a run that is shared; the message is one line."""


def shared_files(path: Path, *, items: bool) -> list[str]:
    """Return the names of the files of a run directory that are shared.

    Args:
        path: The path of the run directory.
        items: If True, files that show items of the data are among them: samples, pictures, posterior means and checks.

    Returns:
        The names relative to the run directory, with slashes, in alphabetical order.

    Raises:
        ManifestError: If the directory is not that of a trained run.
        UnsafePathError: If a file is a link or a device.
    """
    files = RunFiles(path)
    files.check_links()
    found = [name for name in _TOP if files.place(name).is_file()]
    for folder in ("evaluation", "plots"):
        place = files.place(folder)
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            name = f"{folder}/{entry.name}"
            if _EVALUATION.fullmatch(name) or (items and _ITEMS.fullmatch(name)):
                files.place(folder, entry.name)
                found.append(name)
    if items and files.samples.is_file():
        found.append(files.samples.name)
    missing = [name for name in _NEEDED if name not in found]
    if missing or not set(found) & set(CHECKPOINTS.values()):
        raise ManifestError(f"{path} must be the directory of a trained run, got one without {missing or 'checkpoint'}")
    return sorted(found)


def make_manifest(path: Path, names: list[str]) -> dict[str, Any]:
    """Return the list of some files of a run directory.

    Args:
        path: The path of the run directory.
        names: The names of the files, relative to it.
    """
    return {
        "format": _FORMAT,
        "files": {name: {"bytes": (path / name).stat().st_size, "sha256": checksum(path / name)} for name in names},
    }


def check_manifest(manifest: Any, source: str) -> dict[str, dict[str, Any]]:
    """Check the list of a repository, which may come from anyone.

    Args:
        manifest: The content of the list.
        source: The name of the repository, for messages.

    Returns:
        The size and the checksum of each file by its name.

    Raises:
        ManifestError: If the list is damaged, names a file that no run has, or files that are too large together.
    """
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or manifest.get("format") != _FORMAT or not 0 < len(files) <= _MAX_FILES:
        raise ManifestError(f"{source}: {MANIFEST} must list files in format {_FORMAT}, got something else")
    for name, about in files.items():
        if not (name in _TOP or _EVALUATION.fullmatch(name) or _ITEMS.fullmatch(name)):
            raise ManifestError(f"{source}: {MANIFEST} must name files of a run directory, got {name!r}")
        size, digest = (about.get(key) if isinstance(about, dict) else None for key in ("bytes", "sha256"))
        if type(size) is not int or size < 0 or not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
            raise ManifestError(
                f"{source}: {MANIFEST} must have the size and the SHA-256 of {name!r}, got {about!r:.80}"
            )
    missing = [name for name in _NEEDED if name not in files]
    if missing or not set(files) & set(CHECKPOINTS.values()):
        raise ManifestError(f"{source}: a run must have {missing or 'a checkpoint'}, got a list without")
    total = sum(about["bytes"] for about in files.values())
    if total > MAX_TOTAL:
        raise ManifestError(f"{source}: files must have at most {MAX_TOTAL} bytes together, got {total}")
    return files


def check_file(file: Path, name: str, about: dict[str, Any], source: str) -> None:
    """Check that a file is a regular one, with the size and the checksum of the list.

    Args:
        file: The path of the file.
        name: The name of the file in the list.
        about: The size and the checksum of the list.
        source: The name of the repository, for messages.

    Raises:
        ManifestError: If it is a link or a device, or differs from the list.
    """
    state = os.lstat(file)
    if not stat.S_ISREG(state.st_mode):
        raise ManifestError(f"{source}: {name} must be a file, got a link or a device")
    if state.st_size != about["bytes"]:
        raise ManifestError(f"{source}: {name} must have {about['bytes']} bytes, got {state.st_size}: it is damaged")
    if (found := checksum(file)) != about["sha256"]:
        raise ManifestError(f"{source}: {name} must have the SHA-256 {about['sha256']}, got {found}: it is damaged")


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
