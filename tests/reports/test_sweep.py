"""The table and the picture of a sweep."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pyro_mmvae.reports import draw_sweep
from pyro_mmvae.reports.sweep import _plot, plot_sweep, sweep_rows
from pyro_mmvae.run_files import RunFiles
from tests.reports.comparison_files import write_cell

DRAW = "one draw of the posterior, mean of the likelihood"
POINTS = {f"beta_{beta}": ("", {"model.beta": beta}) for beta in ("0.5", "1", "5")}
FIGURES = {  # coherence and conditional Fréchet distance; (0.5, 6) is dominated by (0.6, 5), and (0.4, 9) by all
    "wb": {"beta_0.5": (0.3, 2.0), "beta_1": (0.6, 5.0), "beta_5": (0.7, 8.0)},
    "poe": {"beta_0.5": (0.2, 2.0), "beta_1": (0.5, 6.0), "beta_5": (0.4, 9.0)},
}


def write(folder: Path, seeds: int = 2) -> list[Path]:
    paths = []
    for seed in range(seeds):
        for name, variants in FIGURES.items():
            for variant, (coherence, distance) in variants.items():
                shift = 0.02 * (-1) ** seed if seeds > 1 else 0.0
                means: dict[str, Any] = {
                    "coherence": {
                        "one draw of the joint component, mean of the likelihood": {"1": 0.99, "2": 0.99},
                        DRAW: {"1": coherence + shift, "2": 0.9},
                    },
                    "frechet_conditional": {f"given the class, {DRAW}": {"1": distance - shift, "2": 1.0}},
                }
                path = write_cell(folder / f"{name}-{variant}-seed{seed}", name, seed, means)
                file = RunFiles(path).evaluation_summary
                summary = {**json.loads(file.read_text()), "variant": variant, "variant_settings": []}
                file.write_text(json.dumps(summary), encoding="utf-8")
                paths.append(path)
    return paths


def test_sweep_rows_are_means_over_seeds_of_the_draws_that_both_figures_share(tmp_path: Path) -> None:
    rows = {(row["aggregation"], row["label"]): row for row in sweep_rows(write(tmp_path), POINTS)}
    assert len(rows) == 6
    row = rows["wb", "1"]
    assert (row["coherence"], row["frechet_conditional"]) == pytest.approx((0.6, 5.0))
    assert (row["coherence_se"], row["frechet_conditional_se"]) == pytest.approx((0.02, 0.02))
    assert (row["model.beta"], row["seeds"], row["line"], row["variant"]) == ("1", 2, "wb", "beta_1")
    assert {key for key, row in rows.items() if row["pareto"]} == {("wb", "0.5"), ("wb", "1"), ("wb", "5")}


def test_draw_sweep_writes_tables_and_picture(tmp_path: Path) -> None:
    files = draw_sweep(tmp_path, write(tmp_path), POINTS, "pyro-mmvae compare", formats=("svg",))
    assert [file.name for file in files] == ["sweep.csv", "sweep.md", "sweep.tex", "sweep.svg"]
    with files[0].open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["model.beta"] for row in table] == ["0.5", "1", "5"] * 2
    assert [row["pareto"] for row in table] == ["True"] * 3 + ["False"] * 3
    text = files[1].read_text(encoding="utf-8")
    assert "`pyro-mmvae compare`" in text
    assert "| wb | 1 | 0.600 ± 0.020 | 5.00 ± 0.02 | 2 | yes |" in text
    assert "| poe | 5 | 0.400 ± 0.020 | 9.00 ± 0.02 | 2 |  |" in text


def test_draw_sweep_writes_a_table_of_latex(tmp_path: Path) -> None:
    points = {name: (start, {"model.beta": values["model.beta"]}) for name, (start, values) in POINTS.items()}
    points["beta_5"] = ("", {"model.beta": "a_b & {c}"})
    draw_sweep(tmp_path, write(tmp_path), points)
    lines = (tmp_path / "sweep.tex").read_text(encoding="utf-8").splitlines()
    assert r"\begin{tabular}{llrrrl}" in lines
    assert (
        r" & model.beta & coherence $\uparrow$ & frechet\_conditional $\downarrow$ & seeds & Pareto front \\" in lines
    )
    assert r"wb & 1 & 0.600 $\pm$ 0.020 & 5.00 $\pm$ 0.02 & 2 & yes \\" in lines
    assert r"poe & a\_b \& \{c\} & 0.400 $\pm$ 0.020 & 9.00 $\pm$ 0.02 & 2 &  \\" in lines


def test_draw_sweep_one_seed_has_no_error_bars(tmp_path: Path) -> None:
    rows = sweep_rows(write(tmp_path, seeds=1), {**POINTS, "other": ("warm", {"model.beta": "9"})})
    (axis,) = _plot(rows).axes
    assert [text.get_text() for text in axis.texts] == ["0.5", "1", "5"] * 2
    assert axis.get_title() == "labels: model.beta"
    lines = {container.get_label(): container.lines[0] for container in axis.containers}
    assert list(lines["wb"].get_xdata()) == [2.0, 5.0, 8.0]  # type: ignore[attr-defined]
    assert list(lines["poe"].get_ydata()) == [0.2, 0.5, 0.4]  # type: ignore[attr-defined]


def test_draw_sweep_without_quality_is_refused(tmp_path: Path) -> None:
    path = write_cell(tmp_path / "run", "wb", 0, {"coherence": {DRAW: {"1": 0.5}}})
    with pytest.raises(ValueError, match="a sweep must have runs with coherence and frechet_conditional, which need"):
        draw_sweep(tmp_path, [path], POINTS)


def test_plot_sweep_reads_the_table_of_draw_sweep(tmp_path: Path) -> None:
    paths = write(tmp_path)
    draw_sweep(tmp_path, paths, POINTS)
    (axis,), (expected,) = plot_sweep(tmp_path).axes, _plot(sweep_rows(paths, POINTS)).axes
    assert axis.get_title() == expected.get_title()
    assert [text.get_text() for text in axis.texts] == [text.get_text() for text in expected.texts]
    for line, other in zip(axis.lines, expected.lines, strict=True):
        assert line.get_xydata().tolist() == other.get_xydata().tolist()  # type: ignore[attr-defined]


def test_plot_sweep_without_a_table_of_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'compare --sweep' writes it"):
        plot_sweep(tmp_path)
    (tmp_path / "sweep.csv").write_text("aggregation,coherence\nwb,0.5\n")
    with pytest.raises(ValueError, match=r"must have the columns of sweep.csv, got none of \['coherence_se'"):
        plot_sweep(tmp_path)
