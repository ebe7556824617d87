"""The table and the plot of a comparison, drawn from the evaluations of its runs."""

from __future__ import annotations

import json
import math
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_mmvae.files import write_text
from pyro_mmvae.reports.files import save_figure
from pyro_mmvae.reports.styles import line_style
from pyro_mmvae.reports.texts import legend_label, plain_text, protocol_label
from pyro_mmvae.run_files import RunFiles, read_metrics

_PLOTTED = ("probe", "coherence", "joint_coherence", "log_likelihood", "frechet_conditional")
_DIGITS = {"log_likelihood": 1, "ess": 1, "train_seconds": 1, "frechet_classifier": 2, "frechet_conditional": 2}
_LABEL_STEP = 0.055  # the least distance of labels beside lines, as a fraction of the height of a panel
_COLUMNS = 4  # the largest number of panels in a row


@plain_text
def draw_comparison(out: Path, paths: Sequence[Path], command: str = "") -> list[Path]:
    """Write means over seeds and their standard errors as tables and as a plot.

    The files are ``comparison.csv``, ``comparison.md``, ``comparison.tex`` (tables for LaTeX with the package booktabs)
    and ``comparison.png``.

    Args:
        out: The folder to write into.
        paths: The run directories of the comparison; those without an evaluation are left out.
        command: The command line that made the runs, quoted in the table; left out by default.

    Returns:
        The files written.

    Raises:
        ValueError: If no run has an evaluation.
    """
    cells = [cell for path in paths if (cell := _read(path)) is not None]
    if not cells:
        raise ValueError(f"{out}: at least one run must have an evaluation, got none")
    rows = _summarise(cells)
    tables = _tables(rows)
    files = [out / f"comparison.{suffix}" for suffix in ("csv", "md", "tex", "png")]
    write_text(files[0], pd.DataFrame(rows).to_csv(index=False, na_rep="nan", lineterminator="\r\n"))
    write_text(files[1], _markdown(tables, rows, cells, command))
    write_text(files[2], _latex(tables))
    _plot(rows, files[3])
    return files


def _read(path: Path) -> dict[str, Any] | None:
    """Read the summary of a run's evaluation, or return None if there is none."""
    file = RunFiles(path).evaluation_summary
    if not file.exists():
        return None
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    epochs = read_metrics(path)
    summary["train_seconds"] = sum(row["seconds"] for row in epochs)
    summary["epochs"] = len(epochs)
    return summary


