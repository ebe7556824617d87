"""The command ``impute``, which fills in the modalities that items lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.answering import (
    answer_options,
    covariate_option,
    echo_notes,
    given_option,
    item_progress,
    open_run,
    parse_covariates,
    parse_given,
    parse_items,
)
from pyro_mmvae.cli.common import echo, plain_errors


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR|FILE",
    help="Folder to write: imputed.npy, ids.npy, imputation.json, and mean/, sd/ and more with one file per modality; "
    "or a file .h5mu, or .h5ad of one modality (needs the extra 'omics'): vectors and counts in X, with standard "
    "deviations and quantiles in layers, images flattened in obsm, and texts in obs; or a table .csv or .parquet "
    "(needs the extra 'tables') with one column per feature and text, without images.",
)  # fmt: skip
@given_option
@click.option(
    "--targets", metavar="NAMES", show_default="all",
    help="Modalities to impute where an item lacks them or --given leaves them out, separated by commas.",
)  # fmt: skip
@click.option(
    "--draws", type=click.IntRange(2), show_default="20, or 5 with --multiple",
    help="Number of draws of the latent per item, over which mean, standard deviation and quantiles are taken.",
)  # fmt: skip
@click.option(
    "--quantiles", default="", metavar="LEVELS", show_default="none",
    help="Levels of posterior predictive quantiles to write, separated by commas, as in .05,.5,.95.",
)  # fmt: skip
@click.option(
    "--multiple", is_flag=True,
    help="Also write one complete data set per draw, to draw-000/ and so on, which --data can read.",
)  # fmt: skip
@click.option(
    "--density", type=click.Choice(["mixture", "joint"]), show_default="the mixture unless it is too large",
    help="Posterior to draw from: the whole mixture, or the component of all modalities given.",
)  # fmt: skip
@covariate_option
@answer_options
@plain_errors
def impute(
    run: Path,
    out: Path,
    items: str | None,
    given: str | None,
    targets: str | None,
    draws: int | None,
    quantiles: str,
    multiple: bool,
    covariates: tuple[str, ...],
    force: bool,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> dict[str, Any]:
    """Impute the modalities that items lack, with their uncertainty.

    Reads the run directory RUN and its data set, or --data. Writes the folder --out: posterior predictive means,
    standard deviations and quantiles over draws of the latent; the mean and the standard deviation include the
    likelihood's own in closed form, the quantiles are those of draws. Observed values are copied; imputed.npy is True
    for each item and modality that was imputed. With --covariate, all --targets of all items are decoded anew, given
    what was observed of them.
    """
    from pyro_mmvae import inference
    from pyro_mmvae.files import refuse_existing
    from pyro_mmvae.inference.imputed_omics import write_omics
    from pyro_mmvae.inference.imputed_tables import TABLE_SUFFIXES, imputation_table

    refuse_existing(out, force=force)
    is_omics, is_table = out.suffix in {".h5ad", ".h5mu"}, out.suffix in TABLE_SUFFIXES
    if out.suffix in {".npz", ".tsv"}:
        raise ValueError(f"--out must be a folder, or a file .csv, .parquet, .h5mu or .h5ad, got {str(out)!r}")
    if (is_omics or is_table) and multiple:
        raise ValueError(f"--out must be a folder with --multiple, got the file {str(out)!r}")
    levels = [_level(part) for part in quantiles.split(",") if part.strip()]
    opened, data = open_run(run, options)
    chosen, names = parse_items(items), parse_given(given, opened.names)
    target_names = parse_given(targets, opened.names, "--targets")
    with item_progress("impute", len(inference.select_items(data, chosen)), threads, quiet) as progress:
        result = inference.impute(
            opened.vae, data, items=chosen, given=names, targets=target_names, quantiles=levels, multiple=multiple,
            draws=draws or (5 if multiple else 20), covariates=parse_covariates(covariates),
            folder=None if is_omics or is_table else out, force=force,
            progress=progress, **options,
        )  # fmt: skip
    if is_omics:
        write_omics(result, out, data.feature_names, force=force)
    left_out: tuple[str, ...] = ()
    if is_table:
        table, left_out = imputation_table(result, data.feature_names)
        table.write(out, force=force)
    echo_notes(data)
    counts = {name: count for name, count in result.summary["imputed"].items() if count}
    echo(f"{out}: {len(result.ids)} items; imputed " + ", ".join(f"{n} of {c} items" for n, c in counts.items()))
    figures = sorted({key.partition("/")[0] for key in result.arrays})
    echo(f"  {', '.join(table.flat() if is_table else figures)}")
    if left_out:
        echo(f"note: the table leaves out {', '.join(left_out)}, which a folder (--out DIR) holds", err=True)
    return {"out": out, "items": len(result.ids), "imputed": counts, "left_out": left_out, "summary": result.summary}


def _level(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--quantiles must be numbers between 0 and 1, got {text!r}") from None
