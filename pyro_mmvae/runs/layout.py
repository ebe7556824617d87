"""The writers of a run directory, and the check of its format; :mod:`pyro_mmvae.run_files` names the files."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import npz_bytes, write_npz, write_text, write_together
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.checkpoint import FORMAT_VERSION, check_format, save_checkpoint
from pyro_mmvae.runs.config import RUN_FOLDER, Config, DataConfig, dump_config, make_config
from pyro_mmvae.runs.upkeep import append_metrics, cut_metrics, record_resumption, remove_leftovers

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

RUN_ID = "run_id"
"""The key of the identity of a run, in its environment and in its checkpoints."""


class RunError(ValueError):
    """A run directory that cannot be used; the message is one line and names it."""


class RunWriteError(OSError):
    """An error about a file of a run directory that cannot be written; the message is one line and says what to do.

    Args:
        path: The path of the run directory.
        error: The error of the system.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        is_made = path.name.startswith(".") and path.name.endswith(".new")  # see pyro_mmvae.runs.creation
        go_on = "train again" if is_made else f"continue with --resume {path}"
        remedy = f"make it writable, and {go_on}"
        if not path.exists():
            remedy = "the run directory was removed or renamed while it was trained; move it back, or train again"
        elif error.errno in _FULL:
            remedy = f"free some space, and {go_on}"
        file = error.filename or path
        super().__init__(f"{file} cannot be written: {error.strerror or error}: {remedy}")
        self.path = path


