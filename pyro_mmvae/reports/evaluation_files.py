"""The readers of the files of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import read_npz
from pyro_mmvae.run_files import RunFiles

_FINDING = ("mode", "what", "advice")
_LARGEST = 1e300  # of an integer that becomes a float


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary of a run's evaluation.

    Args:
        path: The path of the run directory.

    Raises:
        FileNotFoundError: If the run was not evaluated.
        ValueError: If the file is not such a summary; the message names it.
    """
    file = RunFiles(path).evaluation_summary
    if not file.exists():
        raise FileNotFoundError(f"{file}: a run must be evaluated, got no such file: 'pyro-mmvae evaluate' writes it")
    summary = read_json(file)
    check_summary(file, summary)
    return summary


def check_summary(file: Path, summary: Mapping[str, Any]) -> None:
    """Check the parts of the summary of an evaluation that pages show, each of which may be missing.

    Args:
        file: The path of the summary, which the message names.
        summary: The summary, which may come from anyone.

    Raises:
        ValueError: If a part has another type; the message is one line.
    """
    for key in ("classifier_accuracy", "attribute_frequency"):
        value = summary.get(key) or {}
        if not isinstance(value, dict) or not all(type(figure) in {int, float} for figure in value.values()):
            raise ValueError(f"{file}: {key} must be a mapping of numbers, got {repr(value)[:80]}")
        if any(abs(figure) > _LARGEST for figure in value.values()):
            raise ValueError(f"{file}: {key} must have shares of items, got {repr(value)[:80]}")
    findings = summary.get("warnings", [])
    if not isinstance(findings, list) or not all(map(_is_finding, findings)):
        raise ValueError(f"{file}: warnings must be a list of {', '.join(_FINDING)}, got {repr(findings)[:80]}")


def _is_finding(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in _FINDING)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a run's evaluation.

    Args:
        path: The path of the run directory.

    Raises:
        FileNotFoundError: If the run was not evaluated.
    """
    read_summary(path)
    return read_npz(RunFiles(path).evaluation_arrays)
