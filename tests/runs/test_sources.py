"""Tests of the data that a run is asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyro_mmvae.runs import make_config
from pyro_mmvae.runs.sources import load_source


@pytest.mark.parametrize(("name", "is_inherited"), [("own", True), ("other", False)])
def test_load_source_of_the_training_data_by_a_relative_path_has_all_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_inherited: bool
) -> None:
    for folder in ("own", "other"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "gauge.npy", np.random.default_rng(0).normal(size=(40, 2)))
        np.save(tmp_path / folder / "ids.npy", np.arange(40))
    config = make_config(None, {"data.name": str(tmp_path / "own"), "data.split_seed": 5})
    expected = load_source(config, None, "test").item_ids
    monkeypatch.chdir(tmp_path)
    chosen = load_source(config, name, "test").item_ids
    assert expected is not None
    assert chosen is not None
    assert (chosen.tolist() == expected.tolist()) == is_inherited
