"""Grids of items: one labelled row per modality with its images, its texts, or its vectors as bars or lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Transform
from numpy.typing import NDArray

from pyro_mmvae.reports.files import DPI, picture_format, save_figure
from pyro_mmvae.reports.styles import OKABE_ITO, styled
from pyro_mmvae.reports.texts import CHARACTER, TEXT_POINTS, break_lines, cell_size, text_height, text_width

Row: TypeAlias = tuple[str, NDArray[Any] | None]

_ITEMS = 20  # the largest number of items side by side
_LABEL_POINTS, _TICK_POINTS, _TITLE_POINTS, _NOTE_POINTS = 7, 5, 9, 7
_LABEL_LETTERS = 36  # the number of letters in a line of a label
_PIXEL = 0.02  # inches per pixel of a small image, which is two pixels of a screen
_SIDES = (0.4, 1.1)  # the least and the largest side of an image in inches
_SCALES = (1.0, 0.75, 0.5)  # the factors that images are made smaller by if the picture is large
_LARGEST = 16.0  # the side of a picture in inches above which its images are made smaller
_VECTOR = (0.7, 0.4)  # the least width and the height of a plot of a vector in inches
_MAX_BARS = 40  # the number of elements above which a vector is a line
_PAD, _GAP = 0.03, 0.12  # the space between rows and between groups of rows in inches
_TICKS = 0.4  # the width of the tick labels beside vectors in inches
_MARGIN = 0.16  # the margins of a picture in inches, on two sides together


@dataclass(frozen=True)
class _Layout:
    """The measures of a grid in inches.

    Attributes:
        scale: The factor of the sizes of images and vectors.
        cell: The width of an item.
        letters: The number of letters that fit into a line of an item.
        items: The number of items side by side.
        label: The width of the labels to the left of a row.
        ticks: The width of the tick labels to the right of a row.
    """

    scale: float
    cell: float
    letters: int
    items: int
    label: float
    ticks: float

    @property
    def content(self) -> float:
        """The width of the items of a row."""
        return self.items * (self.cell + _PAD)

    @property
    def width(self) -> float:
        """The width of a row with its labels."""
        return self.label + self.content + self.ticks

    def size(self, values: NDArray[Any]) -> tuple[float, float]:
        """Return width and height of the items of a row."""
        if _is_text(values):
            lines = max((len(break_lines(str(text), self.letters)) for text in values), default=1)
            return self.cell, lines * CHARACTER[1] + _PAD
        if _is_image(values):
            height, width = values.shape[2:]
            side = float(np.clip(_PIXEL * max(height, width), *_SIDES)) * self.scale
            return side * width / max(height, width), side * height / max(height, width)
        return self.cell, _VECTOR[1] * self.scale

    def height(self, row: Row) -> float:
        """Return the height of a row, which its label fits into, or that of a gap."""
        label, values = row
        lines = len(break_lines(label, _LABEL_LETTERS))
        return _GAP if values is None else max(self.size(values)[1], lines * 1.3 * _LABEL_POINTS / 72) + _PAD


def image_grid(rows: Sequence[Row], file: Path, *, title: str = "", note: str = "", dpi: int = DPI) -> Path:
    """Draw labelled rows of images, texts and vectors into a file, see :func:`plot_grid`.

    Args:
        rows: The rows from the top.
        file: The file, which is written atomically in the format of its suffix, such as PNG, PDF or SVG.
        title: The title above the grid; left out by default.
        note: The note below the grid; left out by default.
        dpi: The number of pixels per inch, 150 by default.

    Returns:
        The argument ``file``.

    Raises:
        ValueError: If matplotlib cannot write the format.
    """
    picture_format(file)
    return save_figure(plot_grid(rows, title=title, note=note), file, dpi=dpi)


@styled
def plot_grid(rows: Sequence[Row], *, title: str = "", note: str = "") -> Figure:
    """Draw labelled rows of images, texts and vectors.

    Groups of rows that gaps divide are placed in several columns if the picture would be high otherwise, and more than
    20 items are continued below. An image is drawn with two screen pixels per pixel, within bounds. A vector of up to
    40 elements is drawn as bars from 0, a longer one as a line; the tick labels of a row give the range of its values.

    Args:
        rows: Pairs of a label and values, or None for a gap: uint8 images `(item, channel, height, width)` of one or
            three channels, strings `(item,)`, or numbers `(item, …)`. Items that are masked, in a masked array, or NaN
            are marked as absent. Strings are broken into lines as wide as the images, or wider if a text is long.
        title: The title above the grid; left out by default.
        note: The note below the grid; left out by default.

    Returns:
        The figure, whose size fits the grid.
    """
    groups = _groups(rows)
    layout, columns = _arrange(groups)
    content = max(sum(map(layout.height, column)) for column in columns)
    above, below = (_MARGIN + text_height(text, size) for text, size in ((title, _TITLE_POINTS), (note, _NOTE_POINTS)))
    texts = max(text_width(title, _TITLE_POINTS), text_width(note, _NOTE_POINTS))
    width = max(layout.width * len(columns), texts) + _MARGIN
    height = content + above + below
    indent = (width - layout.width * len(columns)) / 2
    figure = Figure(figsize=(width, height), dpi=DPI)
    for number, column in enumerate(columns):
        left = indent + number * layout.width + layout.label
        heights = [layout.height(row) for row in column]
        spaces = figure.add_gridspec(
            len(column), 1, height_ratios=heights, hspace=0, left=left / width, right=(left + layout.content) / width,
            top=1 - above / height, bottom=1 - (above + sum(heights)) / height,
        )  # fmt: skip
        for index, (label, values) in enumerate(column):
            if values is not None:
                _draw_row(figure.add_subplot(spaces[index]), label, values, layout, heights[index])
    if title:
        figure.text(0.5, 1 - _MARGIN / 2 / height, title, ha="center", va="top", fontsize=_TITLE_POINTS)
    if note:
        figure.text(0.5, _MARGIN / 2 / height, note, ha="center", va="bottom", fontsize=_NOTE_POINTS, color="0.35")
    return figure


def _groups(rows: Sequence[Row]) -> list[list[tuple[str, NDArray[Any]]]]:
    """Return the rows between gaps, those of many items in parts of equally many items below each other."""
    groups: list[list[tuple[str, NDArray[Any]]]] = [[]]
    for label, values in rows:
        if values is None:
            groups.append([])
        else:
            groups[-1].append((label, values))
    most = max(len(values) for group in groups for _, values in group)
    size = -(-most // -(-most // _ITEMS))  # parts of equally many items
    parts = [
        [(label, values[start : start + size]) for label, values in group if len(values) > start]
        for group in groups
        for start in range(0, most, size)
    ]
    return [part for part in parts if part]


def _arrange(groups: Sequence[Sequence[Row]]) -> tuple[_Layout, list[list[Row]]]:
    """Choose the size of the images and the number of columns, so that the picture is about as wide as high.

    Returns:
        The layout, and for each column its rows from the top.
    """
    best: tuple[float, _Layout, list[list[Row]]] | None = None
    for scale in _SCALES:
        layout = _layout([row for group in groups for row in group], scale)
        for count in range(1, len(groups) + 1):
            columns = _stack(groups, -(-len(groups) // count))
            size = max(len(columns) * layout.width, *(sum(map(layout.height, column)) for column in columns))
            if best is None or size < best[0] - 1e-6:
                best = size, layout, columns
        if best is not None and best[0] <= _LARGEST:
            break
    assert best is not None
    return best[1:]


def _stack(groups: Sequence[Sequence[Row]], each: int) -> list[list[Row]]:
    """Return the rows of each column of so many groups, with gaps between groups."""
    columns = []
    for start in range(0, len(groups), each):
        rows = [row for group in groups[start : start + each] for row in (("", None), *group)]
        columns.append(rows[1:])
    return columns


def _layout(rows: Sequence[Row], scale: float) -> _Layout:
    """Return the measures of a grid of rows whose images are scaled by a factor."""
    present = [(label, values) for label, values in rows if values is not None]
    empty = _Layout(scale, 0, 1, 0, 0, 0)
    images = [empty.size(values)[0] for _, values in present if _is_image(values)]
    vectors = [values for _, values in present if not _is_image(values) and not _is_text(values)]
    texts = [str(text) for _, values in present if _is_text(values) for text in values]
    width = max([*images, _VECTOR[0] * scale if vectors or not images else 0])
    cell, letters = cell_size(texts, width)
    labels = ["\n".join(break_lines(label, _LABEL_LETTERS)) for label, _ in present]
    label = 0.12 + max(text_width(text, _LABEL_POINTS) for text in dict.fromkeys(labels))
    return _Layout(scale, cell, letters, max(len(values) for _, values in present), label, _TICKS if vectors else _GAP)


def _is_image(values: NDArray[Any]) -> bool:
    """Return True if the items are images."""
    return values.ndim == 4 and values.dtype == np.uint8 and values.shape[1] in {1, 3}


def _is_text(values: NDArray[Any]) -> bool:
    """Return True if the items are strings."""
    return values.dtype.kind == "U"


def _absent(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True for the items of a row that are masked or, if they are numbers, NaN."""
    absent: NDArray[np.bool_] = np.ma.getmaskarray(values)
    if values.dtype.kind == "f":
        absent = absent | np.isnan(np.ma.getdata(values))
    return np.asarray(absent.reshape(len(values), -1).all(1), dtype=np.bool_)


