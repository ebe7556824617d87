"""The table and the picture of a sweep: coherence against quality, and the points that no other one dominates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_mmvae.files import write_text
from pyro_mmvae.reports.comparison_rows import Key, read_cells, row_name, standard_error, values_by_seed
from pyro_mmvae.reports.files import DPI, save_pictures
from pyro_mmvae.reports.latex import latex_table
from pyro_mmvae.reports.panels import shared_legend
from pyro_mmvae.reports.styles import line_style, styled

_QUALITY, _COHERENCE = "frechet_conditional", "coherence"
_VIEWS = 1  # the number of modalities given, where aggregations differ most


def draw_sweep(
    out: Path,
    paths: Sequence[Path],
    points: Mapping[str, tuple[str, Mapping[str, str]]],
    command: str = "",
    *,
    formats: Sequence[str] = ("png",),
    dpi: int = DPI,
) -> list[Path]:
    """Write the coherence and the quality of each point of a sweep as tables, and draw their Pareto front.

    Quality is the conditional Fréchet distance; both figures are means over seeds and over subsets of one modality.
    The files are ``sweep.csv``, ``sweep.md``, ``sweep.tex`` and ``sweep.png``.

    Args:
        out: The folder to write into.
        paths: The run directories of the comparison.
        points: For each variant of the sweep, the variant that it starts from, empty for none, and the values of its
            settings.
        command: The command line that made the runs, quoted in the table; left out by default.
        formats: The formats of the picture, such as ``("pdf", "png")``; PNG by default.
        dpi: The number of pixels per inch, 150 by default.

    Returns:
        The files written.

    Raises:
        ValueError: If no run of the sweep has both figures, as for data without labels.
    """
    rows = sweep_rows(paths, points)
    if not rows:
        raise ValueError(
            f"{out}: a sweep must have runs with {_COHERENCE} and {_QUALITY}, which need labels and --quality, got none"
        )
    write_text(out / "sweep.csv", pd.DataFrame(rows).to_csv(index=False, na_rep="nan", lineterminator="\r\n"))
    write_text(out / "sweep.md", _markdown(rows, command))
    write_text(out / "sweep.tex", _latex(rows))
    tables = [out / f"sweep.{suffix}" for suffix in ("csv", "md", "tex")]
    return [*tables, *save_pictures(_plot(rows), out / "sweep", formats, dpi)]


def sweep_rows(paths: Sequence[Path], points: Mapping[str, tuple[str, Mapping[str, str]]]) -> list[dict[str, Any]]:
    """Return one row per aggregation and point of a sweep, with means over seeds and their standard errors.

    The column ``pareto`` is True for the points of the Pareto front: no other point of the sweep, of any aggregation,
    is at least as good in both figures and better in one. The column ``line`` names the aggregation and the variant
    that the sweep starts from.

    Args:
        paths: The run directories of the comparison.
        points: For each variant of the sweep, the variant that it starts from and the values of its settings.
    """
    values = values_by_seed(read_cells(paths))
    names = dict.fromkeys((key.aggregation, key.variant) for key in values)
    rows = []
    for aggregation, variant in product(dict.fromkeys(name for name, _ in names), points):
        found = _figures(values, aggregation, variant)
        if found is None:
            continue
        start, settings = points[variant]
        row: dict[str, Any] = {"aggregation": aggregation, "variant": variant, "line": row_name(aggregation, start)}
        row |= {**settings, "seeds": len(found[0])}
        for name, replicates in zip((_COHERENCE, _QUALITY), found, strict=True):
            row |= {name: float(np.mean(replicates)), f"{name}_se": standard_error(replicates)}
        rows.append(row | {"label": ", ".join(settings.values())})
    return [row | {"pareto": not any(_dominates(other, row) for other in rows)} for row in rows]


def plot_sweep(folder: Path | str) -> Figure:
    """Plot coherence against quality of each point of a sweep, with the Pareto front of all of them.

    Args:
        folder: The folder of a comparison that was made with ``--sweep``, whose ``sweep.csv`` is read.

    Returns:
        The figure, with one line per aggregation through its points, whose labels are the values of the settings.

    Raises:
        FileNotFoundError: If the folder does not have the table of a sweep.
        ValueError: If the table lacks columns.
    """
    file = Path(folder) / "sweep.csv"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: a sweep must have its table, got none: 'compare --sweep' writes it")
    numbers = (_COHERENCE, _QUALITY, f"{_COHERENCE}_se", f"{_QUALITY}_se", "seeds")
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if missing := sorted(_COLUMNS - set(table)):
        raise ValueError(f"{file}: the table of a sweep must have the columns of sweep.csv, got none of {missing}")
    table = table.astype({**dict.fromkeys(numbers, float), "seeds": int})
    table["pareto"] = table["pareto"] == "True"
    return _plot([{str(name): value for name, value in row.items()} for row in table.to_dict("records")])


def _figures(
    values: Mapping[Key, Mapping[int, float]], aggregation: str, variant: str
) -> tuple[list[float], list[float]] | None:
    """Return coherence and quality of the seeds that have both, judged by the same kind of draw."""
    name = aggregation, variant
    for key, quality in values.items():
        if key[:3] != (*name, _QUALITY) or key.views != _VIEWS:
            continue
        draw = key.protocol.partition(", ")[2]  # the protocol begins with the labels that are given
        for other, coherence in values.items():
            if other[:3] == (*name, _COHERENCE) and other.views == _VIEWS and other.protocol.startswith(draw):
                seeds = sorted(set(quality) & set(coherence))
                return [coherence[seed] for seed in seeds], [quality[seed] for seed in seeds]
    return None


def _dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if one point is at least as good as another in both figures, and better in one of them."""
    gains = one[_COHERENCE] - other[_COHERENCE], other[_QUALITY] - one[_QUALITY]
    return min(gains) >= 0 and max(gains) > 0


