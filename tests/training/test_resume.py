"""Training that is interrupted by Ctrl-C and resumed, compared bit by bit with the uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from pyro_mmvae import runs, train
from pyro_mmvae.runs import RunError, read_metrics
from pyro_mmvae.runs.checkpoint import CheckpointError, read_state
from pyro_mmvae.runs.config import Config, ConfigError
from pyro_mmvae.training import ElboEstimate, Interrupted, resume, session
from pyro_mmvae.training.trainer import Trainer

MakeConfig = Callable[..., Config]
SETTINGS: dict[str, Any] = {"train__epochs": 3, "model__aggregation": "mwb", "model__scale": "learned"}
STEPS = 9  # 3 epochs of 3 batches


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_at_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Send Ctrl-C during the step of that number."""
    step = Trainer.step

    def interrupted(self: Trainer, batch: Any) -> Tensor:
        if self.steps == number:
            ctrl_c()
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", interrupted)


def tensors(path: Path, name: str = "checkpoint.safetensors") -> dict[str, Tensor]:
    return load_file(path / name)


def same(path: Path, other: Path) -> None:
    for name in ("checkpoint.safetensors", "best.safetensors"):
        ours, theirs = tensors(path, name), tensors(other, name)
        assert ours.keys() == theirs.keys()
        differ = [key for key, value in ours.items() if not torch.equal(value, theirs[key])]
        assert not differ, name
        # Runs whose configurations differ at the start are different runs.
        first, second = ({k: v for k, v in read_state(p / name).items() if k != "run_id"} for p in (path, other))
        assert first == second
    rows, reference = (
        [{k: v for k, v in row["val"].items() if k != "seconds"} for row in read_metrics(p)] for p in (path, other)
    )
    assert rows == reference