def _in_row(axis: Axes, height: float) -> Transform:
    """Return the transformation from inches in a row, whatever the scale of a row of vectors, to the picture."""
    return Affine2D().scale(1, 1 / height) + axis.get_xaxis_transform()


def _draw_row(axis: Axes, label: str, values: NDArray[Any], layout: _Layout, height: float) -> None:
    """Draw the items of a row, and its label on the left."""
    axis.set(xlim=(0, layout.content), ylim=(0, height), xticks=[], yticks=[], facecolor="none")
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
    axis.set_ylabel(
        "\n".join(break_lines(label, _LABEL_LETTERS)), rotation=0, ha="right", va="center", fontsize=_LABEL_POINTS,
        labelpad=4,
    )  # fmt: skip
    lefts = [item * (layout.cell + _PAD) for item in range(len(values))]
    width, side = layout.size(values)
    bottom = (height - side) / 2
    absent = _absent(values)
    for left, is_absent in zip(lefts, absent, strict=True):
        if is_absent:
            axis.text(
                left + (0 if _is_text(values) else width / 2), height / 2, "absent", va="center", color="0.5",
                ha="left" if _is_text(values) else "center", fontsize=TEXT_POINTS, style="italic",
                transform=_in_row(axis, height),
            )  # fmt: skip
    if _is_text(values):
        for left, text in zip(np.array(lefts)[~absent], values[~absent], strict=True):
            axis.text(
                left, bottom + side, "\n".join(break_lines(str(text), layout.letters)), ha="left", va="top",
                fontsize=TEXT_POINTS, family="DejaVu Sans Mono",
            )  # fmt: skip
    elif _is_image(values):
        for left, image in zip(np.array(lefts)[~absent], values[~absent], strict=True):
            pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
            extent = (left, left + width, bottom, bottom + side)
            axis.imshow(pixels, extent=extent, aspect="auto", cmap="gray", vmin=0, vmax=255)
        axis.set(xlim=(0, layout.content), ylim=(0, height))  # which images change
    else:
        numbers = np.ma.getdata(values).reshape(len(values), -1).astype(float)
        _draw_vectors(axis, np.where(absent[:, None], np.nan, numbers), lefts, layout)


