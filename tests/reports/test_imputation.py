"""The report on imputations, from the files of an evaluation."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from pyro_mmvae.reports import imputation_report, write_imputation
from pyro_mmvae.run_files import RunFiles

ROWS = [
    ("leave one out", "a_$x$", 1, "model", "nrmse", 0.51234, 0.0123, 40, 0),
    ("leave one out", "a_$x$", 1, "model", "coverage_90", 0.9, 0.0, 40, 0),
    ("leave one out", "a_$x$", 1, "mean", "nrmse", 1.01234, "nan", 40, 0),
    ("at random, rate 0.3", "text", 1, "model", "accuracy", 0.25, 0.2, 9, 0),
    ("at random, rate 0.3", "text", 1, "observed", "class_accuracy", 0.75, 0.02, 9, 0),
]


def write(path: Path) -> RunFiles:
    files = RunFiles(path)
    files.evaluation.mkdir(parents=True)
    with files.imputation_table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["pattern", "target", "views", "method", "metric", "value", "se", "n", "seed"])
        writer.writerows(ROWS)
    options = {
        "items": 500, "seed": 0, "draws": 50, "train_items": 2000, "neighbors": 10, "components": 100, "rounds": 10,
        "iterative_items": 1000,
    }  # fmt: skip
    used = {
        "test_items": 40, "train_items": 70, "iterative_items": 60, "features": {"a": 5}, "iterative_features": {"a": 4}
    }  # fmt: skip
    summary = {"imputation": {"options": options, "used": used}}
    files.evaluation_summary.write_text(json.dumps(summary), encoding="utf-8")
    return files


def test_imputation_report_has_a_table_per_modality_and_names_caps(tmp_path: Path) -> None:
    write(tmp_path)
    report = imputation_report(tmp_path)
    lines = [" ".join(line.split()) for line in report.splitlines()]
    assert "| held out | given | method | items | nrmse | coverage_90 |" in lines
    assert "| leave one out | 1 | model | 40 | 0.512 ± 0.012 | 0.9 ± 0 |" in lines
    assert "| leave one out | 1 | mean | 40 | 1.012 | |" in lines
    assert "| at random, rate 0.3 | 1 | observed | 9 | | 0.750 ± 0.020 |" in lines
    assert "fitted to 70 training items (at most 2000)" in report
    assert "at most 10 rounds, fitted to 60 training items (at most 1000), on a 4 features" in report


def test_write_imputation_writes_report_and_picture(tmp_path: Path) -> None:
    files = write(tmp_path)
    written = write_imputation(tmp_path)
    tables = [files.imputation_table, files.imputation_report, files.imputation_latex]
    assert written == [*tables, files.plots / "imputation.png"]
    assert all(file.stat().st_size for file in written)


def test_write_imputation_writes_a_table_of_latex_per_modality(tmp_path: Path) -> None:
    files = write(tmp_path)
    write_imputation(tmp_path)
    lines = files.imputation_latex.read_text(encoding="utf-8").splitlines()
    caption = r"\caption{Imputation of a\_\$x\$ where it was held out: value $\pm$ standard error over items}"
    assert caption in lines
    assert r"\begin{tabular}{lrlrrr}" in lines
    assert r"held out & given & method & items & nrmse & coverage\_90 \\" in lines
    assert r"leave one out & 1 & model & 40 & 0.512 $\pm$ 0.012 & 0.9 $\pm$ 0 \\" in lines
    assert lines.count(r"\begin{table}") == 2


def test_write_imputation_of_an_evaluation_without_it_writes_nothing(tmp_path: Path) -> None:
    files = write(tmp_path)
    files.evaluation_summary.write_text("{}", encoding="utf-8")
    assert write_imputation(tmp_path) == []
    assert not files.imputation_report.exists()
