"""Trainings from shards by two processes, against those by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_mmvae import resume, train
from pyro_mmvae.training import shard_saves
from pyro_mmvae.training.trainer import Trainer
from tests.training.test_processes import compare_runs, in_processes, pytestmark  # noqa: F401  (needs Gloo)
from tests.training.test_shard_saves import config, folder  # noqa: F401  (a fixture)


def test_training_from_shards_by_two_processes_equals_that_by_one_also_after_a_stop(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = config(folder, **{"train.schedule": "constant", "train.device": "cpu", "train.precision": "fp32"})
    train(settings, tmp_path / "one", progress=False)
    by_two = in_processes(lambda _: train(settings, tmp_path / "two", progress=False).names, tmp_path)
    assert by_two == [(0, ("a", "b"))] * 2
    compare_runs(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(shard_saves, "SECONDS", 0.0)
    step = Trainer.step

    def killed(self: Trainer, batch: Any) -> torch.Tensor:
        if self.steps == 14:  # in the second epoch, after its checkpoint at step 13
            raise RuntimeError("killed")
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", killed)
    halted = in_processes(lambda _: train(settings, tmp_path / "halted", progress=False).names, tmp_path)
    assert [status for status, _ in halted] == [1, 1]
    monkeypatch.setattr(Trainer, "step", step)
    assert [s for s, _ in in_processes(lambda _: resume(tmp_path / "halted", progress=False).names, tmp_path)] == [0, 0]
    compare_runs(tmp_path / "one", tmp_path / "halted")
