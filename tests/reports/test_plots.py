"""Pictures drawn from the files of a run directory alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pyro_mmvae import train
from pyro_mmvae.reports import draw_run, evaluation, image_grid, plots
from pyro_mmvae.runs.config import Config

ZOOM, PAD, GAP, MARGIN = 2, 2, 8, 92


def pixels_of(file: Path) -> NDArray[np.uint8]:
    """Return a PNG as uint8 pixels `(height, width, rgb)`."""
    return (matplotlib.image.imread(file)[..., :3] * 255).round().astype(np.uint8)


def picture(images: NDArray[np.uint8], item: int) -> NDArray[np.uint8]:
    """Return one image as it should appear in a grid."""
    one = np.moveaxis(images[item], 0, -1)
    one = np.repeat(one, 3, -1) if one.shape[-1] == 1 else one
    return one.repeat(ZOOM, 0).repeat(ZOOM, 1)


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("title", "note"), [("", ""), ("Title", "a note")])
def test_image_grid_places_every_pixel(tmp_path: Path, channels: int, title: str, note: str) -> None:
    first, second = noise(4, channels, 9, 7), noise(3, channels, 9, 7, seed=1)
    rows = [("first", first), ("", None), ("second", second)]
    file = image_grid(rows, tmp_path / "grid.png", title=title, note=note)
    assert file == tmp_path / "grid.png"
    assert [entry.name for entry in tmp_path.iterdir()] == ["grid.png"]
    drawn = pixels_of(file)
    head, foot = (26, 20) if title else (6, 6)
    height, width = 9 * ZOOM, 7 * ZOOM
    assert drawn.shape == (head + 2 * (height + PAD) + GAP + foot, MARGIN + 4 * (width + PAD) + 6, 3)
    for images, top in ((first, head), (second, head + height + PAD + GAP)):
        for item in range(len(images)):
            left = MARGIN + item * (width + PAD)
            assert (drawn[top : top + height, left : left + width] == picture(images, item)).all()
    beside = MARGIN + 3 * (width + PAD)
    below = drawn[head + height + PAD + GAP :][:height, beside : beside + width]
    assert (below == 255).all()  # the second row has three images only


def test_image_grid_different_sizes_and_channels(tmp_path: Path) -> None:
    large, small = noise(2, 3, 12, 10), noise(2, 1, 5, 4, seed=1)
    drawn = pixels_of(image_grid([("large", large), ("small", small)], tmp_path / "grid.png"))
    top = 6 + 12 * ZOOM + PAD
    assert (drawn[6 : 6 + 24, MARGIN : MARGIN + 20] == picture(large, 0)).all()
    for item in range(2):
        left = MARGIN + item * (10 * ZOOM + PAD)
        assert (drawn[top : top + 10, left : left + 8] == picture(small, item)).all()


def test_image_grid_writes_labels_title_and_note(tmp_path: Path) -> None:
    images = noise(2, 3, 8, 8)
    plain = pixels_of(image_grid([("", images)], tmp_path / "a.png", title=" ", note=" "))
    labelled = pixels_of(image_grid([("label", images)], tmp_path / "b.png", title="Title", note="note"))
    assert plain.shape == labelled.shape
    differ = (plain != labelled).any(-1)
    height = plain.shape[0]
    assert differ[: 26 - 2].any()
    assert differ[height - 18 :].any()
    assert differ[26 : height - 20, : MARGIN - 2].any()
    assert not differ[26 : height - 20, MARGIN:].any()


def test_image_grid_texts_stand_under_their_images(tmp_path: Path) -> None:
    images, texts = noise(3, 1, 30, 30), np.array(["  seven ", "", "$x_1$"])
    drawn = pixels_of(image_grid([("images", images), ("text", texts)], tmp_path / "grid.png"))
    width, text = 30 * ZOOM + PAD, 10 + 4  # screen pixels of an item and of a line
    assert drawn.shape == (6 + 30 * ZOOM + PAD + text + PAD + 6, MARGIN + 3 * width + 6, 3)
    below = drawn[6 + 30 * ZOOM + PAD :]
    ink = [(below[:, MARGIN + i * width : MARGIN + (i + 1) * width] < 128).any(-1) for i in range(3)]
    assert not ink[1].any()
    columns = np.flatnonzero(ink[0].any(0))
    assert 8 <= columns[0] <= 14  # after two spaces of five pixels
    assert 30 <= columns[-1] <= 36  # five letters later
    assert np.flatnonzero(ink[2].any(0))[-1] >= 20  # the dollar signs are drawn too, not read as a formula
    with_other = pixels_of(image_grid([("images", images), ("text", texts[::-1])], tmp_path / "other.png"))
    assert (with_other != drawn).any()


def test_image_grid_texts_alone_are_broken_into_lines(tmp_path: Path) -> None:
    texts = np.array(["a" * 45, "b"])
    drawn = pixels_of(image_grid([("text", texts)], tmp_path / "grid.png"))
    width = 48 * ZOOM + PAD  # wide enough for 19 letters per line
    assert drawn.shape == (6 + 3 * 10 + 4 + PAD + 6, MARGIN + 2 * width + 6, 3)
    rows = (drawn[:, MARGIN : MARGIN + width] < 128).any((1, 2))
    assert int((np.diff(rows.astype(int)) == 1).sum()) == 3  # lines


@pytest.fixture
def run_path(toy_config: Callable[..., Config], tmp_path: Path) -> Path:
    return train(toy_config(), tmp_path / "run", progress=False).path


def test_draw_run_needs_metrics_and_samples_only(run_path: Path) -> None:
    for file in (*run_path.glob("*.safetensors"), run_path / "config.yaml", run_path / "environment.json"):
        file.unlink()
    files = draw_run(run_path)
    assert [file.name for file in files] == ["curves.png", "reconstructions.png", "cross_generation.png"]
    assert set(files) == set((run_path / "plots").iterdir())
    with np.load(run_path / "samples.npz") as file:
        arrays: dict[str, Any] = dict(file)
    drawn = pixels_of(run_path / "plots" / "reconstructions.png")
    row, column = 8 * ZOOM + PAD, 8 * ZOOM + PAD
    assert drawn.shape == (26 + 6 * row + 2 * GAP + 20, MARGIN + 10 * column + 6, 3)
    for m in range(3):
        for below, name in enumerate((f"observed.m{m}", f"reconstruction.m{m}")):
            top = 26 + (2 * m + below) * row + m * GAP
            left = MARGIN + 3 * column
            assert (drawn[top : top + 16, left : left + 16] == picture(arrays[name], 3)).all()
    drawn = pixels_of(run_path / "plots" / "cross_generation.png")
    assert drawn.shape == (26 + 12 * row + 2 * GAP + 20, MARGIN + 10 * column + 6, 3)
    top = 26 + (4 + 3) * row + GAP  # given m1: the row of m1 itself, then m0, m1, m2
    assert (drawn[top : top + 16, MARGIN : MARGIN + 16] == picture(arrays["generated.m1.m2"], 0)).all()
    assert pixels_of(run_path / "plots" / "curves.png").std() > 5


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


def test_image_grid_long_labels_are_not_cut_off(tmp_path: Path) -> None:
    label = "photograph_of_specimen → spectrogram_with_$_{"
    drawn = pixels_of(image_grid([(label, noise(2, 3, 40, 40))], tmp_path / "a.png"))
    width = drawn.shape[1] - 2 * (40 * ZOOM + PAD) - 6
    assert width > MARGIN
    ink = (drawn[:, :width] != 255).any((0, 2)).nonzero()[0]
    assert ink[0] > 0  # a letter at the very edge could be the middle of a word
    assert ink[-1] < width - 2


def test_image_grid_large_images_are_bounded(tmp_path: Path) -> None:
    large = np.full((10, 3, 224, 224), 100, dtype=np.uint8)
    small = noise(10, 1, 28, 28)
    drawn = pixels_of(image_grid([("large", large), ("small", small)], tmp_path / "a.png"))
    assert drawn.shape[1] <= MARGIN + 10 * (128 + PAD) + 6
    assert drawn.shape[0] == 6 + (112 + PAD) + (28 + PAD) + 6  # a row is as high as its own images
    assert (drawn[6 : 6 + 112, MARGIN : MARGIN + 112] == 100).all()


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_image_grid_writes_the_format_of_the_suffix(tmp_path: Path, suffix: str, start: bytes) -> None:
    file = image_grid([("a", noise(2, 3, 8, 8))], tmp_path / f"grid.{suffix}")
    assert file.read_bytes().startswith(start)


def test_curves_have_a_panel_for_each_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, file: drawn.append(figure) or file)
    terms = {"image": -5000.0, "label": -2.0}
    val = {"elbo": -1.0, "kl": 1.0, "log_likelihood": terms}
    rows = [{"epoch": e, "objective": 0.0, "beta": 1, "kl": 1.0, "log_likelihood": terms, "val": val} for e in (0, 1)]
    plots._curves(rows, tmp_path / "curves.png")
    titles = {axis.get_title(): axis for axis in drawn[0].axes}
    for name, value in terms.items():
        axis = titles[f"reconstruction of {name}"]
        assert [list(line.get_ydata()) for line in axis.lines] == [[value, value]] * 2


def test_latent_map_has_one_colour_per_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(evaluation, "save_figure", lambda figure, file: drawn.append(figure) or file)
    arrays = {"latent": np.zeros((28, 2)), "explained": np.ones(2), "labels": np.arange(28) % 14}
    evaluation._latent_map(arrays, tmp_path / "latent.png")
    colors = {tuple(points.get_facecolor()[0]) for points in drawn[0].axes[0].collections}
    assert len(colors) == 14
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [str(k) for k in range(14)]
