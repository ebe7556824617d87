"""Tests of runs that are trained with covariates: their checkpoints, their data, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_mmvae
from pyro_mmvae.data import from_arrays, to_dataset
from pyro_mmvae.runs import make_config
from pyro_mmvae.runs.checkpoint import CheckpointError, read_state
from pyro_mmvae.runs.data_record import DataChangedError
from pyro_mmvae.runs.resolution import read_covariates
from pyro_mmvae.training import resume

N = 60
SMALL = {"train.batch_size": 16, "train.threads": 1, "model.network": {"name": "mlp", "hidden": 8, "depth": 1}}
QUIET: dict[str, Any] = {"epochs": 1, "latent_size": 2, "progress": False, "settings": SMALL}


def make_values(count: int = N, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {"left": generator.normal(size=(count, 3)), "right": generator.normal(size=(count, 2))}


def make_donors(count: int = N) -> list[str | None]:
    return [None if row == 7 else "CAB"[row % 3 if row % 5 else 0] for row in range(count)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("covariates") / "run"
    pyro_mmvae.fit(make_values(), covariates={"donor": make_donors(), "day": [1, 2] * (N // 2)}, out=path, **QUIET)
    return path


def test_fit_given_covariates_stores_categories_and_training_frequencies(run_folder: Path) -> None:
    run = pyro_mmvae.load(run_folder)
    assert list(run.vae.covariates.items()) == [("day", ("1", "2")), ("donor", ("A", "B", "C"))]
    train = run.data("train")
    known = train.covariates["donor"][train.covariates["donor"] >= 0]
    expected = torch.cat([train.covariates["day"].bincount() / len(train), known.bincount() / len(known)])
    torch.testing.assert_close(run.model.covariates.frequencies, expected)
    assert read_covariates(read_state(run_folder / "best.safetensors")) == run.vae.covariates


def test_run_data_has_the_categories_that_were_passed_to_fit(run_folder: Path) -> None:
    run, given = pyro_mmvae.load(run_folder), make_donors()
    for split in ("train", "val", "test"):
        data = run.data(split)
        assert data.item_ids is not None
        expected = [given[int(name)] for name in data.item_ids]
        codes = data.covariates["donor"].tolist()
        assert [None if code < 0 else "ABC"[code] for code in codes] == expected


def test_dataset_of_new_values_matches_covariates_by_name(run_folder: Path) -> None:
    run, values = pyro_mmvae.load(run_folder), make_values(3, seed=1)
    data = run.dataset(values, covariates={"donor": ["C", "B", "C"], "day": [2, None, 2]})
    assert list(data.covariates) == ["day", "donor"]
    assert data.covariates["donor"].tolist() == [2, 1, 2]
    assert data.covariates["day"].tolist() == [1, -1, 1]
    unknown = run.dataset(values)
    assert unknown.covariates["donor"].tolist() == [-1, -1, -1]
    assert [note.split(":")[0] for note in unknown.provenance["matched"]] == ["covariate 'day'", "covariate 'donor'"]
    with pytest.raises(ValueError, match=r"item 1: covariate 'donor' .* \(A, B, C\), got 'D'"):
        run.dataset(values, covariates={"donor": ["A", "D", "A"]})


def test_resume_of_a_run_with_covariates_keeps_the_frequencies(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    resumed = resume(tmp_path / "run", epochs=2, progress=False)
    assert resumed.state["epoch"] in {1, 2}  # of the best checkpoint
    assert read_state(tmp_path / "run" / "checkpoint.safetensors")["epoch"] == 2
    before = pyro_mmvae.load(run_folder).model.covariates.frequencies
    torch.testing.assert_close(resumed.model.covariates.frequencies, before)


def test_resume_on_other_covariates_is_refused(tmp_path: Path) -> None:
    run = pyro_mmvae.fit(make_values(), covariates={"donor": make_donors()}, out=tmp_path / "run", **QUIET)
    file, meta = run.path / "data" / "covariate_donor.npy", run.path / "data" / "meta.yaml"
    donors = np.load(file)
    np.save(file, donors[::-1])
    with pytest.raises(DataChangedError, match="covariate 'donor': the categories of the items differ"):
        resume(run.path, epochs=2, progress=False)
    file.unlink()
    meta.write_text("".join(line for line in meta.read_text().splitlines(True) if "donor" not in line))
    meta.write_text(meta.read_text().split("categories:")[0])
    with pytest.raises(DataChangedError, match="covariate 'donor' is missing"):
        resume(run.path, epochs=2, progress=False)
    with pytest.raises(CheckpointError, match=r"must have the covariates of the run, \{'donor': .* got none"):
        resume(run.path, epochs=2, progress=False, allow_changed_data=True)


def test_fit_given_one_category_names_the_covariate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="covariate 'donor' must have two or more categories .* got 1: leave it out"):
        pyro_mmvae.fit(make_values(), covariates={"donor": ["A"] * N}, out=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_train_given_a_category_without_a_training_item_warns(tmp_path: Path) -> None:
    data = from_arrays(make_values(), covariates={"donor": ["A", "B"] * (N // 2 - 1) + ["C", "A"]})
    splits = {"train": data.subset(range(50)), "val": data.subset(range(50, N))}
    settings = {"model.latent_size": 2, "train.epochs": 1, "data.name": "arrays", **SMALL}
    with pytest.warns(UserWarning, match="no training item has the category 'C'"):
        pyro_mmvae.train(make_config(None, settings), tmp_path / "run", data=splits, progress=False)


def test_train_given_splits_of_other_categories_is_refused(tmp_path: Path) -> None:
    splits = {
        split: from_arrays(make_values(12), covariates={"donor": list(names) * 6}, split=split)
        for split, names in (("train", "AB"), ("val", "AC"))
    }
    settings = {"model.latent_size": 2, "train.epochs": 1, "data.name": "arrays", **SMALL}
    with pytest.raises(ValueError, match="covariates of val must have the categories of train"):
        pyro_mmvae.train(make_config(None, settings), tmp_path / "a", data=splits, keep_data=False, progress=False)


def test_fit_given_other_data_for_validation_matches_their_covariates(tmp_path: Path) -> None:
    other = to_dataset(make_values(10, seed=2), covariates={"donor": ["B", "A"] * 5})
    run = pyro_mmvae.fit(
        make_values(), covariates={"donor": make_donors()}, validation=other, out=tmp_path / "run", **QUIET
    )
    assert run.data("val").covariates["donor"].tolist() == [1, 0] * 5
    assert run.vae.covariates == {"donor": ("A", "B", "C")}


def test_run_without_covariates_has_none_in_its_model_and_checkpoint(tmp_path: Path) -> None:
    run = pyro_mmvae.fit(make_values(), out=tmp_path / "run", **QUIET)
    assert run.vae.covariates == {}
    assert not [name for name in run.vae.state_dict() if "covariate" in name]
    data = run.dataset(make_values(3), covariates={"donor": ["A", "B", "C"]})
    assert data.covariates == {}
    assert read_covariates({"shapes": {}}) == {}  # of a version without covariates


def test_train_on_a_table_with_covariates_reads_new_tables_with_them(tmp_path: Path) -> None:
    table = pd.DataFrame(make_values()["left"], columns=["a", "b", "c"]).assign(donor=["x", "y"] * (N // 2))
    table.to_csv(tmp_path / "old.csv", index=False)
    table[:4].assign(donor="y").to_csv(tmp_path / "new.csv", index=False)
    table[:4].drop(columns="donor").to_csv(tmp_path / "without.csv", index=False)
    settings = {"data.name": str(tmp_path / "old.csv"), "data.covariates": ["donor"], "train.epochs": 1, **SMALL}
    settings |= {"data.columns": {"left": ["a", "b"], "right": ["c"]}, "model.latent_size": 2}
    run = pyro_mmvae.train(make_config(None, settings), tmp_path / "run", progress=False)
    assert run.dataset(tmp_path / "new.csv").covariates["donor"].tolist() == [1] * 4
    with pytest.raises(ValueError, match=r"covariates must be columns, got 'donor'"):
        run.dataset(tmp_path / "without.csv")
    unknown = run.dataset(tmp_path / "without.csv", options={"covariates": []})
    assert unknown.covariates["donor"].tolist() == [-1] * 4
