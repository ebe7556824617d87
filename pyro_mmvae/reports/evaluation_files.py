"""The readers of the files of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.run_files import RunFiles


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary of a run's evaluation.

    Args:
        path: The path of the run directory.

    Raises:
        FileNotFoundError: If the run was not evaluated.
    """
    file = RunFiles(path).evaluation_summary
    if not file.exists():
        raise FileNotFoundError(f"{file}: a run must be evaluated, got no such file: 'pyro-mmvae evaluate' writes it")
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return summary


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a run's evaluation.

    Args:
        path: The path of the run directory.

    Raises:
        FileNotFoundError: If the run was not evaluated.
    """
    read_summary(path)
    with np.load(RunFiles(path).evaluation_arrays, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
