"""Colours, markers and line styles that tell many lines or classes apart, without relying on colour alone."""

from __future__ import annotations

from typing import Any

import matplotlib

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008), without yellow, which is
hard to see on white."""

MARKERS = "os^Dv<>P"
"""The markers of matplotlib that differ most from one another."""

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
