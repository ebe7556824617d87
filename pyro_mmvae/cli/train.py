"""``train``, ``sample`` and ``aggregations``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.common import plain_errors, read_config, words


@click.command()
@click.option(
    "--agg", "aggregation", metavar="NAME", help="Aggregation: wb, mwb, poe, moe, …, renyi:0.5, mixture:w1, …."
)
@click.option("--config", type=click.Path(path_type=Path), help="YAML with sections data, model, train.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting: --set train.lr=1e-3.")
@click.option("--data", metavar="NAME|PATH", help="Data set, by name or by the path of its files.")
@click.option("--epochs", type=click.IntRange(0), help="Passes over the training data.")
@click.option("--seed", type=click.IntRange(0), help="Of weights, order and draws.")
@click.option("--device", metavar="auto|cpu|cuda", help="Where to train.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Of the networks' arithmetic.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all by default.")
@click.option("--bound", type=click.Choice(["mixture", "component"]), help="Of the training objective.")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Module that registers aggregations.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; a new one under runs/ by default.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with an interrupted run.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@plain_errors
def train(resume: Path | None, out: Path | None, quiet: bool, **options: Any) -> None:
    """Train a model into a run directory."""
    from pyro_mmvae import reports, training

    try:
        if resume is None:
            run = training.train(read_config(**options), out, progress=not quiet)
        else:
            given = [name for name, value in options.items() if value not in {None, ()} and name != "epochs"]
            if given or out is not None:
                raise ValueError(f"--resume takes its settings from the run: leave out {', '.join(given) or '--out'}")
            run = training.resume(resume, epochs=options["epochs"], progress=not quiet)
    except training.Interrupted as stop:
        click.echo(f"{stop}\ngo on with: pyro-mmvae train --resume {stop.path}", err=True)
        sys.exit(130)
    except training.TrainingError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    drawn = reports.draw_run(run.path)
    best = run.state.get("best")
    if best is not None:
        click.echo(f"best validation ELBO {best:.1f} nats an item, epoch {run.state['epoch']}")
    click.echo(f"run directory: {run.path}")
    for file in drawn:
        click.echo(f"  {file}")
    first, *others = run.names
    targets = ",".join(others or [first])
    click.echo(f"next: pyro-mmvae sample {run.path} --given {first} --generate {targets} -n 8 --out grid.png")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--given", default="", metavar="NAMES", help="Modalities to condition on, by commas; none is the prior.")
@click.option("--generate", default="", metavar="NAMES", help="Modalities to draw; all others by default.")
@click.option("-n", "count", type=click.IntRange(1), default=8, show_default=True, help="How many items or draws.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the items and draws.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--device", default="auto", metavar="auto|cpu|cuda")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("samples.png"),
    show_default=True,
    help="A PNG; what is no image goes to an .npz beside it, text to both and to the terminal. An .npz: all in it.",
)
@plain_errors
def sample(
    run: Path, given: str, generate: str, count: int, seed: int, checkpoint: str, device: str, out: Path
) -> None:
    """Draw modalities given others, for test items that have those, or draws from the prior."""
    from pyro_mmvae import reports, runs
    from pyro_mmvae.runs.sampling import draw_samples

    opened = runs.load(run, checkpoint=checkpoint, device=device)
    samples = draw_samples(opened, words(given), words(generate), count, seed)
    rows = [(f"given {name}", images) for name, images in samples.given.items()]
    rows += [(name, images) for name, images in samples.generated.items()]
    what = f"given {', '.join(words(given))}" if words(given) else "from the prior"
    if out.parent != Path():
        out.parent.mkdir(parents=True, exist_ok=True)
    if rows and out.suffix != ".npz":
        reports.image_grid(rows, out, title=f"Draws {what}", note=f"{opened.config.model.aggregation}, seed {seed}")
        click.echo(f"{out}: {count} draws {what}, seed {seed}")
    _echo_texts([(label, row) for label, row in rows if row.ndim == 1])
    arrays = samples.every_array() if out.suffix == ".npz" else samples.arrays
    if arrays:
        file = out.with_suffix(".npz")
        runs.write_arrays(file, arrays)
        click.echo(f"{file}: {', '.join(arrays)}; {count} draws {what}, seed {seed}")


def _echo_texts(rows: list[tuple[str, Any]], most: int = 8) -> None:
    """Texts in columns, an item each; the first items one after the other where a text is long."""
    width = max((len(label) for label, _ in rows), default=0)
    if all(len(text) <= 20 for _, texts in rows for text in texts):
        for label, texts in rows:
            click.echo(f"  {label:<{width}}  |" + "|".join(texts) + "|")
        return
    count = len(rows[0][1])
    for number in range(min(count, most)):
        click.echo(f"  {number}")
        for label, texts in rows:
            click.echo(f"    {label:<{width}}  {texts[number]}")
    if count > most:
        click.echo(f"  … and {count - most} more")


@click.command("aggregations")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Module that registers aggregations.")
@plain_errors
def list_aggregations(plugins: tuple[str, ...]) -> None:
    """List the aggregations by name."""
    from pyro_mmvae import aggregation, runs

    runs.import_plugins(plugins)
    names = aggregation.aggregations()
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {aggregation.describe_aggregation(name)}")
