"""The writer of the readings of a run with other aggregations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae.files import write_text
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.layout import write_table


def write_readings(path: Path, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Path:
    """Write the results of readings into the evaluation folder of a run directory, the summary last.

    The results of the run's own evaluation stay as they are; earlier readings are replaced.

    Args:
        path: The path of the run directory.
        rows: The rows of the table, all with the same keys.
        summary: The aggregation and the seed of the run, the options, and ``readings``, a mapping from aggregation to
            the summary of its evaluation, as JSON can hold them.

    Returns:
        The folder of the results.
    """
    files = RunFiles(path)
    files.evaluation.mkdir(parents=True, exist_ok=True)
    write_table(files.readings_table, rows)
    write_text(files.readings_summary, json.dumps(summary, indent=1) + "\n")
    return files.evaluation
