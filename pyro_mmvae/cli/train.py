"""The commands ``train``, ``sample`` and ``aggregations``."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from pyro_mmvae.cli.answering import (
    choose_data,
    covariate_option,
    data_options,
    force_option,
    items_option,
    parse_covariates,
    parse_items,
)
from pyro_mmvae.cli.common import (
    MOST_DRAWS,
    SEEDS,
    changed_data_option,
    checkpoint_option,
    config_options,
    device_option,
    echo,
    log_level_option,
    picture_options,
    plain_errors,
    plugin_option,
    plugin_words,
    quiet_option,
    read_config,
    recipe_option,
    split_names,
)
from pyro_mmvae.cli.process import describe_stop

_OR_CONFIG = ", or that of --config"  # the defaults of the configuration, whose import would make --help slow


@click.command()
@click.option(
    "--agg", "aggregation", metavar="NAME", show_default="wb" + _OR_CONFIG,
    help="Aggregation of the experts, such as wb, mwb, poe, moe, renyi:0.5 or mixture:w1; the command 'aggregations' "
    "lists all.",
)  # fmt: skip
@config_options
@click.option(
    "--seed", type=SEEDS, show_default="0" + _OR_CONFIG,
    help="Seed of the initial weights, the order of the items and all draws.",
)  # fmt: skip
@click.option(
    "--device", metavar="auto|cpu|cuda", show_default="auto" + _OR_CONFIG,
    help="Device to train on; auto takes a GPU if there is one.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), show_default="auto" + _OR_CONFIG,
    help="Precision of the networks' arithmetic; auto takes bf16 if the device computes faster with it.",
)  # fmt: skip
@click.option(
    "--threads", metavar="N|auto", show_default="all cores" + _OR_CONFIG,
    help="Number of CPU threads to use; auto times a few steps with several numbers and takes the fastest.",
)  # fmt: skip
@click.option(
    "--deterministic", is_flag=True, default=None,
    help="Use only algorithms of torch that give equal bits on the same machine.",
)  # fmt: skip
@click.option(
    "--bound", type=click.Choice(["mixture", "component", "subsets"]),
    show_default="subsets with the recipe contrastive, otherwise component" + _OR_CONFIG,
    help="Training bound: the ELBO of the whole mixture, of one component drawn per item, or of one subset drawn per "
    "item under every aggregation.",
)  # fmt: skip
@recipe_option
@plugin_option("aggregations, likelihoods, networks, objectives, penalties or data sets")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", show_default="a new folder under runs/",
    help="Run directory to create.",
)  # fmt: skip
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN",
    help="Run directory of an interrupted run to continue; of the other options only --epochs, --force, --plugin, "
    "--allow-changed-data, --format, --dpi, --quiet and --log-level apply.",
)  # fmt: skip
@click.option(
    "--force", is_flag=True,
    help="With --resume, go on although settings in the configuration of the run or its data have changed, and record "
    "the changes; otherwise that is an error.",
)  # fmt: skip
@picture_options()
@changed_data_option
@quiet_option
@log_level_option
@plain_errors
def train(
    resume: Path | None,
    out: Path | None,
    pictures: dict[str, Any],
    force: bool,
    allow_changed_data: bool,
    quiet: bool,
    **options: Any,
) -> dict[str, Any]:
    """Train a model on a data set.

    Reads the data set and, if given, a configuration file. Writes the run directory --out: configuration, checkpoints,
    metrics.jsonl, samples.npz, and pictures in plots/. The command 'settings' lists what --set and --config can set.
    Several processes train together with 'torchrun --nproc-per-node N -m pyro_mmvae train …'.
    """
    from pyro_mmvae import reports, training
    from pyro_mmvae.run_files import read_metrics

    try:
        if resume is None:
            for flag, is_given in (("--allow-changed-data", allow_changed_data), ("--force", force)):
                if is_given:
                    raise ValueError(f"{flag} must come with --resume, got it without: leave it out")
            run = training.train(read_config(**options), out, progress=not quiet)
        else:
            passed = [
                name for name, value in options.items() if value not in {None, ()} and name not in {"epochs", "plugins"}
            ]
            if passed or out is not None:
                raise ValueError(f"--resume takes its settings from the run: leave out {', '.join(passed) or '--out'}")
            rows = read_metrics(resume)
            run = training.resume(
                resume, epochs=options["epochs"], progress=not quiet, allow_changed_data=allow_changed_data,
                force=force, plugins=options["plugins"],
            )  # fmt: skip
            is_first = training.is_first_process()
            if is_first and len(read_metrics(resume)) == len(rows) and not (rows and "stopped" in rows[-1]):
                done = f"{resume} has all its {run.config.train.epochs} epochs"
                echo(f"note: {done}: nothing was trained; --epochs N trains more")
    except (training.Interrupted, training.TrainingError) as error:
        _end(error, options["plugins"])
    if not training.is_first_process():
        sys.exit(0)  # the first one draws and says the rest
    words = ["pyro-mmvae", "train", "--resume", str(run.path), *plugin_words(run.config.plugins)]
    resume_command = shlex.join(words)
    try:
        drawn = reports.draw_run(run.path, **pictures)
    except KeyboardInterrupt as stop:
        line, status = describe_stop(stop)
        echo(f"{line}; the run is complete, but for pictures, which '{resume_command}' draws", err=True)
        sys.exit(status)
    except OSError as error:
        echo(f"error: pictures of {run.path} cannot be written: {error}; the run is complete", err=True)
        sys.exit(1)
    _echo_result(run, drawn)
    rows = read_metrics(run.path)
    best = {"best": run.state.get("best"), "epoch": run.state["epoch"]}
    return {"run": run.path, **best, "pictures": drawn, "metrics": rows[-1] if rows else None}


def _end(error: Exception, plugins: tuple[str, ...]) -> NoReturn:
    """End the command after a training that did not finish; of several processes the first one says why."""
    from pyro_mmvae import training

    if isinstance(error, training.Interrupted):
        words = [*training.launch_words(), "train", "--resume", str(error.path), *plugin_words(plugins)]
        if training.is_first_process():
            echo(f"{error}\ncontinue with: {shlex.join(words)}", err=True)
        _exit(128 + error.number)
    if training.is_first_process() or isinstance(error, training.ProcessLostError):
        echo(f"error: {error}", err=True)
    _exit(1)


def _exit(status: int) -> NoReturn:
    """End this process; one of several at once, since threads of torch may wait for a process that is lost."""
    from pyro_mmvae import training

    if training.launch_words()[0] == "torchrun":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _echo_result(run: Any, drawn: list[Path]) -> None:
    """Print the end of a training: its best checkpoint, its files, notes on its data, and commands to go on with."""
    from pyro_mmvae._bounded import read_json
    from pyro_mmvae.run_files import RunFiles, read_metrics

    best, rows = run.state.get("best"), read_metrics(run.path)
    if rows and "stopped" in rows[-1]:
        echo(f"stopped early after epoch {rows[-1]['epoch'] + 1} of {run.config.train.epochs}: {rows[-1]['stopped']}")
    if best is not None:
        echo(_describe_best(run, best, rows[-1] if rows else {}))
    echo(f"run directory: {run.path}")
    for file in drawn:
        echo(f"  {file}")
    _echo_prior(run)
    for modality in run.vae.modalities:
        if modality.data_type in {"vector", "binary"} and len(modality.shape) == 2 and min(modality.shape) >= 8:
            echo(
                f"note: {modality.name} of shape {modality.shape} is a {modality.data_type}: grey images need a "
                f"channel axis (1, {modality.shape[0]}, {modality.shape[1]}) or, for floats, data_type: image"
            )
    data = read_json(RunFiles(run.path).environment).get("data")
    for note in data.get("notes", ()) if isinstance(data, dict) else ():
        echo(f"note: {note}")
    for command in _next_commands(run):
        echo(f"next: {shlex.join(command)}")


def _echo_prior(run: Any) -> None:
    """Print which prior was fitted to the latents after the training, or how to fit one if that was interrupted."""
    from pyro_mmvae.run_files import RunFiles

    file = RunFiles(run.path).prior
    if not run.config.train.fit_prior or not run.state["epoch"]:
        return
    if not file.exists() or run.prior_note is not None:
        command = shlex.join(["pyro-mmvae", "fit-prior", str(run.path), *plugin_words(run.config.plugins)])
        echo(f"note: no prior was fitted to the latents after the training: {command} fits it")
        return
    about = run.fitted_prior.about
    echo(
        f"  {file}: prior of {run.fitted_prior.label}, fitted to {about['items']} training items in "
        f"{about['seconds']:.1f} s"
    )


def _next_commands(run: Any) -> list[list[str]]:
    """Return a command that draws samples and one that writes a report, which can be run as they are.

    Samples are drawn given the first modality that a test item has, or else from the prior.
    """
    # A file that exists is not replaced without --force, so that a command that names it would fail.
    names = (f"grid{number}.png" for number in itertools.chain([""], (f"-{n}" for n in itertools.count(2))))
    out = ["--out", next(n for n in names if not any(Path(n).with_suffix(s).exists() for s in (".png", ".npz")))]
    words = [str(run.path), *plugin_words(run.config.plugins)]
    command, report = ["pyro-mmvae", "sample", *words], ["pyro-mmvae", "report", *words]
    try:
        present = run.data("test").present
    except (OSError, ValueError):  # training needs no test items, so that they may be missing
        return [[*command, *out], [*report, "--files-only"]]
    given = next((name for m, name in enumerate(run.names) if bool(present[:, m].any())), None)
    if given is None:
        return [[*command, *out], report]
    targets = ",".join([name for name in run.names if name != given] or [given])
    return [[*command, "--given", given, "--generate", targets, *out], report]


def _describe_best(run: Any, best: float, row: Mapping[str, Any]) -> str:
    """Return a line on the best checkpoint: its validation ELBO, of which density if that is known, and its epoch."""
    # The runs of earlier versions do not record the figure; it was that of the validation.
    validated = row.get("val", {}).get("density", "")
    by, epoch = row.get("select", {}).get("by", validated), run.state["epoch"]
    if by == "last":
        return f"last epoch taken, {epoch}; validation ELBO of the {validated} {best:.1f} nats per item"
    density = {"mixture": "the whole mixture", "component": "one drawn component per item"}
    density["subsets"] = "one drawn subset per item"
    of = f", of {density[by]}" if by in density else ""
    return f"best validation ELBO {best:.1f} nats per item{of}, epoch {epoch}"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--given", default="", metavar="NAMES", show_default="none, which draws from the prior",
    help="Modalities of test items to condition on, separated by commas.",
)  # fmt: skip
@click.option(
    "--generate", default="", metavar="NAMES", show_default="all that are not given",
    help="Modalities to generate, separated by commas.",
)  # fmt: skip
@click.option(
    "-n", "count", type=click.IntRange(1, MOST_DRAWS),
    show_default="8, or all test items with the modalities given if fewer",
    help="Number of test items to condition on, or of draws from the prior.",
)  # fmt: skip
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of the choice of items and the draws.")
@click.option(
    "--prior", type=click.Choice(["auto", "fitted", "model"]), default="auto", show_default=True,
    help="Prior to draw from without --given: the one that was fitted after the training if there is one (auto), or "
    "the model's own.",
)  # fmt: skip
@data_options
@covariate_option
@items_option
@plugin_option("data sets or other parts")
@checkpoint_option
@device_option
@changed_data_option
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("samples.png"), show_default=True,
    help="Output file. FILE.png, FILE.pdf or FILE.svg draws every modality (the values of all but images also go to "
    "FILE.npz, text to the terminal); FILE.npz stores everything.",
)  # fmt: skip
@picture_options(one_file=True)
@force_option
@plain_errors
def sample(
    run: Path,
    given: str,
    generate: str,
    count: int | None,
    seed: int,
    prior: str,
    covariates: tuple[str, ...],
    items: str | None,
    plugins: tuple[str, ...],
    checkpoint: str,
    device: str,
    allow_changed_data: bool,
    out: Path,
    pictures: dict[str, Any],
    force: bool,
    **options: Any,
) -> dict[str, Any]:
    """Generate modalities from a trained model.

    They are generated given other modalities of test items, or from draws of a prior. Reads the run directory RUN
    and, with --given, the test items of its data set, or --data. Writes the file --out.
    """
    from pyro_mmvae import reports, runs
    from pyro_mmvae.files import refuse_existing

    is_array = out.suffix == ".npz"
    if is_array and pictures["formats"]:
        raise ValueError(f"--format must come with an --out for pictures, got {out}: leave one of them out")
    files = [out] if is_array else reports.picture_files(out, pictures["formats"])
    for file in files:
        refuse_existing(file, force=force)
    opened = runs.load_run(
        run, checkpoint=checkpoint, device=device, allow_changed_data=allow_changed_data, plugins=plugins
    )
    conditions = split_names(given, opened.names)
    chosen = parse_items(items)
    if not conditions and (options["data"] is not None or chosen is not None):
        raise ValueError("--data and --items must come with --given, the modalities to condition on, got none")
    if conditions and prior != "auto":
        raise ValueError("--prior must come without --given, whose draws follow the posterior: leave one of them out")
    if not conditions and prior == "auto" and opened.prior_note is not None:
        echo(f"note: {opened.prior_note}", err=True)
    data = choose_data(opened, options)[0] if conditions else None
    generated = split_names(generate, opened.names)
    categories = parse_covariates(covariates)
    samples = _draw_within_memory(
        opened, conditions, generated, count, seed, data=data, items=chosen, prior=prior, covariates=categories
    )
    if samples.num_left_out:
        echo(f"note: items without {' or '.join(conditions)} are left out: {samples.num_left_out}", err=True)
    texts = [(f"given {name}", row) for name, row in samples.given.items() if row.ndim == 1]
    texts += [(name, row) for name, row in samples.generated.items() if row.ndim == 1]
    arrays = samples.every_array() if is_array else samples.arrays
    array_file = out.with_suffix(".npz")
    if arrays:  # before the picture is written
        refuse_existing(array_file, force=force)
    count = len(samples.rows[-1][1])
    source = f"given {', '.join(conditions)}" if conditions else f"from {opened.describe_prior(prior)}"
    source += "".join(f", {name} {category}" for name, category in (categories or {}).items())
    if out.parent != Path():
        out.parent.mkdir(parents=True, exist_ok=True)
    if not is_array:
        has_units = any(label.endswith("(s.d.)") for label, _ in samples.rows)
        unit = "; s.d.: standard deviations from the training mean" if has_units else ""
        note = f"{opened.config.model.aggregation}, seed {seed}{unit}"
        for file in files:
            reports.image_grid(samples.rows, file, title=f"Draws {source}", note=note, dpi=pictures["dpi"])
            echo(f"{file}: {count} draws {source}, seed {seed}")
    _echo_texts(texts)
    if arrays:
        runs.write_arrays(array_file, arrays)
        echo(f"{array_file}: {', '.join(arrays)}; {count} draws {source}, seed {seed}")
    written = [*([] if is_array else files), *([array_file] if arrays else [])]
    texts_only = {label: list(row) for label, row in texts}
    return {"files": written, "draws": count, "source": source, "seed": seed, "texts": texts_only}


def _draw_within_memory(
    opened: Any, given: tuple[str, ...], generate: tuple[str, ...], count: int | None, *args: Any, **options: Any
) -> Any:
    """Draw samples after a check that they fit into memory, whose end is an error of one line."""
    from pyro_mmvae.runs.sampling import draw_samples
    from pyro_mmvae.training.memory import check_samples, memory_errors_explained

    if not given and count is not None:
        check_samples(count, opened.config.model.latent_size, opened.state["shapes"].values(), opened.device)
    with memory_errors_explained("the samples", "draw fewer (-n)"):
        return draw_samples(opened, given, generate, count, *args, **options)


def _echo_texts(rows: list[tuple[str, Any]], limit: int = 8) -> None:
    """Print texts in columns, one per item; long texts are printed item by item, up to ``limit`` items."""
    # Generated bytes may be control characters, which a terminal would obey.
    rows = [(label, ["".join(c if c.isprintable() else " " for c in text) for text in texts]) for label, texts in rows]
    width = max((len(label) for label, _ in rows), default=0)
    if all(len(text) <= 20 for _, texts in rows for text in texts):
        for label, texts in rows:
            echo(f"  {label:<{width}}  |" + "|".join(texts) + "|")
        return
    count = len(rows[0][1])
    for number in range(min(count, limit)):
        echo(f"  {number}")
        for label, texts in rows:
            echo(f"    {label:<{width}}  {texts[number]}")
    if count > limit:
        echo(f"  … and {count - limit} more")


@click.command("aggregations")
@plugin_option("aggregations")
@plain_errors
def list_aggregations(plugins: tuple[str, ...]) -> dict[str, str]:
    """List all aggregations with a one-line summary each.

    Reads nothing but the plugins, and writes to the terminal only.
    """
    from pyro_mmvae import aggregation, runs

    runs.import_plugins(plugins)
    names = aggregation.aggregations()
    width = max(map(len, names))
    for name in names:
        echo(f"{name:<{width}}  {aggregation.describe_aggregation(name)}")
    return {name: aggregation.describe_aggregation(name) for name in names}
