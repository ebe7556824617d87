"""``evaluate`` and ``compare``."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.common import plain_errors, read_config, words

_BAR = "{desc:<18}{bar}| {n_fmt}/{total_fmt} parts, {elapsed}"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--device", default="auto", metavar="auto|cpu|cuda")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all choices and draws.")
@click.option("--subsets", type=click.IntRange(1), default=31, show_default=True, help="How many, at the most.")
@click.option("--probe-points", type=click.IntRange(2), default=5000, show_default=True, help="To fit probes on.")
@click.option(
    "--likelihood-items", type=click.IntRange(0), default=500, show_default=True, help="0 leaves log likelihoods out."
)
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True, help="K, for log likelihoods.")
@click.option(
    "--likelihood-subsets",
    type=click.Choice(["ends", "all"]),
    default="ends",
    show_default=True,
    help="ends: given each modality alone and all of them.",
)
@click.option("--khat-items", type=click.IntRange(0), default=100, show_default=True, help="0 leaves PSIS k-hat out.")
@click.option("--khat-samples", type=click.IntRange(1000), default=1000, show_default=True, help="S, draws an item.")
@click.option("--quality/--no-quality", default=True, show_default=True, help="MSE, SSIM, Frechet distance.")
@click.option("--fid", is_flag=True, help="Frechet inception distance: needs the extra fid and Inception's weights.")
@click.option("--diagnostics/--no-diagnostics", default=True, show_default=True, help="Experts and use of the latent.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all by default.")
@click.option("--quiet", is_flag=True, help="No progress.")
@plain_errors
def evaluate(run: Path, checkpoint: str, device: str, threads: int | None, quiet: bool, **numbers: Any) -> None:
    """Probe, coherence, likelihoods, quality and diagnoses of a run, for subsets of its modalities."""
    from tqdm import tqdm

    from pyro_mmvae import reports, runs
    from pyro_mmvae.data import cache_folder
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.evaluation import EvaluationOptions
    from pyro_mmvae.evaluation import evaluate as run_evaluation

    options = EvaluationOptions(**numbers)
    opened = runs.load(run, checkpoint=checkpoint, device=device)
    train, test = opened.data("train").to(opened.device), opened.data("test").to(opened.device)
    labelled = train.labels is not None and test.labels is not None
    parts, started = options.count_parts(labelled), list[str]()
    with use_threads(threads), tqdm(total=parts, disable=quiet, file=sys.stderr, bar_format=_BAR) as bar:

        def progress(part: str) -> None:
            bar.update(len(started) > 0)
            bar.set_description_str(part)
            started.append(part)

        result = run_evaluation(
            opened.vae, train, test, options=options, cache=cache_folder() / train.fingerprint, progress=progress
        )
        bar.update(parts - bar.n)
    about = {"checkpoint": checkpoint, "epoch": opened.state["epoch"], "aggregation": opened.config.model.aggregation}
    runs.write_evaluation(run, [row.as_row() for row in result.rows], {**about, **result.summary()}, result.arrays)
    files = runs.RunFiles(run)
    click.echo(reports.table(run))
    for file in [
        files.evaluation_table,
        files.evaluation_summary,
        *reports.draw_evaluation(run),
    ]:
        click.echo(f"  {file}")


@click.command()
@click.option("--agg", "names", default="poe,moe,mopoe,wb,mwb", show_default=True, metavar="NAMES", help="By commas.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How many: 0, 1, ….")
@click.option("--config", type=click.Path(path_type=Path), help="YAML with sections data, model, train.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting in every cell.")
@click.option("--data", metavar="NAME|PATH", help="Data set, by name or by the path of its files.")
@click.option("--epochs", type=click.IntRange(0), help="Passes over the training data in every cell.")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Module that registers aggregations.")
@click.option("--likelihood-items", type=click.IntRange(0), default=100, show_default=True, help="0 leaves them out.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/compare"), show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
@plain_errors
def compare(
    names: str,
    seeds: int,
    config: Path | None,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    data: str | None,
    epochs: int | None,
    likelihood_items: int,
    out: Path,
    quiet: bool,
) -> None:
    """Train and evaluate aggregations over seeds; what is finished is never run again."""
    from pyro_mmvae import reports, training
    from pyro_mmvae.evaluation import EvaluationOptions
    from pyro_mmvae.experiments import make_cells, run_cell

    shared: dict[str, Any] = {"data": data, "epochs": epochs, "plugins": plugins, "config": config}
    configs = {
        (name, seed): read_config(aggregation=name, seed=seed, overrides=overrides, **shared)
        for name in words(names)
        for seed in range(seeds)
    }
    options = EvaluationOptions(likelihood_items=likelihood_items, khat_items=0, quality=False, diagnostics=False)
    cells = make_cells(out, configs)
    left = [cell for cell in cells if not cell.finished]
    click.echo(f"{len(cells)} cells, {len(cells) - len(left)} finished already: {out}", err=True)
    started = time.monotonic()
    try:
        for number, cell in enumerate(left):
            run_cell(cell, options, progress=not quiet)
            remaining = (time.monotonic() - started) / (number + 1) * (len(left) - number - 1)
            click.echo(f"{cell.path} done, about {remaining / 60:.0f} minutes left", err=True)
    except training.Interrupted as stop:
        click.echo(f"{stop}\nthe same command goes on from there", err=True)
        sys.exit(130)
    except training.TrainingError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    command = "pyro-mmvae " + " ".join(shlex.quote(word) for word in sys.argv[1:])
    for file in reports.draw_comparison(out, [cell.path for cell in cells], command):
        click.echo(f"  {file}")
    click.echo((out / "comparison.md").read_text(encoding="utf-8"))