def _markdown(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """Return the table of a sweep as Markdown."""
    table = _table(rows)
    lines = [f"{_TITLE}.", ""]
    if command:
        lines += [f"`{command}`", ""]
    lines += ["| " + " | ".join(table.columns) + " |", "|---" * len(table.columns) + "|"]
    lines += ["| " + " | ".join(texts) + " |" for texts in table.itertuples(index=False)]
    return "\n".join([*lines, "", f"Pareto front: {_FRONT}."]) + "\n"


def _latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of a sweep as LaTeX."""
    table = _table(rows)
    figures = {"coherence ↑", "frechet_conditional ↓", "seeds"}
    words = [name for name in table.columns if name not in figures]
    return latex_table(table, f"{_TITLE}; Pareto front: {_FRONT}", words)


def _table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the texts of the table of a sweep, one row per point."""
    settings = [key for key in rows[0] if key not in _COLUMNS]
    return pd.DataFrame(
        {
            "": row["line"],
            **{key: row[key] for key in settings},
            "coherence ↑": _text(row, _COHERENCE, 3),
            "frechet_conditional ↓": _text(row, _QUALITY, 2),
            "seeds": str(row["seeds"]),
            "Pareto front": "yes" * row["pareto"],
        }
        for row in rows
    )


_TITLE = "Coherence and conditional Fréchet distance given one modality, mean ± standard error over seeds"
_FRONT = "no other point is at least as good in both figures and better in one"


_COLUMNS = {
    "aggregation", "variant", "line", "seeds", "label", "pareto", _COHERENCE, _QUALITY, f"{_COHERENCE}_se",
    f"{_QUALITY}_se",
}  # fmt: skip


def _text(row: Mapping[str, Any], name: str, digits: int) -> str:
    """Return a mean with its standard error over seeds, if there is one."""
    error = row[f"{name}_se"]
    return f"{row[name]:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


@styled
def _plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw one line per aggregation through its points, and the Pareto front of all of them."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axis = figure.subplots()
    _plot_front(axis, [row for row in rows if row["pareto"]])
    for number, line in enumerate(dict.fromkeys(row["line"] for row in rows)):
        chosen = [row for row in rows if row["line"] == line]
        style = line_style(number)
        axis.errorbar(
            [row[_QUALITY] for row in chosen], [row[_COHERENCE] for row in chosen],
            xerr=[_error(row, _QUALITY) for row in chosen], yerr=[_error(row, _COHERENCE) for row in chosen],
            elinewidth=0.6, capsize=1.5, label=line, **style,
        )  # fmt: skip
        for row in chosen:
            axis.annotate(
                row["label"], (row[_QUALITY], row[_COHERENCE]), xytext=(4, 4), textcoords="offset points", fontsize=6,
                color=style["color"],
            )  # fmt: skip
    keys = [key for key in rows[0] if key not in _COLUMNS]
    seeds = "" if all(row["seeds"] < 2 for row in rows) else "\nbars: ± standard error over seeds"
    axis.set(
        xlabel="conditional Fréchet distance\ngiven one modality (lower is better)",
        ylabel="coherence\ngiven one modality (higher is better)",
        title=f"labels: {', '.join(keys)}{seeds}",
    )
    shared_legend(figure, [axis], ncols=4)
    return figure


def _plot_front(axis: Axes, front: Sequence[Mapping[str, Any]]) -> None:
    """Draw the Pareto front as a staircase, behind the lines, with a ring around each of its points."""
    ordered = sorted(front, key=lambda row: row[_QUALITY])
    x, y = [row[_QUALITY] for row in ordered], [row[_COHERENCE] for row in ordered]
    axis.step(x, y, where="post", color="0.8", lw=4, solid_capstyle="round", zorder=0, label="Pareto front")
    axis.plot(x, y, ls="", marker="o", ms=10, mfc="none", mec="0.4", mew=0.8, zorder=4)


def _error(row: Mapping[str, Any], name: str) -> float:
    """Return the standard error of a figure, 0 for a single seed."""
    return 0.0 if math.isnan(row[f"{name}_se"]) else float(row[f"{name}_se"])
