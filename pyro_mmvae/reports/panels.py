"""The arrangement of figures: panels without empty places, one legend for all of them, and labels beside lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_mmvae.reports.styles import styled
from pyro_mmvae.reports.texts import break_lines

COLUMN_WIDTHS = {"single": 3.5, "double": 7.2}
"""The width of figures in one column of a journal and across two columns, in inches."""

TITLE_LETTERS_PER_INCH = 12
"""The number of letters of the title of a figure that fit into an inch."""

LABEL_POINTS = 7
"""The font size of labels beside lines, in points."""

_TITLE_LINE = 0.17  # the height of a line of the title of a figure in inches
_FLOWING = "panels that may be arranged anew"  # the label of such figures, which pickles keep
_LEAST_PANEL = 0.75  # the least width of a panel, as a fraction of the one that it was made for
_FLATTEST = 0.8  # the least height of a single panel, as a fraction of the one that its labels were made for
_LEGEND_ENTRY = 1.1  # the width of an entry of a legend in inches
_MOST_ENTRIES = 6  # the largest number of entries of a legend side by side
_LINE_HEIGHT = 1.25  # the height of a line of text, as a multiple of the font size
_BOUNDS = "\n(hollow: bounds)"
_LABEL_LEFT = 1.03  # the left end of the labels beside lines, as a fraction of the width of a panel


class HasPath(Protocol):
    """An object with the path of a run directory, such as :class:`pyro_mmvae.Run`."""

    @property
    def path(self) -> Path:
        """The path of the run directory."""


RunLike: TypeAlias = HasPath | Path | str
"""A run, or the path of its directory."""


def run_path(run: RunLike) -> Path:
    """Return the path of a run directory.

    Args:
        run: The run, or the path of its directory.
    """
    return Path(run) if isinstance(run, str | Path) else run.path


def panel_columns(count: int, most: int) -> int:
    """Return the number of panels side by side that leaves the fewest empty places in the last row.

    Args:
        count: The number of panels, at least one.
        most: The largest number of panels side by side; one panel fewer is also tried.

    Returns:
        The number of columns, the larger one if both leave equally many empty places.
    """
    if count <= most:
        return count
    return min((most, max(most - 1, 1)), key=lambda columns: -count % columns)


def make_panels(count: int, size: tuple[float, float], most: int = 4) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of equal size, and nothing in the places that are left over.

    Args:
        count: The number of panels, at least one.
        size: The width and the height of a panel with its labels, in inches.
        most: The largest number of panels side by side, 4 by default.

    Returns:
        The figure and its panels, row by row.
    """
    columns = panel_columns(count, most)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    figure.set_label(_FLOWING)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.remove()
    return figure, list(axes[:count])


def mark_bounds(axis: Axes, places: Sequence[float], values: Sequence[float], style: Mapping[str, Any]) -> None:
    """Draw the markers of some points of a line hollow, since they are bounds, and say so beside the vertical axis.

    Args:
        axis: The panel to draw into, whose label is set.
        places: The horizontal positions of the points; nothing is drawn if there are none.
        values: The values of the points.
        style: The style of the line with its colour and marker.
    """
    if not places:
        return
    axis.plot(
        places, values, linestyle="none", marker=style["marker"], color=style["color"], markerfacecolor="white",
        zorder=3, label="_",
    )  # fmt: skip
    if _BOUNDS not in axis.get_ylabel():
        axis.set_ylabel(axis.get_ylabel() + _BOUNDS)


def set_title(figure: Figure, text: str) -> None:
    """Set the title of a figure, in lines that are not wider than the figure, which is made higher by them.

    Args:
        figure: The figure with its final width.
        text: The title, whose lines are broken between words.
    """
    lines = break_lines(text, int(TITLE_LETTERS_PER_INCH * figure.get_figwidth()))
    figure.suptitle("\n".join(lines))
    figure.set_figheight(figure.get_figheight() + _TITLE_LINE * len(lines))


