"""Tests of resuming a run that does not keep its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import pyro_mmvae
from pyro_mmvae.cli import main
from pyro_mmvae.data import to_dataset
from pyro_mmvae.run_files import read_metrics
from pyro_mmvae.runs import DataChangedError
from pyro_mmvae.training.division import split_data

N = 40
SMALL = {"batch_size": 16, "schedule": "constant", "warmup": 0}
QUIET: dict[str, Any] = {
    "latent_size": 2,
    "progress": False,
    "settings": {"train": SMALL, "model.network": {"name": "mlp", "hidden": 8, "depth": 1}},
}
LABELS = [["cat", "dog"][row % 2] for row in range(N)]


def make_values() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(300, 5, (N, 3)), columns=["hot", "cold", "wet"])
    table.index = [f"p{row}" for row in range(N)]
    table.iloc[3] = np.nan
    return {
        "sensors": table,
        "photo": generator.integers(0, 255, (N, 8, 8, 3), dtype=np.uint8),
        "caption": [None if row == 5 else ["a cat", "the dog"][row % 2] for row in range(N)],
    }


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for one epoch, without keeping the data."""
    path = tmp_path_factory.mktemp("unkept") / "run"
    pyro_mmvae.fit(make_values(), labels=LABELS, epochs=1, seed=4, out=path, keep_data=False, **QUIET)
    return path


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    """Copy the run, which a test may continue."""
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def _permute_features(values: dict[str, Any]) -> Any:
    return {**values, "sensors": values["sensors"][["wet", "hot", "cold"]]}


def _split(values: dict[str, Any]) -> Any:
    splits = split_data(to_dataset(values, labels=LABELS), 0.1, 0.1, 4)
    return {name: splits[name] for name in ("val", "train")}


@pytest.mark.parametrize("change", [dict, _permute_features, _split])
def test_resume_given_the_data_of_the_start_equals_the_uninterrupted_training(
    change: Callable[[dict[str, Any]], Any], run: Path, tmp_path: Path
) -> None:
    values = change(make_values())
    labels = None if change is _split else LABELS
    resumed = pyro_mmvae.resume(run, epochs=2, data=values, labels=labels, progress=False)
    settings = {**QUIET, "epochs": 2, "seed": 4, "out": tmp_path / "whole", "keep_data": False}
    whole = pyro_mmvae.fit(make_values(), labels=LABELS, **settings)
    for expected, received in zip(whole.vae.parameters(), resumed.vae.parameters(), strict=True):
        assert torch.equal(expected, received)
    assert not (run / "data").exists()


def test_resume_given_other_values_says_what_differs(run: Path) -> None:
    values = make_values()
    values["sensors"] = values["sensors"] * 2
    with pytest.raises(DataChangedError, match="split 'train': modality 'sensors': the values are 2 times what they"):
        pyro_mmvae.resume(run, epochs=2, data=values, labels=LABELS, progress=False)
    with pytest.raises(DataChangedError, match="split 'train': the labels are missing"):
        pyro_mmvae.resume(run, epochs=2, data=make_values(), progress=False)
    pyro_mmvae.resume(run, epochs=2, data=values, progress=False, allow_changed_data=True)
    assert len(read_metrics(run)) == 2


def test_resume_given_data_that_do_not_fit_says_why(run: Path) -> None:
    values = make_values()
    with pytest.raises(ValueError, match="data: modality 'sensors' must have the 3 features .* got none of the name"):
        pyro_mmvae.resume(run, data={**values, "sensors": values["sensors"][["hot", "cold"]]}, progress=False)
    with pytest.raises(ValueError, match="modalities must be those that the model was trained on .*got 'more' as well"):
        pyro_mmvae.resume(run, data={**values, "more": np.ones((N, 2))}, progress=False)
    whole = to_dataset(values)
    with pytest.raises(ValueError, match="data must have the splits train, val and, if there is one, test, got train"):
        pyro_mmvae.resume(run, data={"train": whole}, progress=False)
    with pytest.raises(ValueError, match="labels, present and covariates must be None with data sets"):
        pyro_mmvae.resume(run, data={"train": whole, "val": whole}, labels=LABELS, progress=False)


def test_resume_without_data_asks_for_them(run: Path) -> None:
    with pytest.raises(ValueError, match="data must be those that the run was trained on.*got none: pass data=… to"):
        pyro_mmvae.resume(run, epochs=2, progress=False)
    result = CliRunner().invoke(main, ["train", "--resume", str(run), "--epochs", "2"])
    assert result.exit_code == 2
    assert "pass data=… to pyro_mmvae.resume" in result.output
    assert "\n" not in result.output.strip()


def test_resume_given_data_of_a_run_that_keeps_its_own_raises(tmp_path: Path) -> None:
    path, values = tmp_path / "run", {"a": np.random.default_rng(0).normal(size=(N, 3))}
    pyro_mmvae.fit(values, epochs=0, out=path, **QUIET)
    with pytest.raises(ValueError, match="data must be None, as the run finds its data itself, got other data"):
        pyro_mmvae.resume(path, data=values, progress=False)
    with pytest.raises(ValueError, match="labels, present and covariates must come with data"):
        pyro_mmvae.resume(path, labels=[0] * N, progress=False)


def test_resume_given_values_after_validation_on_other_data_needs_data_sets(tmp_path: Path) -> None:
    path, values = tmp_path / "run", {"a": np.random.default_rng(0).normal(size=(N, 3))}
    other = {"a": np.random.default_rng(1).normal(size=(9, 3))}
    pyro_mmvae.fit(values, validation=other, test=0, epochs=0, out=path, keep_data=False, **QUIET)
    with pytest.raises(ValueError, match="data must be a mapping with the data sets 'train' and 'val', as the run has"):
        pyro_mmvae.resume(path, data=values, progress=False)
    splits = split_data(to_dataset(values), other, 0, 0)
    pyro_mmvae.resume(path, data=splits, epochs=1, progress=False)
    assert len(read_metrics(path)) == 1


def test_resume_given_covariates_of_the_start_continues_and_notices_others(tmp_path: Path) -> None:
    path, values = tmp_path / "run", {"a": np.random.default_rng(0).normal(size=(N, 3))}
    pyro_mmvae.fit(values, covariates={"site": LABELS}, epochs=0, out=path, keep_data=False, **QUIET)
    shuffled = {"site": LABELS[1:] + LABELS[:1]}
    with pytest.raises(DataChangedError, match="split 'train': .*covariate"):
        pyro_mmvae.resume(path, epochs=1, data=values, covariates=shuffled, progress=False)
    pyro_mmvae.resume(path, epochs=1, data=values, covariates={"site": LABELS}, progress=False)
    assert len(read_metrics(path)) == 1
