"""Trainings from shards by two processes, against those by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mmvae import resume, train
from pyro_mmvae.training import shard_saves
from tests.training.test_processes import compare_runs, in_processes, pytestmark  # noqa: F401  (needs Gloo)
from tests.training.test_shard_saves import config, folder, killed_in_the_second_epoch  # noqa: F401  (a fixture)


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
    with killed_in_the_second_epoch(monkeypatch):
        halted = in_processes(lambda _: train(settings, tmp_path / "halted", progress=False).names, tmp_path)
    assert [status for status, _ in halted] == [1, 1]
    assert [s for s, _ in in_processes(lambda _: resume(tmp_path / "halted", progress=False).names, tmp_path)] == [0, 0]
    compare_runs(tmp_path / "one", tmp_path / "halted")
