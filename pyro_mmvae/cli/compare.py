"""The command ``compare``."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

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
_RECONSTRUCTED, _VARIED = 300, 50


@click.command()
@click.option(
    "--agg", "names", default="poe,moe,mopoe,wb,mwb", show_default=True, metavar="NAMES",
    help="Aggregations to compare, separated by commas.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(1), default=5, show_default=True,
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
    "may be repeated for every combination of several settings. Draws coherence against quality.",
)  # fmt: skip
@config_options
@plugin_option("aggregations, likelihoods, networks, objectives or data sets")
@click.option(
    "--likelihood-items", type=click.IntRange(0), default=100, show_default=True,
    help="Number of test items for log likelihoods; 0 leaves them out.",
)  # fmt: skip
@click.option(
    "--generated-items", type=click.IntRange(1), default=1000, show_default=True,
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
    help="Row of the tables to compare the others with, paired by seed: an aggregation such as mopoe, or, "
    "with --variant, an aggregation and a variant, as in 'mopoe, warm'.",
)  # fmt: skip
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
    pictures: dict[str, Any],
    quiet: bool,
) -> dict[str, Any]:
    """Train and evaluate several aggregations, and variants of the settings, over several seeds.

    Reads the data set and, if given, a configuration file. Writes one run directory per aggregation, variant and seed
    to --out, and the tables comparison.csv, comparison.md and comparison.tex and the plot comparison.png. With
    --baseline the tables contain paired differences, which differences.png shows. --sweep adds sweep.csv, sweep.md and
    sweep.png, the Pareto front of coherence and quality. With --read-with also writes matrix.csv, matrix.md, matrix.tex
    and matrix.png. Finished runs are not repeated; those that were evaluated with other options are evaluated again,
    without training.
    """
    from pyro_mmvae import reports, runs, training
    from pyro_mmvae.aggregation import make_aggregation
    from pyro_mmvae.evaluation import EvaluationOptions
    from pyro_mmvae.experiments import (
        claim_cells,
        make_cells,
        parse_sweeps,
        parse_variants,
        run_cell,
        sweep_variants,
    )
    from pyro_mmvae.run_files import RunFiles

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
        rows = {reports.row_name(str(c.model.aggregation), variant): None for (_, variant, _), c in configs.items()}
        reports.find_row(baseline, list(rows))
    options = EvaluationOptions(
        likelihood_items=likelihood_items, khat_items=0, diagnostics=False, coherence_items=generated_items,
        quality=quality, reconstruction_items=min(generated_items, _RECONSTRUCTED), diversity_items=_VARIED,
        frechet_items=generated_items,
    )  # fmt: skip
    columns = tuple(dict.fromkeys(split_names(read_with)))
    for name in columns:
        make_aggregation(name)  # an unknown name is an error before hours of training
    cells = make_cells(out, configs, settings)
    unfinished = [cell for cell in cells if not cell.is_finished(options)]
    echo(f"{len(cells)} cells, {len(cells) - len(unfinished)} already finished: {out}", err=True)
    outdated = sum(RunFiles(cell.path).evaluation_summary.exists() for cell in unfinished)
    if outdated:
        echo(f"{outdated} cells were evaluated with other options, and are evaluated again", err=True)

    def waits(cell: Any) -> None:
        echo(f"{cell.path} is run by another process: waiting for it", err=True)

    started = time.monotonic()
    try:
        for number, cell in enumerate(claim_cells(unfinished, options, waits)):
            run_cell(cell, options, progress=not quiet)
            remaining = (time.monotonic() - started) / (number + 1) * (len(unfinished) - number - 1)
            echo(f"{cell.path} done, about {remaining / 60:.0f} minutes left", err=True)
    except training.Interrupted as stop:
        echo(f"{stop}\nrepeat the command to continue", err=True)
        sys.exit(128 + stop.number)
    except training.TrainingError as error:
        echo(f"error: {error}", err=True)
        sys.exit(1)
    except runs.DataChangedError as error:  # cells that were trained on other data cannot be compared
        raise runs.DataChangedError(error.path, error.changes, "restore them, or choose another --out") from None
    command = "pyro-mmvae " + " ".join(shlex.quote(argument) for argument in sys.argv[1:])
    for file in reports.draw_comparison(out, [cell.path for cell in cells], command, baseline=baseline, **pictures):
        echo(f"  {file}")
    if sweeps:
        _draw_sweep(out, cells, points, command, pictures)
    echo((out / "comparison.md").read_text(encoding="utf-8"))
    if columns:
        _read_cells(out, cells, columns, options)
        for file in reports.draw_matrix(out, [cell.path for cell in cells], command, **pictures):
            echo(f"  {file}")
        echo((out / "matrix.md").read_text(encoding="utf-8"))
    return {"folder": out, "runs": [cell.path for cell in cells]}


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


def _read_cells(out: Path, cells: Sequence[Any], names: tuple[str, ...], options: Any) -> None:
    """Read the cells that were not read with all of the aggregations yet."""
    from pyro_mmvae.experiments import is_read, read_cell, reading_options

    unread = [cell for cell in cells if not is_read(cell, names, reading_options(options))]
    echo(f"{len(cells)} cells to read, {len(cells) - len(unread)} already read: {out}", err=True)
    for cell in unread:
        read_cell(cell, names, reading_options(options))
        echo(f"{cell.path} read with {', '.join(names)}", err=True)
