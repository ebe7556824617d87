"""The command ``evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pyro_mmvae._printable import printable
from pyro_mmvae.cli.answering import choose_data, data_options, folder_for, items_option, parse_items
from pyro_mmvae.cli.common import (
    MOST_DRAWS,
    SEEDS,
    changed_data_option,
    checkpoint_option,
    device_option,
    echo,
    picture_options,
    plain_errors,
    plugin_option,
    quiet_option,
    threads_option,
)

_BAR = "{desc:<18}{bar}| {n_fmt}/{total_fmt} parts, {elapsed}"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@checkpoint_option
@device_option
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of all random choices and draws.")
@click.option(
    "--subsets", type=click.IntRange(1), default=31, show_default=True,
    help="Largest number of subsets of the modalities to evaluate, stratified by size.",
)  # fmt: skip
@click.option(
    "--probe-points", type=click.IntRange(2), default=5000, show_default=True,
    help="Number of training items for the linear probes.",
)  # fmt: skip
@click.option(
    "--coherence-items", type=click.IntRange(1), default=1000, show_default=True,
    help="Largest number of test items for coherence and agreement of generated modalities.",
)  # fmt: skip
@click.option(
    "--probe-draws", type=click.IntRange(1, MOST_DRAWS), default=5, show_default=True,
    help="Number of posterior draws per test item for the linear probe of single draws.",
)  # fmt: skip
@click.option(
    "--likelihood-items", type=click.IntRange(0), default=200, show_default=True,
    help="Number of test items for log likelihoods; 0 leaves them out.",
)  # fmt: skip
@click.option(
    "--samples", type=click.IntRange(1, MOST_DRAWS), default=64, show_default=True,
    help="Number of importance samples per item for log likelihoods to begin with.",
)  # fmt: skip
@click.option(
    "--max-samples", type=click.IntRange(1, MOST_DRAWS), default=256, show_default=True,
    help="Largest number of importance samples per item, up to which --samples is doubled until the log likelihood "
    "stands.",
)  # fmt: skip
@click.option(
    "--likelihood-subsets", type=click.Choice(["ends", "all"]), default="ends", show_default=True,
    help="Subsets for log likelihoods: each modality alone and all together (ends), or all of --subsets.",
)  # fmt: skip
@click.option(
    "--khat-items", type=click.IntRange(0), default=25, show_default=True,
    help="Number of test items for the diagnostic PSIS k-hat of the guide; 0 leaves it out.",
)  # fmt: skip
@click.option(
    "--khat-samples", type=click.IntRange(1000, MOST_DRAWS), default=1000, show_default=True,
    help="Number of importance samples per item for PSIS k-hat.",
)  # fmt: skip
@click.option(
    "--refine", type=click.IntRange(0), default=0, metavar="STEPS", show_default="no refinement",
    help="Refine the posterior of some items by STEPS gradient steps each, such as 400, and compare log likelihoods "
    "and k-hat of the guide with those of the refined posteriors.",
)  # fmt: skip
@click.option(
    "--refine-items", type=click.IntRange(1), default=20, show_default=True,
    help="Number of test items for --refine.",
)  # fmt: skip
@click.option(
    "--reference-items", type=click.IntRange(0), default=0, show_default=True,
    help="Number of the items of --refine whose exact posterior is sampled by Hamiltonian Monte Carlo (NUTS), which "
    "takes about a minute per item and subset.",
)  # fmt: skip
@click.option(
    "--quality/--no-quality", default=True, show_default=True,
    help="Compare generated items with real ones: MSE, SSIM, Frechet distances, precision, recall, density, coverage "
    "and diversity.",
)  # fmt: skip
@click.option(
    "--reconstruction-items", type=click.IntRange(1), default=1000, show_default=True,
    help="Largest number of test items for MSE and SSIM.",
)  # fmt: skip
@click.option(
    "--diversity-items", type=click.IntRange(0), default=50, show_default=True,
    help="Number of test items for the diversity of the draws given one modality; 0 leaves it out.",
)  # fmt: skip
@click.option(
    "--diversity-draws", type=click.IntRange(2, MOST_DRAWS), default=10, show_default=True,
    help="Number of draws per item for the diversity.",
)  # fmt: skip
@click.option(
    "--frechet-items", type=click.IntRange(0), default=1000, show_default=True,
    help="Largest number of test items for the quality given other modalities: Frechet distances, precision, recall, "
    "density and coverage; 0 leaves them out.",
)  # fmt: skip
@click.option(
    "--fid", is_flag=True,
    help="Compute the Frechet inception distance of RGB images, a part of --quality, which needs the extra 'fid' and "
    "downloads Inception's weights.",
)  # fmt: skip
@click.option(
    "--diagnostics/--no-diagnostics", default=True, show_default=True,
    help="Measure the geometry of the experts and the use of the latent.",
)  # fmt: skip
@click.option(
    "--agg", "aggregations", multiple=True, metavar="NAME",
    help="Aggregation to read the run with in place of its own, without training; may be repeated. Writes readings.csv "
    "and leaves metrics.csv as it is.",
)  # fmt: skip
@click.option(
    "--mask", type=click.FloatRange(0, 1, max_open=True), is_flag=False, flag_value=0.0, default=None,
    metavar="[RATE]", show_default="no imputation",
    help="Hold out each modality in turn, impute it, and compare it with the observed one, beside simple baselines of "
    "scikit-learn; with RATE, such as 0.3, also hold out modalities at random.",
)  # fmt: skip
@click.option(
    "--mask-items", type=click.IntRange(1), default=500, show_default=True,
    help="Largest number of test items for --mask.",
)  # fmt: skip
@data_options
@items_option
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", show_default="RUN, or RUN/on-NAME for other items",
    help="Folder to write the folders evaluation and plots to.",
)  # fmt: skip
@plugin_option("data sets or other parts")
@picture_options()
@changed_data_option
@threads_option
@quiet_option
@plain_errors
def evaluate(
    run: Path,
    checkpoint: str,
    device: str,
    items: str | None,
    out: Path | None,
    aggregations: tuple[str, ...],
    mask: float | None,
    mask_items: int,
    plugins: tuple[str, ...],
    pictures: dict[str, Any],
    allow_changed_data: bool,
    threads: int | None,
    quiet: bool,
    **numbers: Any,
) -> dict[str, Any]:
    """Evaluate a trained model on its test items or on other data.

    Reads the run directory RUN and its data set, or --data. Writes metrics.csv, summary.json and arrays.npz to
    RUN/evaluation, and pictures to RUN/plots; prints a table. With --mask also writes imputation.csv, .md and .tex.
    Results on other data or selected items are written to RUN/on-NAME instead. With --agg the run is read with other
    aggregations, and only readings.csv, readings.json and readings.md are written.
    """
    if aggregations and mask is not None:
        raise ValueError("--mask must be left out with --agg: imputations are judged with the run's own aggregation")
    from tqdm import tqdm

    from pyro_mmvae import reports, runs
    from pyro_mmvae.data import cache_folder
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.evaluation import EvaluationOptions, MaskOptions, evaluate_readings
    from pyro_mmvae.evaluation import evaluate as run_evaluation
    from pyro_mmvae.inference import select_items
    from pyro_mmvae.run_files import read_metrics

    opened = runs.load_run(
        run, checkpoint=checkpoint, device=device, allow_changed_data=allow_changed_data, plugins=plugins
    )
    if opened.prior_note is not None:
        echo(f"note: {opened.prior_note}", err=True)
    prior = None if opened.prior_note is not None else opened.fitted_prior
    test, is_other = choose_data(opened, numbers)
    if items is not None:
        test = test.subset(select_items(test, parse_items(items)).rows.tolist())
    out = out or folder_for(run, test, is_other=is_other or items is not None)
    options = EvaluationOptions(**numbers)
    train, test = opened.data("train").to(opened.device), test.to(opened.device)
    labelled = train.labels is not None and test.labels is not None
    masking = None if mask is None else MaskOptions(rate=mask, items=mask_items, seed=options.seed)
    repeats = len(set(aggregations)) or 1
    parts, started = options.count_parts(labelled) * repeats + (masking is not None), list[str]()
    cache = cache_folder() / train.fingerprint
    about: dict[str, Any] = {"checkpoint": checkpoint, "epoch": opened.state["epoch"]}
    about |= {"aggregation": str(opened.config.model.aggregation), "prior": None if prior is None else prior.about}
    with use_threads(threads), tqdm(total=parts, disable=quiet, file=sys.stderr, bar_format=_BAR) as bar:

        def progress(part: str) -> None:
            bar.update(len(started) > 0)
            bar.set_description_str(printable(part))
            started.append(part)

        if aggregations:
            readings = evaluate_readings(
                opened.vae, train, test, list(dict.fromkeys(aggregations)), options=options, cache=cache,
                progress=progress, prior=prior,
            )  # fmt: skip
            bar.update(parts - bar.n)
            return _write_readings(out, readings, about)
        result = run_evaluation(
            opened.vae, train, test, options=options, mask=masking, cache=cache, progress=progress, prior=prior,
            history=read_metrics(run),
        )  # fmt: skip
        bar.update(parts - bar.n)
    out.mkdir(parents=True, exist_ok=True)
    imputation = () if result.masked is None else [row.as_row() for row in result.masked.rows]
    rows = [row.as_row() for row in result.rows]
    runs.write_evaluation(out, rows, {**about, **result.summary()}, result.arrays, imputation)
    files = runs.RunFiles(out)
    echo(reports.table(out))
    if imputation:
        echo("\n" + reports.imputation_report(out))
    written = [
        files.evaluation_table,
        files.evaluation_summary,
        *reports.draw_evaluation(out, **pictures),
        *reports.write_imputation(out, **pictures),
    ]
    for file in written:
        echo(f"  {file}")
    return {"folder": out, "files": written, "summary": {**about, **result.summary()}}


def _write_readings(out: Path, readings: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """Write the readings of a run with other aggregations, and print their tables."""
    from pyro_mmvae import reports
    from pyro_mmvae.evaluation import reading_rows
    from pyro_mmvae.run_files import RunFiles
    from pyro_mmvae.runs.readings import write_readings

    summaries = {name: result.summary() for name, result in readings.items()}
    options = next(iter(summaries.values()))["options"]
    write_readings(out, reading_rows(readings), {**about, "options": options, "readings": summaries})
    echo(reports.readings_report(out))
    files = RunFiles(out)
    written = [files.readings_table, files.readings_summary, reports.write_readings_report(out)]
    for file in written:
        echo(f"  {file}")
    return {"folder": out, "files": written, "readings": summaries}
