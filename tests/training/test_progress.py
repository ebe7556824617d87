"""The progress of a training: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tqdm import tqdm

from pyro_mmvae import train
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training.progress import LineProgress, TimeLeft, make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_train_into_a_file_writes_one_line_per_epoch(
    toy_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    train(toy_config(train__epochs=3, train__batch_size=8), tmp_path / "run")
    text = file.getvalue()
    assert "\r" not in text
    lines = text.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines):
        figures = r"loss=-?[\d.]+, rec=-?[\d.]+, kl=[\d.]+, val_elbo=-?[\d.]+, left=\d\d:\d\d"
        assert re.fullmatch(rf"epoch {number + 1}/3: 96/96 items, \d+ s, {figures}", line)


def test_train_in_a_terminal_shows_a_bar(
    toy_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Terminal()
    monkeypatch.setattr(sys, "stderr", file)
    train(toy_config(train__epochs=1), tmp_path / "run")
    assert file.getvalue().startswith("\repoch 1/1:   0%|")
    assert "val_elbo" in file.getvalue().rsplit("\r", maxsplit=1)[1]
    bar = make_progress("a", 3, 1, file)
    assert isinstance(bar, tqdm)
    assert (bar.n, bar.total, bar.disable) == (1, 3, False)
    bar.close()
    hidden = make_progress("a", 3, 0, io.StringIO(), show=False)
    assert isinstance(hidden, tqdm)
    assert hidden.disable


def test_line_progress_in_a_long_epoch_writes_every_30_seconds() -> None:
    file, seconds = io.StringIO(), [100.0]
    lines = LineProgress("epoch 2/9", 1000, 200, file, clock=lambda: seconds[0])
    for step in range(80):
        seconds[0] += 1.0
        lines.set_postfix({"loss": str(step)})
        lines.update(10)
    seconds[0] += 5
    lines.set_postfix({"loss": "0.5", "val_elbo": "-1.0"})
    lines.close()
    lines.close()
    assert file.getvalue().splitlines() == [
        "epoch 2/9: 500/1000 items, 30 s, loss=29",
        "epoch 2/9: 800/1000 items, 60 s, loss=59",
        "epoch 2/9: 1000/1000 items, 85 s, loss=0.5, val_elbo=-1.0",
    ]


def test_line_progress_closed_early_writes_the_items_completed() -> None:
    file = io.StringIO()
    lines = make_progress("epoch 1/1", 30, 0, file)
    lines.update(10)
    lines.close()
    assert file.getvalue() == "epoch 1/1: 10/30 items, 0 s\n"


def test_time_left_extrapolates_the_pace_of_this_process() -> None:
    seconds = [50.0]
    left = TimeLeft(1000, 400, clock=lambda: seconds[0])
    seconds[0] += 60.0
    assert left(500) == "05:00"  # 100 steps a minute, of which 500 are left
    seconds[0] += 9 * 3600.0
    assert left(700) == "9:01:00"
    assert left(1000) == "00:00"
