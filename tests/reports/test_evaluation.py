"""Pictures of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_mmvae.reports import evaluation


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that are drawn."""
    figures: list[Figure] = []
    monkeypatch.setattr(evaluation, "save_figure", lambda figure, file: figures.append(figure) or file)
    return figures


def test_latent_map_classes_have_distinct_styles_and_names(tmp_path: Path, drawn: list[Figure]) -> None:
    names = np.array([f"_cell of kind ${number}$" for number in range(14)])
    arrays = {"latent": np.zeros((29, 2)), "explained": np.ones(2), "labels": np.arange(29) % 14, "class_names": names}
    arrays["labels"][-1] = -1  # unlabelled
    evaluation._latent_map(arrays, tmp_path / "latent.png")
    points = drawn[0].axes[0].collections
    styles = {(tuple(one.get_facecolor()[0]), one.get_paths()[0].vertices.tobytes()) for one in points}  # type: ignore[union-attr]
    assert len(styles) == 14
    assert sum(len(one.get_offsets()) for one in points) == 28  # type: ignore[arg-type]
    assert [text.get_text().lstrip("\u200b") for text in drawn[0].legends[0].get_texts()] == names.tolist()


def test_latent_map_many_classes_name_the_largest(tmp_path: Path, drawn: list[Figure]) -> None:
    labels = np.concatenate([np.arange(100), np.arange(75)])
    arrays = {"latent": np.zeros((175, 2)), "explained": np.ones(2), "labels": labels}
    evaluation._latent_map(arrays, tmp_path / "latent.png")
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert texts == ["25 smaller classes", *map(str, range(75))]


def test_by_views_log_likelihoods_of_different_targets_have_panels_of_their_own(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    means = {
        "probe": {"subset": {"1": 0.5, "2": 0.6}, "joint": {"1": 0.7}},
        "log_likelihood": {"K = 64, of given": {"1": -5000.0}, "K = 64, of all": {"1": -2.0}},
    }
    evaluation._by_views(means, tmp_path / "views.png")
    panels = [axis for axis in drawn[0].axes if axis.lines]
    values = [[list(line.get_ydata()) for line in axis.lines] for axis in panels]
    assert values == [[[0.5, 0.6], [0.7]], [[-5000.0]], [[-2.0]]]
    legends = [axis.get_legend() for axis in panels]
    assert [legend.get_title().get_text() for legend in legends if legend] == ["", "of given", "of all"]


def test_subset_label_many_or_long_names_are_short() -> None:
    assert evaluation._subset_label("m0+m1") == "m0\nm1"
    assert evaluation._subset_label("a rather long name of it") == "a rather long\nname of it"
    assert evaluation._subset_label("+".join("abcdef")) == "6 modalities"


def test_table_marks_log_likelihoods_that_do_not_stand_and_names_the_readout(tmp_path: Path) -> None:
    protocol = "importance-weighted, K=64 to 512, of given"
    means = {
        "probe": {"per-subset, 10 points": {"1": 0.5}, "draw, per-subset, 10 points": {"1": 0.25}},
        "log_likelihood": {protocol: {"1": -12.5, "2": -3.25}},
        "log_likelihood_stands": {protocol: {"1": 0.8, "2": 1.0}},
    }
    summary = {"means_by_views": means, "options": {"seed": 0}, "classifier_accuracy": {}}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(summary))
    lines = evaluation.table(tmp_path).splitlines()
    [row] = [line for line in lines if line.startswith("log_likelihood [")]
    assert row.split() == ["log_likelihood", "[3]", "≥", "-12.500", "-3.250"]
    assert "≥: does not stand with --max-samples for some subset; such bounds do not rank models" in lines
    assert lines[lines.index("[1] mean, per-subset, 10 points") + 1] == "[2] draw, per-subset, 10 points"
    means["log_likelihood_stands"][protocol]["1"] = 1.0
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(summary))
    assert "≥" not in evaluation.table(tmp_path)
