"""Panels, shared legends, and labels beside lines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyro_mmvae.reports.panels import (
    fit_width,
    label_line_ends,
    make_panels,
    panel_columns,
    run_path,
    set_title,
    shared_legend,
    spread,
)


@pytest.mark.parametrize(
    ("count", "most", "columns"), [(1, 4, 1), (4, 4, 4), (5, 4, 3), (6, 4, 3), (7, 4, 4), (8, 4, 4), (3, 1, 1)]
)
def test_panel_columns_leaves_the_fewest_empty_places(count: int, most: int, columns: int) -> None:
    assert panel_columns(count, most) == columns


def test_make_panels_has_no_axes_in_empty_places() -> None:
    figure, axes = make_panels(5, (2.0, 1.5))
    assert len(axes) == len(figure.axes) == 5
    assert tuple(figure.get_size_inches()) == (6.0, 3.0)


def test_shared_legend_has_one_entry_per_label() -> None:
    figure, axes = make_panels(2, (2.0, 2.0))
    for axis, labels in zip(axes, (("a", "b"), ("b", "c")), strict=True):
        for label in labels:
            axis.plot([0, 1], label=label)
    shared_legend(figure, axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_label_line_ends_labels_do_not_cover_one_another() -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1])
    label_line_ends(axis, {f"line {n}": (1.0, 0.5 + 0.001 * n, "black") for n in range(8)})
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # without the lines that lead to them
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
    assert all(box.x0 > axis.get_window_extent().x1 and box.x1 <= figure.bbox.x1 for box in boxes)


@pytest.mark.parametrize("heights", [[], [0.5], [0.5, 0.5, 0.51], [0.9, 0.1, 0.12, 0.13, 0.17], [1.0, 1.0, 0.99, 0.0]])
def test_spread_keeps_order_and_distance_within_the_panel(heights: list[float]) -> None:
    named = {str(number): height for number, height in enumerate(heights)}
    placed = spread(named, 0.055)
    order = sorted(named, key=lambda name: named[name])
    assert all(placed[b] - placed[a] >= 0.055 - 1e-9 for a, b in zip(order, order[1:], strict=False))
    assert all(0 <= height <= 1 for height in placed.values())
    assert sum(placed.values()) == pytest.approx(sum(heights), abs=0.17)


def test_run_path_takes_paths_and_runs() -> None:
    assert run_path("a") == run_path(Path("a")) == run_path(SimpleNamespace(path=Path("a"))) == Path("a")


def test_fit_width_arranges_panels_in_fewer_columns_of_equal_height() -> None:
    figure, axes = make_panels(6, (2.8, 2.0))
    axes[0].plot([0, 1], label="a")
    shared_legend(figure, axes)
    assert tuple(figure.get_size_inches()) == pytest.approx((8.4, 4.0))
    set_title(figure, "mean over five seeds; bars: standard errors over seeds " * 2)
    assert fit_width(figure, "single") is figure
    width, height = figure.get_size_inches()
    lines = figure.get_suptitle().splitlines()
    assert width == 3.5
    assert height == pytest.approx(6 * 2.0 + 0.17 * len(lines))
    assert max(map(len, lines)) <= 42
    figure.draw_without_rendering()
    places = [axis.get_window_extent() for axis in figure.axes]
    assert len({round(place.x0) for place in places}) == 1
    assert [place.y0 for place in places] == sorted((place.y0 for place in places), reverse=True)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a"]


def test_fit_width_of_one_panel_keeps_the_letters(tmp_path: Path) -> None:
    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.set_title("title", fontsize=9)
    fit_width(figure, 2.5)
    assert tuple(figure.get_size_inches()) == pytest.approx((2.5, 3.2))
    assert axis.title.get_fontsize() == 9


@pytest.mark.parametrize("width", ["triple", 0, -1.0, float("nan"), float("inf")])
def test_fit_width_bad_width_is_refused(width: float | str) -> None:
    figure, _ = make_panels(1, (2.0, 2.0))
    with pytest.raises(ValueError, match="width must be 'single', 'double' or a positive number of inches"):
        fit_width(figure, width)


def test_fit_width_of_a_table_of_panels_is_refused() -> None:
    table = Figure(layout="constrained")
    table.subplots(2, 2)
    for figure in (table, Figure()):
        with pytest.raises(ValueError, match="got a table or a grid"):
            fit_width(figure)
