"""The layout of a run directory: the name of every file in it, and the reader of its metrics.

The module imports neither torch nor the rest of the package, so that reports can read a run without a model;
:mod:`pyro_mmvae.runs.layout` writes the files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_mmvae._bounded import kind_of, load_json, read_text
from pyro_mmvae._metric_rows import check_row, row_epoch

CHECKPOINTS = {"best": "best.safetensors", "last": "checkpoint.safetensors"}
"""The file of each checkpoint, by name: ``best`` has the highest validation ELBO, ``last`` can be resumed from."""

_MAX_NAME_BYTES = 120  # file systems allow 255, of which suffixes and names of temporary files take some

MAX_METRICS_BYTES = 256 << 20
"""The largest size of a file of metrics; a row of one epoch has about a kilobyte."""

_EVALUATION = "evaluation"

_NAMES = (
    "config.yaml", "environment.json", "data", "data.json", "metrics.jsonl", "samples.npz", "prior.npz", "plots",
    "calibration.json", "predictors", "tensorboard", "report.html", _EVALUATION,
)  # fmt: skip

_CHECK = "ppc"  # the stem of the files of posterior predictive checks


class UnsafePathError(ValueError):
    """An error about a name in a run directory that leads out of it; the message is one line and names the path."""


@dataclass(frozen=True)
class RunFiles:
    """The paths of the files in a run directory, whether they exist or not.

    Args:
        path: The path of the run directory.
    """

    path: Path

    def place(self, *parts: str) -> Path:
        """Return the path of a file or folder in the run directory, which no link leads out of.

        The run directory itself may be a link to a folder.

        Args:
            *parts: The names of the folders in the run directory, and of the file, outermost first.

        Returns:
            The path, whether it exists or not.

        Raises:
            UnsafePathError: If a part is not the name of a file, or is a symbolic link, a FIFO, a socket or a device.
        """
        place = self.path
        for part in parts:
            if part in {"", ".", ".."} or "/" in part or os.sep in part or "\0" in part:
                raise UnsafePathError(f"{place}: names in a run directory must be names of files, got {part!r}")
            place = place / part
            try:
                mode = os.lstat(place).st_mode
            except OSError:  # nothing there, or a run directory that its user reports on
                continue
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise UnsafePathError(
                    f"{place} must be a file or folder of its own in the run directory, got {kind_of(mode)}: replace it"
                )
        return place

    def check_links(self) -> None:
        """Check that no file or folder that is read or written later is a link out of the run directory.

        Raises:
            UnsafePathError: If one is a symbolic link, a FIFO, a socket or a device.
        """
        for name in (*_NAMES, *CHECKPOINTS.values()):
            self.place(name)

    def results(self, name: str) -> RunFiles:
        """Return the files of results on other data than the test items, which are in a folder of the run directory.

        Args:
            name: The name of the data, in which slashes are replaced and which is shortened if it is long.
        """
        return RunFiles(self.place(f"on-{short_name(name.replace('/', '_'))}"))

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.place("config.yaml")

    @property
    def environment(self) -> Path:
        """The versions, device and data with which the run was made."""
        return self.place("environment.json")

    @property
    def lock(self) -> Path:
        """The lock that a process holds while it trains the run."""
        return self.place(".lock")

    @property
    def unfinished(self) -> Path:
        """The folder that a run is created in if its directory existed before."""
        return self.place(".new")

    @property
    def data(self) -> Path:
        """The folder of the data that were passed from Python."""
        return self.place("data")

    @property
    def data_record(self) -> Path:
        """The fingerprints of the splits that were used, and the names of features and classes."""
        return self.place("data.json")

    @property
    def metrics(self) -> Path:
        """The training metrics, one line of JSON per epoch."""
        return self.place("metrics.jsonl")

    @property
    def samples(self) -> Path:
        """The reconstructions and cross-generated samples of a few validation items."""
        return self.place("samples.npz")

    @property
    def prior(self) -> Path:
        """The prior that was fitted to the latents of the training items."""
        return self.place("prior.npz")

    @property
    def plots(self) -> Path:
        """The folder of figures."""
        return self.place("plots")

    @property
    def evaluation(self) -> Path:
        """The folder of evaluation results."""
        return self.place(_EVALUATION)

    @property
    def evaluation_table(self) -> Path:
        """The table of evaluation metrics."""
        return self.place(_EVALUATION, "metrics.csv")

    @property
    def imputation_table(self) -> Path:
        """The table that compares imputations with held-out observations."""
        return self.place(_EVALUATION, "imputation.csv")

    @property
    def imputation_report(self) -> Path:
        """The report that compares imputations with held-out observations, as Markdown."""
        return self.place(_EVALUATION, "imputation.md")

    @property
    def imputation_latex(self) -> Path:
        """The tables that compare imputations with held-out observations, as LaTeX."""
        return self.place(_EVALUATION, "imputation.tex")

    @property
    def readings_table(self) -> Path:
        """The table of the metrics of readings with other aggregations."""
        return self.place(_EVALUATION, "readings.csv")

    @property
    def readings_report(self) -> Path:
        """The report that compares readings with other aggregations, as Markdown."""
        return self.place(_EVALUATION, "readings.md")

    @property
    def readings_summary(self) -> Path:
        """The means and options of readings with other aggregations, written last."""
        return self.place(_EVALUATION, "readings.json")

    @property
    def evaluation_arrays(self) -> Path:
        """The arrays that the figures of an evaluation need."""
        return self.place(_EVALUATION, "arrays.npz")

    @property
    def evaluation_summary(self) -> Path:
        """The means and options of an evaluation, written last."""
        return self.place(_EVALUATION, "summary.json")

    @property
    def check_table(self) -> Path:
        """The table of the metrics of posterior predictive checks."""
        return self.place(_EVALUATION, f"{_CHECK}.csv")

    @property
    def calibration(self) -> Path:
        """The figures of the calibration that the run comes from."""
        return self.place("calibration.json")

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint.

        Args:
            name: The name of the checkpoint, ``"best"`` or ``"last"``.

        Returns:
            The path of its file.

        Raises:
            ValueError: If the name is neither of the two.
        """
        if name not in CHECKPOINTS:
            raise ValueError(f"checkpoint must be {' or '.join(map(repr, CHECKPOINTS))}, got {name!r}")
        return self.place(CHECKPOINTS[name])

    def check(self, label: str = "") -> Path:
        """Return the path of the results of one posterior predictive check.

        Args:
            label: The label that tells several checks of a run apart, which is shortened if it is long; empty for the
                main one.

        Returns:
            The path of its netCDF file.
        """
        return self.place(_EVALUATION, f"{_CHECK}-{short_name(label)}.nc" if label else f"{_CHECK}.nc")

    def predictor(self, label: str) -> Path:
        """Return the path of a predictor of a label.

        Args:
            label: The name of the label, which is shortened if it is long.
        """
        return self.place("predictors", f"{short_name(label)}.npz")

    def checks(self) -> list[Path]:
        """Return the files of all posterior predictive checks that exist, sorted by name."""
        return [self.place(_EVALUATION, file.name) for file in sorted(self.evaluation.glob(f"{_CHECK}*.nc"))]


