"""Resumed trainings whose settings, data or machine have changed, and the checks of their checkpoints."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae import MultimodalDataset, fit, train
from pyro_mmvae.runs import DataChangedError, RunError, RunWriter, load_split, read_metrics
from pyro_mmvae.runs.checkpoint import CheckpointError, read_state
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import SettingsChangedError, resume, session
from pyro_mmvae.training.resumed_data import changed_values, value_checksums
from pyro_mmvae.training.resumption import check_position

MakeConfig = Callable[..., Config]


def edit(path: Path, old: str, new: str) -> None:
    text = (path / "config.yaml").read_text()
    assert old in text
    (path / "config.yaml").write_text(text.replace(old, new))


def environment(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "environment.json").read_text())
    return content


@pytest.fixture
def half(toy_config: MakeConfig, tmp_path: Path) -> Path:
    """Return a run of one epoch, trained by a schedule that does not depend on their number."""
    path = tmp_path / "run"
    train(toy_config(train__epochs=1, train__schedule="constant", train__fit_prior=0), path, progress=False)
    return path


def test_resume_with_changed_settings_raises_and_names_them(half: Path, opened: list[str]) -> None:
    whole, before = (half / "config.yaml").read_text(), (half / "checkpoint.safetensors").read_bytes()
    opened.clear()
    for old, new, line in (
        ("lr: 0.003", "lr: 0.01", "train.lr: 0.003 → 0.01"),
        ("beta: 1.0", "beta: 2.0", "model.beta: 1.0 → 2.0"),
        ("seed: 0\n  device", "seed: 1\n  device", "train.seed: 0 → 1"),
        ("aggregation: wb", "aggregation: poe", 'model.aggregation: "wb" → "poe"'),
        ("likelihood: auto", "likelihood: normal", 'model.likelihood: "auto" → "normal"'),
        ("batch_size: 32", "batch_size: 16", "train.batch_size: 32 → 16"),
        ("train_size: 96", "train_size: 64", "data.train_size: 96 → 64"),
    ):
        edit(half, old, new)
        with pytest.raises(SettingsChangedError) as error:
            resume(half, epochs=2, progress=False)
        assert str(error.value) == (
            f"{half / 'config.yaml'}: the settings have changed since the last checkpoint: {line}: restore them, or "
            "pass --force (in Python, force=True) to go on with them and record it"
        )
        (half / "config.yaml").write_text(whole)
    edit(half, "epochs: 1", "epochs: 9")
    with pytest.raises(SettingsChangedError, match=r"train.epochs: 1 → 9: restore it, and pass --epochs N"):
        resume(half, progress=False)
    assert opened == []
    assert (half / "checkpoint.safetensors").read_bytes() == before


def test_resume_with_force_goes_on_with_the_new_settings_and_records_them(half: Path) -> None:
    edit(half, "lr: 0.003", "lr: 0.01")
    edit(half, "batch_size: 32", "batch_size: 16")
    run = resume(half, epochs=2, force=True, progress=False)
    assert (run.config.train.lr, run.config.train.batch_size, run.config.train.epochs) == (0.01, 16, 2)
    assert [(row["lr"], row["step"]) for row in read_metrics(half)] == [(0.003, 3), (0.01, 9)]
    changes = ["train.epochs: 1 → 2", "train.batch_size: 32 → 16", "train.lr: 0.003 → 0.01"]
    (entry,) = environment(half)["resumed"]
    assert (entry["step"], sorted(entry["changes"])) == (3, sorted(changes))
    accepted = read_state(half / "checkpoint.safetensors")["accepted"]
    assert sorted(accepted) == sorted(f"step 3: {change}" for change in changes)
    resume(half, progress=False)  # what was accepted is not refused again


def test_resume_with_more_epochs_after_a_kill_before_the_configuration_was_written_goes_on(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: RunWriter, config: Config) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunWriter, "write_config", killed)
        with pytest.raises(KeyboardInterrupt):
            resume(half, epochs=2, progress=False)
    assert "epochs: 1" in (half / "config.yaml").read_text()
    run = resume(half, progress=False)
    assert run.config.train.epochs == len(read_metrics(half)) == 2


def test_resume_with_epochs_of_a_damaged_run_leaves_its_configuration(half: Path) -> None:
    before, file = (half / "config.yaml").read_text(), half / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        resume(half, epochs=99, progress=False)
    assert (half / "config.yaml").read_text() == before


def test_resume_of_a_finished_run_does_not_open_its_data(half: Path, opened: list[str]) -> None:
    opened.clear()
    assert resume(half, progress=False).path == half
    assert opened == []
    (half / "samples.npz").unlink()  # as after a kill that followed the last epoch
    resume(half, progress=False)
    assert opened
    assert (half / "samples.npz").exists()


def test_resume_with_changed_data_raises_and_force_records_it(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(config: Config, split: str) -> MultimodalDataset:
        data = load_split(config, split)
        return dataclasses.replace(data, modalities={**data.modalities, "m1": 255 - data.modalities["m1"]})

    monkeypatch.setattr(session.runs, "load_split", other)
    with pytest.raises(DataChangedError, match="split 'train': modality 'm1'"):
        resume(half, epochs=2, progress=False)
    resume(half, epochs=2, force=True, progress=False)
    assert any("split 'train': modality 'm1'" in change for change in environment(half)["resumed"][0]["changes"])


def test_changed_values_with_one_other_value_among_many_names_its_modality() -> None:
    def data(value: int) -> MultimodalDataset:
        pixels = torch.zeros(5000, 1, 2, 2, dtype=torch.uint8)
        pixels[1] = value
        present = torch.ones(5000, 2, dtype=torch.bool)
        return MultimodalDataset({"a": pixels, "b": torch.zeros(5000, 3)}, None, present, "data", "train")

    before, now = (value_checksums({"train": data(value)}) for value in (0, 1))
    assert changed_values(before, before) == ()
    assert changed_values(before, now) == ("split 'train': a: the values of some items differ",)
    assert changed_values({}, now) == ()


def test_resume_with_another_number_of_threads_warns(half: Path) -> None:
    edit(half, "threads: 1", "threads: 2")
    with pytest.warns(UserWarning, match=r"differ in rounding .* another arithmetic \(threads: 1 → 2\)"):
        resume(half, epochs=2, progress=False)
    assert environment(half)["resumed"][0]["arithmetic"] == ["threads: 1 → 2"]


def test_resume_of_a_moved_run_with_its_data_goes_on(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    settings = {"model.network.hidden": 4, "train.threads": 1, "train.fit_prior": 0}
    fit({"x": values, "y": values + 1}, epochs=1, latent_size=2, out=tmp_path / "a", settings=settings, progress=False)
    assert str(tmp_path) not in (tmp_path / "a" / "config.yaml").read_text()
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(read_metrics(resume(tmp_path / "b", epochs=2, progress=False).path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"epoch": 5, "batch": 0, "step": 15}, "epoch must be an integer from 0 to 4, got 5"),
        ({"epoch": 1, "batch": 3, "step": 6}, "batch must be an integer from 0 to 2, got 3"),
        ({"epoch": 1, "batch": 0, "step": 10**30}, "step must be an integer from 0 to 12, got 1000000"),
        ({"epoch": 1, "batch": 2, "step": 3}, "step must be 5, after 1 epochs of 3 steps and 2 more, got 3"),
    ],
)
def test_check_position_outside_of_the_training_raises(state: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_position(tmp_path / "checkpoint", state, 4, 3)
    check_position(tmp_path / "checkpoint", {"epoch": 4, "batch": 0, "step": 12}, 4, 3)


@pytest.mark.parametrize("value", [-1, "3", None, 1.5, True])
def test_resume_of_a_checkpoint_with_an_absurd_epoch_raises(
    half: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    state = {**read_state(half / "checkpoint.safetensors"), "epoch": value}
    monkeypatch.setattr("pyro_mmvae.training.resumption.read_state", lambda _: state)
    with pytest.raises(CheckpointError, match="epoch must be an integer of at least 0, got"):
        resume(half, progress=False)


def test_resume_while_another_process_trains_raises(half: Path) -> None:
    from pyro_mmvae.runs import locked_run

    with locked_run(half), pytest.raises(RunError, match="is being trained by another process"):
        resume(half, progress=False)
