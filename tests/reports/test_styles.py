"""Styles of lines and classes."""

from __future__ import annotations

import pytest

from pyro_mmvae.reports.styles import OKABE_ITO, class_style, line_style


@pytest.mark.parametrize("classes", [1, 7, 14, 56, 57, 200])
def test_class_style_differs_between_classes(classes: int) -> None:
    styles = [class_style(number, classes) for number in range(classes)]
    assert len({(style["color"], style["marker"]) for style in styles}) == classes


def test_class_style_few_classes_differ_in_colour_alone() -> None:
    styles = [class_style(number, 7) for number in range(7)]
    assert {style["marker"] for style in styles} == {"o"}
    assert {style["color"] for style in styles} == set(OKABE_ITO)


def test_line_style_repeats_after_280_lines() -> None:
    styles = [tuple(line_style(number).values()) for number in range(281)]
    assert len(set(styles[:280])) == 280
    assert styles[280] == styles[0]
