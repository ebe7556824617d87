"""Trainings that are ended by signals other than Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pyro_mmvae import train
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.checkpoint import read_state
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import Interrupted, finishing, resume, session
from pyro_mmvae.training.interruption import interruptible
from pyro_mmvae.training.trainer import Trainer

MakeConfig = Callable[..., Config]
TIMES = {"seconds", "items_per_second", "val"}


def test_train_on_sigterm_saves_and_the_epoch_has_the_averages_of_all_its_batches(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(train__fit_prior=0)
    train(config, tmp_path / "whole", progress=False)
    step = Trainer.step

    def terminated(self: Trainer, batch: Any) -> Tensor:
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", terminated)
        with pytest.raises(Interrupted, match="interrupted by SIGTERM in epoch 1; everything is saved in") as stop:
            train(config, tmp_path / "cut", progress=False)
    assert stop.value.number == signal.SIGTERM
    assert read_state(tmp_path / "cut" / "checkpoint.safetensors")["averages"]["items"] == 64
    resume(tmp_path / "cut", progress=False)
    rows = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interruptible_notes_the_signal_and_restores_its_handler(name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with interruptible() as event:
            assert not event.is_set()
            os.kill(os.getpid(), number)
            assert event.is_set()
            assert event.number == number
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_interruptible_leaves_an_ignored_hangup_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as event:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not event.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("epochs", [1, 2])
def test_train_on_sigterm_in_the_validation_of_the_last_epoch_ends_before_samples_and_prior(
    epochs: int, toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, calls = session.evaluate_elbo, []

    def terminated(*args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == epochs:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(session, "evaluate_elbo", terminated)
        patch.setattr(finishing, "training_samples", lambda *_: pytest.fail("samples must not be drawn"))
        with pytest.raises(Interrupted, match="interrupted by SIGTERM after the last epoch") as stop:
            train(toy_config(train__epochs=epochs, train__fit_prior=2), tmp_path / "run", progress=False)
    assert stop.value.number == signal.SIGTERM
    assert len(read_metrics(tmp_path / "run")) == epochs
    resume(tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "samples.npz").exists()
    assert (tmp_path / "run" / "prior.npz").exists()
    assert len(read_metrics(tmp_path / "run")) == epochs


def test_train_interrupted_after_the_last_epoch_is_completed_by_resume(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "training_samples", stop)
        with pytest.raises(Interrupted, match="interrupted after the last epoch; everything is saved"):
            train(toy_config(train__epochs=1, train__fit_prior=0), tmp_path / "run", progress=False)
    resume(tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "samples.npz").exists()
    assert len(read_metrics(tmp_path / "run")) == 1
