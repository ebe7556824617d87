"""The report on imputations of held-out observations, made from the files of an evaluation alone."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_mmvae._bounded import read_json
from pyro_mmvae.files import write_text
from pyro_mmvae.reports.files import DPI, save_pictures
from pyro_mmvae.reports.latex import latex_table
from pyro_mmvae.reports.panels import RunLike, make_panels, run_path, shared_legend
from pyro_mmvae.reports.styles import OKABE_ITO, styled
from pyro_mmvae.reports.texts import break_lines, legend_label
from pyro_mmvae.run_files import RunFiles

_COLUMNS = (
    "rmse", "nrmse", "rmse_log1p", "accuracy", "exact_match", "class_accuracy", "coverage_50", "width_50",
    "coverage_90", "width_90",
)  # fmt: skip
_AXIS_LABELS = {
    "nrmse": "RMSE / standard deviation",
    "accuracy": "share of right values",
    "class_accuracy": "classifier's accuracy",
}
_PANEL_COLUMNS = 5
_TITLE_LETTERS = 30


class Cell(NamedTuple):
    """A figure of the table.

    Attributes:
        value: The value of the figure.
        se: The standard error over items; NaN for one item.
        n: The number of items.
    """

    value: float
    se: float
    n: int


Key = tuple[str, str, int, str]
"""Modality, pattern, number of modalities given, and method."""

Cells = dict[Key, dict[str, Cell]]
"""The figures by row of the report and metric."""


def write_imputation(path: Path, formats: Sequence[str] = ("png",), dpi: int = DPI) -> list[Path]:
    """Write the report of a comparison of imputations with held-out observations, and draw its picture.

    Args:
        path: The path of the run directory.
        formats: The formats of the picture, such as ``("pdf", "png")``; PNG by default.
        dpi: The number of pixels per inch, 150 by default.

    Returns:
        The files ``imputation.csv``, ``imputation.md``, ``imputation.tex`` and ``imputation.png``; none if the last
        evaluation did not compare imputations.
    """
    files = RunFiles(path)
    summary = read_json(files.evaluation_summary)
    if "imputation" not in summary:
        return []
    write_text(files.imputation_report, imputation_report(path))
    write_text(files.imputation_latex, _latex(_read(files.imputation_table)))
    files.plots.mkdir(exist_ok=True)
    pictures = save_pictures(plot_imputation(path), files.plots / "imputation", formats, dpi)
    return [files.imputation_table, files.imputation_report, files.imputation_latex, *pictures]


def imputation_report(path: Path) -> str:
    """Return tables of all figures as Markdown, one per modality, with notes on how they were computed.

    Args:
        path: The path of the run directory.
    """
    files = RunFiles(path)
    summary = read_json(files.evaluation_summary)["imputation"]
    cells = _read(files.imputation_table)
    lines = ["# Imputation of held-out observations", ""]
    for target, rows in _by_target(cells).items():
        lines += [f"## {target}", "", *_markdown_table(_texts(rows)), ""]
    return "\n".join([*lines, *_notes(summary, cells)]) + "\n"


def _latex(cells: Cells) -> str:
    """Return the tables of all figures as LaTeX, one per modality."""
    tables = []
    for target, rows in _by_target(cells).items():
        header, *texts = _texts(rows)
        caption = f"Imputation of {target} where it was held out: value ± standard error over items"
        tables.append(latex_table(pd.DataFrame(texts, columns=header), caption, ("held out", "method")))
    return "\n".join(tables)


def _by_target(cells: Cells) -> dict[str, Cells]:
    """Return the rows of the report by the modality that was held out."""
    targets = dict.fromkeys(key[0] for key in cells)
    return {target: {key: found for key, found in cells.items() if key[0] == target} for target in targets}


def _read(file: Path) -> Cells:
    """Read the figures by row of the report and metric."""
    cells: Cells = {}
    with file.open(newline="", encoding="utf-8") as opened:
        for row in csv.DictReader(opened):
            key = (row["target"], row["pattern"], int(row["views"]), row["method"])
            cells.setdefault(key, {})[row["metric"]] = Cell(float(row["value"]), float(row["se"]), int(row["n"]))
    return cells


def _texts(rows: Cells) -> list[list[str]]:
    """Return the texts of a table, the names of its columns first."""
    metrics = [metric for metric in _COLUMNS if any(metric in found for found in rows.values())]
    texts = [["held out", "given", "method", "items", *metrics]]
    for (_, pattern, views, method), found in rows.items():
        items = max(cell.n for cell in found.values())
        figures = [_figure(found.get(metric)) for metric in metrics]
        texts.append([pattern, str(views), method, str(items), *figures])
    return texts


def _markdown_table(texts: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table, with columns of equal width so that it can be read as text, too."""
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ["| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |" for row in texts]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _figure(cell: Cell | None) -> str:
    """Return value ± standard error with as many digits as the error has two of."""
    if cell is None:
        return ""
    if math.isnan(cell.se):
        return f"{cell.value:.4g}"
    if cell.se == 0:
        return f"{cell.value:.4g} ± 0"
    digits = max(1 - math.floor(math.log10(cell.se)), 0)
    return f"{cell.value:.{digits}f} ± {cell.se:.{digits}f}"


