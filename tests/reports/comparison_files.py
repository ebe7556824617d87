"""The files of evaluated runs, without models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_mmvae.run_files import RunFiles


def write_cell(path: Path, aggregation: str, seed: int, means: dict[str, Any]) -> Path:
    """Write the files of an evaluated run that a comparison reads."""
    summary = {"aggregation": aggregation, "train_seed": seed, "means_by_views": means}
    summary |= {"options": {}, "classifier_accuracy": {}}
    files = RunFiles(path)
    files.evaluation_summary.parent.mkdir(parents=True)
    files.evaluation_summary.write_text(json.dumps(summary), encoding="utf-8")
    (path / "metrics.jsonl").write_text('{"epoch": 0, "seconds": 2.0}\n', encoding="utf-8")
    return path
