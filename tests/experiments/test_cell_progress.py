"""The display of cells that run in other processes."""

from __future__ import annotations

import io
from pathlib import Path

from pyro_mmvae.experiments import Cell
from pyro_mmvae.experiments.cell_progress import CellProgress, count_epochs
from pyro_mmvae.runs.config import Config, make_config


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def make_cell(folder: Path, name: str, epochs: int) -> Cell:
    """Return a cell of three epochs, of which some are recorded."""
    path = folder / name
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in range(epochs)))
    return Cell(path, make_config(None, {"train.epochs": 3}))


def test_update_in_a_file_writes_a_line_per_cell_every_30_seconds(tmp_path: Path) -> None:
    now, file = [0.0], io.StringIO()
    display = CellProgress(file, show=True, clock=lambda: now[0])
    cells = [make_cell(tmp_path, "a", 1), make_cell(tmp_path, "b", 3)]
    display.update(cells)
    assert file.getvalue() == "a: epoch 1/3\nb: evaluation\n"
    (cells[0].path / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n')
    now[0] = 29.0
    display.update(cells)
    now[0] = 31.0
    display.update(cells)
    assert file.getvalue().splitlines()[2:] == ["a: epoch 2/3"]


def test_update_in_a_terminal_draws_a_bar_per_cell(tmp_path: Path) -> None:
    file = Terminal()
    display = CellProgress(file, show=True, clock=iter([0.0, 0.0, 2.0, 2.0]).__next__)
    cells = [make_cell(tmp_path, "a", 1), make_cell(tmp_path, "b", 3)]
    display.update(cells)
    display.clear()
    display.update(cells[1:])
    assert list(display.bars) == ["b"]
    display.close()
    assert "1/3" in file.getvalue()
    assert "evaluation" in file.getvalue()
    assert display.bars == {}


def test_update_that_is_not_shown_writes_nothing(tmp_path: Path) -> None:
    file = io.StringIO()
    CellProgress(file, show=False).update([make_cell(tmp_path, "a", 1)])
    assert file.getvalue() == ""


def test_count_epochs_of_a_cell_without_a_run_is_zero(tmp_path: Path) -> None:
    assert count_epochs(Cell(tmp_path / "missing", Config())) == 0
