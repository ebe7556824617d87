"""The arrangement of figures: panels without empty places, one legend for all of them, and labels beside lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABEL_POINTS = 7
"""The font size of labels beside lines, in points."""

_LINE_HEIGHT = 1.25  # the height of a line of text, as a multiple of the font size
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
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.remove()
    return figure, list(axes[:count])


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
        settings: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(handles), 6)} | options
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
