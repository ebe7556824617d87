"""Pictures drawn from the files of a run directory alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from pyro_mmvae import train
from pyro_mmvae.reports import draw_run, plots
from pyro_mmvae.reports.files import save_pictures
from pyro_mmvae.runs.config import Config


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Return the figures that are drawn, by file name."""
    drawn: dict[str, Figure] = {}

    def keep(figure: Figure, file: Path, *options: Any) -> list[Path]:
        drawn[f"{file.name}.png"] = figure
        return save_pictures(figure, file, *options)

    monkeypatch.setattr(plots, "save_pictures", keep)
    return drawn


@pytest.fixture
def run_path(toy_config: Callable[..., Config], tmp_path: Path) -> Path:
    return train(toy_config(), tmp_path / "run", progress=False).path


def test_draw_run_needs_metrics_and_samples_only(run_path: Path, figures: dict[str, Figure]) -> None:
    for file in (*run_path.glob("*.safetensors"), run_path / "config.yaml", run_path / "environment.json"):
        file.unlink()
    files = draw_run(run_path)
    assert [file.name for file in files] == ["curves.png", "reconstructions.png", "cross_generation.png"]
    assert set(files) == set((run_path / "plots").iterdir())
    with np.load(run_path / "samples.npz") as file:
        arrays: dict[str, Any] = dict(file)
    groups = 3 * [["class", "given m", "→ m0", "→ m1", "→ m2"]]
    rows = {name: [axis.get_ylabel() for axis in figures[name].axes] for name in figures}
    assert rows["reconstructions.png"] == ["class", "m0", "reconstructed", "m1", "reconstructed", "m2", "reconstructed"]
    expected = [label + str(m) * (label == "given m") for m, group in enumerate(groups) for label in group]
    assert rows["cross_generation.png"] == expected
    shown = [text.get_text() for text in figures["reconstructions.png"].axes[0].texts]
    assert shown == arrays["classes"].tolist()
    for name, row, key in (
        ("reconstructions.png", 2, "reconstruction.m0"), ("reconstructions.png", 5, "observed.m2"),
        ("cross_generation.png", 6, "observed.m1"), ("cross_generation.png", 9, "generated.m1.m2"),
    ):  # fmt: skip
        images = [np.moveaxis(np.asarray(image.get_array()), -1, 0) for image in figures[name].axes[row].images]
        np.testing.assert_array_equal(images, arrays[key])
    assert (run_path / "plots" / "curves.png").stat().st_size > 5000


def test_draw_run_again_replaces_pictures(run_path: Path) -> None:
    draw_run(run_path)
    before = (run_path / "plots" / "curves.png").read_bytes()
    lines = (run_path / "metrics.jsonl").read_text().splitlines()
    (run_path / "metrics.jsonl").write_text(lines[0] + "\n" + '{"epoch": 1, "torn')
    draw_run(run_path)
    assert (run_path / "plots" / "curves.png").read_bytes() != before
    assert {file.suffix for file in (run_path / "plots").iterdir()} == {".png"}


def test_draw_run_without_samples_draws_curves_only(tmp_path: Path) -> None:
    assert draw_run(tmp_path) == []
    row = {
        "epoch": 0, "objective": -1.0, "beta": 1.0, "kl": 0.1, "log_likelihood": {"v": -0.9},
        "val": {"elbo": -1.1, "kl": 0.2},
    }  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert [file.name for file in draw_run(tmp_path)] == ["curves.png"]


def test_draw_run_vectors_and_counts_are_drawn(tmp_path: Path, figures: dict[str, Figure]) -> None:
    vectors, counts = np.random.default_rng(0).normal(size=(4, 12)), np.ones((4, 300), dtype=np.float32)
    arrays = {"classes": np.array(["_a", "$b$", "c{", ""])}
    for name, values in (("vec", vectors), ("rna", counts)):
        arrays |= {f"observed.{name}": values, f"reconstruction.{name}": values}
        arrays |= {f"generated.{given}.{name}": values for given in ("vec", "rna")}
    np.savez(tmp_path / "samples.npz", **arrays)
    assert [file.name for file in draw_run(tmp_path)] == ["reconstructions.png", "cross_generation.png"]
    axes = figures["cross_generation.png"].axes
    assert [axis.get_ylabel() for axis in axes[:4]] == ["class", "given vec", "→ vec", "→ rna"]
    assert [text.get_text() for text in axes[0].texts] == arrays["classes"].tolist()
    assert len(axes[1].patches) == 4
    assert [len(line.get_ydata()) for line in axes[3].lines] == [300] * 4  # type: ignore[arg-type]


