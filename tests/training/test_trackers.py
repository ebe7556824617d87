"""Trackers of experiments: what they record, with modules that stand in for W&B and MLflow."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pyro_mmvae import train
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.config import Config
from pyro_mmvae.training import resume, session
from pyro_mmvae.training.callbacks import make_callback
from pyro_mmvae.training.trackers import scalars

MakeConfig = Callable[..., Config]


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


def test_scalars_are_the_numbers_with_the_names_of_their_sections() -> None:
    metrics = {"epoch": 1, "step": 9, "kl": 0.5, "val": {"elbo": -3, "density": "mixture"}, "select": {"by": "last"}}
    assert scalars(metrics) == {"epoch": 1.0, "kl": 0.5, "val/elbo": -3.0}


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_make_callback_without_the_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"callback '{name}' needs the package {name}: pip install") as error:
        make_callback(name)
    assert f"'pyro-mmvae[{name}]'" in str(error.value)
    assert "\n" not in str(error.value)


def test_train_with_a_tracker_that_is_not_installed_creates_no_folder(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="callback 'wandb' needs"):
        train(toy_config(train__callbacks=["wandb"]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


class FakeRun:
    """A run of W&B that keeps what it is given."""

    def __init__(self) -> None:
        self.rows, self.exit_code = list[tuple[int, dict[str, float]]](), -1

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_wandb_records_each_epoch_offline(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, run = list[dict[str, Any]](), FakeRun()

    def init(**options: Any) -> FakeRun:
        started.append(options)
        return run

    monkeypatch.delenv("WANDB_MODE", raising=False)
    stand_in(monkeypatch, "wandb", init=init)
    callbacks = [{"name": "wandb", "project": "mine", "tags": ["x"]}]
    trained = train(toy_config(train__callbacks=callbacks), tmp_path / "run", progress=False)
    (options,) = started
    assert (options["project"], options["mode"], options["tags"]) == ("mine", "offline", ["x"])
    assert (options["name"], options["dir"]) == ("run", str(trained.path))
    assert options["config"] == trained.config.model_dump(mode="json")
    rows = read_metrics(trained.path)
    assert [(step, values["val/elbo"]) for step, values in run.rows] == [
        (row["step"], row["val"]["elbo"]) for row in rows
    ]
    assert run.exit_code == 0
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert make_callback("wandb").options["mode"] == "disabled"  # type: ignore[attr-defined]
    assert make_callback({"name": "wandb", "mode": "online"}).options["mode"] == "online"  # type: ignore[attr-defined]


class FakeClient:
    """A client of MLflow whose store is a dictionary of all clients."""

    store: dict[str, Any]

    def __init__(self, tracking_uri: str | None) -> None:
        self.store.setdefault("uris", []).append(tracking_uri)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="7") if name in self.store.get("experiments", []) else None

    def create_experiment(self, name: str) -> str:
        self.store.setdefault("experiments", []).append(name)
        return "7"

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        run = {"tags": tags, "name": run_name, "experiment": experiment, "params": {}, "metrics": [], "status": []}
        self.store.setdefault("runs", []).append(run)
        return SimpleNamespace(info=SimpleNamespace(run_id=str(len(self.store["runs"]) - 1)))

    def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> list[Any]:
        assert (experiments, max_results) == (["7"], 1)
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=str(number)))
            for number, run in enumerate(self.store["runs"])
            for key, value in run["tags"].items()
            if filter_string == f"tags.`{key}` = '{value}'"
        ]

    def log_param(self, run: str, key: str, value: str) -> None:
        assert key not in self.store["runs"][int(run)]["params"]
        self.store["runs"][int(run)]["params"][key] = value

    def log_metric(self, run: str, key: str, value: float, step: int) -> None:
        self.store["runs"][int(run)]["metrics"].append((key, value, step))

    def update_run(self, run: str, status: str) -> None:
        self.set_terminated(run, status)

    def set_terminated(self, run: str, status: str) -> None:
        self.store["runs"][int(run)]["status"].append(status)


def test_mlflow_records_each_epoch_and_continues_its_run(
    toy_config: MakeConfig, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeClient, "store", {}, raising=False)
    stand_in(monkeypatch, "mlflow", MlflowClient=FakeClient)
    callbacks = [{"name": "mlflow", "uri": "tracked/here"}]
    trained = train(toy_config(train__callbacks=callbacks, train__epochs=1), "run", progress=False)
    resume("run", epochs=3, progress=False)
    store = FakeClient.store
    assert store["uris"] == [f"sqlite:///{elsewhere.resolve() / 'tracked' / 'here' / 'mlflow.db'}"] * 2
    assert (elsewhere / "tracked" / "here").is_dir()
    assert store["experiments"] == ["pyro-mmvae"]
    (run,) = store["runs"]
    assert (run["name"], run["status"]) == ("run", ["FINISHED", "RUNNING", "FINISHED"])
    assert run["params"]["train/lr"] == json.dumps(trained.config.train.lr)
    assert run["params"]["model/aggregation"] == "wb"
    elbos = [(value, step) for key, value, step in run["metrics"] if key == "val/elbo"]
    assert elbos == [(row["val"]["elbo"], row["step"]) for row in read_metrics(trained.path)]


def test_mlflow_replaces_characters_that_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeClient, "store", {}, raising=False)
    stand_in(monkeypatch, "mlflow", MlflowClient=FakeClient)
    assert make_callback({"name": "mlflow", "uri": "sqlite:///runs.db"}).uri == "sqlite:///runs.db"  # type: ignore[attr-defined]
    tracker: Any = make_callback("mlflow")
    assert tracker.uri is None  # MLflow's own
    tracker._client, tracker._run_id = FakeClient(tracker.uri), "0"
    FakeClient.store["runs"] = [{"metrics": []}]
    tracker.on_epoch_end({"step": 3, "log_likelihood": {"Größe (cm), 50%": -1.0}})
    assert FakeClient.store["runs"][0]["metrics"] == [("log_likelihood/Größe _cm__ 50_", -1.0, 3)]


def test_train_that_fails_tells_the_tracker(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeRun()
    stand_in(monkeypatch, "wandb", init=lambda **options: run)
    monkeypatch.setattr(session, "evaluate_elbo", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(toy_config(train__callbacks=["wandb"]), tmp_path / "run", progress=False)
    assert run.exit_code == 1


def test_train_with_a_tracker_that_cannot_start_says_why_in_one_line(
    toy_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> FakeRun:
        raise RuntimeError("no API key\nlog in first")

    stand_in(monkeypatch, "wandb", init=init)
    with pytest.raises(ValueError, match="^callback 'wandb' cannot start: no API key log in first$"):
        train(toy_config(train__callbacks=["wandb"]), tmp_path / "run", progress=False)


def test_tensorboard_writes_the_metrics_of_each_epoch(toy_config: MakeConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = tmp_path / "run"
    train(toy_config(train__callbacks=["tensorboard"], train__epochs=1), path, progress=False)
    resume(path, epochs=3, progress=False)
    events = EventAccumulator(str(path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("val/elbo")]
    rows = read_metrics(path)
    assert found == [(row["step"], pytest.approx(row["val"]["elbo"], rel=1e-6)) for row in rows]
    assert {"kl", "lr", "log_likelihood/m0", "select/elbo"} <= set(events.Tags()["scalars"])
    assert "configuration/text_summary" in events.Tags()["tensors"]
