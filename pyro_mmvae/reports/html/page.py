"""The writer of pages: collects the data of a run or of several, and fills the template."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pyro_mmvae._citation import CITATION, software_citation
from pyro_mmvae._version import __version__
from pyro_mmvae.exhibits import Exhibits
from pyro_mmvae.reports.evaluation_files import read_arrays, read_summary
from pyro_mmvae.reports.html import facts, figures, runs_page
from pyro_mmvae.reports.html.checks import check_data
from pyro_mmvae.reports.html.embedding import script_json
from pyro_mmvae.reports.html.items import item_data, map_data
from pyro_mmvae.reports.html.training import compared_panels, training_panels
from pyro_mmvae.run_files import RunFiles, read_metrics

_SCRIPTS = ("ticks.js", "dom.js", "charts.js", "figures.js", "items.js", "map.js", "compare.js", "main.js")
_MAX_LINES = 40  # the largest number of runs whose curves are drawn


def run_page(
    path: Path,
    *,
    exhibits: Exhibits | None = None,
    summary: str = "",
    findings: Sequence[Mapping[str, str]] = (),
    why_no_items: str = "",
    results: Path | None = None,
    data_words: Sequence[str] = (),
) -> str:
    """Return the report of one run as HTML.

    Args:
        path: The path of the run directory.
        exhibits: The items to show, which a model has filled; left out by default.
        summary: A description of the aggregation in one line; left out by default.
        findings: The findings to show if the run was not evaluated; none by default.
        why_no_items: The reason why there are no items, as the beginning of a sentence.
        results: The folder with the results of ``evaluate`` and ``ppc`` on other data than the test items, by default
            the run directory, for those of the test items.
        data_words: The words of the command line that choose that data, such as ``("--data", "new.npz")``.
    """
    results = path if results is None else results
    files = RunFiles(results)
    text, config = facts.read_config(path)
    rows = read_metrics(path)
    evaluated = files.evaluation_summary.exists()
    evaluation: dict[str, Any] = read_summary(results) if evaluated else {}
    names = _names(exhibits, rows)
    attributes = bool(evaluation.get("attribute_frequency"))
    table = figures.read_rows(results) if evaluated and files.evaluation_table.exists() else []
    has_arrays = evaluated and files.evaluation_arrays.exists()
    views = figures.views_panels(table, attributes=attributes)
    data = {
        "kind": "run",
        "names": names,
        "training": training_panels(rows),
        "items": None if exhibits is None else item_data(exhibits),
        "map": _map(results, exhibits) if exhibits is not None or has_arrays else None,
        "views": views,
        "matrix": figures.matrix_data(table, names, attributes=attributes),
        "checks": check_data(results),
        "khat": figures.khat_data(results) if has_arrays else None,
    }
    words = {"train": (), **dict.fromkeys(("evaluate", "ppc", "report"), data_words)}
    commands = {verb: facts.command_for(verb, path, config, *words[verb]) for verb in words}
    return _render(
        "run.html",
        data,
        title=path.resolve().name,
        path=str(path),
        data_words=shlex.join(data_words),
        sentences=facts.sentences(config, names, len(rows), summary),
        headlines=facts.headlines(rows, views, names),
        findings=facts.group_findings(facts.with_run(evaluation.get("warnings", findings), path, config, data_words)),
        evaluated=evaluated,
        config=text,
        environment=facts.environment_rows(path),
        classifiers=evaluation.get("classifier_accuracy") or {},
        attributes=attributes,
        protocol=exhibits.protocol if exhibits else "",
        commands=commands,
        why_no_items=why_no_items,
        **{f"has_{part}": bool(data[part]) for part in ("training", "map", "views", "matrix", "checks", "khat")},
    )


def comparison_page(paths: Sequence[Path], *, title: str = "", baseline: str | None = None) -> str:
    """Return the report of several runs as HTML, side by side.

    Args:
        paths: The run directories, in the order of the page.
        title: The title of the page; by default the number of runs.
        baseline: The name of the row that the others are compared with, paired by seed; by default the first one.

    Raises:
        ValueError: If there is no row of that name.
    """
    cells = runs_page.read_runs(paths)
    rows = runs_page.run_rows(paths, cells)
    compared = runs_page.comparison_data(cells, baseline) if cells else None
    drawn = rows[:_MAX_LINES]
    histories = {row["path"] if _repeats(drawn, row) else row["name"]: row["history"] for row in drawn}
    groups = dict(zip(histories, (row["row"] for row in drawn), strict=True))
    data = {
        "kind": "comparison",
        "training": compared_panels(histories, groups),
        "compared": compared,
        "rows": list(dict.fromkeys(row["row"] for row in rows)),
    }
    missing = [facts.command_for("evaluate", Path(row["path"]), row["config"]) for row in rows if not row["evaluated"]]
    return _render(
        "comparison.html",
        data,
        title=title or f"{len(paths)} runs",
        rows=rows,
        duration=facts.duration,
        compared=compared,
        missing=missing,
        left_out=len(rows) - len(drawn),
        differences=runs_page.config_differences([row["config"] for row in rows]),
        environment=facts.environment_rows(paths[0]),
    )


def _repeats(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> bool:
    """Return True if several runs have the name of a run, so that only its path tells it apart."""
    return sum(other["name"] == row["name"] for other in rows) > 1


def _names(exhibits: Exhibits | None, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the modalities, as far as they are known."""
    if exhibits is not None:
        return list(exhibits.names)
    return list(rows[0].get("log_likelihood", {})) if rows else []


def _map(path: Path, exhibits: Exhibits | None) -> dict[str, Any] | None:
    """Return the map of the items or, without a model, that of the evaluation."""
    if exhibits is not None:
        return map_data(exhibits.latent)
    arrays = read_arrays(path)
    return figures.stored_map(arrays) if "latent" in arrays else None


def _render(template: str, data: Mapping[str, Any], **values: Any) -> str:
    """Return a filled template, with styles and scripts inside of it.

    The policy of the page allows its own script by its hash and nothing else, so that no text in it can become a
    program, and nothing can be loaded or sent.
    """
    environment = Environment(
        loader=PackageLoader("pyro_mmvae.reports.html", "assets"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    assets = resources.files("pyro_mmvae.reports.html") / "assets"
    script = "".join((assets / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'\n(function () {{\n"use strict";\n{script}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template(template).render(
        data=Markup(script_json(dict(data))),
        style=Markup((assets / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        digest=digest,
        version=__version__,
        citation=f"{CITATION}\n\n{software_citation(__version__)}",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **values,
    )
    return text.encode("utf-8", "replace").decode()  # names of files may hold bytes that are not UTF-8
