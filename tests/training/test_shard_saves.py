"""Trainings from shards: finite and decreasing losses, and checkpoints inside an epoch that are exact."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae import resume, train
from pyro_mmvae.data import Shards, from_arrays, write_shards
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.checkpoint import read_state
from pyro_mmvae.runs.config import Config, make_config
from pyro_mmvae.training import shard_saves
from pyro_mmvae.training.shard_saves import ShardSaves
from pyro_mmvae.training.trainer import Trainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in {"train": 90, "val": 20, "test": 20}.items():
        latent = rng.normal(size=(count, 2))
        values = {name: (latent @ rng.normal(size=(2, 5))).astype(np.float32) for name in ("a", "b")}
        present = rng.random((count, 2)) < 0.8
        present[:, 0] = True
        splits[split] = from_arrays(values, present=present, split=split)
    path = tmp_path_factory.mktemp("shards") / "data"
    write_shards(path, splits, shard_size=20)
    return path


def config(folder: Path, **settings: Any) -> Config:
    plain = {
        "recipe": "plain", "data.name": str(folder), "data.buffer": 15, "model.latent_size": 2,
        "model.network.name": "mlp", "model.network.hidden": 16, "train.epochs": 2, "train.batch_size": 10,
        "train.lr": 0.01, "train.fit_prior": 0, "train.threads": 1,
    }  # fmt: skip
    return make_config(None, {**plain, **settings})


def weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / "checkpoint.safetensors")


@contextmanager
def killed_in_the_second_epoch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let trainings end with an error at step 14, after the checkpoint at step 13."""
    step = Trainer.step

    def killed(self: Trainer, batch: Any) -> torch.Tensor:
        if self.steps == 14:
            raise RuntimeError("killed")
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        yield


def test_train_from_shards_gives_finite_decreasing_loss(folder: Path, tmp_path: Path) -> None:
    train(config(folder, **{"train.epochs": 5}), tmp_path / "run", progress=False)
    objectives = [row["objective"] for row in read_metrics(tmp_path / "run")]
    assert np.isfinite(objectives).all()
    assert objectives[-1] > objectives[0] + 1


def test_resume_inside_an_epoch_gives_the_weights_of_the_whole_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(folder), tmp_path / "whole", progress=False)
    monkeypatch.setattr(shard_saves, "SECONDS", 0.0)
    with killed_in_the_second_epoch(monkeypatch), pytest.raises(RuntimeError, match="killed"):
        train(config(folder), tmp_path / "halted", progress=False)
    state = read_state(tmp_path / "halted" / "checkpoint.safetensors")
    assert (state["epoch"], state["batch"]) == (1, 4)
    resume(tmp_path / "halted", progress=False)
    whole, halted = weights(tmp_path / "whole"), weights(tmp_path / "halted")
    assert whole.keys() == halted.keys()
    assert all(torch.equal(whole[name], halted[name]) for name in whole)
    assert [row["objective"] for row in read_metrics(tmp_path / "halted")] == pytest.approx(
        [row["objective"] for row in read_metrics(tmp_path / "whole")], rel=1e-9
    )


def test_are_due_waits_for_a_shard_and_for_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Shards((20, 20, 20), buffer=0)
    assert not any(ShardSaves(shards, 10, 0).are_due(number) for number in range(1, 6))  # within a minute
    monkeypatch.setattr(shard_saves, "SECONDS", 0.0)
    saves = ShardSaves(shards, 10, 1)
    assert [number for number in range(2, 7) if saves.are_due(number)] == [3, 5]
    assert not ShardSaves(None, 10, 0).are_due(5)


def test_train_from_shards_without_their_files_names_the_shard(folder: Path, tmp_path: Path) -> None:
    name = "train-000003.tar"
    os.rename(folder / name, tmp_path / name)
    try:
        with pytest.raises(ValueError, match=f"{name}: must be a tar file, got no such file"):
            train(config(folder), tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()
    finally:
        os.rename(tmp_path / name, folder / name)
