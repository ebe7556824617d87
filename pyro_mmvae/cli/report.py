"""The command ``report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pyro_mmvae.cli.answering import force_option, parse_items
from pyro_mmvae.cli.common import (
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
    show_default="report.html in RUN or in the folder of a comparison, else in the current folder",
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
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random choices and draws."
)
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
    help="Row to compare the others with, paired by seed, in a report of several runs.",
)  # fmt: skip
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
) -> None:
    """Write a report of a run, or of several side by side, as one HTML file.

    Reads the run directories RUN, or those in the folder of a comparison, and for a single run also its test items.
    Writes the file --out, which opens from disk in any browser and loads nothing from anywhere. Sections whose figures
    were not computed name the command that computes them; --evaluate runs it.
    """
    from pyro_mmvae.files import refuse_existing, write_text
    from pyro_mmvae.reports.html import comparison_page, find_runs
    from pyro_mmvae.run_files import RunFiles

    paths = find_runs(runs)
    is_single = len(paths) == 1 and paths[0] == runs[0]
    if baseline is not None and is_single:
        raise ValueError("--baseline must come with several runs, got one")
    if out is not None:
        refuse_existing(out, force=force)
    file = out or (RunFiles(runs[0]).place(_NAME) if len(runs) == 1 else Path(_NAME))
    if out is None and len(runs) > 1:
        refuse_existing(file, force=force)
    shared = {key: options[key] for key in ("plugins", "checkpoint", "device", "allow_changed_data")}
    if evaluates:
        _evaluate_missing(context, paths, threads=threads, quiet=quiet, seed=options["seed"], **shared)
    if is_single:
        text = _single(paths[0], files_only=files_only, threads=threads, quiet=quiet, **options)
    else:
        text = comparison_page(paths, title=runs[0].resolve().name if len(runs) == 1 else "", baseline=baseline)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    echo(f"{file}: {len(text.encode()) / 1e6:.1f} MB, open it in a browser")


def _evaluate_missing(context: click.Context, paths: Sequence[Path], *, seed: int, **options: Any) -> None:
    """Run the commands ``evaluate`` and ``ppc`` on the runs that lack their results."""
    from pyro_mmvae.cli.check import ppc
    from pyro_mmvae.cli.evaluate import evaluate
    from pyro_mmvae.run_files import RunFiles

    for path in paths:
        if not RunFiles(path).evaluation_summary.exists():
            context.invoke(evaluate, run=path, seed=seed, **options)
        if not RunFiles(path).checks():
            context.invoke(ppc, run=path, seed=seed, **options)


def _single(path: Path, *, files_only: bool, threads: int | None, quiet: bool, **options: Any) -> str:
    """Return the report of one run."""
    from pyro_mmvae.evaluation.diagnostics import diagnose
    from pyro_mmvae.reports.html import run_page
    from pyro_mmvae.run_files import read_metrics

    if files_only:
        findings = [asdict(finding) for finding in diagnose([], (), history=read_metrics(path))]
        return run_page(path, findings=findings, why_no_items="The report was made from the files of the run alone.")
    try:
        opened, data = _open(path, options)
    except (ValueError, OSError) as error:
        raise type(error)(f"{error}; --files-only makes the report without its items") from error
    return _with_items(opened, data, threads=threads, quiet=quiet, **options)


def _open(path: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the run and its test items, and take the options that open it out of those of the command."""
    from pyro_mmvae.runs import load_run

    names = ("plugins", "checkpoint", "device", "allow_changed_data")
    opened = load_run(path, **{name: options.pop(name) for name in names})
    return opened, opened.data("test")


def _with_items(
    opened: Any, data: Any, *, items: str, points: int, subsets: int, seed: int, threads: int | None, quiet: bool
) -> str:
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
        if not RunFiles(opened.path).evaluation_summary.exists():
            has_prior = opened.prior_note is None and opened.fitted_prior is not None
            found = quick_findings(
                opened.vae, data, history=read_metrics(opened.path), has_fitted_prior=has_prior, seed=seed
            )
            findings = [asdict(finding) for finding in found]
    aggregation = opened.config.model.aggregation_options
    name = aggregation if isinstance(aggregation, str) else aggregation["name"]
    return run_page(opened.path, exhibits=exhibits, summary=describe_aggregation(name), findings=findings)
