"""``pyro-mmvae evaluate`` and ``compare`` from end to end, on the toy data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyro_mmvae import reports
from pyro_mmvae.cli import main
from pyro_mmvae.config import Config, dump_config
from pyro_mmvae.training import train

COLUMNS = ["metric", "protocol", "given", "target", "views", "value", "n", "seed"]


@pytest.fixture
def config(toy_config: Callable[..., Config], elsewhere: Path) -> Path:
    path = elsewhere / "toy.yaml"
    path.write_text(dump_config(toy_config(train__epochs=1)), encoding="utf-8")
    return path


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "evaluation" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_evaluate_writes_a_tidy_table(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    run = train(toy_config(train__epochs=1, model__aggregation="mwb"), elsewhere / "run", progress=False).path
    words = ["evaluate", str(run), "--quiet", "--device", "cpu", "--threads", "1", "--samples", "4", "--seed", "3"]
    result = CliRunner().invoke(main, [*words, "--likelihood-items", "8"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = rows_of(run)
    assert list(rows[0]) == COLUMNS
    probes = [row for row in rows if row["metric"] == "probe" and row["protocol"].startswith("per-subset")]
    assert [row["given"] for row in probes] == ["m0", "m1", "m2", "m0+m1", "m0+m2", "m1+m2", "m0+m1+m2"]
    assert {row["seed"] for row in rows} == {"3"}
    coherence = {(row["given"], row["target"]) for row in rows if row["metric"] == "coherence"}
    assert ("m0+m2", "m1") in coherence
    assert not any(target in given.split("+") for given, target in coherence)
    assert [row["given"] for row in rows if row["metric"] == "joint_coherence"] == [""]
    assert {row["given"] for row in rows if row["metric"] == "log_likelihood"} == {"m0", "m1", "m2", "m0+m1+m2"}
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    one = [float(row["value"]) for row in probes if row["views"] == "1"]
    protocol = probes[0]["protocol"]
    assert summary["means_by_views"]["probe"][protocol]["1"] == pytest.approx(sum(one) / 3)
    assert set(summary["classifier_accuracy"]) == {"m0", "m1", "m2"}
    assert "coherence" in result.output
    assert (run / "plots" / "views.png").exists()
    assert (run / "plots" / "latent.png").exists()


def test_compare_resumes_and_never_repeats(config: Path, elsewhere: Path) -> None:
    words = ["compare", "--agg", "wb,poe", "--seeds", "2", "--config", str(config), "--likelihood-items", "0"]
    words += ["--out", str(elsewhere / "grid"), "--quiet"]
    first = CliRunner().invoke(main, words, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    cells = sorted(path.parent.parent for path in (elsewhere / "grid").glob("*/evaluation/summary.json"))
    assert [cell.name for cell in cells] == ["poe-seed0", "poe-seed1", "wb-seed0", "wb-seed1"]
    stamps = {cell: (cell / "best.safetensors").stat().st_mtime_ns for cell in cells}
    (cells[0] / "evaluation" / "summary.json").unlink()
    again = CliRunner().invoke(main, words, catch_exceptions=False)
    assert "4 cells, 3 finished already" in again.output
    assert {cell: (cell / "best.safetensors").stat().st_mtime_ns for cell in cells} == stamps
    with (elsewhere / "grid" / "comparison.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    row = next(r for r in table if (r["aggregation"], r["metric"]) == ("wb", "joint_coherence"))
    values = []
    for seed in (0, 1):
        found = rows_of(elsewhere / "grid" / f"wb-seed{seed}")
        values += [float(r["value"]) for r in found if r["metric"] == "joint_coherence"]
    assert float(row["mean"]) == pytest.approx(sum(values) / 2)
    assert float(row["se"]) == pytest.approx(abs(values[0] - values[1]) / 2)
    assert row["seeds"] == "2"
    assert "± " in (elsewhere / "grid" / "comparison.md").read_text()
    assert (elsewhere / "grid" / "comparison.png").exists()


def test_compare_refuses_other_settings_in_the_same_folder(config: Path, elsewhere: Path) -> None:
    words = ["compare", "--agg", "wb", "--seeds", "1", "--config", str(config), "--out", str(elsewhere / "grid")]
    words += ["--likelihood-items", "0", "--quiet"]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    result = CliRunner().invoke(main, [*words, "--set", "train.lr=1e-4"])
    assert result.exit_code == 2
    assert "wb-seed0 was made with other settings" in result.output


def test_nothing_evaluated_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was evaluated yet"):
        reports.draw_comparison(tmp_path, [tmp_path / "missing"])
