"""Tables and pictures of a comparison, drawn from written evaluations."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pyro_mmvae.reports import draw_comparison
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
