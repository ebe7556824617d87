"""The style sheet of all figures: fonts, and colours, markers and line styles that do not rely on colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from cycler import cycler

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008), without yellow, which is
hard to see on white."""

MARKERS = "os^Dv<>P"
"""The markers of matplotlib that differ most from one another."""

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=OKABE_ITO),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.facecolor": "white",
    "figure.titlesize": 9,
    "font.size": 8,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.title_fontsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "text.parse_math": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
"""The settings of matplotlib that all figures share, with letters that can be read in a column of a paper. Names with
``$`` in them are shown as they are, not as formulas."""

styled = matplotlib.rc_context(STYLE)
"""A decorator of functions that draw in the style ``STYLE``, whatever style the caller has set."""

_LINES = ("-", "--", "-.", ":", (0, (5, 1)))


def line_style(number: int) -> dict[str, Any]:
    """Return colour, marker and line style of one of several lines.

    Args:
        number: The position of the line, counted from 0. The first 280 lines have different styles.

    Returns:
        Keyword arguments of :meth:`matplotlib.axes.Axes.plot`.
    """
    return {
        "color": OKABE_ITO[number % len(OKABE_ITO)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": _LINES[number % len(_LINES)],
    }


def row_styles(rows: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return colours, markers and line styles of the rows of a comparison.

    Where several aggregations have several variants, an aggregation has one colour and a variant one line style, so
    that both can be told at a glance; each row has its own marker. Otherwise each row has a style of its own.

    Args:
        rows: The aggregation and the variant of each row.

    Returns:
        Keyword arguments of :meth:`matplotlib.axes.Axes.plot`, per row.
    """
    styles = [line_style(number) for number in range(len(rows))]
    colors = list(dict.fromkeys(aggregation for aggregation, _ in rows))
    lines = list(dict.fromkeys(variant for _, variant in rows))
    if min(len(colors), len(lines)) < 2 or len(colors) > len(OKABE_ITO) or len(lines) > len(_LINES):
        return styles
    return [
        {**style, "color": OKABE_ITO[colors.index(row[0])], "linestyle": _LINES[lines.index(row[1])]}
        for style, row in zip(styles, rows, strict=True)
    ]


def class_style(number: int, classes: int) -> dict[str, Any]:
    """Return colour and marker of the points of one of several classes.

    Up to 56 classes share the seven colours of ``OKABE_ITO`` and have different markers where the colour repeats; more
    classes have colours from a continuous map, and neighbours in it have different markers.

    Args:
        number: The position of the class, counted from 0.
        classes: The number of classes.

    Returns:
        Keyword arguments of :meth:`matplotlib.axes.Axes.scatter`, with the colour as a string.
    """
    if classes <= len(OKABE_ITO) * len(MARKERS):
        color, marker = OKABE_ITO[number % len(OKABE_ITO)], MARKERS[number // len(OKABE_ITO)]
    else:
        color = matplotlib.colors.to_hex(matplotlib.colormaps["turbo"](number / (classes - 1)))
        marker = MARKERS[number % len(MARKERS)]
    return {"color": color, "marker": marker}
