"""The command ``data export``: shards of a data set, which later commands read, and errors of one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pyro_mmvae.cli import main
from pyro_mmvae.data import load_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    for number, name in enumerate(("a", "b")):
        np.save(path / f"{name}.npy", np.random.default_rng(number).normal(size=(40, 3)).astype(np.float32))
    return path


def test_export_writes_shards_that_are_checked_and_read(folder: Path) -> None:
    out = folder.parent / "shards"
    result = CliRunner().invoke(main, ["data", "export", str(folder), "--out", str(out), "--shard-size", "10"])
    assert result.exit_code == 0, result.output
    assert f"{out}: 6 shards\nnext: pyro-mmvae train --data {out}" in result.output
    assert load_data(str(out), "train").shards.sizes == (10, 10, 10, 2)  # type: ignore[union-attr]
    checked = CliRunner().invoke(
        main, ["data", "check", str(out / "train-00000{0..3}.tar"), "--set", "data.verify=true"]
    )
    assert "train, val, test: no problems" in checked.output


def test_export_of_options_uses_them(folder: Path) -> None:
    out = folder.parent / "shards"
    arguments = ["data", "export", str(folder), "--out", str(out), "--set", "data.missing_rate=0.5"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert not load_data(str(out), "train").complete


def test_export_into_full_folder_is_refused(folder: Path) -> None:
    result = CliRunner().invoke(main, ["data", "export", str(folder), "--out", str(folder)])
    assert result.exit_code != 0
    assert "must be empty or not exist yet" in result.output
    assert sorted(file.name for file in folder.iterdir()) == ["a.npy", "b.npy"]
