"""``ppc``: posterior predictive checks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.common import plain_errors, words


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--given", "choices", multiple=True, metavar="NAMES",
    help="Modalities the guide sees, by commas; 'all', or 'none' for the prior predictive. Again for more checks. By "
    "default none, one subset of each size, and all.",
)  # fmt: skip
@click.option("--num-samples", type=click.IntRange(2), default=100, show_default=True, help="Draws an item.")
@click.option("--items", type=click.IntRange(2), default=200, show_default=True, help="Test items, chosen at random.")
@click.option("--statistics", default="", metavar="NAMES", help="Test statistics, by commas; all that fit by default.")
@click.option("--raw", is_flag=True, help="Keep the replicated observations themselves (large).")
@click.option("--sbc", is_flag=True, help="Simulation-based calibration of the guide as well.")
@click.option("--simulations", type=click.IntRange(100), default=200, show_default=True, help="Of --sbc.")
@click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="Module that registers statistics.")
@click.option("--checkpoint", type=click.Choice(["best", "last"]), default="best", show_default=True)
@click.option("--device", default="auto", metavar="auto|cpu|cuda")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all choices and draws.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; all by default.")
@click.option("--quiet", is_flag=True, help="No progress.")
@plain_errors
def ppc(
    run: Path,
    choices: tuple[str, ...],
    items: int,
    plugins: tuple[str, ...],
    checkpoint: str,
    device: str,
    seed: int,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Check draws of the posterior predictive distribution against test items, for ArviZ."""
    import numpy as np
    from tqdm import tqdm

    from pyro_mmvae import reports, runs
    from pyro_mmvae.data import make_batch
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.evaluation.inference_data import write_inference_data
    from pyro_mmvae.evaluation.ppc import choose_given

    runs.import_plugins(plugins)
    opened, run_files = runs.load(run, checkpoint=checkpoint, device=device), runs.RunFiles(run)
    given = [_given(choice, opened.names) for choice in choices] or choose_given(opened.names, seed=seed)
    with use_threads(threads):
        test = opened.data("test")
        ids = np.sort(np.random.default_rng(seed).choice(len(test), min(items, len(test)), replace=False)).tolist()
        batch = make_batch(test.subset(ids), slice(None)).to(opened.device)
        classifiers = _classifiers(opened, test, seed)
        files, rows = [], []
        for names in tqdm(given, "checks", disable=quiet, file=sys.stderr):
            data, found = _check(opened, batch, names, ids, classifiers, seed=seed, **options)
            files.append(write_inference_data(data, run_files.check(_label(names, given))))
            rows += [row.as_row() for row in found]
    runs.write_table(run_files.check_table, rows)
    for file in files:
        click.echo(reports.ppc_table(file))
        click.echo("")
    click.echo(f"  {run_files.check_table}")
    for file in files:
        drawn = reports.draw_ppc(file, folder=run_files.plots)
        click.echo(f"  {file}  {', '.join(str(picture.relative_to(run)) for picture in drawn)}")


def _given(choice: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if choice.strip() in {"none", ""}:
        return ()
    if choice.strip() == "all":
        return names
    chosen = words(choice)
    for name in chosen:
        if name not in names:
            raise ValueError(f"--given {choice}: unknown modality {name!r}; the run has {', '.join(names)}")
    return tuple(name for name in names if name in chosen)


def _label(names: tuple[str, ...], given: Sequence[tuple[str, ...]]) -> str:
    """Return the label of a check, empty for the only check and for the first one of a posterior."""
    first = next((some for some in given if some), given[0])
    return "" if names == first else "+".join(names) or "prior"


def _classifiers(opened: Any, test: Any, seed: int) -> Any:
    """To judge images by, where there are classes."""
    from pyro_mmvae.data import cache_folder
    from pyro_mmvae.evaluation import train_classifiers

    train = opened.data("train")
    if train.labels is None or test.labels is None:
        return None
    return train_classifiers(
        train.to(opened.device), test.to(opened.device), cache=cache_folder() / train.fingerprint, seed=seed
    )


def _check(
    opened: Any,
    batch: Any,
    given: tuple[str, ...],
    ids: list[int],
    classifiers: Any,
    *,
    seed: int,
    num_samples: int,
    statistics: str,
    raw: bool,
    sbc: bool,
    simulations: int,
) -> tuple[Any, list[Any]]:
    """One check as InferenceData and as rows of figures."""
    from pyro_mmvae.evaluation.calibration import calibrate
    from pyro_mmvae.evaluation.inference_data import to_inference_data
    from pyro_mmvae.evaluation.ppc import posterior_predictive
    from pyro_mmvae.evaluation.sbc import simulation_calibration

    check = posterior_predictive(
        opened.vae, batch, given, samples=num_samples, seed=seed, statistics=words(statistics) or None,
        classifiers=classifiers, ids=ids, keep_raw=raw,
    )  # fmt: skip
    ranks = simulation_calibration(opened.vae, given, simulations=simulations, seed=seed) if sbc and given else None
    rows = [metric for row in calibrate(check) for metric in row.metrics()]
    return to_inference_data(check, ranks), [*rows, *(ranks.metrics() if ranks else [])]
