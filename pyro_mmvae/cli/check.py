"""The command ``ppc`` for posterior predictive checks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.answering import DATA_SETTINGS, choose_data, data_options, folder_for, parse_items
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
    plugin_words,
    quiet_option,
    split_names,
    threads_option,
)

_OFF = 0.05  # from the nominal coverage, above which the advice is given


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--given", "choices", multiple=True, metavar="NAMES", show_default="none, one subset of each size, and all",
    help="Modalities that the guide sees, separated by commas; 'all' for all of them, 'none' for the prior predictive "
    "distribution. Repeat the option for several checks.",
)  # fmt: skip
@click.option(
    "--num-samples", type=click.IntRange(2, MOST_DRAWS), default=100, show_default=True,
    help="Number of posterior predictive draws per item.",
)  # fmt: skip
@click.option(
    "--items", default="200", show_default=True, metavar="N|A:B|FILE",
    help="Items to check: N items chosen at random, the rows A to B (B excluded), or those whose identifiers FILE "
    "lists, one per line.",
)  # fmt: skip
@data_options
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", show_default="RUN, or RUN/on-NAME for other data",
    help="Folder to write the folders evaluation and plots to.",
)  # fmt: skip
@click.option(
    "--statistics", default="", metavar="NAMES", show_default="all that fit the modalities",
    help="Test statistics to compute, separated by commas.",
)  # fmt: skip
@click.option(
    "--all", "every_statistic", is_flag=True,
    help="Print all statistics; by default the first two of each modality, or all that --statistics names.",
)  # fmt: skip
@click.option(
    "--groups", metavar="NAME", show_default="items that share observations",
    help="Covariate whose categories are groups of items that depend on each other, such as the donor.",
)  # fmt: skip
@click.option("--raw", is_flag=True, help="Store the replicated observations as well, which makes large files.")
@click.option(
    "--sbc", is_flag=True,
    help="Also run simulation-based calibration of the guide on data sets simulated from the prior.",
)  # fmt: skip
@click.option(
    "--posterior-sbc", is_flag=True,
    help="Also run posterior SBC: calibration of the guide around the items, with the modalities not given simulated.",
)  # fmt: skip
@click.option(
    "--lc2st", is_flag=True,
    help="Also test at each item, by a classifier, whether the guide's draws are those of the posterior.",
)  # fmt: skip
@click.option(
    "--simulations", type=click.IntRange(20, MOST_DRAWS), default=200, show_default=True,
    help="Number of simulated data sets for --sbc and --lc2st.",
)  # fmt: skip
@picture_options()
@plugin_option("statistics")
@checkpoint_option
@device_option
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of all random choices and draws.")
@changed_data_option
@threads_option
@quiet_option
@plain_errors
def ppc(
    run: Path,
    choices: tuple[str, ...],
    items: str,
    out: Path | None,
    pictures: dict[str, Any],
    plugins: tuple[str, ...],
    checkpoint: str,
    device: str,
    seed: int,
    allow_changed_data: bool,
    threads: int | None,
    quiet: bool,
    every_statistic: bool,
    **options: Any,
) -> dict[str, Any]:
    """Run posterior predictive checks of a trained model.

    Reads the run directory RUN and its test items, or --data. Writes ppc*.nc for ArviZ and ppc.csv to RUN/evaluation,
    and pictures to RUN/plots; for other data to RUN/on-NAME instead.
    """
    from tqdm import tqdm

    from pyro_mmvae import reports, runs
    from pyro_mmvae.data import make_batch
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.evaluation.inference_data import write_inference_data
    from pyro_mmvae.evaluation.ppc import choose_conditions

    opened = runs.load_run(
        run, checkpoint=checkpoint, device=device, allow_changed_data=allow_changed_data, plugins=plugins
    )
    settings = {name: options.pop(name) for name in DATA_SETTINGS}
    given = [_parse_given(choice, opened.names) for choice in choices] or choose_conditions(opened.names, seed=seed)
    if options["posterior_sbc"] and not any(0 < len(names) < len(opened.names) for names in given):
        raise ValueError("--posterior-sbc must have a --given that names some modalities and leaves others, got none")
    with use_threads(threads):
        test, is_other = choose_data(opened, settings)
        out = out or folder_for(run, test, is_other=is_other)
        run_files, ids = runs.RunFiles(out), _choose_rows(test, items, seed)
        shared = {name: codes[ids] for name, codes in _dependence(test, options.pop("groups")).items()}
        batch = make_batch(test.subset(ids), slice(None)).to(opened.device)
        classifiers = _classifiers(opened, test, seed)
        files, rows = [], []
        for names in tqdm(given, "checks", disable=quiet, file=sys.stderr):
            data, metrics = _check(
                opened, batch, names, ids, classifiers, test.class_names, shared, seed=seed, **options
            )
            run_files.evaluation.mkdir(parents=True, exist_ok=True)  # not before there is something to write
            files.append(write_inference_data(data, run_files.check(_label(names, given))))
            rows += [row.as_row() for row in metrics]
    runs.write_table(run_files.check_table, rows)
    for file in files:
        echo(reports.ppc_table(file, every_statistic=every_statistic or bool(options["statistics"])))
        echo("")
    for note in _advice(opened, rows):
        echo(f"note: {note}")
    echo(f"  {run_files.check_table}")
    written = [run_files.check_table]
    for file in files:
        drawn = reports.draw_ppc(file, folder=run_files.plots, **pictures)
        written += [file, *drawn]
        echo(f"  {file}  {', '.join(str(picture.relative_to(out)) for picture in drawn)}")
    return {"folder": out, "files": written, "metrics": rows}


def _advice(opened: Any, rows: list[dict[str, Any]]) -> list[str]:
    """Return a note that names the command ``calibrate`` if intervals of a scale that it sets do not hold."""
    from pyro_mmvae.inference.intervals import location_likelihood
    from pyro_mmvae.run_files import RunFiles, split_key

    off = [
        split_key(row["target"], opened.names)[0]
        for row in rows
        if row["metric"] == "ppc_coverage_90" and "not given" in row["protocol"] and abs(row["value"] - 0.9) > _OFF
    ]
    likelihoods = opened.model.likelihoods
    names = [n for n in opened.names if n in off and location_likelihood(likelihoods[n]) is not None]
    if not names or RunFiles(opened.path).calibration.exists():
        return []
    command = shlex.join(["pyro-mmvae", "calibrate", str(opened.path), *plugin_words(opened.config.plugins)])
    return [f"intervals of {', '.join(names)} do not cover what they say; '{command}' sets the scales of likelihoods"]


def _choose_rows(data: Any, items: str, seed: int) -> list[int]:
    """Return the rows of the items to check: a number of random ones, or those that are named."""
    import numpy as np

    from pyro_mmvae.inference import select_items

    chosen = parse_items(items)
    if isinstance(chosen, int):
        count = min(chosen, len(data))
        rows = np.sort(np.random.default_rng(seed).choice(len(data), count, replace=False)).tolist()
    else:
        rows = select_items(data, chosen).rows.tolist()
    if len(rows) < 2 and len(data) > 1:
        raise ValueError(f"--items must be 2 items or more, got {len(rows)}")
    return [int(row) for row in rows]


def _dependence(data: Any, groups: str | None) -> dict[str, Any]:
    """Return codes `(item,)` of the observations that items share, by modality, and under ``""`` those of groups."""
    import numpy as np

    from pyro_mmvae.data import shared_observations

    shared = dict(shared_observations(data))
    if groups is not None:
        if groups not in data.covariates:
            raise ValueError(f"--groups must be a covariate ({', '.join(data.covariates) or 'none'}), got {groups!r}")
        codes = data.covariates[groups].cpu().numpy()
        shared[""] = np.where(codes < 0, -1 - np.arange(len(codes)), codes)  # an unknown category is a group by itself
    return shared


def _parse_given(choice: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modalities that one ``--given`` names, in data order."""
    if choice.strip() in {"none", ""}:
        return ()
    if choice.strip() == "all":
        return names
    chosen = split_names(choice, names)
    for name in chosen:
        if name not in names:
            raise ValueError(f"--given must name modalities of the run ({', '.join(names)}), got {name!r}")
    return tuple(name for name in names if name in chosen)


