"""The command ``report``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.answering import DATA_SETTINGS, choose_data, data_options, folder_for, force_option, parse_items
from pyro_mmvae.cli.common import (
    SEEDS,
    changed_data_option,
    checkpoint_option,
    device_option,
    echo,
    plain_errors,
    plugin_option,
    quiet_option,
    threads_option,
)

_NAME = "report.html"


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN…")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.html",
    show_default="report.html in RUN, RUN/on-NAME for other items, or the folder of a comparison, else in the current "
    "folder",
    help="File to write the report to.",
)  # fmt: skip
@click.option(
    "--items", default="100", show_default=True, metavar="N|A:B|FILE",
    help="Items to look at: N items, one of each class first, the rows A to B (B excluded), or those whose identifiers "
    "FILE lists, one per line.",
)  # fmt: skip
@click.option(
    "--points", type=click.IntRange(1), default=1000, show_default=True,
    help="Largest number of items on the map of latents.",
)  # fmt: skip
@click.option(
    "--subsets", type=click.IntRange(1), default=31, show_default=True,
    help="Largest number of subsets of the modalities to show, stratified by size.",
)  # fmt: skip
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Seed of all random choices and draws.")
@click.option(
    "--evaluate", "evaluates", is_flag=True,
    help="First run the commands evaluate and ppc on runs that lack their results, which takes minutes.",
)  # fmt: skip
@click.option(
    "--files-only", is_flag=True,
    help="Read the files of the run alone, without its model and data, which leaves out its items.",
)  # fmt: skip
@click.option(
    "--baseline", metavar="ROW", show_default="the first row",
    help="Row to compare the others with, paired by seed, in a report of several runs: an aggregation such as mopoe, "
    "or an aggregation and a variant or its settings, as in 'mopoe, warm' or 'mopoe, model.beta=0.5'.",
)  # fmt: skip
@data_options
@plugin_option("data sets or other parts")
@checkpoint_option
@device_option
@changed_data_option
@force_option
@threads_option
@quiet_option
@plain_errors
@click.pass_context
def report(
    context: click.Context,
    /,
    runs: tuple[Path, ...],
    out: Path | None,
    evaluates: bool,
    files_only: bool,
    baseline: str | None,
    force: bool,
    threads: int | None,
    quiet: bool,
    **options: Any,
) -> dict[str, Any]:
    """Write a report of a run, or of several side by side, as one HTML file.

    Reads the run directories RUN, or those in the folder of a comparison, and for a single run also its test items, or
    --data. Writes the file --out, which opens from disk in any browser and loads nothing from anywhere. Sections whose
    figures were not computed name the command that computes them; --evaluate runs it.
    """
    from pyro_mmvae.files import refuse_existing, write_text
    from pyro_mmvae.reports.html import comparison_page, find_runs
    from pyro_mmvae.run_files import RunFiles

    paths = find_runs(runs)
    is_single = len(paths) == 1 and paths[0] == runs[0]
    if baseline is not None and is_single:
        raise ValueError("--baseline must come with several runs, got one")
    chosen = {name: options.pop(name) for name in DATA_SETTINGS}
    if words := _data_words(chosen):
        if not is_single:
            raise ValueError(f"{words[0]} must come with one run, whose report shows its items, got {len(paths)} runs")
        if files_only:
            raise ValueError(f"{words[0]} must be left out with --files-only, which makes the report without items")
    if out is not None:
        refuse_existing(out, force=force)
    elif len(runs) > 1:
        refuse_existing(Path(_NAME), force=force)
    opening = {key: options.pop(key) for key in ("plugins", "checkpoint", "device", "allow_changed_data")}
    shared = {"threads": threads, "quiet": quiet, "seed": options["seed"], **opening}
    if is_single and not files_only:
        options["threads"] = threads
        results: Path | None
        results, text = _with_data(context, paths[0], opening, chosen, shared if evaluates else None, quiet, options)
    else:
        for path in paths if evaluates else ():
            _evaluate_missing(context, path, path, **shared)
        results = runs[0] if len(runs) == 1 else None
        title = runs[0].resolve().name if len(runs) == 1 else ""
        text = _from_files(paths[0]) if is_single else comparison_page(paths, title=title, baseline=baseline)
    file = out or (Path(_NAME) if results is None else RunFiles(results).place(_NAME))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    size = len(text.encode())
    echo(f"{file}: {size / 1e6:.1f} MB, open it in a browser")
    return {"file": file, "bytes": size, "runs": paths}


def _data_words(chosen: Mapping[str, Any]) -> list[str]:
    """Return the words of the command line that choose other items than the test items; none for these.

    Args:
        chosen: The options of the data by name.
    """
    words = ["--data", chosen["data"]] if chosen["data"] is not None else []
    if chosen["split"] is not None and (words or chosen["split"] != "test"):
        words += ["--split", chosen["split"]]
    words += [word for text in chosen["overrides"] for word in ("--set", text)]
    for name in ("missing_features", "surplus_features"):
        words += [f"--{name.replace('_', '-')}", chosen[name]] if words and chosen[name] != "error" else []
    return words


def _evaluate_missing(context: click.Context, path: Path, results: Path, **options: Any) -> None:
    """Run the commands ``evaluate`` and ``ppc`` on a run if the folder of results lacks theirs."""
    from pyro_mmvae.cli.check import ppc
    from pyro_mmvae.cli.evaluate import evaluate
    from pyro_mmvae.run_files import RunFiles

    if not RunFiles(results).evaluation_summary.exists():
        context.invoke(evaluate, run=path, **options)
    if not RunFiles(results).checks():
        context.invoke(ppc, run=path, **options)


def _from_files(path: Path) -> str:
    """Return the report of one run without its model and its data."""
    from pyro_mmvae.evaluation.diagnostics import diagnose
    from pyro_mmvae.reports.html import run_page
    from pyro_mmvae.run_files import read_metrics

    findings = [asdict(finding) for finding in diagnose([], (), history=read_metrics(path))]
    return run_page(path, findings=findings, why_no_items="The report was made from the files of the run alone.")


def _with_data(
    context: click.Context, path: Path, opening: Mapping[str, Any], chosen: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None, quiet: bool, options: dict[str, Any],
) -> tuple[Path, str]:  # fmt: skip
    """Return the folder of results and the report of one run with items.

    Args:
        context: The context of the command.
        path: The path of the run directory.
        opening: The options with which the run is opened.
        chosen: The options of the data by name.
        evaluation: The options of ``evaluate`` and ``ppc``, which then run where their results are missing; None to
            leave them out.
        quiet: If True, no progress bar is shown.
        options: The options of the items.
    """
    from pyro_mmvae.runs import load_run

    try:
        opened = load_run(path, **opening)
        data, is_other = choose_data(opened, dict(chosen))
    except (ValueError, OSError) as error:
        if _data_words(chosen):
            raise
        raise type(error)(f"{error}; --files-only makes the report without its items") from error
    results = folder_for(path, data, is_other=is_other)
    if evaluation is not None:
        _evaluate_missing(context, path, results, **evaluation, **chosen)
    words = _data_words(chosen)
    return results, _with_items(opened, data, results, words, quiet=quiet, **options)


def _with_items(
    opened: Any, data: Any, results: Path, words: Sequence[str], *, items: str, points: int, subsets: int, seed: int,
    threads: int | None, quiet: bool,
) -> str:  # fmt: skip
    """Return the report of one run with its items."""
    from tqdm import tqdm

    from pyro_mmvae.aggregation import describe_aggregation
    from pyro_mmvae.device import threads as use_threads
    from pyro_mmvae.evaluation.metrics import choose_subsets
    from pyro_mmvae.evaluation.quick_findings import quick_findings
    from pyro_mmvae.reports.html import run_page
    from pyro_mmvae.run_files import RunFiles, read_metrics
    from pyro_mmvae.runs.exhibits import collect_exhibits

    chosen, shown = choose_subsets(len(opened.names), limit=subsets, seed=seed), parse_items(items)
    bar = tqdm(total=len(chosen), desc="items", unit=" subsets", disable=quiet, file=sys.stderr)
    with use_threads(threads), bar:
        exhibits = collect_exhibits(opened, data, chosen, items=shown, points=points, seed=seed, progress=bar.update)
        findings = []
        if not RunFiles(results).evaluation_summary.exists():
            has_prior = opened.prior_note is None and opened.fitted_prior is not None
            found = quick_findings(
                opened.vae, data, history=read_metrics(opened.path), has_fitted_prior=has_prior, seed=seed
            )
            findings = [asdict(finding) for finding in found]
    aggregation = opened.config.model.aggregation_options
    name = aggregation if isinstance(aggregation, str) else aggregation["name"]
    return run_page(
        opened.path, exhibits=exhibits, summary=describe_aggregation(name), findings=findings, results=results,
        data_words=words,
    )  # fmt: skip
