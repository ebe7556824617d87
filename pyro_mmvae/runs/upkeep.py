"""The upkeep of a run directory during training: lines of metrics, resumptions, and what killed processes left."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import naming, write_text
from pyro_mmvae.run_files import CHECKPOINTS, RunFiles, read_metrics


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Append the metrics of one epoch to those of a run, all of the line or nothing.

    Args:
        path: The path of the run directory.
        row: Metrics by name, as JSON can hold them; ``epoch`` must be among them.

    Raises:
        ValueError: If a number is NaN or infinite, which JSON does not have.
        OSError: If the line cannot be written as a whole.
    """
    line, metrics = (json.dumps(row, allow_nan=False) + "\n").encode(), RunFiles(path).metrics
    with naming(metrics), metrics.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


def cut_metrics(path: Path, epochs: int) -> None:
    """Keep one line of metrics per epoch, of the first epochs only; nothing is written if that is so already.

    Args:
        path: The path of the run directory.
        epochs: The number of epochs that the last checkpoint has completed.
    """
    file = RunFiles(path).metrics
    if file.exists():
        kept = "".join(json.dumps(row) + "\n" for row in read_metrics(path) if row["epoch"] < epochs)
        if kept.encode() != file.read_bytes():
            write_text(file, kept)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that a process has left which was killed while it trained a run.

    Files of a process that is alive are kept, since other commands may be writing to the directory.

    Args:
        path: The path of the run directory, whose lock this process holds.
    """
    files = RunFiles(path)
    written = [files.config, files.environment, files.data_record, files.metrics, files.samples]
    own = {file.name for file in [*written, *map(files.checkpoint, CHECKPOINTS)]}
    for temporary, name, process in _temporary_files(path, files.plots):
        if name in own or not _is_alive(process):
            temporary.unlink(missing_ok=True)
    shutil.rmtree(files.unfinished, ignore_errors=True)


def _temporary_files(*folders: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield the temporary files in folders, each with the name that it would get, and the number of its process."""
    for folder in folders:
        for file in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
            match = re.fullmatch(r"\.(.+)\.(\d+)\.tmp(\.\w+)?", file.name)
            if match and len(match[2]) < 10:
                yield file, f"{match[1]}{match[3] or ''}", int(match[2])


def _is_alive(process: int) -> bool:
    """Return True if a process of that number exists on this machine, or that cannot be found out."""
    if os.name == "nt":  # where the signal 0 would end it
        return True
    with suppress(PermissionError, OverflowError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def record_resumption(path: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry to the list ``resumed`` of the environment of a run.

    Args:
        path: The path of the run directory.
        entry: The time, the step and what has changed, as JSON can hold them.
    """
    file = RunFiles(path).environment
    try:
        environment = read_json(file)
    except (OSError, ValueError):  # a run can be used without it
        return
    earlier = environment.get("resumed")
    environment["resumed"] = [*(earlier if isinstance(earlier, list) else []), dict(entry)]
    write_text(file, json.dumps(environment, indent=1) + "\n")