def _label(names: tuple[str, ...], given: Sequence[tuple[str, ...]]) -> str:
    """Return the label of a check: none for the only check or the first of a posterior, else the subset."""
    first = next((subset for subset in given if subset), given[0])
    if names == first:
        return ""
    # The backslash of join_names would separate folders on some systems.
    label = "+".join(name.replace("%", "%25").replace("+", "%2B") for name in names)
    return "given prior" if label == "prior" else label or "prior"


def _classifiers(opened: Any, test: Any, seed: int) -> Any:
    """Return classifiers to judge images by, or None if the data does not have labels."""
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
    class_names: Sequence[str],
    shared: Any,
    *,
    seed: int,
    num_samples: int,
    statistics: str,
    raw: bool,
    sbc: bool,
    posterior_sbc: bool,
    lc2st: bool,
    simulations: int,
) -> tuple[Any, list[Any]]:
    """Return one check as InferenceData and as rows of figures."""
    from pyro_mmvae.evaluation.calibration import calibrate
    from pyro_mmvae.evaluation.inference_data import to_inference_data
    from pyro_mmvae.evaluation.local_c2st import local_test_of_check
    from pyro_mmvae.evaluation.posterior_sbc import posterior_calibration
    from pyro_mmvae.evaluation.ppc import posterior_predictive
    from pyro_mmvae.evaluation.sbc import simulation_calibration

    check = posterior_predictive(
        opened.vae, batch, given, samples=num_samples, seed=seed, statistics=split_names(statistics) or None,
        classifiers=classifiers, ids=ids, keep_raw=raw, shared=shared,
    )  # fmt: skip
    ranks = posterior_ranks = local = None
    if (sbc or lc2st) and given:
        ranks = simulation_calibration(opened.vae, given, simulations=simulations, seed=seed)
    if lc2st and ranks is not None:
        local = local_test_of_check(ranks, check, seed=seed)
    if posterior_sbc and 0 < len(given) < len(opened.names):
        posterior_ranks = posterior_calibration(opened.vae, batch, given, seed=seed)
    rows = [metric for row in calibrate(check) for metric in row.metrics()]
    ranks = ranks if sbc else None
    rows += [metric for part in (ranks, posterior_ranks, local) if part is not None for metric in part.metrics()]
    data = to_inference_data(check, ranks, class_names=class_names, posterior_sbc=posterior_ranks, local=local)
    return data, rows
