"""Tests of training on values in Python, and of what can be done with such a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import pyro_mmvae
from pyro_mmvae import ModalitySpec
from pyro_mmvae.cli import main
from pyro_mmvae.data import from_arrays, load_data, to_dataset, write_folder
from pyro_mmvae.runs import RunError, make_config, read_config

N = 60
SMALL = {"train.batch_size": 16, "model.network": {"name": "mlp", "hidden": 8, "depth": 1}}
TINY_EVALUATION = "--no-quality --no-diagnostics --likelihood-items 2 --samples 8 --khat-items 2 --khat-samples 1000"
QUIET: dict[str, Any] = {"epochs": 1, "latent_size": 2, "progress": False, "settings": SMALL}


def make_values() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(300, 5, (N, 3)), columns=["hot", "cold", "wet"])
    table.index = [f"p{row}" for row in range(N)]
    table.iloc[3] = np.nan
    return {
        "photo": generator.integers(0, 255, (N, 8, 8, 3), dtype=np.uint8),
        "sensors": table,
        "caption": [None if row == 5 else ["a cat", "the dog"][row % 2] for row in range(N)],
    }


LABELS = [["cat", "dog"][row % 2] for row in range(N)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "run"
    pyro_mmvae.fit(make_values(), labels=LABELS, out=path, **QUIET)
    return path


def test_fit_given_values_writes_a_run_with_its_data(run_folder: Path) -> None:
    run, values = pyro_mmvae.load(run_folder), make_values()
    parts = {split: run.data(split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 48, "val": 6, "test": 6}
    assert run.names == ("caption", "photo", "sensors")
    ids = [name for part in parts.values() for name in part.item_ids.tolist()]  # type: ignore[union-attr]
    assert sorted(ids) == sorted(values["sensors"].index)
    for part in parts.values():
        assert part.class_names == ("cat", "dog")
        assert part.feature_names == {"sensors": ("hot", "cold", "wet")}
        assert part.tensors["photo"].dtype == torch.uint8
        for item, name in enumerate(part.item_ids.tolist()):  # type: ignore[union-attr]
            row = int(name[1:])
            assert part.labels is not None
            assert int(part.labels[item]) == row % 2
            assert np.array_equal(part.tensors["photo"][item].numpy(), np.moveaxis(values["photo"][row], -1, 0))
            assert part.present[item].tolist() == [row != 5, True, row != 3]
            if row != 3:
                assert np.allclose(part.tensors["sensors"][item].numpy(), values["sensors"].iloc[row], rtol=1e-6)
            if row != 5:
                texts = run.texts("caption", part.tensors["caption"][item : item + 1])
                assert texts.tolist() == [values["caption"][row]]


def test_fit_keeps_the_data_by_a_path_relative_to_the_run(run_folder: Path, tmp_path: Path) -> None:
    assert "name: ./data" in (run_folder / "config.yaml").read_text()
    moved = tmp_path / "elsewhere"
    shutil.copytree(run_folder, moved)
    assert read_config(moved).data.name == str(moved.resolve() / "data")
    assert make_config(moved / "config.yaml").data.name == str(moved.resolve() / "data")  # as --config reads it
    assert len(pyro_mmvae.load(moved).data("test")) == 6


def invoke(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_fit_run_is_resumed_and_sampled_by_commands_after_it_was_moved(run_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run_folder, moved)
    invoke("train", "--resume", str(moved), "--epochs", "2", "--quiet")
    assert "name: ./data" in (moved / "config.yaml").read_text()
    invoke("sample", str(moved), "--given", "photo", "--out", str(tmp_path / "s.npz"))
    with np.load(tmp_path / "s.npz") as arrays:
        assert any("caption" in name for name in arrays)


def test_fit_run_is_evaluated_and_checked_by_commands(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "run"
    pyro_mmvae.fit({"a": generator.normal(size=(N, 3)), "b": generator.random((N, 2))}, out=path, **QUIET)
    invoke("evaluate", str(path), "--quiet", *TINY_EVALUATION.split())
    assert (path / "evaluation" / "metrics.csv").exists()
    invoke("ppc", str(path), "--given", "a", "--items", "4", "--num-samples", "8", "--quiet")
    assert (path / "evaluation" / "ppc.csv").exists()


def test_fit_resumed_equals_training_without_interruption(run_folder: Path, tmp_path: Path) -> None:
    settings = {**QUIET, "epochs": 2, "settings": {**SMALL, "train": {"schedule": "constant", "warmup": 0}}}
    whole = pyro_mmvae.fit(make_values(), labels=LABELS, out=tmp_path / "whole", **settings)
    pyro_mmvae.fit(make_values(), labels=LABELS, out=tmp_path / "parts", **{**settings, "epochs": 1})
    parts = pyro_mmvae.resume(tmp_path / "parts", epochs=2, progress=False)
    for expected, received in zip(whole.vae.parameters(), parts.vae.parameters(), strict=True):
        assert torch.equal(expected, received)


def test_fit_without_keeping_data_says_so_where_they_are_needed(tmp_path: Path) -> None:
    run = pyro_mmvae.fit(make_values(), out=tmp_path / "run", keep_data=False, **QUIET)
    assert not (tmp_path / "run" / "data").exists()
    with pytest.raises(ValueError, match="the split 'test' must be passed as data, as the run was trained with keep"):
        run.data("test")
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "must be passed as data" in result.output
    assert "\n" not in result.output.strip()


def test_fit_keeping_data_or_not_trains_the_same_model(tmp_path: Path) -> None:
    values = {"a": np.random.default_rng(0).normal(size=(N, 3)), "b": np.random.default_rng(1).random((N, 2))}
    runs = [pyro_mmvae.fit(values, out=tmp_path / str(keep), keep_data=keep, **QUIET) for keep in (True, False)]
    for expected, received in zip(*(run.vae.parameters() for run in runs), strict=True):
        assert torch.equal(expected, received)


def test_fit_given_other_data_validates_and_tests_on_them(tmp_path: Path) -> None:
    values, labels = make_values(), np.array(LABELS)
    other = {name: value[:10] for name, value in values.items()}
    other["sensors"] = other["sensors"].iloc[:, ::-1].set_axis([f"q{row}" for row in range(10)])
    run = pyro_mmvae.fit(values, labels=labels, validation=(other, labels[:10]), test=0, out=tmp_path / "run", **QUIET)
    val = run.data("val")
    assert len(run.data("train")) == N
    assert len(val) == 10
    assert val.item_ids is not None
    assert val.item_ids.tolist() == [f"q{row}" for row in range(10)]
    assert np.allclose(val.tensors["sensors"][0].numpy(), values["sensors"].iloc[0], rtol=1e-6)  # matched by name
    assert val.labels is not None
    assert val.labels.tolist() == [0, 1] * 5
    with pytest.raises(ValueError, match="split 'test' must have at least one item"):
        run.data("test")


def test_fit_given_specs_and_data_types_describes_modalities(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = {"rna": generator.poisson(3.0, (N, 5)), "v": generator.random((N, 2))}
    specs = {"v": ModalitySpec(likelihood="laplace")}
    run = pyro_mmvae.fit(values, data_types={"rna": "counts"}, specs=specs, out=tmp_path / "run", **QUIET)
    assert run.modality_specs["rna"].likelihood == "negative_binomial"
    assert run.modality_specs["v"].likelihood == "laplace"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.5}, "validation must be a fraction above 0 and below 1, or data, got 1.5"),
        ({"validation": 0}, "validation must be a fraction above 0 and below 1, or data, got 0"),
        ({"test": -0.1}, "test must be a fraction above 0 and below 1, or data, got -0.1"),
        ({"validation": 0.6, "test": 0.6}, "must have more than 72 items, some of them for training, got 60"),
        ({"data_types": {"a": "pixels"}}, "data_types of 'a' must be one of image, vector"),
        ({"settings": {"data.name": "x"}}, "settings must not hold 'data.name'"),
        ({"settings": {"train.lrr": 1}}, "train.lrr: no such setting"),
        ({"aggregation": "nope"}, "nope"),
    ],
)
def test_fit_given_bad_arguments_raises_and_leaves_no_folder(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    values = {"a": np.random.default_rng(0).normal(size=(N, 2))}
    with pytest.raises(ValueError, match=message):
        pyro_mmvae.fit(values, out=tmp_path / "run", **{**QUIET, **options})
    assert not (tmp_path / "run").exists()


def test_fit_given_an_existing_folder_raises_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        pyro_mmvae.fit({"a": np.random.default_rng(0).normal(size=(N, 2))}, out=tmp_path, **QUIET)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_train_given_splits_without_validation_raises(tmp_path: Path) -> None:
    data = from_arrays({"a": np.random.default_rng(0).normal(size=(N, 2))})
    with pytest.raises(ValueError, match="data must have the splits train, val and, if there is one, test, got train"):
        pyro_mmvae.train(make_config(), tmp_path / "run", data={"train": data}, progress=False)


def test_write_folder_given_splits_is_read_back_as_it_was(tmp_path: Path) -> None:
    data = to_dataset(make_values(), labels=[None, *LABELS[1:]])
    write_folder(tmp_path / "set", {"train": data.subset(range(20)), "test": data.subset(range(20, N))})
    test = load_data(str(tmp_path / "set"), "test")
    assert test.present.tolist() == data.present[20:][:, [2, 0, 1]].tolist()
    assert torch.equal(test.tensors["photo"], data.tensors["photo"][20:])
    train = load_data(str(tmp_path / "set"), "train")
    assert train.labels is not None
    assert train.labels[:3].tolist() == [-1, 1, 0]
    with pytest.raises(FileExistsError, match="must be empty or not exist yet"):
        write_folder(tmp_path / "set", {"train": data})


def test_write_folder_given_splits_of_other_shape_raises(tmp_path: Path) -> None:
    wide, narrow = (from_arrays({"a": np.random.default_rng(0).normal(size=(4, n))}) for n in (3, 2))
    with pytest.raises(ValueError, match="val: shapes must be"):
        write_folder(tmp_path / "set", {"train": wide, "val": narrow})


def test_write_folder_given_a_reserved_name_raises(tmp_path: Path) -> None:
    data = from_arrays({"labels": np.random.default_rng(0).normal(size=(4, 2))})
    with pytest.raises(ValueError, match="modality 'labels' must not be called labels or present"):
        write_folder(tmp_path / "set", {"train": data})
