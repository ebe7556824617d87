"""The table and the plot of a comparison, from the evaluations of its runs."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_mmvae.files import write_text
from pyro_mmvae.reports.plots import save_figure
from pyro_mmvae.run_files import RunFiles, read_metrics

_SHOWN = ("probe", "coherence", "joint_coherence", "log_likelihood")
_COLUMNS = 4  # of panels


def draw_comparison(out: Path, paths: Sequence[Path], command: str = "") -> list[Path]:
    """Write ``comparison.csv``, ``comparison.md`` and ``comparison.png``: means over seeds and their standard errors.

    Args:
        out: the folder to write into.
        paths: run directories that were evaluated; others are left out.
        command: what made them, for the note.

    Returns:
        The files written.

    Raises:
        ValueError: if none was evaluated.
    """
    cells = [cell for path in paths if (cell := _read(path)) is not None]
    if not cells:
        raise ValueError(f"{out}: nothing was evaluated yet")
    rows = _summarise(cells)
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    files = [out / "comparison.csv", out / "comparison.md", out / "comparison.png"]
    write_text(files[0], table.getvalue())
    write_text(files[1], _markdown(rows, cells, command))
    _plot(rows, files[2])
    return files


def _read(path: Path) -> dict[str, Any] | None:
    file = RunFiles(path).evaluation_summary
    if not file.exists():
        return None
    summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    epochs = read_metrics(path)
    summary["train_seconds"] = sum(row["seconds"] for row in epochs)
    summary["epochs"] = len(epochs)
    return summary


def _summarise(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row an aggregation, metric, protocol and number of views."""
    values: dict[tuple[str, str, str, int], list[float]] = {}
    for cell in cells:
        name = cell["aggregation"]
        for metric, protocols in cell["means_by_views"].items():
            for protocol, means in protocols.items():
                for views, value in means.items():
                    values.setdefault((name, metric, protocol, int(views)), []).append(value)
        values.setdefault((name, "train_seconds", "", 0), []).append(cell["train_seconds"])
    return [
        {
            "aggregation": name,
            "metric": metric,
            "protocol": protocol,
            "views": views,
            "mean": float(np.mean(found)),
            "se": float(np.std(found, ddof=1) / math.sqrt(len(found))) if len(found) > 1 else math.nan,
            "seeds": len(found),
        }
        for (name, metric, protocol, views), found in values.items()
    ]


def _keys(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Metric and protocol of each table, the best known metrics first."""
    keys = dict.fromkeys((row["metric"], row["protocol"]) for row in rows)
    return sorted(keys, key=lambda key: _SHOWN.index(key[0]) if key[0] in _SHOWN else len(_SHOWN))


def _markdown(rows: list[dict[str, Any]], cells: list[dict[str, Any]], command: str) -> str:
    names = list(dict.fromkeys(row["aggregation"] for row in rows))
    lines = ["Mean ± standard error over seeds, by number of modalities given.", ""]
    if command:
        lines += [f"`{command}`", ""]
    for metric, protocol in _keys(rows):
        found = {(r["aggregation"], r["views"]): r for r in rows if (r["metric"], r["protocol"]) == (metric, protocol)}
        views = sorted({view for _, view in found})
        heads = [str(view) for view in views] if views != [0] else ["mean"]
        lines += [f"**{metric}**" + (f" ({protocol})" if protocol else ""), ""]
        lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(views) + 1) + "|"]
        digits = 3 if metric in {"probe", "coherence", "joint_coherence"} else 1
        for name in names:
            cells_text = [_cell(found.get((name, view)), digits) for view in views]
            lines.append(f"| {name} | " + " | ".join(cells_text) + " |")
        lines.append("")
    seeds = sorted({cell["train_seed"] for cell in cells})
    epochs = sorted({cell["epochs"] for cell in cells})
    lines.append(f"Seeds {seeds}, epochs {epochs}, evaluation {json.dumps(cells[0]['options'])}.")
    accuracy = cells[0]["classifier_accuracy"]
    if accuracy:
        lines.append("Classifiers' test accuracy: " + ", ".join(f"{n} {a:.3f}" for n, a in accuracy.items()) + ".")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None, digits: int) -> str:
    if row is None:
        return ""
    error = "" if math.isnan(row["se"]) else f" ± {row['se']:.{digits}f}"
    return f"{row['mean']:.{digits}f}{error}"


def _plot(rows: list[dict[str, Any]], file: Path) -> None:
    panels = [key for key in _keys(rows) if key[0] in _SHOWN]
    columns = min(_COLUMNS, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(3.7 * columns, 3.4 * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(row["aggregation"] for row in rows))
    for axis, (metric, protocol) in zip(axes, panels, strict=False):
        some = [row for row in rows if (row["metric"], row["protocol"]) == (metric, protocol)]
        alone = all(row["views"] == 0 for row in some)
        for i, name in enumerate(names):
            own = sorted((row for row in some if row["aggregation"] == name), key=lambda row: row["views"])
            shift = i if alone else 0.06 * (i - (len(names) - 1) / 2)
            axis.errorbar(
                [r["views"] + shift for r in own], [r["mean"] for r in own],
                yerr=[0 if math.isnan(r["se"]) else r["se"] for r in own], fmt="o-", ms=4, capsize=2, label=name,
                color=f"C{i}",
            )  # fmt: skip
        axis.set_title("\n".join([metric, *textwrap.wrap(protocol, 44)]), fontsize=8)
        if alone:
            axis.set_xticks(range(len(names)), names)
        else:
            axis.set_xlabel("modalities given")
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    axes[0].legend(fontsize=7)
    save_figure(figure, file)
