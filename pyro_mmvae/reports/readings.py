"""The tables of readings of a run with several aggregations, and the train × test matrix of a comparison."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import write_text
from pyro_mmvae.reports.comparison_rows import Runs, run_directories
from pyro_mmvae.reports.files import DPI, save_pictures
from pyro_mmvae.reports.styles import styled
from pyro_mmvae.reports.texts import STANDING_NOTE, protocol_label
from pyro_mmvae.run_files import RunFiles

_MATRIX = ("probe", "coherence")
_SHOWN = ("probe", "coherence", "log_likelihood", "frechet_conditional")
_DIGITS = {"log_likelihood": 1, "frechet_conditional": 2}


def readings_report(path: Path) -> str:
    """Return the readings of a run as Markdown: one table per metric and protocol, one row per aggregation.

    Args:
        path: The path of the run directory.
    """
    summary = read_json(RunFiles(path).readings_summary)
    tables: dict[tuple[str, str], dict[str, dict[int, str]]] = {}
    for name, reading in summary["readings"].items():
        standing = {protocol: means for _, protocol, means in _means(reading, ("log_likelihood_stands",))}
        for metric, protocol, means in _means(reading, _SHOWN):
            stands = standing.get(protocol, {}) if metric == "log_likelihood" else {}
            tables.setdefault((metric, protocol), {})[name] = {
                views: f"{'≥ ' if stands.get(views, 1) < 1 else ''}{mean:.{_DIGITS.get(metric, 3)}f}"
                for views, mean in means.items()
            }
    lines = [f"Trained with {summary['aggregation']}, read with other aggregations; by number of modalities given.", ""]
    for (metric, protocol), rows in sorted(tables.items(), key=lambda table: _SHOWN.index(table[0][0])):
        views = sorted({v for means in rows.values() for v in means})
        texts = {name: [means.get(v, "") for v in views] for name, means in rows.items()}
        lines += [f"**{metric}** ({protocol_label(metric, protocol)})", "", *_table([str(v) for v in views], texts), ""]
    if any("≥" in text for rows in tables.values() for means in rows.values() for text in means.values()):
        lines += [STANDING_NOTE, ""]
    options = summary["options"]
    lines.append(f"Seed {options['seed']}; means over subsets and targets, whose single rows are in readings.csv.")
    return "\n".join(lines) + "\n"


def write_readings_report(path: Path) -> Path:
    """Write the readings of a run as ``readings.md``.

    Args:
        path: The path of the run directory.

    Returns:
        The file written.
    """
    file = RunFiles(path).readings_report
    write_text(file, readings_report(path))
    return file


def draw_matrix(
    out: Path, paths: Sequence[Path], command: str = "", *, formats: Sequence[str] = ("png",), dpi: int = DPI
) -> list[Path]:
    """Write the train × test matrix of a comparison: rows are trained with, columns are read with.

    The files are ``matrix.csv``, the means over seeds for every number of modalities given; ``matrix.md`` and
    ``matrix.tex``, tables for the smallest and the largest number; and ``matrix.png``, these tables as heat maps.

    Args:
        out: The folder to write into.
        paths: The run directories of the comparison; those without readings are left out.
        command: The command line that made the readings, quoted in the tables; left out by default.
        formats: The formats of the picture, one file per format; PNG by default.
        dpi: The number of pixels per inch of the picture, 150 by default.

    Returns:
        The files written.

    Raises:
        ValueError: If no run has readings.
    """
    rows = _rows(paths)
    if not rows:
        raise ValueError(f"{out}: at least one run must have readings, got none")
    panels = _panels(rows)
    files = [out / f"matrix.{suffix}" for suffix in ("csv", "md", "tex")]
    write_text(files[0], pd.DataFrame(rows).to_csv(index=False, na_rep="nan", lineterminator="\r\n"))
    write_text(files[1], _markdown(rows, panels, command))
    write_text(files[2], _latex(rows, panels))
    return [*files, *save_pictures(_plot(rows, panels), out / "matrix", formats, dpi)]


def plot_matrix(runs: Runs, *, metric: str | None = None) -> Figure:
    """Plot the train × test matrix of a comparison as heat maps: rows are trained with, columns are read with.

    The left map of each metric has the smallest number of modalities given, the right one the largest.

    Args:
        runs: The runs or their directories, or the folder of a comparison that was made with ``--read-with``.
        metric: The metric to plot, ``"probe"`` or ``"coherence"``; both by default.

    Returns:
        The figure.

    Raises:
        ValueError: If no run has readings, or none of them has the metric.
    """
    if isinstance(runs, Mapping):
        raise ValueError("runs must be runs or the folder of a comparison, got a dictionary: rows are aggregations")
    rows = _rows(run_directories(runs))
    if not rows:
        raise ValueError("at least one run must have readings, got none: 'pyro-mmvae compare --read-with' writes them")
    names = list(dict.fromkeys(row["metric"] for row in rows))
    if metric is not None and metric not in names:
        raise ValueError(f"metric must be one of {', '.join(names)}, got {metric!r}")
    chosen = [row for row in rows if metric in {None, row["metric"]}]
    return _plot(chosen, _panels(chosen))


def _means(reading: Mapping[str, Any], metrics: Iterable[str]) -> list[tuple[str, str, dict[int, float]]]:
    """Return metric, protocol and means by number of modalities given, of some metrics of a reading."""
    return [
        (metric, protocol, {int(views): value for views, value in means.items()})
        for metric in metrics
        for protocol, means in reading["means_by_views"].get(metric, {}).items()
    ]


def _rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return one row per pair of aggregations, metric, protocol and number of modalities given."""
    values: dict[tuple[str, str, str, str, int], list[float]] = {}
    for path in paths:
        file = RunFiles(path).readings_summary
        if not file.exists():
            continue
        summary = read_json(file)
        trained = ", ".join(part for part in (summary["aggregation"], summary.get("variant", "")) if part)
        for read, reading in summary["readings"].items():
            for metric, protocol, means in _means(reading, _MATRIX):
                for views, value in means.items():
                    values.setdefault((trained, read, metric, protocol, views), []).append(value)
    return [
        {
            "trained": key[0],
            "read": key[1],
            "metric": key[2],
            "protocol": key[3],
            "views": key[4],
            "mean": float(np.mean(found)),
            "se": float(np.std(found, ddof=1) / math.sqrt(len(found))) if len(found) > 1 else math.nan,
            "seeds": len(found),
        }
        for key, found in values.items()
    ]


