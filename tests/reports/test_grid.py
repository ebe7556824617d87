"""Grids of images, texts and vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from numpy.typing import NDArray

from pyro_mmvae.reports import grid, image_grid
from pyro_mmvae.reports.files import save_figure


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Return the figures of grids, by file name."""
    drawn: dict[str, Figure] = {}

    def keep(figure: Figure, file: Path, **options: Any) -> Path:
        drawn[file.name] = figure
        return save_figure(figure, file, **options)

    monkeypatch.setattr(grid, "save_figure", keep)
    return drawn


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(file: Path) -> NDArray[Any]:
    return matplotlib.image.imread(file)[..., :3]


def size_of(axis: Axes) -> tuple[float, float]:
    """Return width and height of a row in inches."""
    box = axis.get_window_extent().transformed(axis.figure.dpi_scale_trans.inverted())
    return box.width, box.height


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_draws_every_pixel_of_every_item(tmp_path: Path, figures: dict[str, Figure], channels: int) -> None:
    first, second = noise(4, channels, 9, 7), noise(3, channels, 9, 7, seed=1)
    file = image_grid([("first", first), ("", None), ("second", second)], tmp_path / "a.png", title="T", note="n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    figure = figures[file.name]
    assert [axis.get_ylabel() for axis in figure.axes] == ["first", "second"]
    assert {text.get_text() for text in figure.texts} == {"T", "n"}
    for axis, images in zip(figure.axes, (first, second), strict=True):
        assert len(axis.images) == len(images)
        for drawn, image in zip(axis.images, images, strict=True):
            expected = image[0] if channels == 1 else np.moveaxis(image, 0, -1)
            assert (np.asarray(drawn.get_array()) == expected).all()
            left, right, bottom, top = drawn.get_extent()
            assert (right - left) / (top - bottom) == pytest.approx(7 / 9)
        lefts = [drawn.get_extent()[0] for drawn in axis.images]
        assert all(drawn.get_extent()[1] <= left for drawn, left in zip(axis.images, lefts[1:], strict=False))


def test_image_grid_rows_are_as_high_as_their_own_images(tmp_path: Path, figures: dict[str, Figure]) -> None:
    rows = [("large", noise(10, 3, 224, 224)), ("small", noise(10, 1, 28, 28)), ("text", np.array(["a"] * 10))]
    drawn = pixels_of(image_grid(rows, tmp_path / "a.png"))
    large, small, text = (size_of(axis)[1] for axis in figures["a.png"].axes)
    assert large < 1.2
    assert small < 0.6 * large
    assert text < 0.5 * small
    assert drawn.shape[1] < 2000


def test_image_grid_long_labels_lie_within_the_picture(tmp_path: Path, figures: dict[str, Figure]) -> None:
    label = "photograph_of_specimen_number → spectrogram_with_$_{ and even more of it"
    drawn = pixels_of(image_grid([(label, noise(2, 3, 8, 8)), ("b", noise(2, 3, 8, 8))], tmp_path / "a.png"))
    shown = figures["a.png"].axes[0].get_ylabel()
    assert shown.replace("\n", " ") == label
    assert "\n" in shown
    for edge in (drawn[:4], drawn[-4:], drawn[:, :4], drawn[:, -4:]):
        assert (edge == 1).all()  # a letter at the very edge could be the middle of a word
    boxes = [axis.yaxis.label.get_window_extent() for axis in figures["a.png"].axes]
    assert not boxes[0].overlaps(boxes[1])


def test_image_grid_long_texts_do_not_touch_one_another(tmp_path: Path, figures: dict[str, Figure]) -> None:
    texts = np.array(["w" * 256, "bald", "x" * 2000, "  $x_1$ "])
    image_grid([("image", noise(4, 1, 64, 64)), ("text", texts), ("more", texts)], tmp_path / "a.png")
    drawn = [text for axis in figures["a.png"].axes[1:] for text in axis.texts]
    assert drawn[1].get_text() == "bald"
    assert drawn[2].get_text().endswith("…")
    assert drawn[3].get_text() == "  $x_1$ "
    assert not any(text.get_parse_math() for text in drawn)
    boxes = [text.get_window_extent() for text in drawn]
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_image_grid_vectors_are_bars_or_lines_with_their_range(tmp_path: Path, figures: dict[str, Figure]) -> None:
    short = np.random.default_rng(0).normal(size=(3, 2, 6))
    long = np.random.default_rng(1).poisson(3.0, (3, 300)).astype(np.float32)
    short[1] = np.nan
    image_grid([("short", short), ("long", long), ("zero", np.zeros((3, 1)))], tmp_path / "a.png")
    bars, lines, zero = figures["a.png"].axes
    patches = [patch for patch in bars.patches if isinstance(patch, StepPatch)]
    np.testing.assert_array_equal([p.get_data().values for p in patches], short[[0, 2]].reshape(2, -1))
    np.testing.assert_array_equal([line.get_ydata() for line in lines.lines], long)
    ends = [line.get_xdata() for line in lines.lines]
    assert all(max(a) < min(b) for a, b in zip(ends, ends[1:], strict=False))
    low, high = (float(text.get_text().replace("−", "-")) for text in bars.get_yticklabels())
    assert (low, high) == pytest.approx((np.nanmin(short), np.nanmax(short)), rel=0.01)
    assert [text.get_text() for text in lines.get_yticklabels()] == ["0", f"{long.max():g}"]
    assert [text.get_text() for text in zero.get_yticklabels()] == ["0"]


def test_image_grid_masked_items_are_marked_as_absent_and_not_drawn(tmp_path: Path, figures: dict[str, Figure]) -> None:
    images, vectors = noise(3, 3, 8, 8), np.arange(6.0).reshape(3, 2)
    vectors[0] = np.nan
    masked = np.ma.masked_array(images, np.zeros(images.shape, dtype=bool))
    masked[1] = np.ma.masked
    texts = np.ma.masked_array(np.array(["", "b", "c"]), [False, False, True])
    image_grid([("images", masked), ("vectors", vectors), ("texts", texts)], tmp_path / "a.png")
    of_images, of_vectors, of_texts = figures["a.png"].axes
    assert [text.get_text() for text in of_images.texts] == ["absent"]
    np.testing.assert_array_equal(
        [image.get_array() for image in of_images.images], np.moveaxis(images[[0, 2]], 1, -1)
    )  # fmt: skip
    assert [text.get_text() for text in of_vectors.texts] == ["absent"]
    assert [text.get_text() for text in of_texts.texts] == ["absent", "", "b"]


def test_image_grid_many_items_are_continued_below(tmp_path: Path, figures: dict[str, Figure]) -> None:
    images, texts = noise(45, 1, 6, 6), np.array([str(item) for item in range(45)])
    image_grid([("images", images), ("texts", texts)], tmp_path / "a.png")
    axes = figures["a.png"].axes
    assert [axis.get_ylabel() for axis in axes] == ["images", "texts"] * 3
    assert [text.get_text() for axis in axes[1::2] for text in axis.texts] == texts.tolist()
    assert sum(len(axis.images) for axis in axes) == 45


def test_image_grid_many_groups_stand_in_several_columns(tmp_path: Path, figures: dict[str, Figure]) -> None:
    rows: list[grid.Row] = []
    for group in range(4):
        rows += [*((f"{group}.{row}", noise(2, 1, 28, 28)) for row in range(4)), ("", None)]
    drawn = pixels_of(image_grid(rows, tmp_path / "a.png"))
    axes = figures["a.png"].axes
    assert [axis.get_ylabel() for axis in axes] == [f"{group}.{row}" for group in range(4) for row in range(4)]
    assert len({round(axis.get_position().x0, 4) for axis in axes}) > 1
    rights = {round(axis.get_position().x1, 4) for axis in axes}
    lefts = {round(axis.yaxis.label.get_window_extent().x0 / figures["a.png"].bbox.width, 4) for axis in axes}
    assert sorted(rights)[0] < sorted(lefts)[-1]  # the labels of a column stand beside the one before it
    assert 0.4 < drawn.shape[0] / drawn.shape[1] < 2.5


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml")]
)
def test_image_grid_writes_the_format_of_the_suffix(tmp_path: Path, name: str, start: bytes) -> None:
    assert image_grid([("a", noise(2, 3, 8, 8))], tmp_path / name).read_bytes().startswith(start)


def test_image_grid_unknown_suffix_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be one of .*pdf.*svg.*, got 'doc'"):
        image_grid([("a", noise(2, 3, 8, 8))], tmp_path / "a.doc")
    assert not list(tmp_path.iterdir())
