"""Tables of readings and the train × test matrix, drawn from written readings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_mmvae.reports import draw_matrix, readings, readings_report, write_readings_report
from pyro_mmvae.reports.readings import plot_matrix
from pyro_mmvae.run_files import RunFiles

PROBE, COHERENCE = "per-subset, 10 points", "one draw of the posterior"


def write_cell(path: Path, trained: str, figures: dict[str, dict[str, float]], variant: str = "") -> Path:
    """Write the readings of a run: by aggregation, its coherence by number of modalities given, and a probe."""
    found = {
        read: {"means_by_views": {"coherence": {COHERENCE: means}, "probe": {PROBE: {"1": 0.5, "2": 1.0}}}}
        for read, means in figures.items()
    }
    summary = {"aggregation": trained, "variant": variant, "train_seed": 0, "options": {"seed": 0}, "readings": found}
    files = RunFiles(path)
    files.evaluation.mkdir(parents=True)
    files.readings_summary.write_text(json.dumps(summary), encoding="utf-8")
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [
        write_cell(tmp_path / "wb-seed0", "wb", {"wb": {"1": 0.25, "2": 0.5}, "moe": {"1": 0.5}}),
        write_cell(tmp_path / "wb-seed1", "wb", {"wb": {"1": 0.75, "2": 0.5}, "moe": {"1": 0.25}}),
        write_cell(tmp_path / "moe-seed0", "moe", {"wb": {"1": 0.125, "2": 0.5}}),
        tmp_path / "unread",
    ]


def test_draw_matrix_has_means_and_errors_by_trained_and_read(paths: list[Path], tmp_path: Path) -> None:
    files = draw_matrix(tmp_path, paths, "pyro-mmvae compare")
    assert [file.name for file in files] == ["matrix.csv", "matrix.md", "matrix.tex", "matrix.png"]
    assert all(file.stat().st_size for file in files)
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(r["trained"], r["read"], r["views"]): r for r in rows if r["metric"] == "coherence"}
    assert set(found) == {
        ("wb", "wb", "1"), ("wb", "wb", "2"), ("wb", "moe", "1"), ("moe", "wb", "1"), ("moe", "wb", "2"),
    }  # fmt: skip
    assert float(found["wb", "wb", "1"]["mean"]) == 0.5
    assert float(found["wb", "wb", "1"]["se"]) == pytest.approx(0.25)
    assert (found["moe", "wb", "1"]["se"], found["moe", "wb", "1"]["seeds"]) == ("nan", "1")
    text = files[1].read_text(encoding="utf-8")
    section = text.split(f"**coherence ({COHERENCE}), 1 given**")[1].split("**")[0].strip().splitlines()
    assert section == [
        "| | wb | moe |",
        "|---|---|---|",
        "| wb | 0.500 ± 0.250 | 0.375 ± 0.125 |",
        "| moe | 0.125 |  |",
    ]
    assert "**probe (mean, per-subset, 10 points), 2 given**" in text
    assert "`pyro-mmvae compare`" in text
    assert r"0.500 $\pm$ 0.250" in files[2].read_text(encoding="utf-8")


def test_draw_matrix_draws_a_heat_map_per_metric_and_number_of_modalities(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(readings, "save_pictures", lambda figure, *_: drawn.append(figure) or [])
    draw_matrix(tmp_path, paths)
    images = [axis for axis in drawn[0].axes if axis.images]
    titles = [axis.get_title().replace("\n", " ") for axis in images]
    assert titles == [
        "probe (mean, per-subset, 10 points), 1 given", "probe (mean, per-subset, 10 points), 2 given",
        f"coherence ({COHERENCE}), 1 given", f"coherence ({COHERENCE}), 2 given",
    ]  # fmt: skip
    values = np.asarray(images[2].images[0].get_array())
    np.testing.assert_allclose(values, [[0.5, 0.375], [0.125, np.nan]])
    cells = {text.get_text(): text.get_fontweight() for text in images[2].texts}
    assert cells == {"0.500": "bold", "0.375": "normal", "0.125": "normal"}


def test_draw_matrix_variants_have_rows_of_their_own(tmp_path: Path) -> None:
    cells = [
        write_cell(tmp_path / name, "wb", {"wb": {"1": value}}, name)
        for name, value in (("plain", 0.25), ("warm", 0.5))
    ]
    draw_matrix(tmp_path, cells)
    assert "| wb, warm | 0.500 |" in (tmp_path / "matrix.md").read_text(encoding="utf-8")


def test_draw_matrix_without_readings_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run must have readings, got none"):
        draw_matrix(tmp_path, [tmp_path / "missing"])


def test_readings_report_marks_log_likelihoods_that_do_not_stand(tmp_path: Path) -> None:
    path = write_cell(tmp_path / "run", "wb", {"wb": {"1": 0.5}, "moe": {"1": 0.5}})
    summary = json.loads(RunFiles(path).readings_summary.read_text(encoding="utf-8"))
    for name, share in (("wb", 1.0), ("moe", 0.5)):
        bounds = {"log_likelihood": {"K": {"1": -7.0}}, "log_likelihood_stands": {"K": {"1": share}}}
        summary["readings"][name]["means_by_views"] |= bounds
    RunFiles(path).readings_summary.write_text(json.dumps(summary), encoding="utf-8")
    lines = readings_report(path).splitlines()
    assert "| wb | -7.0 |" in lines
    assert "| moe | ≥ -7.0 |" in lines
    assert any(line.startswith("≥: estimates that do not stand") for line in lines)


def test_readings_report_has_a_row_per_aggregation(paths: list[Path]) -> None:
    lines = readings_report(paths[0]).splitlines()
    start = lines.index(f"**coherence** ({COHERENCE})")
    assert lines[start + 2 : start + 6] == [
        "| | 1 | 2 |",
        "|---|---|---|",
        "| wb | 0.250 | 0.500 |",
        "| moe | 0.500 |  |",
    ]
    assert lines[0].startswith("Trained with wb, read with other aggregations")
    assert write_readings_report(paths[0]).read_text(encoding="utf-8").splitlines() == lines


def test_plot_matrix_of_a_folder_shows_one_metric_with_the_means_over_seeds(paths: list[Path], tmp_path: Path) -> None:
    figure = plot_matrix(tmp_path, metric="coherence")
    first, second = figure.axes[:2]
    assert [first.get_title().splitlines()[-1], second.get_title().splitlines()[-1]] == ["1 given", "2 given"]
    assert len(figure.axes) == 3  # with one colour bar
    shown = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in first.texts}
    trained, read = (
        [label.get_text() for label in axis] for axis in (first.get_yticklabels(), first.get_xticklabels())
    )
    assert shown[trained.index("wb"), read.index("wb")] == "0.500"
    assert shown[trained.index("moe"), read.index("wb")] == "0.125"


def test_plot_matrix_without_readings_or_metric_is_refused(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run must have readings"):
        plot_matrix(tmp_path / "unread")
    with pytest.raises(ValueError, match="metric must be one of probe, coherence, got 'khat'"):
        plot_matrix(paths, metric="khat")