@pytest.mark.parametrize("number", [0, 2, 4])  # the first, the last of an epoch, one in the middle
def test_resume_after_an_interruption_equals_the_uninterrupted_training(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    config = toy_config(**SETTINGS)
    train(config, tmp_path / "whole", progress=False)
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, number)
        with pytest.raises(Interrupted) as stop:
            train(config, tmp_path / "cut", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (stop.value.path, stop.value.epoch) == (tmp_path / "cut", number // 3)
    assert str(stop.value) == f"interrupted in epoch {number // 3 + 1}; everything is saved in {tmp_path / 'cut'}"
    state = read_state(tmp_path / "cut" / "checkpoint.safetensors")
    assert state["step"] == number + 1
    assert state["epoch"] * 3 + state["batch"] == number + 1
    resume(tmp_path / "cut", progress=False)
    same(tmp_path / "cut", tmp_path / "whole")


def test_train_interrupted_in_the_last_step_finishes(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(**SETTINGS)
    train(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, STEPS - 1)
        train(config, tmp_path / "cut", progress=False)
    same(tmp_path / "cut", tmp_path / "whole")


def test_resume_after_an_interruption_between_epochs_equals_the_uninterrupted_training(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(**SETTINGS)
    train(config, tmp_path / "whole", progress=False)
    evaluate = session.evaluate_elbo

    def interrupted(*args: Any, **keywords: Any) -> ElboEstimate:
        ctrl_c()
        return evaluate(*args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(session, "evaluate_elbo", interrupted)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", progress=False)
    assert len(read_metrics(tmp_path / "cut")) == 1
    resume(tmp_path / "cut", progress=False)
    same(tmp_path / "cut", tmp_path / "whole")


def test_resume_after_several_interruptions_equals_the_uninterrupted_training(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(**SETTINGS)
    train(config, tmp_path / "whole", progress=False)
    for go, number in ((lambda: train(config, tmp_path / "cut", progress=False), 1),) + tuple(
        (lambda: resume(tmp_path / "cut", progress=False), number) for number in (3, 4, 6)
    ):
        with monkeypatch.context() as patch:
            interrupt_at_step(patch, number)
            with pytest.raises(Interrupted):
                go()
    resume(tmp_path / "cut", progress=False)
    same(tmp_path / "cut", tmp_path / "whole")


def test_resume_keeps_the_best_checkpoint_so_far(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, evaluate = iter([-1.0, -5.0, -3.0]), session.evaluate_elbo
    monkeypatch.setattr(session, "evaluate_elbo", lambda *a, **k: {**evaluate(*a, **k), "elbo": next(scores)})
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 4)
        with pytest.raises(Interrupted):
            train(toy_config(**SETTINGS), tmp_path / "run", progress=False)
    run = resume(tmp_path / "run", progress=False)
    assert (run.state["epoch"], run.state["best"]) == (1, -1.0)


def test_train_on_a_second_ctrl_c_raises_keyboard_interrupt(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def twice(self: Trainer, batch: Any) -> Tensor:
        ctrl_c()
        ctrl_c()
        return torch.zeros(())

    monkeypatch.setattr(Trainer, "step", twice)
    with pytest.raises(KeyboardInterrupt):
        train(toy_config(), tmp_path / "run", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler


def test_resume_with_more_epochs_continues_from_the_last(toy_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(toy_config(train__epochs=1), path, progress=False)
    first = tensors(path)
    run = resume(path, epochs=3, progress=False)
    assert run.config.train.epochs == 3
    assert [row["epoch"] for row in read_metrics(path)] == [0, 1, 2]
    assert [row["step"] for row in read_metrics(path)] == [3, 6, 9]
    assert read_state(path / "checkpoint.safetensors")["epoch"] == 3
    key = next(key for key in first if key.startswith("model.guide.encode.networks") and key.endswith("weight"))
    assert not torch.equal(first[key], tensors(path)[key])
    assert runs.load(path).config.train.epochs == 3


def test_resume_with_more_epochs_at_a_constant_rate_equals_the_longer_training(
    toy_config: MakeConfig, tmp_path: Path
) -> None:
    settings = {"train__schedule": "constant"}
    train(toy_config(**settings, train__epochs=3), tmp_path / "whole", progress=False)
    train(toy_config(**settings, train__epochs=1), tmp_path / "grown", progress=False)
    resume(tmp_path / "grown", epochs=3, progress=False)
    same(tmp_path / "grown", tmp_path / "whole")


def test_resume_of_a_finished_run_changes_nothing(toy_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(toy_config(), path, progress=False)
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.suffix == ".safetensors"}
    metrics = (path / "metrics.jsonl").read_text()
    resume(path, progress=False)
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.suffix == ".safetensors"} == before
    assert (path / "metrics.jsonl").read_text() == metrics


def test_resume_of_unusable_runs_raises(toy_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory"):
        resume(tmp_path / "nothing")
    path = tmp_path / "run"
    train(toy_config(train__epochs=1), path, progress=False)
    file = path / "checkpoint.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: damaged"):
        resume(path, progress=False)
    file.write_bytes((path / "best.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        resume(path, progress=False)
    file.unlink()
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        resume(path, progress=False)
    (path / "config.yaml").write_text("train: {epochs: many}")
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        resume(path, progress=False)


MORE_SETTINGS: dict[str, Any] = {
    "train__epochs": 6,
    "train__lr": 1e-4,
    "train__optimizer": {"name": "SGD", "momentum": 0.9},
    "train__schedule": {"name": "StepLR", "step_size": 1, "gamma": 0.5},
    "train__patience": 2,
    "train__min_delta": 1e6,
    "train__beta_warmup": 2,
    "train__clip_norm": 100.0,
    "train__weight_decay": 1e-3,
}
"""Settings whose state a checkpoint must hold; the patience ends the training after 3 epochs."""


@pytest.mark.parametrize("number", [1, 2, 4])
def test_resume_with_momentum_schedule_and_patience_equals_the_uninterrupted_training(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    config = toy_config(**MORE_SETTINGS)
    train(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, number)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", progress=False)
    resume(tmp_path / "cut", progress=False)
    same(tmp_path / "cut", tmp_path / "whole")
    for path in (tmp_path / "whole", tmp_path / "cut"):
        rows = read_metrics(path)
        assert [row["lr"] for row in rows] == pytest.approx([5e-5, 2.5e-5, 1.25e-5])
        assert [row["beta"] for row in rows] == pytest.approx([4 / 7, 1.0, 1.0])
        assert [row.get("stopped") for row in rows] == [None, None, rows[-1]["stopped"]]
        assert "did not improve by more than 1e+06 nats" in rows[-1]["stopped"]
        assert read_state(path / "checkpoint.safetensors")["stopping"]["epochs"] == 2


@pytest.mark.parametrize("schedule", ["OneCycleLR", {"name": "ReduceLROnPlateau", "patience": 0, "threshold": 1e6}])
def test_resume_with_a_scheduler_of_torch_equals_the_uninterrupted_training(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: Any
) -> None:
    config = toy_config(**{**SETTINGS, "train__schedule": schedule, "train__optimizer": "NAdam"})
    train(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 4)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", progress=False)
    resume(tmp_path / "cut", progress=False)
    same(tmp_path / "cut", tmp_path / "whole")
    assert len({row["lr"] for row in read_metrics(tmp_path / "cut")}) > 1


def test_resume_with_another_optimizer_in_the_configuration_raises(toy_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(toy_config(train__epochs=1), path, progress=False)
    file = path / "config.yaml"
    file.write_text(file.read_text().replace("optimizer: adam", "optimizer: SGD"))
    with pytest.raises(CheckpointError, match="does not fit .* the optimizer must be Adam, got SGD"):
        resume(path, epochs=2, progress=False, force=True)


def test_resume_of_a_checkpoint_without_the_new_state_follows_the_schedule(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions stored tensors of the optimizer and the number of steps only."""
    config = toy_config(**SETTINGS)
    train(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 4)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", progress=False)
    file = tmp_path / "cut" / "checkpoint.safetensors"
    with safe_open(file, "pt") as opened:
        state = json.loads(opened.metadata()["pyro_mmvae"])
    for key in ("optimizer", "schedule", "stopping", "stopped"):
        del state[key]
    save_file(load(file.read_bytes()), file, metadata={"pyro_mmvae": json.dumps(state)})
    resume(tmp_path / "cut", progress=False)
    same(tmp_path / "cut", tmp_path / "whole")
