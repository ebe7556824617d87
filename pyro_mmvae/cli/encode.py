"""The command ``encode``, which writes the latents of items."""

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
from pyro_mmvae.cli.common import echo, plain_errors


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@table_option
@given_option
@click.option(
    "--statistic", type=click.Choice(["mean", "loc_scale", "draw"]), default="mean", show_default=True,
    help="Posterior means, means and standard deviations, or one draw per item.",
)  # fmt: skip
@click.option("--private", is_flag=True, help="Add the private latents of the modalities given.")
@click.option(
    "--density", type=click.Choice(["mixture", "joint"]), show_default="the mixture unless it is too large",
    help="Posterior to describe: the whole mixture, or the component of all modalities given.",
)  # fmt: skip
@answer_options
@plain_errors
def encode(
    run: Path, out: Path, items: str | None, given: str | None, force: bool, threads: int | None, quiet: bool,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write the latents of items.

    Reads the run directory RUN and its data set, or --data. Writes one row per item, with its identifier or row number,
    to the file --out.
    """
    from pyro_mmvae import inference
    from pyro_mmvae.files import refuse_existing
    from pyro_mmvae.inference.tables import check_suffix

    check_suffix(out)
    refuse_existing(out, force=force)
    source = options["data"]
    opened, data = open_run(run, options)
    chosen, names = parse_items(items), parse_given(given, opened.names)
    total = len(inference.select_items(data, chosen))
    with item_progress("encode", total, threads, quiet) as progress:
        table = inference.encode(opened.vae, data, items=chosen, given=names, progress=progress, **options)
    table.write(out, force=force, source=source or opened.config.data.name)
    echo_notes(data)
    about = table.summary
    echo(f"{out}: {len(table)} items, {', '.join(table.arrays)}; given {', '.join(about['given']) or 'nothing'}")
    if about["unobserved"] and about["given"]:
        echo(f"note: {about['unobserved']} items have none of these modalities: their latents are of the prior")
    return {"file": out, "items": len(table), "columns": list(table.flat()), "summary": about}
