"""A comparison of aggregations and settings over seeds, cell by cell and resumable at any point."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyro_mmvae import runs
from pyro_mmvae._bounded import read_json
from pyro_mmvae.data import cache_folder
from pyro_mmvae.device import threads
from pyro_mmvae.evaluation import EvaluationOptions, evaluate
from pyro_mmvae.reports import is_complete
from pyro_mmvae.run_files import RunFiles, read_metrics
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import resume, train


@dataclass(frozen=True)
class Cell:
    """A cell of a comparison: one aggregation with one variant of the settings and one seed.

    Attributes:
        path: The run directory of the cell.
        config: The configuration to train.
        variant: The name of the variant, empty if the comparison has none.
        settings: The settings of the variant, as words ``key=value``.
    """

    path: Path
    config: Config
    variant: str = ""
    settings: tuple[str, ...] = ()

    def is_finished(self, options: EvaluationOptions) -> bool:
        """Return True if the cell was trained, and evaluated by :func:`run_cell` with these options.

        Args:
            options: The extent of the evaluation. An evaluation of another extent does not count, since its figures
                may differ from those of the other cells.
        """
        try:
            # The summary is the last file written.
            summary = read_json(RunFiles(self.path).evaluation_summary)
            runs.read_config(self.path)  # which the tables state
        except (OSError, ValueError):
            return False
        # The command evaluate, which may use another checkpoint, does not write the seed of the training; a cell of an
        # earlier version was evaluated without the prior that is now fitted after it.
        if self.config.train.fit_prior and "prior" not in summary:
            return False
        own = {"aggregation": str(self.config.model.aggregation), "train_seed": self.config.train.seed}
        if summary.get("variant", "") != self.variant or any(summary.get(key) != own[key] for key in own):
            return False
        has_options = summary.get("options") == json.loads(json.dumps(asdict(options)))
        return bool(has_options and is_complete(summary))


def parse_variants(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the settings of the variants of a comparison.

    Args:
        texts: The variants as ``NAME: KEY=VALUE KEY=VALUE``; values with spaces are quoted as in a shell. A name alone
            is a variant without settings of its own.

    Returns:
        Name to settings as words ``key=value``. Without any variant the name is empty and has no settings.

    Raises:
        ValueError: If a name is missing, given twice or has other characters than letters, digits and ``+-_.``, or the
            quotes of a value do not close.

    Example:
        >>> parse_variants(["plain", "warm: model.beta=2 train.beta_warmup=.5"])
        {'plain': (), 'warm': ('model.beta=2', 'train.beta_warmup=.5')}
    """
    variants: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, settings = (part.strip() for part in text.partition(":"))
        if not re.fullmatch(r"[\w+.-]+", name):
            raise ValueError(
                f"variant {text!r} must have a name of letters, digits and +-_. before its settings, as in "
                f"'warm: model.beta=2', got {name!r}"
            )
        if name in variants:
            raise ValueError(f"variants must have different names, got {name!r} twice")
        try:
            variants[name] = tuple(shlex.split(settings))
        except ValueError as error:
            raise ValueError(f"variant {name!r}: the settings cannot be read: {error}") from None
    return variants or {"": ()}


def make_cells(
    out: Path,
    configs: Mapping[tuple[str, str, int], Config],
    variants: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Cell]:
    """Return the cells of a comparison, ordered by seed so that all rows of its tables progress at the same pace.

    Args:
        out: The folder of the comparison.
        configs: The configurations by aggregation, variant and seed; the variant is empty if there are none.
        variants: The settings of each variant, which the tables state; none by default.

    Returns:
        The cells, finished ones included.

    Raises:
        RunError: If the folder is a run directory, or the run directory of a cell exists with another configuration.
            One whose configuration cannot be read fails when the cell is run, without the others.
    """
    if RunFiles(out).config.is_file():
        raise runs.RunError(f"{out} is a run directory: choose another folder for the comparison (--out)")
    cells = []
    for (name, variant, seed), config in sorted(configs.items(), key=lambda item: item[0][2]):
        path = out / "-".join([name.replace(":", "-"), *([variant] if variant else []), f"seed{seed}"])
        # A run whose data do not suit the recipe of the configuration was trained without it.
        same = (runs.resolve(config), runs.resolve(runs.without_recipe(config)))
        found = _read_settings(path)
        if found is not None and found not in same:
            raise runs.RunError(
                f"{path} must have the settings of this comparison, got others in its config.yaml: choose "
                "another --out or use those settings"
            )
        cells.append(Cell(path, config, variant, (variants or {}).get(variant, ())))
    return cells


def _read_settings(path: Path) -> Config | None:
    """Return the configuration of a run directory, None if it has none that can be read."""
    try:
        return runs.resolve(runs.read_config(path))
    except (OSError, ValueError):
        return None


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
            run.vae, data, test, options=options, cache=cache_folder() / data.fingerprint, prior=run.fitted_prior,
            history=read_metrics(cell.path),
        )  # fmt: skip
    rows = [row.as_row() for row in result.rows]
    about: dict[str, Any] = {"aggregation": str(cell.config.model.aggregation), "train_seed": cell.config.train.seed}
    about["prior"] = None if run.fitted_prior is None else run.fitted_prior.about
    if cell.variant:
        about |= {"variant": cell.variant, "variant_settings": cell.settings}
    runs.write_evaluation(cell.path, rows, {**about, **result.summary()}, result.arrays)
