"""The failures of the cells of a comparison, kept in a file until the cells are tried again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import write_text
from pyro_mmvae.locks import waiting

_FILE = "failures.json"


@dataclass(frozen=True)
class Failure:
    """The failure of one cell.

    Attributes:
        cell: The name of the run directory of the cell.
        task: The name of what was done to the cell, see :mod:`pyro_mmvae.experiments.tasks`.
        reason: The reason in one line.
        log: The name of the log file beside the run directory.
        signature: A hash of the settings with which the cell failed; with others it is tried again.
        time: The time of the failure in UTC, by ISO 8601.
    """

    cell: str
    task: str
    reason: str
    log: str
    signature: str
    time: str = ""


class FailureBook:
    """The file ``failures.json`` in the folder of a comparison, which several processes write one after the other.

    Args:
        folder: The folder of the comparison.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def file(self) -> Path:
        """The path of the file, which exists if there are failures."""
        return self.folder / _FILE

    def read(self) -> list[Failure]:
        """Return the failures in the file; entries that are not failures, and files that are damaged, are left out."""
        try:
            entries = read_json(self.file).get("failures")
        except (OSError, ValueError):
            return []
        names = {field.name for field in fields(Failure)}
        return [
            Failure(**entry)
            for entry in (entries if isinstance(entries, list) else [])
            if isinstance(entry, dict) and entry.keys() == names and all(isinstance(v, str) for v in entry.values())
        ]

    def find(self, cell: str, task: str, signatures: Iterable[str]) -> Failure | None:
        """Return the failure of a cell with these settings, None if there is none.

        Args:
            cell: The name of the run directory of the cell.
            task: The name of the task.
            signatures: The signatures of the settings; a failure with any of them counts.
        """
        known = set(signatures)
        return next((f for f in self.read() if (f.cell, f.task) == (cell, task) and f.signature in known), None)

    def record(self, failure: Failure) -> None:
        """Add a failure, which replaces an earlier one of the same cell and task.

        Args:
            failure: The failure, whose time is set here.

        Raises:
            OSError: If the file cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        added = Failure(**{**asdict(failure), "time": now})
        self._change(lambda found: [*_without(found, failure.task, [failure.cell]), added])

    def forget(self, task: str, cells: Sequence[str]) -> None:
        """Remove the failures of cells, after which they are tried again.

        Args:
            task: The name of the task.
            cells: The names of the run directories of the cells.

        Raises:
            OSError: If the file cannot be written.
        """
        if self.file.exists():
            self._change(lambda found: _without(found, task, cells))

    def _change(self, change: Callable[[list[Failure]], list[Failure]]) -> None:
        with waiting(self.folder / f".{_FILE}.lock"):
            found = change(self.read())
            if found:
                write_text(self.file, json.dumps({"failures": [asdict(f) for f in found]}, indent=1) + "\n")
            else:
                with suppress(FileNotFoundError):
                    self.file.unlink()


def _without(failures: Sequence[Failure], task: str, cells: Sequence[str]) -> list[Failure]:
    return [failure for failure in failures if failure.task != task or failure.cell not in cells]
