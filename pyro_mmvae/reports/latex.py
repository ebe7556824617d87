"""Tables in LaTeX for the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

_SIGNS = {"±": r"$\pm$", "≥": r"$\geq$", "-": "$-$", "+": "$+$", "*": "$^{*}$"}
_SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$",
    ">": "$>$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}  # fmt: skip


def latex_table(table: pd.DataFrame, caption: str, words: Sequence[str] = ("",)) -> str:
    """Return a table as a LaTeX ``table`` with a caption.

    Args:
        table: The table, whose cells are texts and whose index is left out.
        caption: The caption, as plain text.
        words: The names of the columns that hold words, aligned to the left; all others hold figures. By default the
            column without a name.
    """
    escaped = pd.DataFrame({name: column.map(_word if name in words else _figure) for name, column in table.items()})
    latex: str = escaped.rename(columns=_word).to_latex(
        index=False, escape=False, caption=_word(caption),
        column_format="".join("l" if name in words else "r" for name in table.columns),
    )  # fmt: skip
    return latex


def _word(text: str) -> str:
    """Return a text with the special characters of LaTeX escaped."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _figure(text: str) -> str:
    """Return a figure with its signs in the mathematical mode of LaTeX."""
    return "".join(_SIGNS.get(letter, letter) for letter in text)
