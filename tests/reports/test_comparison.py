"""Tables and pictures of a comparison, drawn from written evaluations."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_mmvae.reports import comparison, draw_comparison
from pyro_mmvae.run_files import RunFiles


def write_cell(path: Path, aggregation: str, seed: int, means: dict[str, Any]) -> Path:
    """Write the files of an evaluated run that a comparison reads."""
    summary = {"aggregation": aggregation, "train_seed": seed, "means_by_views": means}
    summary |= {"options": {}, "classifier_accuracy": {}}
    files = RunFiles(path)
    files.evaluation_summary.parent.mkdir(parents=True)
    files.evaluation_summary.write_text(json.dumps(summary), encoding="utf-8")
    (path / "metrics.jsonl").write_text('{"epoch": 0, "seconds": 2.0}\n', encoding="utf-8")
    return path


def test_draw_comparison_marks_log_likelihoods_that_do_not_stand(tmp_path: Path) -> None:
    paths = []
    for name, shares in (("wb", (1.0, 0.5)), ("mwb", (1.0, 1.0))):
        for seed, share in enumerate(shares):
            means = {"log_likelihood": {"K": {"1": -10.0 - seed}}, "log_likelihood_stands": {"K": {"1": share}}}
            paths.append(write_cell(tmp_path / f"{name}-{seed}", name, seed, means))
    draw_comparison(tmp_path, paths)
    assert [float(row["stands"]) for row in rows_of(tmp_path, "log_likelihood")] == [0.75, 1.0]
    assert not rows_of(tmp_path, "log_likelihood_stands")
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| wb | ≥ -10.5 ± 0.5 |" in text
    assert "| mwb | -10.5 ± 0.5 |" in text
    assert "≥: estimates that do not stand" in text
    assert r"$\geq$ $-$10.5 $\pm$ 0.5" in (tmp_path / "comparison.tex").read_text(encoding="utf-8")


def rows_of(out: Path, metric: str) -> list[dict[str, str]]:
    with (out / "comparison.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] == metric]


def test_draw_comparison_states_errors_over_seeds_and_over_items(tmp_path: Path) -> None:
    paths = []
    for seed, value, error in ((0, -10.0, 56.0), (1, -14.0, 58.0)):
        means = {"log_likelihood": {"100 items": {"1": value}}, "log_likelihood_se": {"100 items": {"1": error}}}
        paths.append(write_cell(tmp_path / f"wb-{seed}", "wb", seed, means))
    draw_comparison(tmp_path, paths)
    (row,) = rows_of(tmp_path, "log_likelihood")
    assert (float(row["mean"]), float(row["se"]), float(row["se_items"])) == pytest.approx((-12.0, 2.0, 57.0))
    assert rows_of(tmp_path, "log_likelihood_se") == []
    table = (tmp_path / "comparison.md").read_text()
    assert "| wb | -12.0 ± 2.0 (± 57.0) |" in table
    assert "In brackets: standard error over the test items" in table


def test_draw_comparison_does_not_average_other_numbers_of_items(tmp_path: Path) -> None:
    paths = [
        write_cell(tmp_path / f"wb-{seed}", "wb", seed, {"log_likelihood": {f"{items} items": {"1": -items}}})
        for seed, items in ((0, 100), (1, 500))
    ]
    draw_comparison(tmp_path, paths)
    assert {row["protocol"]: float(row["mean"]) for row in rows_of(tmp_path, "log_likelihood")} == {
        "100 items": -100.0, "500 items": -500.0,
    }  # fmt: skip


def test_draw_comparison_of_variants_keeps_them_apart_and_states_their_settings(tmp_path: Path) -> None:
    paths = []
    for variant, words, value in (("plain", [], 0.5), ("warm", ["model.beta=2", "train.lr=1e-3"], 0.75)):
        path = write_cell(tmp_path / variant, "wb", 0, {"probe": {"joint": {"1": value}}})
        file = RunFiles(path).evaluation_summary
        summary = json.loads(file.read_text()) | {"variant": variant, "variant_settings": words}
        file.write_text(json.dumps(summary))
        paths.append(path)
    draw_comparison(tmp_path, paths)
    rows = {(row["aggregation"], row["variant"]): float(row["mean"]) for row in rows_of(tmp_path, "probe")}
    assert rows == {("wb", "plain"): 0.5, ("wb", "warm"): 0.75}
    table = (tmp_path / "comparison.md").read_text()
    assert "| wb, plain | 0.500 |\n| wb, warm | 0.750 |" in table
    assert "Variant plain: no further settings." in table
    assert "Variant warm: `model.beta=2 train.lr=1e-3`." in table


def test_draw_comparison_writes_tables_for_latex(tmp_path: Path) -> None:
    means = {"probe": {"100 % of items": {"1": 0.5, "2": 0.75}}, "log_likelihood": {"K_64": {"2": -1.5}}}
    path = write_cell(tmp_path / "a", "renyi_{0.5}", 0, means)
    other = write_cell(tmp_path / "b", "wb", 0, {"probe": means["probe"]})
    files = draw_comparison(tmp_path, [path, other])
    assert [file.name for file in files] == [f"comparison.{suffix}" for suffix in ("csv", "md", "tex", "png")]
    text = (tmp_path / "comparison.tex").read_text()
    assert r"\caption{probe (100 \% of items)}" in text
    assert r"renyi\_\{0.5\} & 0.500 & 0.750 \\" in text
    assert r"renyi\_\{0.5\} & $-$1.5 \\" in text
    assert "wb &  " in text  # it has no log likelihood
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3


def test_draw_comparison_without_plotted_metrics_plots_the_others(tmp_path: Path) -> None:
    path = write_cell(tmp_path / "a", "wb", 0, {"mse": {"draws": {"1": 0.5}}})
    assert draw_comparison(tmp_path, [path])[-1].stat().st_size > 3000


def test_plot_panel_lines_have_different_styles_and_labels_beside_them(tmp_path: Path) -> None:
    names = ["poe", "moe", "$w_b$", "mwb", "_e", "f", "g", "h"]
    rows = [
        {"aggregation": name, "views": views, "mean": 0.001 * i + views, "se": 0.1}
        for i, name in enumerate(names) for views in (1, 2)
    ]  # fmt: skip
    axis = Figure().subplots()
    comparison._plot_panel(axis, rows, names)
    styles = {(c[0].get_color(), c[0].get_marker(), c[0].get_linestyle()) for c in axis.containers}
    assert len(styles) == len(names)
    heights = {text.get_text(): float(text.get_position()[1]) for text in axis.texts}
    assert list(heights) == names
    assert np.diff(list(heights.values())).min() > 0.05  # none covers another one


@pytest.mark.parametrize("heights", [[], [0.5], [0.5, 0.5, 0.51], [0.9, 0.1, 0.12, 0.13, 0.17]])
def test_spread_keeps_order_and_distance(heights: list[float]) -> None:
    placed = comparison._spread(dict(enumerate(heights)))
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    assert all(placed[b] - placed[a] >= comparison._LABEL_STEP - 1e-9 for a, b in zip(order, order[1:], strict=False))
    assert sum(placed.values()) == pytest.approx(sum(heights))
