"""The plots of a comparison: means over seeds, and paired differences from a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_mmvae.reports.comparison_rows import (
    PLOTTED,
    Cell,
    Key,
    Runs,
    cell_settings,
    find_row,
    key_of,
    read_cells,
    summarise,
    table_keys,
    values_by_seed,
)
from pyro_mmvae.reports.metric_names import metric_label
from pyro_mmvae.reports.paired import LEVEL, Difference, differences_from, pairs_phrase
from pyro_mmvae.reports.panels import LABEL_POINTS, label_line_ends, make_panels, mark_bounds, set_title, shared_legend
from pyro_mmvae.reports.styles import row_styles, styled
from pyro_mmvae.reports.texts import break_lines, legend_label, protocol_label, text_width

_MAX_LABELLED = 8  # the largest number of lines with names beside them; more have a legend
_TITLE_LETTERS = 34  # which are about as wide as a panel without its labels
_WIDTH = 2.8  # the width of a panel without the names of rows in inches
_SINGLE = 4.0  # the least width of a figure of one panel in inches
_ROW = 0.17  # the height of a difference in inches
_LEGEND = 0.6  # the height of the legend of many lines in inches
_SHIFT = 0.06  # the horizontal distance of two lines, in modalities given

Row = Mapping[str, Any]


@styled
def plot_comparison(runs: Runs, *, metric: str | None = None, protocol: str | None = None) -> Figure:
    """Plot means over seeds with standard errors, by number of modalities given, one line per row of the comparison.

    A metric with one value per row, such as the coherence of draws from the prior, is drawn as dots. The name of a line
    is beside its end; more than eight lines have a legend instead. Markers of log likelihoods that do not stand, which
    are bounds, are hollow. Rows without a metric, such as the joint component of ``moe``, are named below its panel.

    Args:
        runs: The runs or their directories, or the folder of a comparison. A dictionary from names to runs makes one
            row of the runs of each name.
        metric: The metric to plot, such as ``"coherence"``; by default the linear probe, the coherences and the log
            likelihoods, or all metrics if there are none of these.
        protocol: The protocol of the metric to plot; all by default.

    Returns:
        The figure, with one panel per metric and protocol.

    Raises:
        ValueError: If no run has an evaluation, or the metric and protocol do not occur in any.

    Example:
        >>> from pyro_mmvae.plots import plot_comparison
        >>> figure = plot_comparison("runs/compare", metric="coherence")  # doctest: +SKIP
        >>> figure.savefig("coherence.pdf")  # doctest: +SKIP
    """
    cells = read_cells(runs)
    rows = summarise(values_by_seed(cells))
    keys = _chosen(table_keys(rows), metric, protocol)
    styles = _styles([key_of(row) for row in rows])
    names = list(styles)
    panels = {key: [row for row in rows if (row["metric"], row["protocol"]) == key] for key in keys}
    dots = [key for key in keys if len({row["views"] for row in panels[key]}) == 1]
    keys = [key for key in keys if key not in dots] + dots
    has_legend = len(names) > _MAX_LABELLED
    height = max(2.6, 0.9 + _ROW * len(names) if dots else 0) + (_LEGEND if has_legend else 0)
    figure, axes = make_panels(len(keys), (_panel_width(names, len(keys)), height))
    for axis, key in zip(axes, keys, strict=True):
        label = metric_label(key[0], attributes=_has_attributes(cells))
        if key in dots:
            _plot_dots(axis, panels[key], styles, label)
        else:
            _plot_lines(axis, panels[key], styles, label)
        axis.set_title(_title(key, panels[key][0]["views"] if key in dots else 0))
    if has_legend:
        shared_legend(figure, axes)
    set_title(figure, _describe_bars(rows))
    return figure


def _styles(keys: Iterable[Key]) -> dict[str, dict[str, Any]]:
    """Return the style of each row of a comparison by its name, in their order."""
    rows = {key.label: (key.aggregation, key.variant) for key in keys}
    # By name, so that a row looks the same in every figure of a comparison, in whatever order its runs are given.
    names = sorted(rows)
    styles = dict(zip(names, row_styles([rows[name] for name in names]), strict=True))
    return {name: styles[name] for name in rows}


def _panel_width(names: Sequence[str], panels: int) -> float:
    """Return the width of each of some panels with the names of the rows beside it, in inches."""
    width = _WIDTH + max(text_width(name, LABEL_POINTS) for name in names)
    return max(width, _SINGLE) if panels == 1 else width


def _chosen(keys: Sequence[tuple[str, str]], metric: str | None, protocol: str | None) -> list[tuple[str, str]]:
    """Return the metrics and protocols to plot."""
    if metric is None:
        keys = [key for key in keys if key[0] in PLOTTED] or list(keys)
    elif metric not in {key[0] for key in keys}:
        raise ValueError(f"metric must be one of {', '.join(dict.fromkeys(key[0] for key in keys))}, got {metric!r}")
    else:
        keys = [key for key in keys if key[0] == metric]
    chosen = [key for key in keys if protocol is None or key[1] == protocol]
    if not chosen:
        raise ValueError(f"protocol must be one of {'; '.join(repr(key[1]) for key in keys)}, got {protocol!r}")
    return chosen


def _has_attributes(cells: Sequence[Cell]) -> bool:
    """Return True if the labels of the data set are attributes, whose metrics have other units."""
    return any(cell.get("attribute_frequency") for cell in cells)


def _title(key: tuple[str, str], views: int = 0) -> str:
    """Return the title of a panel: the metric, the number of modalities given if it is one, and the protocol below."""
    given = f", given {views}" if views else ""
    return "\n".join(
        [key[0].replace("_", " ") + given, *(break_lines(protocol_label(*key), _TITLE_LETTERS) if key[1] else [])]
    )


def _describe_bars(rows: Sequence[Row]) -> str:
    """Return what the points and the bars of a plot of means are."""
    counts = sorted({row["seeds"] for row in rows})
    if counts == [1]:
        return "one seed per row: there are no standard errors"
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    return f"mean over {seeds}; bars: ± standard error over seeds" + (", none for one seed" if counts[0] == 1 else "")


def _error(row: Row) -> float:
    """Return the standard error over seeds, 0 for one seed."""
    return 0.0 if math.isnan(row["se"]) else row["se"]


def _plot_lines(axis: Axes, rows: Sequence[Row], styles: Mapping[str, dict[str, Any]], label: str) -> None:
    """Plot one metric by number of modalities given, with the name of each line beside its end."""
    ends: dict[str, tuple[float, float, str]] = {}
    step = min(_SHIFT, 0.5 / len(styles))
    axis.set(xlabel="modalities given", ylabel=label)
    for number, (name, style) in enumerate(styles.items()):
        line = sorted((row for row in rows if key_of(row).label == name), key=lambda row: row["views"])
        places = [row["views"] + step * (number - (len(styles) - 1) / 2) for row in line]
        means = [row["mean"] for row in line]
        axis.errorbar(places, means, yerr=list(map(_error, line)), capsize=2, label=legend_label(name), **style)
        bounds = [index for index, row in enumerate(line) if row["stands"] < 1]
        mark_bounds(axis, [places[index] for index in bounds], [means[index] for index in bounds], style)
        if line:
            ends[name] = places[-1], means[-1], style["color"]
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(ends) < len(styles):
        absent = f"(none of {', '.join(name for name in styles if name not in ends)})"
        axis.set_xlabel("\n".join(["modalities given", *break_lines(absent, _TITLE_LETTERS)]))
    if len(styles) <= _MAX_LABELLED:
        label_line_ends(axis, ends)


def _plot_dots(axis: Axes, rows: Sequence[Row], styles: Mapping[str, dict[str, Any]], label: str) -> None:
    """Plot one value per row of the comparison, the first one on top."""
    for number, (name, style) in enumerate(styles.items()):
        found = [row for row in rows if key_of(row).label == name]
        axis.errorbar(
            [row["mean"] for row in found], [number] * len(found), xerr=list(map(_error, found)), capsize=2,
            label=legend_label(name), **style | {"linestyle": "none"},
        )  # fmt: skip
    axis.set_yticks(range(len(styles)), list(styles))
    axis.set(xlabel=label, ylim=(len(styles) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")


@styled
def plot_differences(runs: Runs, baseline: str, *, metric: str | None = None, protocol: str | None = None) -> Figure:
    """Plot the differences of all rows of a comparison from one of them, paired by seed, as a forest plot.

    The bars are 95 % intervals of Student's t distribution, not corrected for their number. A marker is filled if the
    difference is significant at 5 % in a paired t-test after Holm's correction over the numbers of modalities given.

    Args:
        runs: The runs or their directories, or the folder of a comparison. A dictionary from names to runs makes one
            row of the runs of each name.
        baseline: The name of the row that the others are compared with, such as ``"mopoe"`` or ``"mopoe, warm"``;
            the settings of a variant may take the place of its name, as in ``"mopoe, model.beta=2"``.
        metric: The metric to plot; by default those that :func:`plot_comparison` plots.
        protocol: The protocol of the metric to plot; all by default.

    Returns:
        The figure, with one panel per metric and protocol.

    Raises:
        ValueError: If no run has an evaluation, the baseline is not a row, no other row has a seed and a metric in
            common with it, or the metric and protocol do not occur in any.
    """
    cells = read_cells(runs)
    values = values_by_seed(cells)
    every_name = list(dict.fromkeys(key.label for key in values))
    name = find_row(baseline, every_name, cell_settings(cells))
    differences = differences_from(values, name)
    if not differences:
        raise ValueError(f"runs must include a seed of {name} and of another row, got none in common")
    keys = _chosen(table_keys([key._asdict() for key in differences]), metric, protocol)
    compared = {key.label for key in differences}
    # Every row has the style of the plot of means, in which the baseline has one, too.
    styles = {label: style for label, style in _styles(values).items() if label in compared}
    groups = max(len({key.views for key in differences if key[2:4] == panel}) for panel in keys)
    size = _panel_width(list(styles), len(keys)), max(1.9, 1.0 + _ROW * groups * (len(styles) + 1))
    figure, axes = make_panels(len(keys), size)
    for axis, panel in zip(axes, keys, strict=True):
        shown = {key: difference for key, difference in differences.items() if key[2:4] == panel}
        views = sorted({key.views for key in shown})
        _plot_forest(axis, shown, views, styles)
        axis.set_title(_title(panel, views[0] if len(views) == 1 else 0))
        axis.set_xlabel(f"difference, {metric_label(panel[0], attributes=_has_attributes(cells))}")
    handles = [Line2D([], [], **{**style, "linestyle": "none"}) for style in styles.values()]
    labels = [legend_label(label) for label in styles]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    set_title(figure, _describe_intervals(name, differences))
    return figure


def _describe_intervals(baseline: str, differences: Mapping[Key, Difference]) -> str:
    """Return what the points and the bars of a forest plot are."""
    if all(difference.pairs == 1 for difference in differences.values()):
        return f"row minus {baseline}, one seed: there are neither intervals nor tests"
    return (
        f"row minus {baseline}, mean over {pairs_phrase(differences)}; bars: 95 % t intervals, not corrected; filled: "
        f"p < {LEVEL:g} in a paired t-test after Holm's correction over the numbers of modalities given"
    )


def _plot_forest(
    axis: Axes, differences: Mapping[Key, Difference], views: Sequence[int], styles: Mapping[str, dict[str, Any]]
) -> None:
    """Plot the differences of one metric, grouped by the number of modalities given."""
    group = len(styles) + 1  # one place between groups
    axis.axvline(0, color="0.3", lw=0.8)
    for number, (name, style) in enumerate(styles.items()):
        line = [(key, difference) for key, difference in differences.items() if key.label == name]
        for key, difference in line:
            half = 0.0 if math.isnan(difference.half_width) else difference.half_width
            axis.errorbar(
                difference.mean, views.index(key.views) * group + number, xerr=half, capsize=2,
                color=style["color"], marker=style["marker"], linestyle="none", markersize=5,
                markerfacecolor=style["color"] if difference.is_significant else "white",
            )  # fmt: skip
    if len(views) > 1:
        centres = [index * group + (len(styles) - 1) / 2 for index in range(len(views))]
        axis.set_yticks(centres, list(map(str, views)))
        axis.set_ylabel("modalities given")
    else:
        axis.set_yticks(range(len(styles)), list(styles))
    axis.set_ylim(len(views) * group - 1.0, -1.0)
    axis.xaxis.set_major_locator(MaxNLocator(5))  # the labels of small differences are long
    axis.grid(visible=False, axis="y")
