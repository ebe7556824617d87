"""Readings of the cells of a comparison with other aggregations than those that they were trained with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from pyro_mmvae import runs
from pyro_mmvae._bounded import read_json
from pyro_mmvae.data import cache_folder
from pyro_mmvae.device import threads
from pyro_mmvae.evaluation import EvaluationOptions
from pyro_mmvae.evaluation.readings import evaluate_readings, reading_rows
from pyro_mmvae.experiments.compare import Cell
from pyro_mmvae.reports import has_means
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.readings import write_readings


def reading_options(options: EvaluationOptions) -> EvaluationOptions:
    """Return the part of an evaluation that readings of cells repeat, which is probes and coherence.

    Args:
        options: The extent of the evaluation of each cell.
    """
    return replace(options, likelihood_items=0, khat_items=0, quality=False, diagnostics=False)


def is_read(cell: Cell, names: Sequence[str], options: EvaluationOptions) -> bool:
    """Return True if a cell was read with all of the aggregations, and with these options.

    Args:
        cell: The cell of the comparison.
        names: The names of the aggregations.
        options: The extent of the readings.
    """
    try:
        # The summary is the last file written.
        summary = read_json(RunFiles(cell.path).readings_summary)
    except (OSError, ValueError):
        return False
    own = {"aggregation": str(cell.config.model.aggregation), "train_seed": cell.config.train.seed}
    if summary.get("variant", "") != cell.variant or any(summary.get(key) != own[key] for key in own):
        return False
    has_options = summary.get("options") == json.loads(json.dumps(asdict(options)))
    readings = summary.get("readings")
    return has_options and isinstance(readings, dict) and all(_is_reading(readings.get(name)) for name in names)


def _is_reading(reading: Any) -> bool:
    """Return True if the summary of one reading holds what the matrix shows."""
    means = reading.get("means_by_views") if isinstance(reading, dict) else None
    return isinstance(means, dict) and all(map(has_means, means.values()))


def read_cell(cell: Cell, names: Sequence[str], options: EvaluationOptions) -> None:
    """Evaluate a trained cell with several aggregations, without training.

    Writes ``readings.csv`` and ``readings.json`` in the evaluation folder of the cell.

    Args:
        cell: The trained cell of the comparison.
        names: The names of the aggregations, as columns of the matrix.
        options: The extent of each reading.

    Raises:
        ValueError: If the cell cannot be read with one of the aggregations; the message names the cell and the reason.
    """
    run = runs.load_run(cell.path, device=cell.config.train.device)
    train, test = run.data("train").to(run.device), run.data("test").to(run.device)
    try:
        with threads(cell.config.train.threads):
            results = evaluate_readings(
                run.vae, train, test, names, options=options, cache=cache_folder() / train.fingerprint
            )
    except ValueError as error:
        raise ValueError(f"{cell.path}: {error}") from error
    summary: dict[str, Any] = {
        "aggregation": str(cell.config.model.aggregation), "variant": cell.variant, "options": asdict(options),
        "train_seed": cell.config.train.seed, "readings": {name: result.summary() for name, result in results.items()},
    }  # fmt: skip
    write_readings(cell.path, reading_rows(results), summary)
