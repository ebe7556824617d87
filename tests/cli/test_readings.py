"""``pyro-mmvae evaluate --agg`` and ``pyro-mmvae compare --read-with`` from end to end, on toy data."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyro_mmvae.cli import main
from pyro_mmvae.runs.config import Config, dump_config
from pyro_mmvae.training import train

LABELS_ONLY = ["--likelihood-items", "0", "--khat-items", "0", "--no-quality", "--no-diagnostics", "--subsets", "4"]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_evaluate_agg_reads_a_run_without_changing_it(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    run = train(toy_config(train__epochs=1, model__aggregation="mwb"), elsewhere / "run", progress=False).path
    words = ["evaluate", str(run), "--quiet", "--device", "cpu", "--threads", "1", *LABELS_ONLY]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != "data.json"}
    result = CliRunner().invoke(main, [*words, "--agg", "moe", "--agg", "mwb", "--agg", "moe"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert all(file.read_bytes() == content for file, content in files.items())
    own = rows_of(run / "evaluation" / "metrics.csv")
    rows = rows_of(run / "evaluation" / "readings.csv")
    assert list(rows[0]) == ["aggregation", *own[0]]
    assert list(dict.fromkeys(row["aggregation"] for row in rows)) == ["moe", "mwb"]
    kept = [
        {key: value for key, value in row.items() if key != "aggregation"}
        for row in rows
        if row["aggregation"] == "mwb"
    ]
    figures = {"probe", "coherence"}
    assert [row for row in kept if row["metric"] in figures] == [row for row in own if row["metric"] in figures]
    assert not any("joint component" in row["protocol"] for row in rows if row["aggregation"] == "moe")
    assert (run / "evaluation" / "readings.md").read_text(encoding="utf-8").strip() in result.output
    assert "Trained with mwb, read with other aggregations" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--agg", "mwbb"], "the model cannot be read with 'mwbb': unknown aggregation 'mwbb'"),
        (["--agg", "wb", "--mask"], "--mask must be left out with --agg"),
    ],
)
def test_evaluate_agg_that_cannot_be_read_is_one_line(
    words: list[str], message: str, toy_config: Callable[..., Config], elsewhere: Path
) -> None:
    run = train(toy_config(train__epochs=0), elsewhere / "run", progress=False).path
    result = CliRunner().invoke(main, ["evaluate", str(run), "--quiet", *words])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert not (run / "evaluation" / "readings.csv").exists()


def test_compare_read_with_writes_the_matrix_once(toy_config: Callable[..., Config], elsewhere: Path) -> None:
    config = elsewhere / "toy.yaml"
    config.write_text(dump_config(toy_config(train__epochs=1)), encoding="utf-8")
    words = ["compare", "--agg", "wb,moe", "--seeds", "1", "--config", str(config), "--likelihood-items", "0"]
    words += ["--no-quality", "--out", "grid", "--quiet", "--read-with", "moe,wb,hellinger"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "wb-seed0 read with moe, wb, hellinger" in result.output
    matrix = rows_of(Path("grid/matrix.csv"))
    assert {(row["trained"], row["read"]) for row in matrix} == {
        (trained, read) for trained in ("wb", "moe") for read in ("moe", "wb", "hellinger")
    }
    # Read with its own aggregation, a run has the figures of the comparison.
    own = {
        (r["trained"], r["metric"], r["protocol"], r["views"]): r["mean"] for r in matrix if r["trained"] == r["read"]
    }
    comparison = {
        (r["aggregation"], r["metric"], r["protocol"], r["views"]): r["mean"]
        for r in rows_of(Path("grid/comparison.csv"))
        if r["metric"] in {"probe", "coherence"}
    }
    assert own == comparison
    assert Path("grid/matrix.png").stat().st_size > 0
    again = CliRunner().invoke(main, words, catch_exceptions=False)
    assert "read with" not in again.stderr
    assert "trained with. Columns: read with" in again.output
    more = CliRunner().invoke(main, [*words[:-1], "poe,madeup"])
    assert more.exit_code == 2
    assert "unknown aggregation 'madeup'" in more.stderr