def _summarise(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per aggregation, variant, metric, protocol and number of modalities given.

    ``se`` is the standard error over seeds. ``se_items``, which only log likelihoods have, is that over the test items;
    all seeds are evaluated on the same items, so it does not shrink with their number. ``stands`` is the share of
    estimates of log likelihoods that stand.
    """
    values: dict[tuple[tuple[str, str], str, str, int], list[float]] = {}
    for cell in cells:
        name = cell["aggregation"], cell.get("variant", "")
        for metric, protocols in cell["means_by_views"].items():
            for protocol, means in protocols.items():
                for views, value in means.items():
                    values.setdefault((name, metric, protocol, int(views)), []).append(value)
        values.setdefault((name, "train_seconds", "", 0), []).append(cell["train_seconds"])
    return [
        {
            "aggregation": name[0],
            "variant": name[1],
            "metric": metric,
            "protocol": protocol,
            "views": views,
            "mean": float(np.mean(replicates)),
            "se": float(np.std(replicates, ddof=1) / math.sqrt(len(replicates))) if len(replicates) > 1 else math.nan,
            "se_items": float(np.mean(values.get((name, f"{metric}_se", protocol, views), math.nan))),
            "seeds": len(replicates),
            "stands": float(np.mean(values.get((name, f"{metric}_stands", protocol, views), math.nan))),
        }
        for (name, metric, protocol, views), replicates in values.items()
        if not metric.endswith(("_se", "_stands"))
    ]


def _label(row: dict[str, Any]) -> str:
    """Return the name of a row: its aggregation, and the variant of the settings if there is one."""
    return ", ".join(part for part in (row["aggregation"], row.get("variant")) if part)


def _keys(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the metric and protocol of each table, the most common metrics first."""
    keys = dict.fromkeys((row["metric"], row["protocol"]) for row in rows)
    return sorted(keys, key=lambda key: _PLOTTED.index(key[0]) if key[0] in _PLOTTED else len(_PLOTTED))


def _tables(rows: list[dict[str, Any]]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return a table of texts per metric and protocol: one row per label, one column per number of modalities."""
    names = list(dict.fromkeys(map(_label, rows)))
    tables = {}
    for metric, protocol in _keys(rows):
        digits = _DIGITS.get(metric, 3)
        cells = [
            row | {"label": _label(row), "text": _cell(row, digits)}
            for row in rows
            if (row["metric"], row["protocol"]) == (metric, protocol)
        ]
        table = pd.DataFrame(cells).pivot(index="label", columns="views", values="text")
        table = table.reindex(names).fillna("").rename_axis(index=None, columns=None)
        tables[metric, protocol] = (
            table.rename(columns={0: "mean"}) if list(table) == [0] else table.rename(columns=str)
        )
    return tables


def _markdown(
    tables: dict[tuple[str, str], pd.DataFrame], rows: list[dict[str, Any]], cells: list[dict[str, Any]], command: str
) -> str:
    """Return the tables and the notes below them as Markdown."""
    lines = ["Mean ± standard error over seeds, by number of modalities given.", ""]
    if command:
        lines += [f"`{command}`", ""]
    for (metric, protocol), table in tables.items():
        label = protocol_label(metric, protocol)
        lines += [f"**{metric}**" + (f" ({label})" if label else ""), ""]
        lines += ["| | " + " | ".join(table.columns) + " |", "|---" * (len(table.columns) + 1) + "|"]
        lines += [f"| {name} | " + " | ".join(texts) + " |" for name, *texts in table.itertuples()]
        lines.append("")
    if any(not math.isnan(row["se_items"]) for row in rows):
        lines += ["In brackets: standard error over the test items, which are the same for all seeds.", ""]
    if any(row["stands"] < 1 for row in rows):
        lines += ["≥: estimates that do not stand with the samples they had, bounds that do not rank the rows.", ""]
    for name, words in {cell["variant"]: cell["variant_settings"] for cell in cells if "variant" in cell}.items():
        lines.append(f"Variant {name}: {'`' + shlex.join(words) + '`' if words else 'no further settings'}.  ")
    seeds = sorted({cell["train_seed"] for cell in cells})
    epochs = sorted({cell["epochs"] for cell in cells})
    lines.append(f"Seeds {seeds}, epochs {epochs}, evaluation {json.dumps(cells[0]['options'])}.")
    accuracy = cells[0]["classifier_accuracy"]
    if accuracy:
        lines.append("Classifiers' test accuracy: " + ", ".join(f"{n} {a:.3f}" for n, a in accuracy.items()) + ".")
    return "\n".join(lines) + "\n"


def _latex(tables: dict[tuple[str, str], pd.DataFrame]) -> str:
    """Return the tables as LaTeX, one ``table`` each."""
    texts = []
    for (metric, protocol), table in tables.items():
        label = protocol_label(metric, protocol)
        caption = _escape(f"{metric}" + (f" ({label})" if label else ""))
        escaped = table.map(
            lambda text: text.replace("±", "$\\pm$").replace("≥", "$\\geq$").replace("-", "$-$")
        ).rename(index=_escape)
        texts.append(escaped.to_latex(escape=False, caption=caption, column_format="l" + "r" * len(table.columns)))
    return "\n".join(texts)


def _formula(text: str) -> str:
    """Return the figures of a cell with LaTeX's signs."""
    return text.replace("±", "$\\pm$").replace("≥", "$\\geq$").replace("-", "$-$")


def _escape(text: str) -> str:
    """Return a text with the special characters of LaTeX escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def _cell(row: dict[str, Any], digits: int) -> str:
    """Return a mean with its standard errors over seeds and, in brackets, over items."""
    error = "" if math.isnan(row["se"]) else f" ± {row['se']:.{digits}f}"
    items = "" if math.isnan(row["se_items"]) else f" (± {row['se_items']:.{digits}f})"
    return f"{'≥ ' if row['stands'] < 1 else ''}{row['mean']:.{digits}f}{error}{items}"


def _plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot each metric by number of modalities given, one line per aggregation and variant."""
    panels = [key for key in _keys(rows) if key[0] in _PLOTTED] or _keys(rows)
    columns = min(_COLUMNS, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(map(_label, rows)))
    for axis, key in zip(axes, panels, strict=False):
        _plot_panel(axis, [row for row in rows if (row["metric"], row["protocol"]) == key], names)
        axis.set_title("\n".join([key[0], *textwrap.wrap(protocol_label(*key), 44)]), fontsize=8)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(names), 6), fontsize=7
    )
    save_figure(figure, file)


def _plot_panel(axis: Axes, rows: list[dict[str, Any]], names: list[str]) -> None:
    """Plot one metric, with the name of each line beside its end."""
    unconditional = all(row["views"] == 0 for row in rows)
    ends: dict[int, tuple[float, float]] = {}
    for i, name in enumerate(names):
        line = sorted((row for row in rows if _label(row) == name), key=lambda row: row["views"])
        shift = i if unconditional else 0.06 * (i - (len(names) - 1) / 2)
        axis.errorbar(
            [r["views"] + shift for r in line], [r["mean"] for r in line],
            yerr=[0 if math.isnan(r["se"]) else r["se"] for r in line], ms=4, capsize=2, label=legend_label(name),
            **line_style(i),
        )  # fmt: skip
        if line:
            ends[i] = line[-1]["views"] + shift, line[-1]["mean"]
    axis.grid(alpha=0.3)
    if unconditional:
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
        return
    axis.set_xlabel("modalities given")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axis.get_ylim()
    for i, height in _spread({i: (end[1] - low) / (high - low) for i, end in ends.items()}).items():
        color = line_style(i)["color"]
        axis.annotate(
            names[i], ends[i], xytext=(1.04, height), textcoords="axes fraction", fontsize=6, va="center", color=color,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.4, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def _spread(heights: dict[int, float]) -> dict[int, float]:
    """Move labels apart vertically, so that none covers another one, and keep their order.

    Args:
        heights: The height of the end of each line, as a fraction of that of the panel.

    Returns:
        The height of each label, at least ``_LABEL_STEP`` from the next one.
    """
    clusters: list[list[int]] = []

    def bottom(cluster: list[int]) -> float:
        return sum(heights[i] for i in cluster) / len(cluster) - _LABEL_STEP * (len(cluster) - 1) / 2

    for i in sorted(heights, key=lambda i: heights[i]):
        clusters.append([i])
        # Labels that overlap are stacked around the mean of their heights.
        while len(clusters) > 1 and bottom(clusters[-1]) < bottom(clusters[-2]) + _LABEL_STEP * len(clusters[-2]):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return {i: bottom(cluster) + _LABEL_STEP * n for cluster in clusters for n, i in enumerate(cluster)}