@styled
def fit_width(figure: Figure, width: float | str = "double") -> Figure:
    """Give a figure the width of a column of a journal, with letters of the same size as before.

    Panels of curves are arranged anew, in as many columns as have space, and keep their height. Tables of panels, such
    as those of :func:`plot_ppc` and :func:`plot_matrix`, and grids of items are as wide as their content: let the
    document scale them.

    Args:
        figure: A figure of :mod:`pyro_mmvae.plots` of curves, bars or one panel; it is changed.
        width: The width: ``"single"`` for one column (3.5 inches), ``"double"`` (default) for two (7.2 inches), or a
            number of inches.

    Returns:
        The argument ``figure``.

    Raises:
        ValueError: If the width is not one of these, or the figure is a table of panels or a grid of items.

    Example:
        >>> from pyro_mmvae.plots import fit_width, plot_training
        >>> fit_width(plot_training("runs/mwb"), "single").savefig("training.pdf")  # doctest: +SKIP
    """
    inches = COLUMN_WIDTHS.get(width, 0.0) if isinstance(width, str) else float(width)
    if not 0 < inches < float("inf"):
        raise ValueError(f"width must be 'single', 'double' or a positive number of inches, got {width!r}")
    panels = [axis for axis in figure.axes if axis.get_subplotspec() is not None]
    flows = figure.get_label() == _FLOWING
    if figure.get_layout_engine() is None or (len(panels) != 1 and not flows):
        raise ValueError(
            "figure must have panels that can be arranged anew, got a table or a grid: scale it in the text"
        )
    before = figure.get_figwidth(), figure.get_figheight()
    title = " ".join(figure.get_suptitle().split("\n"))
    old_lines = len(figure.get_suptitle().split("\n")) if title else 0
    content = before[1] - _TITLE_LINE * old_lines
    factor = _flow(figure, panels, inches) if flows else min(max(inches / before[0], _FLATTEST), 1.0)
    figure.set_size_inches(inches, content * factor)
    if title:
        set_title(figure, title)
    return figure


def _flow(figure: Figure, panels: Sequence[Axes], inches: float) -> float:
    """Arrange panels of equal size anew for a width, and return the factor of the number of rows."""
    grid = panels[0].get_subplotspec().get_gridspec()  # type: ignore[union-attr]
    most = max(int(inches / (_LEAST_PANEL * figure.get_figwidth() / grid.ncols)), 1)
    columns = min(panel_columns(len(panels), most), most)
    rows = -(-len(panels) // columns)
    places = figure.add_gridspec(rows, columns)
    for number, panel in enumerate(panels):
        panel.set_subplotspec(places[divmod(number, columns)])
    for legend in list(figure.legends):  # a legend keeps the number of columns that it was made with
        handles = [handle for handle in legend.legend_handles if handle is not None]
        labels = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        entries = max(1, min(len(labels), _MOST_ENTRIES, int(inches / _LEGEND_ENTRY)))
        figure.legend(handles, labels, loc="outside lower center", ncols=entries)
    return rows / grid.nrows


def shared_legend(figure: Figure, axes: Sequence[Axes], **options: Any) -> None:
    """Draw one legend of all panels outside of them, with one entry per label.

    Args:
        figure: The figure of the panels.
        axes: The panels, whose labelled artists are collected.
        **options: Keyword arguments of :meth:`matplotlib.figure.Figure.legend`; by default the legend is below the
            panels, with at most six entries side by side.
    """
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        settings: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(handles), _MOST_ENTRIES)} | options
        figure.legend(list(handles.values()), list(handles), **settings)


def label_line_ends(axis: Axes, ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Write the name of each line to the right of a panel, at the height of its end if there is space.

    A thin line leads from each name to the end of its line. The limits of the panel must not change afterwards.

    Args:
        axis: The panel to write beside.
        ends: For each name, the coordinates of the right end of its line, and its colour.
    """
    low, high = axis.get_ylim()
    heights = {name: (y - low) / (high - low) for name, (_, y, _) in ends.items()}
    figure = axis.get_figure(root=True)
    assert figure is not None
    # The layout, which is computed when the figure is drawn, leaves about two thirds of a place to the panel itself.
    place = axis.get_subplotspec().get_gridspec().nrows if axis.get_subplotspec() else 1  # type: ignore[union-attr]
    step = _LINE_HEIGHT * LABEL_POINTS / 72 / (0.65 * figure.get_figheight() / place)
    for name, height in spread(heights, step).items():
        x, y, color = ends[name]
        axis.annotate(
            name, (x, y), xytext=(_LABEL_LEFT, height), textcoords="axes fraction", fontsize=LABEL_POINTS, va="center",
            color=color, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def spread(heights: Mapping[str, float], step: float) -> dict[str, float]:
    """Move labels apart vertically, so that none covers another one, and keep their order.

    Args:
        heights: The height of the end of each line, as a fraction of that of the panel.
        step: The least distance of two labels, as a fraction of the height of the panel.

    Returns:
        The height of each label, at least ``step`` from the next one and between 0 and 1, unless there are too many.
    """
    clusters: list[list[str]] = []

    def bottom(cluster: list[str]) -> float:
        span = step * (len(cluster) - 1)
        return max(min(sum(heights[name] for name in cluster) / len(cluster) - span / 2, 1 - span), 0.0)

    for name in sorted(heights, key=lambda name: heights[name]):
        clusters.append([name])
        # Labels that overlap are stacked around the mean of their heights.
        while len(clusters) > 1 and bottom(clusters[-1]) < bottom(clusters[-2]) + step * len(clusters[-2]):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    return {name: bottom(cluster) + step * n for cluster in clusters for n, name in enumerate(cluster)}
