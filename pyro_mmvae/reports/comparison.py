"""The table and the plot of a comparison, from the evaluations of its runs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pyro_mmvae.files import read_metrics, write_text
from pyro_mmvae.reports.plots import save_figure

_SHOWN = ("probe", "coherence", "joint_coherence", "log_likelihood")


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
    file = path / "evaluation" / "summary.json"
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


def _markdown(rows: list[dict[str, Any]], cells: list[dict[str, Any]], command: str) -> str:
    names = list(dict.fromkeys(row["aggregation"] for row in rows))
    lines = ["Mean ± standard error over seeds, by number of modalities given.", ""]
    if command:
        lines += [f"`{command}`", ""]
    for metric, protocol in dict.fromkeys((r["metric"], r["protocol"]) for r in rows):
        found = {(r["aggregation"], r["views"]): r for r in rows if (r["metric"], r["protocol"]) == (metric, protocol)}
        views = sorted({view for _, view in found})
        lines += [f"**{metric}**" + (f" ({protocol})" if protocol else ""), ""]
        lines += ["| | " + " | ".join(str(v) for v in views) + " |", "|---" * (len(views) + 1) + "|"]
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
    panels = [key for key in dict.fromkeys((r["metric"], r["protocol"]) for r in rows) if key[0] in _SHOWN]
    figure = Figure(figsize=(4.0 * len(panels), 3.6), layout="constrained")
    names = list(dict.fromkeys(row["aggregation"] for row in rows))
    for axis, (metric, protocol) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for i, name in enumerate(names):
            some = sorted(
                (r for r in rows if (r["aggregation"], r["metric"], r["protocol"]) == (name, metric, protocol)),
                key=lambda row: row["views"],
            )
            shift = 0.06 * (i - (len(names) - 1) / 2)
            axis.errorbar(
                [r["views"] + shift for r in some], [r["mean"] for r in some],
                yerr=[0 if math.isnan(r["se"]) else r["se"] for r in some], fmt="o-", ms=4, capsize=2, label=name,
            )  # fmt: skip
        axis.set(title=f"{metric}\n{protocol}", xlabel="modalities given")
        axis.title.set_fontsize(8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    save_figure(figure, file)
