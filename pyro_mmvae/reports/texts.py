"""Texts in a grid of pictures: how wide their cells are, where lines are broken, and the letters themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from matplotlib.figure import Figure

CHARACTER = (5, 10)
"""Screen pixels of a character and of a line of text."""

_LONG = 64  # characters from which on a text is long
_LETTERS = 28  # of a line of a long text, at least
_BETWEEN = 2  # letters between a long text and the one beside it
_MOST_LINES = 14
_ELLIPSIS = "…"


def cell_size(texts: Iterable[str], width: int) -> tuple[int, int]:
    """How wide the cells of a grid are: as its images are, and wider where a text is long.

    Args:
        texts: all of them.
        width: of the widest image, in screen pixels.

    Returns:
        Screen pixels of a cell, and letters that go into a line of it.
    """
    if max(map(len, texts), default=0) <= _LONG:
        return width, width // CHARACTER[0]
    letters = max(width // CHARACTER[0] - _BETWEEN, _LETTERS)
    return max(width, (letters + _BETWEEN) * CHARACTER[0]), letters


def break_lines(text: str, letters: int) -> list[str]:
    """Lines of a text: as it is if it goes into one, else broken between words, or within those that are too long.

    What is more than 14 lines ends in an ellipsis.

    Args:
        text: without its padding.
        letters: of a line.
    """
    if len(text) <= letters:
        return [text]
    return textwrap.wrap(text, letters, max_lines=_MOST_LINES, placeholder=_ELLIPSIS) or [""]


def write_lines(figure: Figure, lines: list[str], at: tuple[float, float]) -> None:
    """Write text as it is, letter under letter; nothing in it is a formula.

    Args:
        figure: of any size.
        lines: from the top.
        at: the upper left corner, in parts of the figure.
    """
    size = 72 * CHARACTER[0] / 0.602 / figure.dpi  # DejaVu Sans Mono is 0.602 of its size wide
    step = CHARACTER[1] / (figure.get_figheight() * figure.dpi)
    for number, line in enumerate(lines):
        figure.text(
            at[0], at[1] - (number + 0.2) * step, line, ha="left", va="top", fontsize=size,
            family="DejaVu Sans Mono", parse_math=False,
        )  # fmt: skip