class RunWriter:
    """The only writer of a run directory during training; on every process but the first, it writes nothing.

    Args:
        path: The path of the run directory.
        rank: The rank of this process among those that train together; only rank 0 writes.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.files, self.rank = RunFiles(path), rank

    @cached_property
    def run_id(self) -> str | None:
        """The identity of the run, see :func:`make_run_id`; None for a run of an earlier version."""
        return read_run_id(self.files)

    def create(self, config: Config, environment: Mapping[str, Any]) -> None:
        """Create the run directory, see :func:`create`."""
        self._call(create, self.files.path, config, environment)

    def write_config(self, config: Config) -> None:
        """Replace the configuration of the run."""
        self._call(write_text, self.files.config, dump_config(with_relative_data(config, self.files.path)))

    def write_data_record(self, record: Mapping[str, Any]) -> None:
        """Write or replace the record of the data, see :mod:`pyro_mmvae.runs.data_record`."""
        self._call(write_text, self.files.data_record, json.dumps(record) + "\n")

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append the metrics of one epoch, see :func:`append_metrics`."""
        self._call(append_metrics, self.files.path, row)

    def cut_metrics(self, epochs: int) -> None:
        """Remove the metrics of epochs that are to be trained again, see :func:`cut_metrics`."""
        self._call(cut_metrics, self.files.path, epochs)

    def record_resumption(self, entry: Mapping[str, Any]) -> None:
        """Add an entry to the resumptions in the environment, see :func:`record_resumption`."""
        self._call(record_resumption, self.files.path, entry)

    def remove_leftovers(self) -> None:
        """Remove temporary files of this writer that a killed process has left, see :func:`remove_leftovers`."""
        self._call(remove_leftovers, self.files.path)

    def write_samples(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the samples that are drawn at the end of training."""
        self._call(write_arrays, self.files.samples, arrays)

    def save_checkpoint(
        self,
        name: str,
        module: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        extra: Mapping[str, Tensor] | None = None,
        **state: Any,
    ) -> None:
        """Save a checkpoint under its name, ``"best"`` or ``"last"``, see :func:`~.checkpoint.save_checkpoint`."""
        if self.run_id is not None:
            state[RUN_ID] = self.run_id
        self._call(save_checkpoint, self.files.checkpoint(name), module, optimizer, extra=extra, **state)

    def _call(self, write: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self.rank:
            return
        try:
            write(*args, **kwargs)
        except OSError as error:
            raise RunWriteError(self.files.path, error) from error


def process_rank() -> int:
    """Return the rank of this process in ``torch.distributed``, or 0 if it trains alone."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def create(path: Path, config: Config, environment: Mapping[str, Any]) -> None:
    """Write the configuration and environment of a new run directory.

    Args:
        path: The path of the directory, which must be new or empty but for its lock and the folder of its data.
        config: The resolved configuration of the run.
        environment: Versions, device and data, as JSON can hold them.

    Raises:
        RunError: If the path is a file or a directory with content.
    """
    files = RunFiles(path)
    _refuse_content(path, {files.data, files.lock})
    path.mkdir(parents=True, exist_ok=True)
    text = dump_config(with_relative_data(config, path))
    about = {"format_version": FORMAT_VERSION, **environment, RUN_ID: make_run_id(text, environment, files.data)}
    write_text(files.environment, json.dumps(about, indent=1) + "\n")
    write_text(files.config, text)


def make_run_id(config: str, environment: Mapping[str, Any], data: Path) -> str:
    """Return the identity of a run, by which its checkpoints are told from those of other runs of the same shapes.

    It is a hash of everything that determines the run, so that a training repeated writes the same bytes.

    Args:
        config: The text of the configuration.
        environment: The environment of the run, of which versions and data count.
        data: The folder of the data that the run directory holds, which count if it exists.
    """
    about = {key: environment.get(key) for key in ("versions", "device", "precision", "data", "calibrated_from")}
    if data.is_dir():
        files = sorted(file for file in data.rglob("*") if file.is_file())
        about["data"] = {file.name: _digest(file) for file in files}
    return hashlib.sha256(json.dumps([config, about], sort_keys=True, default=str).encode()).hexdigest()[:32]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_run_id(files: RunFiles) -> str | None:
    """Return the identity of a run; None if an earlier version wrote it or its environment cannot be read."""
    try:
        found = read_json(files.environment).get(RUN_ID)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def check_run_id(files: RunFiles, checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Check that a checkpoint belongs to its run directory; those of earlier versions are not checked.

    Args:
        files: The files of the run.
        checkpoint: The path of the checkpoint, which the message names.
        state: The state of the checkpoint.

    Raises:
        RunError: If the checkpoint is that of another run.
    """
    expected = read_run_id(files)
    if expected is not None and state.get(RUN_ID) != expected:
        raise RunError(
            f"{checkpoint} must belong to the run of {files.environment.name} ({RUN_ID} {expected[:8]}…), got a "
            "checkpoint of another run: put the right file back"
        )


def check_new(path: Path) -> None:
    """Check that a path can become a run directory: it does not exist, or is an empty directory.

    What a process has left in the directory that was killed while it created a run there does not count.

    Args:
        path: The path of the directory.

    Raises:
        RunError: If the path is a file or a directory with other content, or its name is not UTF-8, without which
            checkpoints cannot be read.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RunError(f"{path}: the name of a run directory must be UTF-8: give another --out") from None
    files = RunFiles(path)
    allowed = {files.lock, files.unfinished}
    if files.unfinished.is_dir() and files.lock.exists() and not files.config.exists():
        allowed |= {files.environment, files.data, files.data_record, files.checkpoint("last")}
    _refuse_content(path, allowed)


def _refuse_content(path: Path, allowed: set[Path]) -> None:
    if path.exists() and (not path.is_dir() or any(entry not in allowed for entry in path.iterdir())):
        raise RunError(f"{path} exists already: give another --out, or continue it with --resume {path}")


def with_relative_data(config: Config, path: Path) -> Config:
    """Return a configuration that names data in the run directory relative to it, so that it may be moved.

    Args:
        config: The resolved configuration of the run.
        path: The path of the run directory.
    """
    name = Path(config.data.name)
    if not name.is_absolute() or not name.is_relative_to(path.resolve()):
        return config
    relative = f"{RUN_FOLDER}{name.relative_to(path.resolve()).as_posix()}"
    return config.model_copy(update={"data": DataConfig.model_validate({"name": relative, **config.data.options()})})


def read_config(path: Path) -> Config:
    """Read the configuration of a run directory, after checking the format of the run.

    Args:
        path: The path of the run directory.

    Returns:
        The configuration.

    Raises:
        RunError: If the path is not a run directory, or one that another version wrote in another format.
        ConfigError: If the configuration is not valid.
        UnsafePathError: If a file in it is a link.
    """
    files = RunFiles(path)
    files.check_links()
    if not files.config.is_file():
        raise RunError(f"{path} is not a run directory: it has no {files.config.name}")
    _check_environment(files)
    return make_config(files.config, use_recipe=False)


def _check_environment(files: RunFiles) -> None:
    # This comes before the configuration is parsed, since an earlier version may have had other settings. Where the
    # environment cannot be read, the format is checked when a checkpoint is.
    try:
        environment = read_json(files.environment)
    except (OSError, ValueError):
        return
    versions, number = environment.get("versions"), environment.get("format_version", 1)
    if not isinstance(number, int):
        raise RunError(f"{files.environment}: format_version must be an integer, got {number!r}")
    version = versions.get("pyro_mmvae") if isinstance(versions, dict) else None
    check_format(files.path, number, version, RunError)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a compressed ``.npz`` file without pickles, atomically.

    Args:
        path: The path of the file.
        arrays: Arrays by name, of numbers or strings.
    """
    write_npz(path, arrays)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file, atomically.

    Args:
        path: The path of the file.
        rows: The rows of the table, all with the same keys.
    """
    write_text(path, _table(rows))


def write_evaluation(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    imputation: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the results of an evaluation into a run directory, the summary last; all of them, or none on an error.

    Args:
        path: The path of the run directory.
        rows: The rows of the table of metrics, all with the same keys.
        summary: Means and options, as JSON can hold them.
        arrays: The arrays that figures need, by name.
        imputation: The rows of the table of imputations, all with the same keys; by default that table is not written.

    Returns:
        The folder of the results.
    """
    files = RunFiles(path)
    files.evaluation.mkdir(exist_ok=True)
    contents = {
        files.evaluation_table: _table(rows).encode(),
        files.evaluation_arrays: npz_bytes(files.evaluation_arrays, arrays),
        **({files.imputation_table: _table(imputation).encode()} if imputation else {}),
        files.evaluation_summary: (json.dumps(summary, indent=1) + "\n").encode(),
    }
    write_together(contents)
    return files.evaluation


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as the text of a CSV file."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
