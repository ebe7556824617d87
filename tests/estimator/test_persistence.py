"""Tests of saved, pickled and removed estimators."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyro_mmvae
from pyro_mmvae import MultimodalVAETransformer
from pyro_mmvae.runs import RunError

SETTINGS = {
    "train.threads": 1, "train.device": "cpu", "model.network.name": "mlp", "model.network.hidden": 8,
    "model.network.depth": 1,
}  # fmt: skip
TABLE = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=["a", "b", "c"])


def fit_vae(**options: Any) -> MultimodalVAETransformer:
    columns = {"u": slice("a", "b"), "v": ["c"]}
    options = {"latent_size": 2, "epochs": 1, "random_state": 0, "settings": SETTINGS, **options}
    return MultimodalVAETransformer(columns, **options).fit(TABLE)


def test_load_given_a_saved_estimator_returns_it(tmp_path: Path) -> None:
    vae = fit_vae()
    vae.save(tmp_path / "saved")
    z = vae.transform(TABLE)
    params = vae.get_params()
    del vae
    gc.collect()
    shutil.copytree(tmp_path / "saved", tmp_path / "moved")
    loaded = MultimodalVAETransformer.load(tmp_path / "moved")
    assert loaded.get_params() == params
    assert np.array_equal(loaded.transform(TABLE), z)
    assert loaded.feature_names_in_.tolist() == list(TABLE)
    assert list(loaded.inverse_transform(z)) == list(TABLE)
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.transform(TABLE.rename(columns={"a": "z"}))
    assert not any(file.suffix in {".pkl", ".pt", ".joblib"} for file in (tmp_path / "saved").rglob("*"))


def test_fit_with_out_writes_a_run_that_commands_and_load_open(tmp_path: Path) -> None:
    vae = fit_vae(out=tmp_path / "run", keep_data=True)
    z = vae.transform(TABLE)
    vae.save(tmp_path / "run")
    del vae
    gc.collect()
    assert len(pyro_mmvae.load(tmp_path / "run").data("train")) == 27
    loaded = MultimodalVAETransformer.load(tmp_path / "run")
    assert np.array_equal(loaded.transform(TABLE), z)
    with pytest.raises(RunError, match="exists already"):
        loaded.fit(TABLE)


def test_save_onto_something_else_raises(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="path must not exist yet"):
        fit_vae().save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_save_with_a_parameter_that_json_cannot_hold_raises(tmp_path: Path) -> None:
    vae = fit_vae().set_params(data_types={"u": object()})
    with pytest.raises(ValueError, match="data_types: u must hold numbers, strings, lists and mappings only"):
        vae.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_save_with_a_generator_stores_the_seed_it_gave(tmp_path: Path) -> None:
    vae = fit_vae(random_state=np.random.RandomState(3))
    vae.save(tmp_path / "saved")
    assert MultimodalVAETransformer.load(tmp_path / "saved").random_state == vae.seed_


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a directory that an estimator was saved to"),
        ("{", "must be a directory that an estimator was saved to"),
        ("[]", "must be a directory that an estimator was saved to"),
        ('{"format": 99}', "must have format 1, got another one"),
    ],
)
def test_load_given_another_directory_raises(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "estimator.json").write_text(content)
    with pytest.raises(RunError, match=message):
        MultimodalVAETransformer.load(tmp_path)


@pytest.mark.parametrize("duplicate", [lambda vae: pickle.loads(pickle.dumps(vae)), copy.deepcopy])
def test_pickle_outlives_the_folder_of_the_original(duplicate: Any) -> None:
    vae = fit_vae()
    z, folder, drawn = vae.transform(TABLE), vae.run_.path, vae.sample(3, random_state=1)
    assert vae.run_.fitted_prior is not None
    restored = duplicate(vae)
    assert restored.run_.path != folder
    del vae
    gc.collect()
    assert not folder.parent.exists()
    assert np.array_equal(restored.transform(TABLE), z)
    assert restored.impute(TABLE).equals(TABLE)
    assert restored.sample(3, random_state=1).equals(drawn)


def test_temporary_folder_is_removed_by_another_training() -> None:
    vae = fit_vae()
    first = vae.run_.path
    vae.fit(TABLE)
    gc.collect()
    assert not first.exists()
    assert vae.run_.path.exists()


def test_pickle_of_an_unfitted_estimator_keeps_its_parameters() -> None:
    vae = MultimodalVAETransformer({"u": [0]}, epochs=3)
    assert pickle.loads(pickle.dumps(vae)).get_params() == vae.get_params()
