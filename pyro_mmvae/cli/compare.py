"""The command ``compare``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.cells import CellRunner, engine_options
from pyro_mmvae.cli.common import (
    config_options,
    echo,
    picture_options,
    plain_errors,
    plugin_option,
    quiet_option,
    read_config,
    split_names,
)

# Structural similarity and repeated draws cost the most, and their means over items are precise with few of them.
_RECONSTRUCTED, _VARIED = 300, 30


@click.command()
@click.option(
    "--agg", "names", default="poe,moe,mopoe,wb,mwb", show_default=True, metavar="NAMES",
    help="Aggregations to compare, separated by commas.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=5, show_default=True,
    help="Number of runs per aggregation, with the seeds 0, 1, 2, ….",
)  # fmt: skip
@click.option(
    "--variant", "variants", multiple=True, metavar="'NAME: KEY=VALUE …'",
    help="Name and settings of a variant, which is trained with each aggregation, as in --variant default --variant "
    "'warm: model.beta=2'; may be repeated. Its settings are added to those of --set.",
)  # fmt: skip
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="KEY=VALUE,VALUE,…",
    help="Setting and its values, each of which is trained with each aggregation, as in --sweep model.beta=0.5,1,2.5; "
    "may be repeated for every combination of several settings. Draws coherence against quality. Rows are named by the "
    "last part of the key and the value, as in 'wb, beta_0.5'.",
)  # fmt: skip
@config_options
@plugin_option("aggregations, likelihoods, networks, objectives or data sets")
@click.option(
    "--likelihood-items", type=click.IntRange(0), default=50, show_default=True,
    help="Number of test items for log likelihoods; 0 leaves them out.",
)  # fmt: skip
@click.option(
    "--generated-items", type=click.IntRange(1), default=500, show_default=True,
    help="Largest number of test items from which other modalities are generated, to judge coherence and quality. "
    "They should outnumber the 128 features of the classifiers.",
)  # fmt: skip
@click.option(
    "--quality/--no-quality", default=True, show_default=True,
    help="Compare generated items with real ones: MSE, SSIM, Frechet distances, precision, recall, density, coverage "
    "and diversity.",
)  # fmt: skip
@click.option(
    "--read-with", default="", metavar="NAMES", show_default="none",
    help="Aggregations to read every trained run with, separated by commas, such as "
    "poe,moe,mopoe,moment,pool,hellinger,wb,mwb: writes the matrix of probe and coherence, trained with by read with. "
    "Each costs about as much as the evaluation of probe and coherence.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/compare"), show_default=True, metavar="DIR",
    help="Folder of the comparison, with one run directory per aggregation and seed.",
)  # fmt: skip
@click.option(
    "--baseline", metavar="ROW", show_default="none",
    help="Row of the tables to compare the others with, paired by seed: an aggregation such as mopoe, or an "
    "aggregation and a variant, as in 'mopoe, warm' with --variant and 'mopoe, beta_0.5' with --sweep, or an "
    "aggregation and the settings of a variant, as in 'mopoe, model.beta=0.5'.",
)  # fmt: skip
@engine_options
@picture_options()
@quiet_option
@plain_errors
def compare(
    names: str,
    seeds: int,
    variants: tuple[str, ...],
    sweeps: tuple[str, ...],
    config: Path | None,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    data: str | None,
    epochs: int | None,
    likelihood_items: int,
    generated_items: int,
    quality: bool,
    read_with: str,
    out: Path,
    baseline: str | None,
    engine: dict[str, Any],
    pictures: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Train and evaluate several aggregations, and variants of the settings, over several seeds.

    Reads the data set and, if given, a configuration file. Writes one run directory per aggregation, variant and seed
    to --out, and the tables comparison.csv, comparison.md and comparison.tex and the plot comparison.png. With
    --baseline the tables contain paired differences, which differences.png shows. --sweep adds sweep.csv, sweep.md,
    sweep.tex and sweep.png, the Pareto front of coherence and quality. With --read-with also writes matrix.csv,
    matrix.md, matrix.tex and matrix.png. Finished runs are not repeated; those that were evaluated with other options
    are evaluated again, without training. A run that fails does not stop the others: failures.json and the end of the
    output list it, the tables say that it is missing, and the exit status is 1.
    """
    from pyro_mmvae import reports
    from pyro_mmvae.aggregation import make_aggregation
    from pyro_mmvae.evaluation import EvaluationOptions
    from pyro_mmvae.experiments import Evaluating, make_cells, parse_sweeps, parse_variants, sweep_variants

    shared: dict[str, Any] = {"data": data, "epochs": epochs, "plugins": plugins, "config": config}
    settings, points = sweep_variants(parse_sweeps(sweeps), parse_variants(variants))
    if sweeps and not quality:
        raise click.UsageError("--sweep must have figures of quality, got --no-quality")
    configs = {
        (name, variant, seed): read_config(aggregation=name, seed=seed, overrides=(*overrides, *words), **shared)
        for name in split_names(names)
        for variant, words in settings.items()
        for seed in range(seeds)
    }
    _note_recipes(configs)
    if baseline is not None:  # a wrong name is reported before anything is trained
        parts = [(str(c.model.aggregation), variant, settings[variant]) for (_, variant, _), c in configs.items()]
        rows = dict.fromkeys(reports.row_name(name, variant) for name, variant, _ in parts)
        baseline = reports.find_row(baseline, list(rows), reports.row_settings(parts))
    options = EvaluationOptions(
        likelihood_items=likelihood_items, khat_items=0, diagnostics=False, coherence_items=generated_items,
        quality=quality, reconstruction_items=min(generated_items, _RECONSTRUCTED), diversity_items=_VARIED,
        frechet_items=generated_items,
    )  # fmt: skip
    columns = tuple(dict.fromkeys(split_names(read_with)))
    for name in columns:
        make_aggregation(name)  # an unknown name is an error before hours of training
    runner = CellRunner(out, quiet=quiet, **engine)
    cells = make_cells(out, configs, settings)
    runner.run(Evaluating(options), cells)
    finished = [cell for cell in cells if cell.path.name not in runner.missing]
    command = "pyro-mmvae " + " ".join(shlex.quote(argument) for argument in sys.argv[1:])
    if finished:
        baseline = _present(baseline, finished)
        _draw(out, finished, command, baseline, runner.missing, pictures)
        if sweeps:
            _draw_sweep(out, finished, points, command, pictures)
        if columns:
            _read_cells(runner, finished, columns, options, command, pictures)
        words = ["pyro-mmvae", "report", str(out), *(["--baseline", baseline] if baseline is not None else [])]
        echo(f"next: {shlex.join(words)}")
    runner.report()
    return {"folder": out, "runs": [cell.path for cell in finished], "missing": runner.missing}


