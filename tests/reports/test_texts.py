"""Texts in a grid of pictures: short ones in one line, long ones broken between words, cuts marked by an ellipsis."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pyro_mmvae.reports import image_grid
from pyro_mmvae.reports.texts import CHARACTER, break_lines, cell_size, legend_label, plain_text

PAD, MARGIN = 2, 92


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
    assert cell_size(["  seven "], 64) == (64, 12)
    assert cell_size(["a" * 64], 96) == (96, 19)
    assert cell_size([], 56) == (56, 11)
    for width in (56, 128, 256):
        cell, letters = cell_size(["", "a" * 256], width)
        assert cell >= max(width, 28 * CHARACTER[0])
        assert letters * CHARACTER[0] < cell  # two texts never touch
        assert len(break_lines("a" * 256, letters)) <= 10


def test_image_grid_long_texts_stand_under_their_images_without_touching(tmp_path: Path) -> None:
    images = np.full((3, 1, 64, 64), 200, dtype=np.uint8)
    texts = np.array(["w" * 256, "bald", "x" * 2000])
    file = image_grid([("image", images), ("text", texts)], tmp_path / "grid.png")
    drawn = (matplotlib.image.imread(file)[..., :3] * 255).round().astype(np.uint8)
    cell, letters = cell_size(texts, 128)
    lines = [break_lines(text, letters) for text in texts]
    assert [len(one) for one in lines] == [10, 1, 14]
    assert lines[2][-1].endswith("…")
    assert drawn.shape[:2] == (6 + 128 + PAD + 14 * 10 + 4 + PAD + 6, MARGIN + 3 * (cell + PAD) + 6)
    for column in range(3):
        left = MARGIN + column * (cell + PAD)
        assert (drawn[6 : 6 + 128, left : left + 128] == 200).all()
        ink = (drawn[6 + 128 + PAD :, left : left + cell + PAD] < 128).any(-1)
        assert not ink[:, letters * CHARACTER[0] + 2 :].any()
        assert int((np.diff(ink.any(1).astype(int)) == 1).sum()) == len(lines[column])


@pytest.mark.parametrize("name", ["$", "$_{$", "a $x_{1}$ b", "_hidden", r"$\frac$"])
def test_plain_text_draws_names_with_markup_as_they_are(name: str, tmp_path: Path) -> None:
    @plain_text
    def draw() -> list[str]:
        figure = Figure()
        axis = figure.subplots()
        axis.plot([0, 1], label=legend_label(name))
        axis.set_title(name)
        legend = axis.legend()
        figure.savefig(tmp_path / "names.png")
        assert not axis.title.get_parse_math()
        return [text.get_text() for text in legend.get_texts()]

    assert [text.lstrip("\u200b") for text in draw()] == [name]
