"""Copies of the stored run directories, which every later version must be able to open."""

from __future__ import annotations

import shutil
from pathlib import Path

FORMAT_2 = Path(__file__).with_name("golden") / "format-2"
"""A run that pyro_mmvae 0.2.0.dev0 wrote before checkpoints had checksums: a vector and a text, two epochs."""


def copy_run(target: Path) -> Path:
    """Copy the stored run, since opening its data records their fingerprints."""
    return shutil.copytree(FORMAT_2, target)