def _panels(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Return metric, protocol and number of modalities of each table: the smallest and the largest number."""
    keys = dict.fromkeys((row["metric"], row["protocol"]) for row in rows)
    panels = []
    for metric, protocol in sorted(keys, key=lambda key: _MATRIX.index(key[0])):
        views = {row["views"] for row in rows if (row["metric"], row["protocol"]) == (metric, protocol)}
        panels += [(metric, protocol, number) for number in sorted({min(views), max(views)})]
    return panels


def _pivot(rows: list[dict[str, Any]], panel: tuple[str, str, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return means and standard errors of a panel, trained with by read with, in the order of the rows."""
    frame = pd.DataFrame(rows)
    trained, read = (list(dict.fromkeys(frame[name])) for name in ("trained", "read"))
    metric, protocol, views = panel
    chosen = frame[(frame["metric"] == metric) & (frame["protocol"] == protocol) & (frame["views"] == views)]
    mean, error = (
        chosen.pivot(index="trained", columns="read", values=name).reindex(index=trained, columns=read)
        for name in ("mean", "se")
    )
    return mean, error


def _texts(rows: list[dict[str, Any]], panel: tuple[str, str, int]) -> dict[str, list[str]]:
    """Return the cells of a panel by row, with standard errors where there are several seeds."""
    mean, error = _pivot(rows, panel)
    return {
        str(name): [
            "" if math.isnan(m) else f"{m:.3f}" + ("" if math.isnan(e) else f" ± {e:.3f}")
            for m, e in zip(mean.loc[name], error.loc[name], strict=True)
        ]
        for name in mean.index
    }


def _name(panel: tuple[str, str, int]) -> str:
    return f"{panel[0]} ({protocol_label(*panel[:2])})"


def _title(panel: tuple[str, str, int]) -> str:
    return f"{_name(panel)}, {panel[2]} given"


def _table(columns: Sequence[str], texts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a table as lines of Markdown."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return [*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in texts.items())]


def _markdown(rows: list[dict[str, Any]], panels: list[tuple[str, str, int]], command: str) -> str:
    lines = ["Rows: trained with. Columns: read with, without training.", ""]
    lines += [f"`{command}`", ""] if command else []
    for panel in panels:
        lines += [f"**{_title(panel)}**", "", *_table(list(_pivot(rows, panel)[0]), _texts(rows, panel)), ""]
    seeds = sorted({row["seeds"] for row in rows})
    errors = "mean ± standard error over seeds" if seeds[-1] > 1 else "one seed, hence no standard errors"
    lines.append(f"Seeds per cell {seeds}: {errors}. Other numbers of modalities given are in matrix.csv.")
    return "\n".join(lines) + "\n"


def _latex(rows: list[dict[str, Any]], panels: list[tuple[str, str, int]]) -> str:
    texts = []
    for panel in panels:
        columns = list(_pivot(rows, panel)[0])
        table = pd.DataFrame.from_dict(_texts(rows, panel), orient="index", columns=columns)
        table = table.map(lambda text: text.replace("±", "$\\pm$"))
        escaped = table.rename(
            index=lambda name: name.replace("_", r"\_"), columns=lambda name: name.replace("_", r"\_")
        )
        caption = _title(panel).replace("_", r"\_")
        texts.append(escaped.to_latex(escape=False, caption=caption, column_format="l" + "r" * len(columns)))
    return "\n".join(texts)


@styled
def _plot(rows: list[dict[str, Any]], panels: list[tuple[str, str, int]]) -> Figure:
    """Draw each panel as a heat map; the panels of one metric and protocol share a row and the colours."""
    lines: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for panel in panels:
        lines.setdefault(panel[:2], []).append(panel)
    first = _pivot(rows, panels[0])[0]
    width, height = 1.6 + 0.55 * first.shape[1], 1.3 + 0.32 * first.shape[0]
    figure = Figure(figsize=(2 * width + 0.8, height * len(lines)), layout="constrained")
    axes = figure.subplots(len(lines), 2, squeeze=False)
    for line, row in zip(lines.values(), axes, strict=True):
        tables = [_pivot(rows, panel)[0] for panel in line]
        limits = min(np.nanmin(t) for t in tables), max(np.nanmax(t) for t in tables)
        for axis, panel, table in zip(row, line, tables, strict=False):
            image = _heat_map(axis, table, limits)
            axis.set_title("\n".join([*textwrap.wrap(f"{_name(panel)},", 48), f"{panel[2]} given"]), fontsize=7)
        for axis in row[len(line) :]:
            axis.axis("off")
        figure.colorbar(image, ax=row.tolist(), fraction=0.04).ax.tick_params(labelsize=6)
    return figure


def _heat_map(axis: Axes, table: pd.DataFrame, limits: tuple[float, float]) -> Any:
    """Draw a table with its figures in the cells, in bold where an aggregation is read with itself."""
    values = table.to_numpy(dtype=float)
    axis.grid(visible=False)
    image = axis.imshow(values, vmin=limits[0], vmax=limits[1], cmap="cividis", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        own = str(table.index[i]).split(", ")[0] == table.columns[j]
        if math.isnan(value):
            continue
        dark = value < (limits[0] + limits[1]) / 2
        axis.text(
            j, i, f"{value:.3f}", ha="center", va="center", fontsize=6, color="white" if dark else "black",
            fontweight="bold" if own else "normal",
        )  # fmt: skip
    axis.set_xticks(range(values.shape[1]), list(table), rotation=45, ha="right", rotation_mode="anchor", fontsize=6)
    axis.set_yticks(range(values.shape[0]), list(table.index), fontsize=6)
    axis.set_xlabel("read with (bold: its own; empty: not defined)", fontsize=6)
    axis.set_ylabel("trained with", fontsize=6)
    return image