def test_plot_cross_generation_many_modalities_are_drawn_for_fewer_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "_MAX_GIVEN", 2)  # fewer axes take less time
    names = [f"m{m}" for m in range(7)]
    values = np.array([f"item {item}" for item in range(10)])
    arrays = {f"{part}.{name}": values for part in ("observed", "reconstruction") for name in names}
    arrays |= {f"generated.{given}.{name}": values for given in names for name in names}
    np.savez(tmp_path / "samples.npz", **arrays)
    figure = plots.plot_cross_generation(tmp_path)
    axes = figure.axes
    assert len(axes) == 2 * 3
    assert {len(axis.texts) for axis in axes} == {5}
    assert "validation items; 2 of 7 modalities" in {text.get_text() for text in figure.texts}


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> Path:
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def metrics_of(epoch: int, **more: Any) -> dict[str, Any]:
    terms = {"image": -5000.0, "tag_$a$": -2.0}
    val = {"elbo": -1.0, "kl": 1.5, "log_likelihood": terms}
    return {"epoch": epoch, "objective": -3.0, "beta": 2, "kl": 1.0, "log_likelihood": terms, "val": val} | more


def test_plot_training_has_a_panel_per_term_and_one_legend_outside(tmp_path: Path) -> None:
    rows = [metrics_of(epoch, penalties={"z_frechet": 0.25}) for epoch in (0, 1)]
    figure = plots.plot_training(str(write_metrics(tmp_path, rows)))
    panels = {axis.get_title(): [list(line.get_ydata()) for line in axis.lines] for axis in figure.axes}
    assert panels == {
        "evidence lower bound;\ntraining: objective with β = 2": [[-3.0, -3.0], [-1.0, -1.0]],
        "KL(q(z|x) ‖ p(z)), one-draw estimate": [[1.0, 1.0], [1.5, 1.5]],
        "reconstruction of image, log p(x | z)": [[-5000.0] * 2] * 2,
        "reconstruction of tag_$a$, log p(x | z)": [[-2.0] * 2] * 2,
        "penalty z_frechet, added to the loss": [[0.25, 0.25]],
    }
    assert [axis.get_legend() for axis in figure.axes] == [None] * 5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training", "validation"]
    styles = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(styles) == 2


def test_plot_training_without_metrics_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must have trained for an epoch"):
        plots.plot_training(tmp_path)


def test_plot_training_of_a_row_without_figures_names_file_and_epoch(tmp_path: Path) -> None:
    write_metrics(tmp_path, [metrics_of(0), {"epoch": 1, "objective": 1.0, "beta": 1.0, "val": {"elbo": 1.0}}])
    with pytest.raises(ValueError, match=r"metrics\.jsonl: epoch 1 must have kl, log_likelihood, val\.kl to be drawn"):
        plots.plot_training(tmp_path)


def test_plot_weights_labels_each_line_at_its_end(tmp_path: Path) -> None:
    weights = {"expert_weights": {"_a": 1.5, "b": 0.5}, "subset_weights": {"_a": 0.25, "_a+b": 0.75}}
    figure = plots.plot_weights(write_metrics(tmp_path, [metrics_of(e, **weights) for e in (0, 1)]))
    experts, subsets = figure.axes
    assert [(text.get_text(), text.xy) for text in experts.texts] == [("b", (2, 0.5)), ("_a", (2, 1.5))]  # type: ignore[attr-defined]
    assert [bar.get_height() for bar in subsets.patches] == [0.25, 0.75]  # type: ignore[attr-defined]
    assert [label.get_text() for label in subsets.get_xticklabels()] == ["_a", "_a + b"]


def test_plot_weights_of_fixed_weights_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights must be learned"):
        plots.plot_weights(write_metrics(tmp_path, [metrics_of(0)]))


def test_draw_run_writes_every_format(tmp_path: Path) -> None:
    files = draw_run(write_metrics(tmp_path, [metrics_of(0)]), ("pdf", "svg"), dpi=30)
    assert [file.name for file in files] == ["curves.pdf", "curves.svg"]
    assert [file.read_bytes()[:5] for file in files] == [b"%PDF-", b"<?xml"]
