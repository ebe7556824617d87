"""Styles of lines and classes."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from pyro_mmvae.reports.styles import OKABE_ITO, STYLE, class_style, line_style, row_styles, styled
from pyro_mmvae.reports.texts import legend_label


@pytest.mark.parametrize("classes", [1, 7, 14, 56, 57, 200])
def test_class_style_differs_between_classes(classes: int) -> None:
    styles = [class_style(number, classes) for number in range(classes)]
    assert len({(style["color"], style["marker"]) for style in styles}) == classes


def test_class_style_few_classes_differ_in_colour_alone() -> None:
    styles = [class_style(number, 7) for number in range(7)]
    assert {style["marker"] for style in styles} == {"o"}
    assert {style["color"] for style in styles} == set(OKABE_ITO)


def test_row_styles_give_an_aggregation_one_colour_and_a_variant_one_line() -> None:
    rows = [(name, variant) for name in ("poe", "wb", "mwb") for variant in ("plain", "warm")]
    styles = row_styles(rows)
    for part, key in ((0, "color"), (1, "linestyle")):
        pairs = {(row[part], style[key]) for row, style in zip(rows, styles, strict=True)}
        assert len(pairs) == len({row[part] for row in rows}) == len({style[key] for style in styles})
    assert len({style["marker"] for style in styles}) == len(rows)
    alone = [line_style(number) for number in range(3)]
    assert row_styles([("poe", ""), ("wb", ""), ("mwb", "")]) == alone
    assert row_styles([("wb", "a"), ("wb", "b"), ("wb", "c")]) == alone
    many = [(f"renyi:{order}", variant) for order in range(8) for variant in "ab"]
    assert len({tuple(style.values()) for style in row_styles(many)}) == len(many)


def test_line_style_repeats_after_280_lines() -> None:
    styles = [tuple(line_style(number).values()) for number in range(281)]
    assert len(set(styles[:280])) == 280
    assert styles[280] == styles[0]


@pytest.mark.parametrize("name", ["$", "$_{$", "a $x_{1}$ b", "_hidden", r"$\frac$"])
def test_styled_draws_names_with_markup_as_they_are(name: str, tmp_path: Path) -> None:
    @styled
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


def test_styled_restores_the_style_of_the_caller() -> None:
    before = dict(matplotlib.rcParams)
    assert styled(lambda: matplotlib.rcParams["axes.titlesize"])() == STYLE["axes.titlesize"]
    assert dict(matplotlib.rcParams) == before
