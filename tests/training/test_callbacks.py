"""Callbacks of a training: their order, their arguments, requests to stop, and what happens around errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_mmvae import train
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.checkpoint import read_state
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import (
    Callback,
    Interrupted,
    StopTraining,
    TrainingInfo,
    callback_names,
    register_callback,
    resume,
    unregister_callback,
)
from pyro_mmvae.training.callbacks import CALLBACKS, make_callback
from pyro_mmvae.training.trainer import Trainer

MakeConfig = Callable[..., Config]


class Recorder(Callback):
    """A callback that appends what it is told to a list that several may share."""

    def __init__(self, log: list[Any], name: str = "a") -> None:
        self.log, self.name = log, name

    def on_train_start(self, info: TrainingInfo) -> None:
        self.log.append((self.name, "start", info.first_epoch))

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> bool | None:
        self.log.append((self.name, "epoch", metrics["epoch"]))
        return None

    def on_train_end(self, outcome: str) -> None:
        self.log.append((self.name, "end", outcome))


class StopAfter(Callback):
    """A callback that stops after an epoch: by its result, or by an exception with a reason."""

    def __init__(self, epoch: int, reason: str | None = None) -> None:
        self.epoch, self.reason = epoch, reason

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> bool | None:
        if metrics["epoch"] != self.epoch:
            return False
        if self.reason is not None:
            raise StopTraining(self.reason)
        return True


@pytest.fixture
def registered_log() -> Any:
    """Register the callback ``recorder``, and yield the list that it appends to."""
    log: list[Any] = []
    before = CALLBACKS.snapshot()
    register_callback("recorder", lambda label="first": Recorder(log, label))
    yield log
    CALLBACKS.restore(before)


def test_train_calls_the_callbacks_in_order_with_the_metrics(
    toy_config: MakeConfig, tmp_path: Path, registered_log: list[Any]
) -> None:
    config = toy_config(train__callbacks=["recorder", {"name": "recorder", "label": "second"}])
    train(config, tmp_path / "run", progress=False, callbacks=[Recorder(registered_log, "given")])
    expected = [
        (name, *what)
        for what in (("start", 0), ("epoch", 0), ("epoch", 1), ("end", "finished"))
        for name in ("first", "second", "given")
    ]
    assert registered_log == expected


def test_train_passes_the_run_to_callbacks_and_the_row_of_metrics(toy_config: MakeConfig, tmp_path: Path) -> None:
    infos, rows, saved = list[TrainingInfo](), list[dict[str, Any]](), list[int]()

    class Look(Callback):
        def on_train_start(self, info: TrainingInfo) -> None:
            infos.append(info)

        def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
            saved.append(read_state(RunFiles(infos[0].path).checkpoint("best"))["epoch"])
            rows.append(dict(metrics))

    run = train(toy_config(), tmp_path / "run", progress=False, callbacks=[Look()])
    (info,) = infos
    assert (info.path, info.epochs, info.first_epoch, info.step, info.steps_per_epoch) == (run.path, 2, 0, 0, 3)
    assert info.config == run.config
    assert info.vae.names == run.names
    assert rows == read_metrics(run.path)
    assert saved[0] == 1


@pytest.mark.parametrize(
    ("callback", "reason"),
    [(StopAfter(1), "asked for by StopAfter"), (StopAfter(1, "good enough"), "good enough")],
    ids=["result", "exception"],
)
def test_train_stops_when_a_callback_asks_for_it(
    toy_config: MakeConfig, tmp_path: Path, callback: Callback, reason: str
) -> None:
    log: list[Any] = []
    path = tmp_path / "run"
    train(toy_config(train__epochs=5), path, progress=False, callbacks=[callback, Recorder(log)])
    rows = read_metrics(path)
    assert [row.get("stopped") for row in rows] == [None, reason]
    assert log == [("a", "start", 0), ("a", "epoch", 0), ("a", "epoch", 1), ("a", "end", "stopped")]
    state = read_state(path / "checkpoint.safetensors")
    assert (state["epoch"], state["stopped"]) == (2, reason)
    resume(path, progress=False, callbacks=[Recorder(log)])  # nothing is left to do
    assert len(read_metrics(path)) == 2
    assert len(log) == 4
    resume(path, epochs=4, progress=False, callbacks=[Recorder(log, "b")])
    assert [row["epoch"] for row in read_metrics(path)] == [0, 1, 2, 3]
    assert log[4:] == [("b", "start", 2), ("b", "epoch", 2), ("b", "epoch", 3), ("b", "end", "finished")]


def test_train_with_a_request_to_stop_in_the_last_epoch_is_finished(toy_config: MakeConfig, tmp_path: Path) -> None:
    log: list[Any] = []
    run = train(toy_config(), tmp_path / "run", progress=False, callbacks=[StopAfter(1), Recorder(log)])
    assert "stopped" not in read_metrics(run.path)[-1]
    assert log[-1] == ("a", "end", "finished")


def test_train_ends_the_callbacks_after_an_error_and_an_interruption(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step
    for error, outcome in ((ZeroDivisionError(), "failed"), (Interrupted(tmp_path, 0), "interrupted")):

        def failing(self: Trainer, batch: Any, error: Exception = error) -> torch.Tensor:
            if self.steps == 4:
                raise error
            return step(self, batch)

        log: list[Any] = []
        monkeypatch.setattr(Trainer, "step", failing)
        with pytest.raises(type(error)):
            train(toy_config(), tmp_path / outcome, progress=False, callbacks=[Recorder(log)])
        assert log == [("a", "start", 0), ("a", "epoch", 0), ("a", "end", outcome)]


def test_train_with_a_callback_that_fails_ends_the_others(toy_config: MakeConfig, tmp_path: Path) -> None:
    class Failing(Callback):
        def on_train_end(self, outcome: str) -> None:
            raise OSError(f"disk full after {outcome}")

    log: list[Any] = []
    with pytest.raises(OSError, match="disk full after finished"):
        train(toy_config(), tmp_path / "run", progress=False, callbacks=[Failing(), Recorder(log)])
    assert log[-1] == ("a", "end", "finished")
    assert read_state(tmp_path / "run" / "checkpoint.safetensors")["epoch"] == 2


def test_train_with_callbacks_that_draw_and_change_the_mode_has_the_same_result(
    toy_config: MakeConfig, tmp_path: Path
) -> None:
    class Meddler(Callback):
        def on_train_start(self, info: TrainingInfo) -> None:
            self.vae = info.vae

        def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
            torch.rand(5)
            self.vae.eval()

    states = []
    for name, callbacks in (("plain", []), ("meddled", [Meddler()])):
        run = train(toy_config(train__epochs=2), tmp_path / name, progress=False, callbacks=callbacks)
        states.append(run.vae.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_make_callback_unusable_raises_and_says_what_it_must_be(registered_log: list[Any]) -> None:
    assert isinstance(make_callback({"name": "recorder", "label": "x"}), Recorder)
    with pytest.raises(ValueError, match=r"unknown callback 'tensorbord', did you mean 'tensorboard'\? Available: "):
        make_callback("tensorbord")
    with pytest.raises(ValueError, match="option of callback 'recorder' must be one of .*label.*, got 'colour'"):
        make_callback({"name": "recorder", "colour": "red"})
    with pytest.raises(TypeError, match="a callback must be an instance of Callback, got 3"):
        make_callback(3)  # type: ignore[arg-type]
    register_callback("nothing", lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="a callback must be an instance of Callback, got None"):
        make_callback("nothing")


def test_train_with_an_unknown_callback_raises_and_creates_no_folder(toy_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown callback 'recorde'"):
        train(toy_config(train__callbacks=["recorde"]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_unregister_callback_of_the_package_raises(registered_log: list[Any]) -> None:
    assert callback_names() == ("tensorboard", "wandb", "mlflow", "recorder")
    with pytest.raises(ValueError, match="callback 'wandb' is built in and cannot be removed"):
        unregister_callback("wandb")
    unregister_callback("recorder")
    assert "recorder" not in callback_names()
