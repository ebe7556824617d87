"""The command line. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pyro_mmvae import __version__


def _plain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of use as one line and exit status 2; ``PYRO_MMVAE_DEBUG=1`` shows the traceback."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, TypeError, OSError, ImportError) as error:
            if os.environ.get("PYRO_MMVAE_DEBUG"):
                raise
            click.echo("error: " + " ".join(str(error).split()), err=True)
            sys.exit(2)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Multimodal variational autoencoders as barycenters."""


@main.command()
@click.option("--agg", "aggregation", metavar="NAME", help="Aggregation: wb, mwb, poe, moe, mopoe, pool, moment, ….")
@click.option("--config", type=click.Path(path_type=Path), help="YAML with sections data, model, train.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting: --set train.lr=1e-3.")
@click.option("--data", metavar="NAME", help="Data set.")
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
@_plain_errors
def train(resume: Path | None, out: Path | None, quiet: bool, **options: Any) -> None:
    """Train a model into a run directory."""
    from pyro_mmvae import reports, training

    try:
        if resume is None:
            run = training.train(_config(**options), out, progress=not quiet)
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


def _config(
    *,
    config: Path | None,
    overrides: tuple[str, ...],
    plugins: tuple[str, ...],
    **options: Any,
) -> Any:
    from pyro_mmvae import runs
    from pyro_mmvae.aggregation import get_aggregation
    from pyro_mmvae.config import make_config, parse_overrides

    homes = {
        "aggregation": "model.aggregation",
        "bound": "model.bound",
        "data": "data.name",
        "epochs": "train.epochs",
        "seed": "train.seed",
        "device": "train.device",
        "precision": "train.precision",
        "threads": "train.threads",
    }
    values = parse_overrides(overrides)
    values.update({homes[name]: value for name, value in options.items() if value is not None})
    if plugins:
        values["plugins"] = plugins
    result = make_config(config, values)
    runs.import_plugins(result.plugins)
    get_aggregation(result.model.aggregation)
    return result


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--given", default="", metavar="NAMES", help="Modalities to condition on, by commas; none is the prior.")
@click.option("--generate", default="", metavar="NAMES", help="Modalities to draw; all others by default.")
@click.option("-n", "count", type=click.IntRange(1), default=8, show_default=True, help="How many items or draws.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the items and draws.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--device", default="auto", metavar="auto|cpu|cuda")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples.png"), show_default=True, help="A PNG.")
@_plain_errors
def sample(
    run: Path, given: str, generate: str, count: int, seed: int, checkpoint: str, device: str, out: Path
) -> None:
    """Draw modalities given others, for test items that have those, or draws from the prior."""
    from pyro_mmvae import reports, runs
    from pyro_mmvae.sampling import draw_samples

    opened = runs.load(run, checkpoint=checkpoint, device=device)
    samples = draw_samples(opened, _words(given), _words(generate), count, seed)
    rows = [(f"given {name}", images) for name, images in samples.given.items()]
    rows += [(name, images) for name, images in samples.generated.items()]
    what = f"given {', '.join(samples.given)}" if samples.given else "from the prior"
    if out.parent != Path():
        out.parent.mkdir(parents=True, exist_ok=True)
    reports.image_grid(rows, out, title=f"Draws {what}", note=f"{opened.config.model.aggregation}, seed {seed}")
    click.echo(f"{out}: {count} draws {what}, seed {seed}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@main.command()
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
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all by default.")
@click.option("--quiet", is_flag=True, help="No progress.")
@_plain_errors
def evaluate(run: Path, checkpoint: str, device: str, threads: int | None, quiet: bool, **numbers: Any) -> None:
    """Probe, coherence and log likelihoods of a run, for every subset of its modalities."""
    from tqdm import tqdm

    from pyro_mmvae import reports, runs
    from pyro_mmvae.data import cache_folder
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.evaluation import EvaluationOptions
    from pyro_mmvae.evaluation import evaluate as run_evaluation

    options = EvaluationOptions(**numbers)
    opened = runs.load(run, checkpoint=checkpoint, device=device)
    train, test = opened.data("train").to(opened.device), opened.data("test").to(opened.device)
    bar = tqdm(total=7, disable=quiet, bar_format="{desc:<24}{bar}| {elapsed}", file=sys.stderr)

    def progress(part: str) -> None:
        bar.set_description_str(part)
        bar.update()

    with use_threads(threads):
        result = run_evaluation(
            opened.vae, train, test, options=options, cache=cache_folder() / train.fingerprint, progress=progress
        )
    bar.close()
    about = {"checkpoint": checkpoint, "epoch": opened.state["epoch"], "aggregation": opened.config.model.aggregation}
    runs.write_evaluation(run, [row.as_row() for row in result.rows], {**about, **result.summary()}, result.arrays)
    click.echo(reports.table(run))
    for file in [
        run / "evaluation" / "metrics.csv",
        run / "evaluation" / "summary.json",
        *reports.draw_evaluation(run),
    ]:
        click.echo(f"  {file}")


@main.command()
@click.option("--agg", "names", default="poe,moe,mopoe,wb,mwb", show_default=True, metavar="NAMES", help="By commas.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How many: 0, 1, ….")
@click.option("--config", type=click.Path(path_type=Path), help="YAML with sections data, model, train.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting in every cell.")
@click.option("--data", metavar="NAME", help="Data set.")
@click.option("--epochs", type=click.IntRange(0), help="Passes over the training data in every cell.")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Module that registers aggregations.")
@click.option("--likelihood-items", type=click.IntRange(0), default=200, show_default=True, help="0 leaves them out.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/compare"), show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
@_plain_errors
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
        (name, seed): _config(aggregation=name, seed=seed, overrides=overrides, **shared)
        for name in _words(names)
        for seed in range(seeds)
    }
    cells = make_cells(out, configs)
    left = [cell for cell in cells if not cell.finished]
    click.echo(f"{len(cells)} cells, {len(cells) - len(left)} finished already: {out}", err=True)
    started = time.monotonic()
    try:
        for number, cell in enumerate(left):
            run_cell(cell, EvaluationOptions(likelihood_items=likelihood_items), progress=not quiet)
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


@main.command("aggregations")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Module that registers aggregations.")
@_plain_errors
def list_aggregations(plugins: tuple[str, ...]) -> None:
    """List the aggregations by name."""
    from pyro_mmvae import aggregation, runs

    runs.import_plugins(plugins)
    names = aggregation.aggregations()
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {aggregation.get_aggregation(name).summary}")
