"""A grid of aggregations and seeds, trained and evaluated cell by cell, resumable at any point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """One aggregation and seed.

    Attributes:
        path: its run directory.
        config: what to train.
    """

    path: Path
    config: Config

    @property
    def finished(self) -> bool:
        """Whether it was trained and evaluated; the summary is written last."""
        return RunFiles(self.path).evaluation_summary.exists()


def make_cells(out: Path, configs: Mapping[tuple[str, int], Config]) -> list[Cell]:
    """The cells of a comparison, seed by seed, so that every aggregation has as many results at any time.

    Args:
        out: the folder of the comparison.
        configs: by aggregation and seed.

    Raises:
        RunError: if a cell is there already with another configuration.
    """
    cells = []
    for (name, seed), config in sorted(configs.items(), key=lambda item: item[0][1]):
        path = out / f"{name.replace(':', '-')}-seed{seed}"
        file = RunFiles(path).config
        if file.exists() and runs.resolve(runs.read_config(path)) != runs.resolve(config):
            raise runs.RunError(
                f"{path} was made with other settings: give another --out, or the settings of its {file.name}"
            )
        cells.append(Cell(path, config))
    return cells


def run_cell(cell: Cell, options: EvaluationOptions, *, progress: bool = True) -> None:
    """Train, or go on training, and evaluate one cell.

    Args:
        cell: which one.
        options: of the evaluation.
        progress: show progress bars on standard error.
    """
    if RunFiles(cell.path).checkpoint("last").exists():
        run = resume(cell.path, progress=progress)
    else:
        run = train(cell.config, cell.path, progress=progress)
    data, test = run.data("train").to(run.device), run.data("test").to(run.device)
    with threads(cell.config.train.threads):
        result = evaluate(run.vae, data, test, options=options, cache=cache_folder() / data.fingerprint)
    rows = [row.as_row() for row in result.rows]
    about = {"aggregation": cell.config.model.aggregation, "train_seed": cell.config.train.seed}
    runs.write_evaluation(cell.path, rows, {**about, **result.summary()}, result.arrays)
