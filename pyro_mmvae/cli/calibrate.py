"""The command ``calibrate``, which makes the predictive intervals of a run cover what they say."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.answering import item_progress
from pyro_mmvae.cli.common import (
    MOST_DRAWS,
    SEEDS,
    changed_data_option,
    checkpoint_option,
    device_option,
    echo,
    plain_errors,
    plugin_option,
    quiet_option,
    threads_option,
)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", show_default="RUN-calibrated",
    help="Run directory to create, with the calibrated model.",
)  # fmt: skip
@click.option(
    "--items", type=click.IntRange(2), default=500, show_default=True,
    help="Largest number of validation items to set the scales on, and of test items to check them on.",
)  # fmt: skip
@click.option(
    "--epochs", type=click.IntRange(0), default=2, show_default=True,
    help="Number of epochs in which the guide is trained on, with the decoders frozen; 0 leaves the guide as it is.",
)  # fmt: skip
@click.option(
    "--given", type=click.Choice(["others", "all"]), default="others", show_default=True,
    help="Modalities that a modality is predicted from in the intervals that are set: the others, or all.",
)  # fmt: skip
@click.option(
    "--per", type=click.Choice(["feature", "modality"]), default="feature", show_default=True,
    help="One scale per feature or pixel, or one per modality.",
)  # fmt: skip
@click.option(
    "--exponent/--no-exponent", default=True, show_default=True,
    help="Also set the exponent of the distribution, so that intervals of both levels, 50 and 90 %, hold.",
)  # fmt: skip
@click.option(
    "--draws",
    type=click.IntRange(2, MOST_DRAWS),
    default=20,
    show_default=True,
    help="Number of draws of the latent per item.",
)
@click.option("--dry-run", is_flag=True, help="Print the figures and write nothing.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of the choice of items and all draws.")
@plugin_option("parts of the model")
@checkpoint_option
@device_option
@changed_data_option
@threads_option
@quiet_option
@plain_errors
def calibrate(
    run: Path,
    out: Path | None,
    dry_run: bool,
    plugins: tuple[str, ...],
    checkpoint: str,
    device: str,
    allow_changed_data: bool,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> dict[str, Any]:
    """Set the scales of Laplace and Normal likelihoods on validation items.

    Reads the run directory RUN and its data set. Trains the guide on with the decoders frozen, and sets scales and
    exponents such that predictive intervals of validation items cover what they say; prints the coverage of test items
    before and after. Writes a new run directory --out, which every other command takes; RUN stays as it is.
    """
    from pyro_mmvae import runs
    from pyro_mmvae.runs.calibration import calibrate_run

    place = run.with_name(f"{run.name}-calibrated") if out is None else out
    if not dry_run:
        runs.check_new(place)
    opened = runs.load_run(
        run, checkpoint=checkpoint, device=device, allow_changed_data=allow_changed_data, plugins=plugins
    )
    with item_progress("", None, threads, quiet) as progress:
        result = calibrate_run(opened, None if dry_run else place, progress=progress, **options)
    for line in _table(result):
        echo(line)
    first, second = result.log_likelihood
    medians = "{:.1f} before, {:.1f} after".format(*result.median_log_likelihood)
    echo(f"log likelihood given all, a lower bound: {first:.1f} before, {second:.1f} after, nats per item")
    echo(f"its median over items: {medians}; a mean far below it is that of a few outlying items")
    if result.uncalibrated:
        echo(f"note: {', '.join(result.uncalibrated)}: without a scale, as they were")
    if any(row.split == "val" for row in result.rows):
        echo("note: the run has no test items: the figures are those of the items that the scales were set on")
    echo("nothing was written" if result.path is None else f"run directory: {result.path}")
    rows = [asdict(row) for row in result.rows]
    return {"run": result.path, "coverage": rows, "log_likelihood": {"before": first, "after": second}}


def _table(result: Any) -> list[str]:
    """Return the lines of the table of coverages."""
    from pyro_mmvae.cli.data_table import format_rows

    levels = list(result.rows[0].coverage)
    head = ["modality", "given", "items", "scale", "exponent", *(f"inside {level:.0%}" for level in levels)]
    rows = [
        [
            row.modality,
            row.given,
            f"{row.items} {row.split}",
            _pair(row.scale, ".3g"),
            _pair(row.exponent, ".2g"),
            *(_pair(row.coverage[level], ".3f") for level in levels),
        ]
        for row in result.rows
    ]
    return format_rows([head, *rows])


def _pair(values: tuple[float, float], form: str) -> str:
    return f"{values[0]:{form}} -> {values[1]:{form}}"
