"""The letters of pictures: names without markup, line breaks, and the space that text takes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from functools import lru_cache

from matplotlib.textpath import TextPath

TEXT_POINTS = 6
"""The font size of texts in grids, in points."""

CHARACTER = (0.65 * TEXT_POINTS / 72, 1.4 * TEXT_POINTS / 72)
"""The width of a character of DejaVu Sans Mono, rounded up to whole pixels, and the height of a line, in inches."""

STANDING_NOTE = "≥: estimates that do not stand with the samples they had, bounds that do not rank the rows."
"""The note below a table in which log likelihoods are marked as bounds."""

_LONG = 64  # the number of characters above which a text counts as long
_MIN_LETTERS = 28  # the smallest number of letters in a line of a long text
_LETTERS_BETWEEN = 1  # the number of letters that fit between two texts
_MAX_LINES = 14
_ELLIPSIS = "…"


def legend_label(name: str, letters: int = 40) -> str:
    """Return a label that matplotlib shows in a legend, even if it begins with an underscore.

    Args:
        name: The name to show, such as that of a modality.
        letters: The largest number of letters per line, 40 by default.
    """
    lines = "\n".join(break_lines(name, letters))
    return f"\u200b{lines}" if lines.startswith("_") else lines  # a space of no width


def protocol_label(metric: str, protocol: str) -> str:
    """Return a protocol for readers, which also names the read-out ``mean`` of a probe.

    Args:
        metric: The name of the metric.
        protocol: The protocol as tables for programs have it, where the first read-out of the probe has no name.
    """
    is_mean = metric == "probe" and protocol.startswith(("per-subset, ", "joint, "))
    return f"mean, {protocol}" if is_mean else protocol


def cell_size(texts: Iterable[str], width: float) -> tuple[float, int]:
    """Return the width of the cells of a grid: that of its images, or more if a text is long.

    Args:
        texts: All texts of the grid.
        width: The width of the widest image in inches.

    Returns:
        The width of a cell in inches, and the number of letters that fit into a line of it, at least one.
    """
    fitting = int(width / CHARACTER[0]) - _LETTERS_BETWEEN
    if max(map(len, texts), default=0) <= _LONG:
        return width, max(fitting, 1)
    letters = max(fitting, _MIN_LETTERS)
    return max(width, (letters + _LETTERS_BETWEEN) * CHARACTER[0]), letters


def break_lines(text: str, letters: int) -> list[str]:
    """Break a text into lines between words, or within words that are too long; a short text stays as it is.

    At most 14 lines are kept; a longer text ends in an ellipsis.

    Args:
        text: The text, without padding.
        letters: The number of letters that fit into a line.

    Returns:
        The lines from the top.
    """
    text = "".join(character if character.isprintable() else " " for character in text)  # no font has the others
    if len(text) <= letters:
        return [text]
    return textwrap.wrap(text, letters, max_lines=_MAX_LINES, placeholder=_ELLIPSIS) or [""]


@lru_cache(maxsize=1000)
def text_width(text: str, points: float) -> float:
    """Return the width of a text in the default font.

    Args:
        text: The text, of one or more lines.
        points: The font size in points.

    Returns:
        The width of its longest line in inches, rounded up to a hundredth.
    """
    widths = [TextPath((0, 0), line, size=points).get_extents().width for line in text.split("\n") if line.strip()]
    return math.ceil(max(widths, default=0) / 72 * 100) / 100


def text_height(text: str, points: float) -> float:
    """Return the height of a text with the space between its lines, in inches; 0 for an empty text.

    Args:
        text: The text, of one or more lines.
        points: The font size in points.
    """
    return 1.4 * points / 72 * (text.count("\n") + 1) if text else 0.0