def _metric_lines(file: Path) -> list[str]:
    """Return the lines of a file of metrics, in which foreign bytes are replaced, so that such a line is left out."""
    if not file.exists():
        return []
    return read_text(file, MAX_METRICS_BYTES, errors="replace").splitlines()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the training metrics of a run, the last row of each epoch.

    A line that a crash has cut off, or that is not a row, is left out, and an epoch that was trained again after it
    replaces the earlier row.

    Args:
        path: The path of the run directory.

    Returns:
        One dictionary per epoch, ordered by epoch; empty if nothing was recorded.

    Raises:
        ValueError: If a row has a value of another type than it is written with; the message names the line.
        OSError: If the file cannot be read or is larger than 256 MiB.
    """
    file, rows = RunFiles(path).metrics, dict[int, tuple[int, dict[str, Any]]]()
    for number, line in enumerate(_metric_lines(file), 1):
        with suppress(ValueError):
            row = load_json(line)
            if (epoch := row_epoch(row)) is not None:
                rows[epoch] = number, row
    for number, row in rows.values():
        try:
            check_row(row)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    return [rows[epoch][1] for epoch in sorted(rows)]


def short_name(name: str) -> str:
    """Return a part of a file name that fits into it: the name itself, or its beginning and a hash if it is long.

    Characters that would separate folders or that cannot be printed become underscores, with a hash, too.

    Args:
        name: The name, such as that of a subset of many modalities.

    Returns:
        A name of at most 120 bytes, different for different names.
    """
    encoded = name.encode(errors="surrogateescape")
    safe = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name)
    if safe == name and len(encoded) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{safe.encode()[: _MAX_NAME_BYTES - 13].decode(errors='ignore')}-{digest}"


def join_names(names: Iterable[str]) -> str:
    r"""Return the names of the modalities of a subset as one text, joined by ``+``.

    Args:
        names: The names of the modalities, in which ``+`` and the backslash are escaped by a backslash.

    Example:
        >>> print(join_names(["image", "a+b"]))
        image+a\+b
        >>> split_names(join_names(["image", "a+b"]))
        ('image', 'a+b')
    """
    return "+".join(re.sub(r"([+\\])", r"\\\1", name) for name in names)


def split_names(text: str) -> tuple[str, ...]:
    """Return the names of the modalities in a text of :func:`join_names`; none for an empty text.

    Args:
        text: The names, such as the column ``given`` of ``metrics.csv``.
    """
    return tuple(re.sub(r"\\(.)", r"\1", name) for name in re.findall(r"(?:\\.|[^+\\])+", text))


def split_key(key: str, names: Iterable[str]) -> tuple[str, str]:
    """Split the key of a statistic into the name of its modality, which may contain dots, and its label.

    Args:
        key: The key, ``NAME.LABEL``, or a name alone, whose label is empty.
        names: The names of all modalities.

    Returns:
        The longest name that the key begins with, and the rest; if there is none, the parts around the first dot.
    """
    matching = [name for name in names if f"{key}.".startswith(f"{name}.")]
    name = max(matching, key=len) if matching else key.partition(".")[0]
    return name, key[len(name) + 1 :]
