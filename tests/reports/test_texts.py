"""Texts of pictures: line breaks, widths, and names with markup."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.reports.texts import CHARACTER, break_lines, cell_size, legend_label, text_width


@given(st.text("ab,* ", max_size=300), st.integers(4, 60))
def test_break_lines_keeps_all_words_or_ends_in_an_ellipsis(text: str, letters: int) -> None:
    lines = break_lines(text, letters)
    assert 1 <= len(lines) <= 14
    assert all(len(line) <= letters for line in lines)
    kept, letters_of_text = "".join("".join(lines).split()), "".join(text.split())
    if len(text) <= letters:
        assert lines == [text]
    elif kept.endswith("…"):
        assert len(lines) == 14
        assert letters_of_text.startswith(kept[:-1])
        assert len(kept) - 1 < len(letters_of_text)
    else:
        assert kept == letters_of_text


def test_break_lines_breaks_between_words_if_possible() -> None:
    assert break_lines("big lips, big nose, male, young", 12) == ["big lips,", "big nose,", "male, young"]
    assert break_lines("  seven ", 8) == ["  seven "]
    assert break_lines("a" * 9, 4) == ["aaaa", "aaaa", "a"]
    assert break_lines("", 5) == [""]
    assert break_lines(" " * 9, 5) == [""]


def test_cell_size_long_text_widens_the_cell() -> None:
    assert cell_size(["  seven "], 0.64) == (0.64, 10)
    assert cell_size([], 0.01) == (0.01, 1)
    for width in (0.56, 1.28, 2.56):
        cell, letters = cell_size(["", "a" * 256], width)
        assert cell >= max(width, 28 * CHARACTER[0])
        assert letters * CHARACTER[0] < cell  # two texts never touch
        assert len(break_lines("a" * 256, letters)) <= 10


def test_text_width_is_that_of_the_longest_line() -> None:
    assert text_width("a\nlonger", 7) == text_width("longer", 7) > 2 * text_width("a", 7)
    assert text_width(" \n", 7) == 0


def test_legend_label_long_names_are_broken_into_lines() -> None:
    assert legend_label("helper cell of kind 3", 12) == "helper cell\nof kind 3"
