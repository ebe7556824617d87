"""Trackers of experiments as callbacks: TensorBoard, Weights & Biases, and MLflow, each behind an extra."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import dump_config
from pyro_mmvae.runs.setting_values import plain_values
from pyro_mmvae.training.callbacks import CALLBACKS, Callback, Outcome, TrainingInfo


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping with their names.

    Args:
        tree: The mapping, such as the metrics of an epoch or a configuration.
        prefix: The beginning of every name, empty by default.

    Yields:
        The name, parts joined by ``/``, and the value of each leaf.
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the metrics of an epoch by name, such as ``val/elbo``.

    Args:
        metrics: The metrics of an epoch, as ``metrics.jsonl`` holds them.
    """
    return {
        name: float(value)
        for name, value in flatten(metrics)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step"
    }


class TensorBoard(Callback):
    """A callback that writes the metrics of each epoch for TensorBoard.

    Args:
        folder: The folder of the event files; ``tensorboard`` in the run directory by default.

    Raises:
        ImportError: If the package tensorboard is not installed.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        _import("tensorboard", "tensorboard")
        self._module = _import("torch.utils.tensorboard", "tensorboard")

    def on_train_start(self, info: TrainingInfo) -> None:
        """Open the event file, see :meth:`Callback.on_train_start`; a resumed training replaces what came after it."""
        folder = RunFiles(info.path).place("tensorboard") if self.folder is None else Path(self.folder)
        purge = info.step + 1 if info.step else None
        self._writer = self._module.SummaryWriter(str(folder), purge_step=purge)
        self._writer.add_text("configuration", f"```yaml\n{dump_config(info.config)}```", info.step)

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics of an epoch, see :meth:`Callback.on_epoch_end`."""
        for name, value in scalars(metrics).items():
            self._writer.add_scalar(name, value, metrics["step"])
        self._writer.flush()

    def on_train_end(self, outcome: Outcome) -> None:
        """Close the event file, see :meth:`Callback.on_train_end`."""
        if hasattr(self, "_writer"):
            self._writer.close()


class WandB(Callback):
    """A callback that records the metrics of each epoch with Weights & Biases, by default offline.

    A training that is resumed becomes a further run in the group of the first one.

    Args:
        project: The name of the project, ``pyro-mmvae`` by default.
        mode: ``"offline"``, ``"online"`` or ``"disabled"``; by default the environment variable ``WANDB_MODE``, or
            offline where it is not set.
        **options: Further arguments of ``wandb.init``.

    Raises:
        ImportError: If the package wandb is not installed.
    """

    def __init__(self, project: str = "pyro-mmvae", mode: str | None = None, **options: Any) -> None:
        self.options = {"project": project, "mode": mode or os.environ.get("WANDB_MODE", "offline"), **options}
        self._module = _import("wandb", "wandb")

    def on_train_start(self, info: TrainingInfo) -> None:
        """Start a run, see :meth:`Callback.on_train_start`."""
        defaults = {"name": info.path.name, "group": info.path.name, "dir": str(info.path)}
        with _starting("wandb"):
            self._run = self._module.init(**{**defaults, **self.options}, config=plain_values(info.config))

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of an epoch, see :meth:`Callback.on_epoch_end`."""
        self._run.log(scalars(metrics), step=metrics["step"])

    def on_train_end(self, outcome: Outcome) -> None:
        """Finish the run, see :meth:`Callback.on_train_end`."""
        if hasattr(self, "_run"):
            self._run.finish(exit_code=int(outcome == "failed"))


class MLflow(Callback):
    """A callback that records the metrics of each epoch with MLflow, by default on this machine.

    A training that is resumed continues its run.

    Args:
        experiment: The name of the experiment, ``pyro-mmvae`` by default.
        uri: The tracking URI, or the path of a local folder for the database ``mlflow.db``; by default MLflow's own,
            which is the environment variable ``MLFLOW_TRACKING_URI`` or a place in the working directory.

    Raises:
        ImportError: If the package mlflow is not installed.
    """

    _TAG = "pyro_mmvae.run_directory"
    _STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
    _LONGEST = 500  # characters of a parameter

    def __init__(self, experiment: str = "pyro-mmvae", uri: str | None = None) -> None:
        self.experiment, self.uri = experiment, uri
        if uri is not None and "://" not in uri:
            # Recent versions of MLflow refuse folders of plain files.
            self.uri = f"sqlite:///{Path(uri).resolve() / 'mlflow.db'}"
        self._module = _import("mlflow", "mlflow")

    def on_train_start(self, info: TrainingInfo) -> None:
        """Start or continue a run, see :meth:`Callback.on_train_start`."""
        with _starting("mlflow"):
            self._start(info)

    def _start(self, info: TrainingInfo) -> None:
        if self.uri is not None and self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # A client of its own leaves MLflow's global state as it is.
        client = self._client = self._module.MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
        path = str(info.path.resolve())
        earlier = []
        if info.step:
            quoted = path.replace("'", "\\'")
            earlier = client.search_runs([experiment], filter_string=f"tags.`{self._TAG}` = '{quoted}'", max_results=1)
        if earlier:
            self._run_id = earlier[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
            return
        run = client.create_run(experiment, tags={self._TAG: path}, run_name=info.path.name)
        self._run_id = run.info.run_id
        for name, value in flatten(plain_values(info.config)):
            text = value if isinstance(value, str) else json.dumps(value)
            client.log_param(self._run_id, _legal(name), text[: self._LONGEST])

    def on_epoch_end(self, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of an epoch, see :meth:`Callback.on_epoch_end`."""
        for name, value in scalars(metrics).items():
            self._client.log_metric(self._run_id, _legal(name), value, step=metrics["step"])

    def on_train_end(self, outcome: Outcome) -> None:
        """Set the status of the run, see :meth:`Callback.on_train_end`."""
        if hasattr(self, "_run_id"):
            self._client.set_terminated(self._run_id, status=self._STATUS[outcome])


def _legal(name: str) -> str:
    """Return a name with the characters that MLflow allows, which may lack those of a modality."""
    return re.sub(r"[^\w\-. /]", "_", name)


@contextmanager
def _starting(name: str) -> Iterator[None]:
    """Report any error of a tracker's package at its start in one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"callback {name!r} cannot start: {' '.join(str(error).split())}") from error


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"callback {extra!r} needs the package {extra}: pip install 'pyro-mmvae[{extra}]' ({error})"
        ) from None


for _name, _factory in (("tensorboard", TensorBoard), ("wandb", WandB), ("mlflow", MLflow)):
    CALLBACKS.register(_name, _factory, built_in=True)
