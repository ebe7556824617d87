"""The commands ``predict`` and ``score``, which write one row per item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.answering import (
    answer_options,
    echo_notes,
    given_option,
    item_progress,
    open_run,
    parse_given,
    parse_items,
    table_option,
)
from pyro_mmvae.cli.common import MOST_DRAWS, echo, plain_errors

_SORTS = ("outlier", "log_likelihood", "mismatch")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@table_option
@click.option(
    "--label", metavar="NAME", show_default="the labels of the data set",
    help="Label to predict: an attribute, or a column that the loader of the data set reads labels from.",
)  # fmt: skip
@click.option("--refit", is_flag=True, help="Fit the regression again even if the run directory holds one.")
@given_option
@answer_options
@plain_errors
def predict(
    run: Path,
    out: Path,
    label: str | None,
    refit: bool,
    items: str | None,
    given: str | None,
    force: bool,
    threads: int | None,
    quiet: bool,
    seed: int,
    **options: Any,
) -> dict[str, Any]:
    """Predict labels of items from their latents.

    Reads the run directory RUN and its data set, or --data. A logistic regression is fitted to the latents of training
    items and stored in RUN/predictors, from where it is read the next time. Writes the probability of each class or
    attribute, one row per item, to the file --out; prints accuracy and calibration.
    """
    from pyro_mmvae import inference
    from pyro_mmvae.files import refuse_existing
    from pyro_mmvae.inference.tables import check_suffix
    from pyro_mmvae.runs.answers import predict_labels
    from pyro_mmvae.runs.predictors import find_predictor

    check_suffix(out)
    refuse_existing(out, force=force)
    source = options["data"]
    opened, load = open_run(run, options, load=False)
    chosen, names = parse_items(items), parse_given(given, opened.names)
    with item_progress("predict", None, threads, quiet) as bars:
        predictor = find_predictor(opened, label, refit=refit, seed=seed, progress=bars)
        data = load(predictor.about["options"] if source is None else {})
        total = len(inference.select_items(data, chosen))
        latents = inference.encode(
            opened.vae, data, items=chosen, given=names, progress=bars("encode items", total), **options
        )
    table = predict_labels(predictor, data, latents, chosen)
    table.write(out, force=force, source=source or opened.config.data.name)
    echo_notes(data)
    echo(f"{out}: {len(table)} items, {', '.join(table.flat())}")
    fitted = f"fitted to {predictor.about['train_items']} training items"
    _echo_figures(f"test items of the run, {fitted}", predictor.about["test"])
    _echo_figures("items of this table", table.summary["figures"])
    figures = {"test": predictor.about["test"], "items": table.summary["figures"]}
    return {"file": out, "items": len(table), "columns": list(table.flat()), "figures": figures}


def _echo_figures(title: str, figures: dict[str, Any]) -> None:
    """Print accuracy, calibration error and Brier score, of each attribute if there are several."""
    rows = figures if any(isinstance(value, dict) for value in figures.values()) else {"": figures}
    for name, row in rows.items():
        if row:
            what = f"{title}, {name}" if name else title
            echo(
                f"  {what}: accuracy {row['accuracy']:.3f}, calibration error (15 equal-mass bins) {row['ece']:.3f}, "
                f"Brier score {row['brier']:.3f}, {row['items']} labelled"
            )


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@table_option
@click.option(
    "--draws", type=click.IntRange(1, MOST_DRAWS), default=32, show_default=True,
    help="Number of importance samples per item for its log likelihood.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice(_SORTS), show_default="the order of the data",
    help="Column to sort the rows by, the most unusual item first.",
)  # fmt: skip
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Number of unusual items to print.")
@answer_options
@plain_errors
def score(
    run: Path,
    out: Path,
    items: str | None,
    sort: str | None,
    top: int,
    force: bool,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> dict[str, Any]:
    """Score items by likelihood, reconstruction error and disagreement of their modalities.

    Reads the run directory RUN and its data set, or --data. Writes one row per item to the file --out: the estimate of
    log p(x) with its effective sample size, for each modality the negative log likelihood, the error and the distance
    of its expert to the barycenter of all, and a combined outlier rank. Prints the most unusual and most mismatched.
    """
    import numpy as np

    from pyro_mmvae import inference
    from pyro_mmvae.files import refuse_existing
    from pyro_mmvae.inference.tables import check_suffix

    check_suffix(out)
    refuse_existing(out, force=force)
    source = options["data"]
    opened, data = open_run(run, options)
    chosen = parse_items(items)
    with item_progress("score", len(inference.select_items(data, chosen)), threads, quiet) as progress:
        table = inference.score(opened.vae, data, items=chosen, progress=progress, **options)
    unusual = {name: np.nan_to_num(table[name], nan=-np.inf) for name in ("outlier", "mismatch")}
    unusual["log_likelihood"] = -np.nan_to_num(table["log_likelihood"], nan=np.inf)
    order = np.arange(len(table)) if sort is None else np.argsort(-unusual[sort], kind="stable")
    table.take(order).write(out, force=force, source=source or opened.config.data.name)
    echo_notes(data)
    echo(f"{out}: {len(table)} items, {', '.join(table.flat())}")
    if top:
        echo("  most unusual (outlier rank, log likelihood):")
        for row in np.argsort(-unusual["outlier"], kind="stable")[:top]:
            echo(f"    {table.ids[row]}  {table['outlier'][row]:.3f}  {table['log_likelihood'][row]:.1f}")
    if top and len(opened.names) > 1:
        echo("  most mismatched (pair of modalities, distance of the experts relative to its median):")
        for row in np.argsort(-unusual["mismatch"], kind="stable")[:top]:
            if table["mismatch_pair"][row]:
                echo(f"    {table.ids[row]}  {table['mismatch_pair'][row]}  {table['mismatch'][row]:.2f}")
    unusual_items = [str(table.ids[row]) for row in np.argsort(-unusual["outlier"], kind="stable")[:top]]
    return {"file": out, "items": len(table), "columns": list(table.flat()), "most_unusual": unusual_items}
