"""A comparison of aggregations over seeds, trained and evaluated cell by cell and resumable at any point."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pyro_mmvae import runs
from pyro_mmvae.data import cache_folder
from pyro_mmvae.device import threads
from pyro_mmvae.evaluation import EvaluationOptions, evaluate
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import resume, train


@dataclass(frozen=True)
class Cell:
    """A cell of a comparison: one aggregation with one seed.

    Attributes:
        path: The run directory of the cell.
        config: The configuration to train.
    """

    path: Path
    config: Config

    def is_finished(self, options: EvaluationOptions) -> bool:
        """Return True if the cell was trained, and evaluated by :func:`run_cell` with these options.

        Args:
            options: The extent of the evaluation. An evaluation of another extent does not count, since its figures
                may differ from those of the other cells.
        """
        try:
            # The summary is the last file written.
            summary = json.loads(RunFiles(self.path).evaluation_summary.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        # The command evaluate, which may use another checkpoint, does not write the seed of the training.
        # A cell of an earlier version was evaluated without the prior that is now fitted after the training.
        if "train_seed" not in summary or (self.config.train.fit_prior and "prior" not in summary):
            return False
        return bool(summary.get("options") == json.loads(json.dumps(asdict(options))))


def make_cells(out: Path, configs: Mapping[tuple[str, int], Config]) -> list[Cell]:
    """Return the cells of a comparison, ordered by seed so that all aggregations progress at the same pace.

    Args:
        out: The folder of the comparison.
        configs: The configurations by aggregation and seed.

    Returns:
        The cells, finished ones included.

    Raises:
        RunError: If the run directory of a cell exists with another configuration.
    """
    cells = []
    for (name, seed), config in sorted(configs.items(), key=lambda item: item[0][1]):
        path = out / f"{name.replace(':', '-')}-seed{seed}"
        file = RunFiles(path).config
        if file.exists() and runs.resolve(runs.read_config(path)) != runs.resolve(config):
            raise runs.RunError(
                f"{path} must have the settings of this comparison, got others in its {file.name}: choose another "
                "--out or use those settings"
            )
        cells.append(Cell(path, config))
    return cells


def run_cell(cell: Cell, options: EvaluationOptions, *, progress: bool = True) -> None:
    """Train one cell, or resume its training, and evaluate it.

    Writes the run directory of the cell, its evaluation included.

    Args:
        cell: The cell to run.
        options: The extent of the evaluation.
        progress: If True, progress bars are shown on standard error; True by default.
    """
    if RunFiles(cell.path).checkpoint("last").exists():
        run = resume(cell.path, progress=progress)
    else:
        run = train(cell.config, cell.path, progress=progress)
    data, test = run.data("train").to(run.device), run.data("test").to(run.device)
    with threads(cell.config.train.threads):
        result = evaluate(
            run.vae, data, test, options=options, cache=cache_folder() / data.fingerprint, prior=run.fitted_prior
        )
    rows = [row.as_row() for row in result.rows]
    about = {"aggregation": str(cell.config.model.aggregation), "train_seed": cell.config.train.seed}
    about["prior"] = None if run.fitted_prior is None else run.fitted_prior.about
    runs.write_evaluation(cell.path, rows, {**about, **result.summary()}, result.arrays)