def _notes(summary: dict[str, Any], cells: Cells) -> list[str]:
    """Return how the figures were computed, one line per fact."""
    options, used = summary["options"], summary["used"]
    metrics = {metric for found in cells.values() for metric in found}

    def listed(features: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in features.items())

    notes = [
        "± is the standard error over items, as if they were independent; `given` is the number of other modalities "
        "that were given.",
        f"Test items: {used['test_items']} (at most {options['items']}), seed {options['seed']}. Model: "
        f"{options['draws']} draws of the latent per item.",
        f"Baselines of scikit-learn, fitted to {used['train_items']} training items (at most "
        f"{options['train_items']}): mean, of tokens the most frequent one; "
        f"{options['neighbors']} nearest neighbours on {listed(used['features'])} features (at most "
        f"{options['components']} per modality, beyond that principal components).",
        f"Iterative imputation: BayesianRidge, at most {options['rounds']} rounds, fitted to {used['iterative_items']} "
        f"training items (at most {options['iterative_items']}), on {listed(used['iterative_features'])} features.",
    ]
    if "rmse" in metrics:
        notes.append(
            "`rmse`: in the units of the data, pixels in [0, 1]; `nrmse`: each value divided by its standard deviation "
            "over these training items."
        )
    if "coverage_90" in metrics:
        notes.append(
            "`coverage_50`, `coverage_90`: share of held-out values inside the central predictive intervals; "
            "`width_50`, `width_90`: mean widths of these."
        )
    if "accuracy" in metrics:
        notes.append(
            "`accuracy`: share of positions without padding, or of binary values, that are right; `exact_match`: share "
            "of whole items."
        )
    if "class_accuracy" in metrics:
        notes.append(
            "`class_accuracy`: share of imputed items whose class the classifier of the modality recognises; "
            "`observed` is that of the held-out values themselves."
        )
    return [f"- {note}" for note in notes]


@styled
def plot_imputation(run: RunLike) -> Figure:
    """Plot the errors of imputations as bars with standard errors over items, one panel per modality and metric.

    Args:
        run: The run, or the path of its directory, which was evaluated with ``--mask``.

    Raises:
        FileNotFoundError: If the run does not have a table of imputations.
    """
    file = RunFiles(run_path(run)).imputation_table
    if not file.exists():
        raise FileNotFoundError(f"{file}: imputations must be evaluated, got no such file: evaluate with --mask")
    cells = _read(file)
    targets = list(dict.fromkeys(key[0] for key in cells))
    panels = [
        (target, metric)
        for metric in _AXIS_LABELS
        for target in targets
        if any(metric in found for key, found in cells.items() if key[0] == target)
    ]
    methods = list(dict.fromkeys(key[3] for key in cells))
    groups = max(len({key[1:3] for key in cells if key[0] == target}) for target in targets)
    figure, axes = make_panels(len(panels), (1.3 + 0.8 * groups, 2.4), min(len(targets), _PANEL_COLUMNS))
    for axis, (target, metric) in zip(axes, panels, strict=True):
        _draw_panel(axis, {key: found for key, found in cells.items() if key[0] == target}, metric, methods)
        axis.set_title("\n".join(break_lines(target, _TITLE_LETTERS)))
    shared_legend(figure, axes)
    figure.suptitle("held-out observations (bars: ± standard error over items)")
    return figure


def _draw_panel(axis: Axes, cells: Cells, metric: str, methods: list[str]) -> None:
    """Draw the bars of one modality and metric, one group per pattern and number of modalities given."""
    groups = list(dict.fromkeys(key[1:3] for key, found in cells.items() if metric in found))
    shown = [m for m in methods if any(key[3] == m and metric in found for key, found in cells.items())]
    width = 0.8 / len(shown)
    for number, method in enumerate(shown):
        points = [
            (position + (number - (len(shown) - 1) / 2) * width, found[metric])
            for position, group in enumerate(groups)
            for key, found in cells.items()
            if key[1:3] == group and key[3] == method and metric in found
        ]
        errors = [0.0 if math.isnan(cell.se) else cell.se for _, cell in points]
        axis.bar(
            [x for x, _ in points], [cell.value for _, cell in points], width, yerr=errors, capsize=2,
            error_kw={"lw": 0.8}, color=OKABE_ITO[methods.index(method) % len(OKABE_ITO)], label=legend_label(method),
        )  # fmt: skip
    labels = [f"{views} given" + ("" if pattern == "leave one out" else "\n(at random)") for pattern, views in groups]
    axis.set_xticks(range(len(groups)), labels)
    axis.set_ylabel(_AXIS_LABELS[metric])
    axis.grid(visible=False, axis="x")
