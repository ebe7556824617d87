"""The layout of texts in a grid of pictures: the width of cells, line breaks, and the letters themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import matplotlib
from matplotlib.figure import Figure

CHARACTER = (5, 10)
"""The width of a character and the height of a line of text, in screen pixels."""

_LONG = 64  # the number of characters above which a text counts as long
_MIN_LETTERS = 28  # the smallest number of letters in a line of a long text
_LETTERS_BETWEEN = 2  # the number of letters that fit between two long texts
_MAX_LINES = 14
_ELLIPSIS = "…"


plain_text = matplotlib.rc_context({"text.parse_math": False})
"""A decorator of functions that draw: names with ``$`` in them are shown as they are, not as formulas."""


def legend_label(name: str) -> str:
    """Return a label that matplotlib shows in a legend, even if it begins with an underscore.

    Args:
        name: The name to show, such as that of a modality.
    """
    return f"\u200b{name}" if name.startswith("_") else name  # a space of no width


def cell_size(texts: Iterable[str], width: int) -> tuple[int, int]:
    """Return the width of the cells of a grid: that of its images, or more if a text is long.

    Args:
        texts: All texts of the grid.
        width: The width of the widest image in screen pixels.

    Returns:
        The width of a cell in screen pixels, and the number of letters that fit into a line of it.
    """
    if max(map(len, texts), default=0) <= _LONG:
        return width, width // CHARACTER[0]
    letters = max(width // CHARACTER[0] - _LETTERS_BETWEEN, _MIN_LETTERS)
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
    if len(text) <= letters:
        return [text]
    return textwrap.wrap(text, letters, max_lines=_MAX_LINES, placeholder=_ELLIPSIS) or [""]


def write_lines(figure: Figure, lines: list[str], at: tuple[float, float]) -> None:
    """Write text letter by letter in a fixed-width font, without interpreting any of it as a formula.

    Args:
        figure: The figure to write into, of any size.
        lines: The lines from the top.
        at: The upper left corner, as fractions of the width and height of the figure.
    """
    size = 72 * CHARACTER[0] / 0.602 / figure.dpi  # a letter of DejaVu Sans Mono is 0.602 of the font size wide
    step = CHARACTER[1] / (figure.get_figheight() * figure.dpi)
    for number, line in enumerate(lines):
        figure.text(
            at[0], at[1] - (number + 0.2) * step, line, ha="left", va="top", fontsize=size,
            family="DejaVu Sans Mono", parse_math=False,
        )  # fmt: skip
