"""Pictures of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyro_mmvae.reports import draw_evaluation, evaluation
from pyro_mmvae.reports.evaluation import plot_khat, plot_views
from pyro_mmvae.reports.latent_map import plot_latent
from pyro_mmvae.run_files import RunFiles


def write_evaluation(path: Path, means: dict[str, Any] | None = None, **arrays: Any) -> Path:
    """Write the files of an evaluation that the pictures are drawn from."""
    files = RunFiles(path)
    files.evaluation.mkdir(parents=True)
    summary = {"means_by_views": means or {"probe": {"a": {"1": 0.5}}}, "options": {"khat_samples": 1000, "seed": 0}}
    files.evaluation_summary.write_text(json.dumps(summary), encoding="utf-8")
    np.savez(files.evaluation_arrays, **arrays)
    return path


def test_plot_latent_classes_have_distinct_styles_and_names(tmp_path: Path) -> None:
    names = np.array([f"_cell of kind ${number}$" for number in range(14)])
    labels = np.arange(29) % 14
    labels[-1] = -1  # unlabelled
    arrays = {"latent": np.zeros((29, 2)), "explained": np.ones(2), "labels": labels, "class_names": names}
    figure = plot_latent(write_evaluation(tmp_path, **arrays))
    points = figure.axes[0].collections
    styles = {(tuple(one.get_facecolor()[0]), one.get_paths()[0].vertices.tobytes()) for one in points}  # type: ignore[union-attr]
    assert len(styles) == 14
    assert sum(len(one.get_offsets()) for one in points) == 28  # type: ignore[arg-type]
    assert [text.get_text().lstrip("\u200b") for text in figure.legends[0].get_texts()] == names.tolist()
    assert figure.legends[0].get_title().get_text() == "class"


def test_plot_latent_many_classes_name_the_largest(tmp_path: Path) -> None:
    labels = np.concatenate([np.arange(100), np.arange(75)])
    figure = plot_latent(write_evaluation(tmp_path, latent=np.zeros((175, 2)), explained=np.ones(2), labels=labels))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["25 smaller classes", *map(str, range(75))]


def test_plot_latent_color_of_floats_is_a_colour_bar(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, latent=np.zeros((3, 2)), explained=np.ones(2), labels=np.arange(3))
    figure = plot_latent(path, color=[0.5, 1.5, 3.0], label="entropy")
    points, bar = figure.axes
    np.testing.assert_array_equal(points.collections[0].get_array(), [0.5, 1.5, 3.0])  # type: ignore[arg-type]
    assert bar.get_ylabel() == "entropy"
    assert not figure.legends


def test_plot_latent_color_of_names_is_a_legend(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, latent=np.zeros((3, 2)), explained=np.ones(2))
    figure = plot_latent(path, color=["b", "a", "b"], label="donor")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.legends[0].get_title().get_text() == "donor"
    assert not plot_latent(path).legends  # without labels and without colours


def test_plot_latent_color_of_other_length_raises(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, latent=np.zeros((3, 2)), explained=np.ones(2))
    with pytest.raises(ValueError, match=r"color must have one value per item, of shape \(3,\), got shape \(2,\)"):
        plot_latent(path, color=[1, 2])


def test_plot_latent_without_means_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must contain posterior means"):
        plot_latent(write_evaluation(tmp_path))


def test_plot_views_of_a_run_that_was_not_evaluated_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a run must be evaluated"):
        plot_views(tmp_path)


def test_plot_views_log_likelihoods_of_different_targets_have_panels_of_their_own(tmp_path: Path) -> None:
    means = {
        "probe": {"subset": {"1": 0.5, "2": 0.6}, "joint": {"1": 0.7}},
        "log_likelihood": {"K = 64, of given": {"1": -5000.0}, "K = 64, of all": {"1": -2.0}},
    }
    axes = plot_views(write_evaluation(tmp_path, means)).axes
    values = [[list(line.get_ydata()) for line in axis.lines] for axis in axes]
    assert values == [[[0.5, 0.6], [0.7]], [[-5000.0]], [[-2.0]]]
    assert [axis.get_ylabel() for axis in axes] == ["accuracy of a linear probe", "nats per item", "nats per item"]
    legends = [axis.get_legend() for axis in axes]
    assert [legend.get_title().get_text() for legend in legends if legend] == ["", "of given", "of all"]


def test_plot_khat_counts_infinite_values(tmp_path: Path) -> None:
    arrays = {"khat.m0": np.array([0.1, np.inf, 0.9]), "khat.m0+m1": np.array([0.2, 0.3, 0.4])}
    figure = plot_khat(write_evaluation(tmp_path, khat_threshold=np.array(0.67), **arrays))
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["1 infinite"]
    assert [len(points.get_offsets()) for points in axis.collections] == [2, 3]  # type: ignore[arg-type]
    assert "above 0.67" in figure.get_suptitle().replace("\n", " ")


def test_plot_khat_shows_the_joint_component_beside_the_whole_posterior(tmp_path: Path) -> None:
    arrays = {"khat.m0": np.array([0.1, 0.9]), "khat.m0+m1": np.array([0.2, 0.3, np.inf])}
    joint = {"khat_joint.m0+m1": np.array([0.5, np.inf, np.inf])}
    figure = plot_khat(write_evaluation(tmp_path, khat_threshold=np.array(0.67), **arrays, **joint))
    (axis,) = figure.axes
    whole, both, component = (np.asarray(points.get_offsets()) for points in axis.collections)
    assert [len(whole), len(both), len(component)] == [2, 2, 1]
    assert both[:, 0].max() < component[:, 0].min()
    assert -0.15 <= whole[:, 0].min() <= whole[:, 0].max() <= 0.15  # around its own tick
    assert component[:, 1].tolist() == [0.5]
    assert [text.get_text() for text in axis.texts] == ["1 infinite", "2 infinite"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["whole posterior", "its joint component"]


def test_plot_views_draws_bounds_that_do_not_stand_hollow(tmp_path: Path) -> None:
    means = {
        "log_likelihood": {"K, of given": {"1": -5.0, "2": -4.0}},
        "log_likelihood_stands": {"K, of given": {"1": 1.0, "2": 0.5}},
    }
    (axis,) = plot_views(write_evaluation(tmp_path, means)).axes
    line, hollow = axis.lines
    assert list(line.get_xdata()) == [1, 2]
    assert (list(hollow.get_xdata()), list(hollow.get_ydata())) == ([2], [-4.0])
    assert hollow.get_markerfacecolor() == "white"
    assert axis.get_ylabel() == "nats per item\n(hollow: bounds)"


def test_plot_khat_of_an_evaluation_without_it_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must contain k-hat, got none"):
        plot_khat(write_evaluation(tmp_path))


def test_draw_evaluation_draws_what_there_is_in_each_format(tmp_path: Path) -> None:
    arrays = {"latent": np.zeros((3, 2)), "explained": np.ones(2), "labels": np.arange(3)}
    files = draw_evaluation(write_evaluation(tmp_path, **arrays), ("svg", "png"), dpi=20)
    assert [file.name for file in files] == ["views.svg", "views.png", "latent.svg", "latent.png"]
    assert all(file.parent == tmp_path / "plots" and file.stat().st_size > 500 for file in files)


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
