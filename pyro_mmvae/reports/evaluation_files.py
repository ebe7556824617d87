"""The readers of the files of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import read_npz
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
    return read_json(file)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a run's evaluation.

    Args:
        path: The path of the run directory.

    Raises:
        FileNotFoundError: If the run was not evaluated.
    """
    read_summary(path)
    return read_npz(RunFiles(path).evaluation_arrays)