def _present(baseline: str | None, cells: Sequence[Any]) -> str | None:
    """Return the baseline if a cell of its row is there, and say so if there is none."""
    from pyro_mmvae import reports

    if baseline is None:
        return None
    rows = {reports.row_name(str(cell.config.model.aggregation), cell.variant): None for cell in cells}
    try:
        return reports.find_row(baseline, list(rows))
    except ValueError:
        echo(f"no run of the baseline {baseline!r} is finished: the tables have no differences from it", err=True)
        return None


def _draw(
    out: Path, cells: Sequence[Any], command: str, baseline: str | None, missing: Mapping[str, str],
    pictures: dict[str, Any],
) -> None:  # fmt: skip
    """Write the tables and plots of the cells that are finished, and print the table."""
    from pyro_mmvae import reports

    paths = [cell.path for cell in cells]
    for file in reports.draw_comparison(out, paths, command, baseline=baseline, missing=missing, **pictures):
        echo(f"  {file}")
    echo((out / "comparison.md").read_text(encoding="utf-8"))


def _note_recipes(configs: Mapping[tuple[str, str, int], Any]) -> None:
    """Print which aggregations are trained with which recipe, if they differ and no variant names them."""
    from pyro_mmvae import reports

    recipes = {name: config.recipe for (name, variant, _), config in configs.items() if not variant}
    if text := reports.describe_recipes(recipes):
        note = "--set recipe=plain or --set recipe=contrastive compares aggregations on equal terms"
        echo(f"note: recipes differ, {text}; {note}", err=True)


def _draw_sweep(
    out: Path, cells: Sequence[Any], points: Mapping[str, Any], command: str, pictures: dict[str, Any]
) -> None:
    """Draw coherence against quality of the points of a sweep, and print the table."""
    from pyro_mmvae import reports

    lines = {name: (point.variant, point.values) for name, point in points.items()}
    for file in reports.draw_sweep(out, [cell.path for cell in cells], lines, command, **pictures):
        echo(f"  {file}")
    echo((out / "sweep.md").read_text(encoding="utf-8"))


def _read_cells(
    runner: CellRunner, cells: Sequence[Any], names: tuple[str, ...], options: Any, command: str,
    pictures: dict[str, Any],
) -> None:  # fmt: skip
    """Read the cells that were not read with all of the aggregations yet, and draw the matrix of those that are."""
    from pyro_mmvae import reports
    from pyro_mmvae.experiments import Reading

    task = Reading(options, names)
    runner.run(task, cells)
    paths = [cell.path for cell in cells if task.is_done(cell)]
    if paths:
        for file in reports.draw_matrix(runner.out, paths, command, **pictures):
            echo(f"  {file}")
        echo((runner.out / "matrix.md").read_text(encoding="utf-8"))