def _draw_vectors(axis: Axes, values: NDArray[np.float64], lefts: Sequence[float], layout: _Layout) -> None:
    """Draw vectors as bars or lines on one scale, whose ends are labelled on the right."""
    finite = values[np.isfinite(values)]
    low, high = min(finite.min(initial=0), 0), max(finite.max(initial=0), 0)
    span = high - low or 1.0
    axis.set_ylim(low - 0.05 * span, low + 1.2 * span)
    axis.yaxis.tick_right()
    ticks = [low, high] if high > low else [0.0]
    axis.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=_TICK_POINTS)
    if high > low:  # neither label reaches into the next row
        lower, upper = axis.get_yticklabels()
        lower.set_verticalalignment("bottom")
        upper.set_verticalalignment("top")
    axis.tick_params(axis="y", length=2, pad=1)
    for left, vector in zip(lefts, values, strict=True):
        edges = np.linspace(left, left + 0.94 * layout.cell, len(vector) + 1)
        if np.isnan(vector).all():
            continue
        axis.hlines(0, edges[0], edges[-1], color="0.6", lw=0.4)
        if len(vector) <= _MAX_BARS:
            axis.stairs(vector, edges, fill=True, color=OKABE_ITO[0], lw=0)
        else:
            axis.plot((edges[1:] + edges[:-1]) / 2, vector, color=OKABE_ITO[0], lw=0.5)
