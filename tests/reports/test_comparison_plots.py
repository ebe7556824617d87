"""Plots of a comparison."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from pyro_mmvae.plots import plot_comparison, plot_differences
from tests.reports.comparison_files import write_cell


def compare(folder: Path, names: list[str], seeds: int = 2, **means: Any) -> Path:
    """Write a comparison whose probe rises by 0.01 per row and varies by ± 0.1 over two seeds."""
    for number, name in enumerate(names):
        for seed in range(seeds):
            value = 0.5 + 0.01 * number + 0.1 * (-1) ** seed
            probe = {"joint": {"1": value, "2": value + 0.1}}
            metrics = {"probe": probe, "joint_coherence": {"prior": {"0": value}}, "mse": {"m": {"1": 7.0}}}
            write_cell(folder / f"{number:02}-{seed}", name, seed, metrics | means)
    return folder


def titles(axes: list[Axes]) -> list[str]:
    return [axis.get_title() for axis in axes]


def test_plot_comparison_draws_means_with_errors_over_seeds(tmp_path: Path) -> None:
    figure = plot_comparison(compare(tmp_path, ["poe", "$w_b$", "_e"]))
    lines, dots = figure.axes
    assert titles([lines, dots]) == ["probe\njoint", "joint coherence\nprior"]
    assert figure.get_suptitle() == "mean over 2 seeds; bars: ± standard error over seeds"
    assert (lines.get_xlabel(), lines.get_ylabel()) == ("modalities given", "accuracy of a linear probe")
    assert len(lines.containers) == len(dots.containers) == 3
    ends = {text.get_text(): text.xy[1] for text in lines.texts}  # type: ignore[attr-defined]
    assert ends == pytest.approx({"poe": 0.6, "$w_b$": 0.61, "_e": 0.62})
    (bar,) = lines.containers[0][2]
    assert bar.get_segments()[0][:, 1] == pytest.approx([0.4, 0.6])
    # One value per row: dots in a line per name, the first on top.
    assert [label.get_text() for label in dots.get_yticklabels()] == ["poe", "$w_b$", "_e"]
    assert [container[0].get_xdata()[0] for container in dots.containers] == pytest.approx([0.5, 0.51, 0.52])
    assert dots.yaxis_inverted()
    assert not figure.legends


def test_plot_comparison_gives_a_row_its_style_in_any_order_of_runs(tmp_path: Path) -> None:
    folder = compare(tmp_path, ["wb", "mopoe", "wb, warm"], seeds=1)
    runs = sorted(folder.iterdir())

    def styles(paths: list[Path]) -> dict[str, tuple[Any, ...]]:
        (axis,) = plot_comparison(paths, metric="probe").axes
        lines = {c.get_label(): c[0] for c in axis.containers}
        return {name: (c.get_color(), c.get_marker(), c.get_linestyle()) for name, c in lines.items()}

    assert styles(runs) == styles(runs[::-1])


def test_plot_comparison_names_rows_for_which_a_metric_is_not_defined(tmp_path: Path) -> None:
    compare(tmp_path, ["wb", "moe", "pairs"])
    for number, name in ((7, "wb"), (8, "mwb")):
        write_cell(tmp_path / f"{number:02}-5", name, 5, {"coherence": {"joint": {"1": 0.5, "2": 0.6}}})
    axes = plot_comparison(tmp_path).axes
    labels = {axis.get_title(): axis.get_xlabel() for axis in axes}
    assert labels["coherence\njoint"] == "modalities given\n(none of moe, pairs)"
    assert labels["probe\njoint"] == "modalities given\n(none of mwb)"


def test_plot_comparison_draws_bounds_that_do_not_stand_hollow(tmp_path: Path) -> None:
    means = {
        "log_likelihood": {"K": {"1": -9.0, "2": -8.0}}, "log_likelihood_stands": {"K": {"1": 1.0, "2": 0.5}},
    }  # fmt: skip
    (axis,) = plot_comparison(compare(tmp_path, ["wb", "moe"], **means), metric="log_likelihood").axes
    hollow = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_ydata()) for line in hollow] == [[-8.0], [-8.0]]
    assert axis.get_ylabel() == "nats per item\n(hollow: bounds)"


def test_plot_comparison_lines_have_different_styles_and_many_have_a_legend(tmp_path: Path) -> None:
    names = [f"row {number}" for number in range(9)]
    figure = plot_comparison(compare(tmp_path, names, seeds=1), metric="probe")
    (axis,) = figure.axes
    styles = {(c[0].get_color(), c[0].get_marker(), c[0].get_linestyle()) for c in axis.containers}
    assert len(styles) == 9
    assert not axis.texts
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert "one seed per row" in figure.get_suptitle()


def test_plot_comparison_texts_do_not_cover_one_another_or_the_edge(tmp_path: Path) -> None:
    figure = plot_comparison(compare(tmp_path, ["poe", "moe", "mopoe", "wb", "mwb", "renyi:0.5, warm"]))
    figure.draw_without_rendering()
    labels = [Text.get_window_extent(text) for axis in figure.axes for text in (*axis.texts, axis.title)]
    assert not any(a.overlaps(b) for n, a in enumerate(labels) for b in labels[:n])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in labels)


def test_plot_comparison_of_named_runs_makes_one_row_of_each_name(tmp_path: Path) -> None:
    compare(tmp_path, ["wb", "wb"])
    runs = {"β = 1": [tmp_path / "00-0", tmp_path / "00-1"], "β = 2": [SimpleNamespace(path=tmp_path / "01-0")]}
    figure = plot_comparison(runs, metric="joint_coherence")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["β = 1", "β = 2"]
    assert figure.get_suptitle().startswith("mean over 1 to 2 seeds")
    with pytest.raises(ValueError, match="runs must differ in aggregation, variant or seed"):
        plot_comparison(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "fid"}, "metric must be one of probe, joint_coherence, mse, train_seconds, got 'fid'"),
        ({"metric": "probe", "protocol": "x"}, "protocol must be one of 'joint', got 'x'"),
    ],
)
def test_plot_comparison_unknown_metric_or_protocol_lists_those_there_are(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plot_comparison(compare(tmp_path, ["wb"]), **options)  # type: ignore[arg-type]


def test_plot_comparison_of_runs_that_were_not_evaluated_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run must have an evaluation"):
        plot_comparison(tmp_path)


def test_plot_comparison_without_usual_metrics_plots_the_others(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", "wb", 0, {"mse": {"draws": {"1": 0.5}}})
    assert titles(plot_comparison(tmp_path).axes) == ["mse, given 1\ndraws", "train seconds"]


def test_plot_differences_fills_the_markers_of_significant_ones(tmp_path: Path) -> None:
    for seed, noise in enumerate((0.0, 0.001, -0.001)):
        base = {"probe": {"joint": {"1": 0.5, "2": 0.5}}}
        above = {"probe": {"joint": {"1": 0.75 + noise, "2": 0.5 + noise}}}
        write_cell(tmp_path / f"a{seed}", "a", seed, base)
        write_cell(tmp_path / f"b{seed}", "b", seed, above)
    figure = plot_differences(tmp_path, "a")
    (axis,) = figure.axes
    first, second = axis.containers
    assert [one[0].get_xdata()[0] for one in (first, second)] == pytest.approx([0.25, 0.0])
    assert [one[0].get_markerfacecolor() == "white" for one in (first, second)] == [False, True]
    half = 4.302653 * 0.001 / 3**0.5  # the 97.5 % quantile of Student's t with 2 degrees of freedom
    assert first[2][0].get_segments()[0][:, 0] == pytest.approx([0.25 - half, 0.25 + half])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["1", "2"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["b"]
    caption = " ".join(figure.get_suptitle().split())
    assert caption.startswith("row minus a, mean over 3 pairs of seeds; bars: 95 % t intervals, not corrected; filled")


def test_plot_differences_of_one_seed_says_that_there_are_no_intervals(tmp_path: Path) -> None:
    figure = plot_differences(compare(tmp_path, ["a", "b"], seeds=1), "a", metric="probe")
    assert "one seed: there are neither intervals nor tests" in " ".join(figure.get_suptitle().split())
    assert all(container[0].get_markerfacecolor() == "white" for container in figure.axes[0].containers)


def test_plot_differences_without_other_rows_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must include a seed of a and of another row"):
        plot_differences(compare(tmp_path, ["a"]), "a")
