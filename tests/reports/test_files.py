"""The writer of figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from pyro_mmvae.reports.files import picture_files, save_figure, save_pictures


def make_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.text(0.5, 0.5, "text")
    return figure


def test_save_pictures_writes_one_file_per_format(tmp_path: Path) -> None:
    files = save_pictures(make_figure(), tmp_path / "a.b", ("png", "pdf", "svg", "png"))
    assert [file.name for file in files] == ["a.b.png", "a.b.pdf", "a.b.svg"]
    assert [file.read_bytes()[:5] for file in files] == [b"\x89PNG\r", b"%PDF-", b"<?xml"]


def test_save_pictures_dpi_is_the_number_of_pixels_per_inch(tmp_path: Path) -> None:
    (file,) = save_pictures(make_figure(), tmp_path / "a", dpi=40)
    assert matplotlib.image.imread(file).shape[:2] == (40, 80)


def test_save_pictures_of_an_unknown_format_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of .*, got 'doc'"):
        save_pictures(make_figure(), tmp_path / "a", ("png", "doc"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["pdf", "svg"])
def test_save_figure_twice_writes_equal_bytes_with_fonts_that_journals_accept(tmp_path: Path, name: str) -> None:
    first, second = (save_figure(make_figure(), tmp_path / f"{n}.{name}").read_bytes() for n in "ab")
    assert first == second
    assert b"/Type3" not in first


@pytest.mark.parametrize(
    ("file", "formats", "expected"),
    [
        ("a.png", (), ["a.png"]),
        ("a", (), ["a"]),
        ("a.png", ("pdf",), ["a.pdf"]),
        ("a.v2", ("pdf", "svg"), ["a.v2.pdf", "a.v2.svg"]),
    ],
)
def test_picture_files_replace_the_suffix_of_a_picture(
    file: str, formats: tuple[str, ...], expected: list[str]
) -> None:
    assert picture_files(Path(file), formats) == [Path(name) for name in expected]
