"""The run directory of an estimator: a temporary folder, the parameters in it, and its content as bytes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import write_atomically, write_text
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.layout import RunError, check_new

ESTIMATOR_FILE = "estimator.json"
"""The file of a run directory that holds the parameters of the estimator that trained it."""

_FORMAT = 1


class TemporaryRun:
    """A temporary folder for a run directory, which is removed with the last reference to this object."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="pyro-mmvae-")
        self.path = Path(folder) / "run"
        weakref.finalize(self, _remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process must not remove the folder of its parent
        shutil.rmtree(folder, ignore_errors=True)


def read_files(path: Path) -> dict[str, bytes]:
    """Return the content of the files by which a run is opened, by name.

    Args:
        path: The path of the run directory.
    """
    files = RunFiles(path)
    checkpoint = files.checkpoint("best" if files.checkpoint("best").exists() else "last")
    kept = (files.config, files.environment, files.data_record, files.prior, checkpoint)
    return {file.name: file.read_bytes() for file in kept if file.exists()}


def write_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a run directory that :func:`read_files` has read.

    Args:
        path: The path of the new directory.
        files: The content of each file by its name.
    """
    path.mkdir(parents=True)
    for name, content in files.items():
        write_atomically(path / name, content)


def copy_run(source: Path, target: Path) -> None:
    """Copy a run directory to a new path, unless it is there already.

    Args:
        source: The path of the run directory.
        target: The path to copy it to, which must not exist.

    Raises:
        RunError: If the target is another directory or a file.
    """
    if target.exists() and target.samefile(source):
        return
    try:
        check_new(target)
    except RunError:
        raise RunError(f"path must not exist yet, got {str(target)!r}: choose another path, or remove it") from None
    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)  # a foreign run may have links


def check_parameters(params: Mapping[str, Any]) -> None:
    """Check that the parameters of an estimator can be written.

    Args:
        params: The parameters by name; generators of NumPy are allowed, since their seed is written.

    Raises:
        ValueError: If a value cannot be written; the message names the parameter.
    """
    for key, value in params.items():
        if not isinstance(value, np.random.RandomState):
            _plain(key, value)


def write_parameters(path: Path, content: Mapping[str, Any]) -> None:
    """Write the parameters of an estimator to its run directory.

    Args:
        path: The path of the run directory.
        content: Values that JSON can hold, slices, and arrays and scalars of NumPy.

    Raises:
        ValueError: If a value cannot be written.
    """
    text = json.dumps({"format": _FORMAT, **{key: _plain(key, value) for key, value in content.items()}}, indent=1)
    write_text(RunFiles(path).place(ESTIMATOR_FILE), text + "\n")


def read_parameters(path: Path) -> dict[str, Any]:
    """Return what :func:`write_parameters` has written.

    Args:
        path: The path of the run directory.

    Raises:
        RunError: If the directory does not hold such a file, or one of another version.
    """
    file = RunFiles(path).place(ESTIMATOR_FILE)
    try:
        content = _revive_all(read_json(file))
    except (OSError, ValueError):
        raise RunError(
            f"{path} must be a directory that an estimator was saved to, with a readable {ESTIMATOR_FILE}, got none"
        ) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise RunError(f"{file} must have format {_FORMAT}, got another one: save the estimator anew")
    return content


def _plain(where: str, value: Any) -> Any:
    """Return a value as JSON can hold it, with slices as mappings."""
    if isinstance(value, slice):
        return {"slice": [_plain(where, part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} must have strings as keys to be saved, got {value!r}")
        return {key: _plain(f"{where}: {key}", item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(where, value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(where, item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"{where} must hold numbers, strings, lists and mappings only to be saved, got {value!r}")


def _revive_all(value: Any) -> Any:
    """Return a value of JSON with the slices that mappings stand for."""
    if isinstance(value, list):
        return [_revive_all(item) for item in value]
    return _revive({key: _revive_all(item) for key, item in value.items()}) if isinstance(value, dict) else value


def _revive(value: dict[str, Any]) -> Any:
    is_slice = set(value) == {"slice"} and isinstance(value["slice"], list) and len(value["slice"]) == 3
    return slice(*value["slice"]) if is_slice else value
