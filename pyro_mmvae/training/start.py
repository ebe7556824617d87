"""The start of a training in a new run directory, and the resumption of one that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae import runs
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.checkpoint import read_state
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.layout import RunError
from pyro_mmvae.runs.run import Run
from pyro_mmvae.training.callbacks import Callback
from pyro_mmvae.training.environment import describe_environment
from pyro_mmvae.training.passed_data import named_after, passed_data
from pyro_mmvae.training.resumed_data import resumed_splits
from pyro_mmvae.training.session import Session


def train(
    config: Config,
    out: str | Path | None = None,
    *,
    progress: bool = True,
    data: Mapping[str, MultimodalDataset] | None = None,
    keep_data: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a multimodal variational autoencoder into a new run directory.

    Torch's generators are seeded during the training and restored afterwards, so that a result depends on the
    configuration and on the machine's arithmetic only. The test split is not opened.

    Args:
        config: The configuration; see :func:`pyro_mmvae.runs.config.make_config`.
        out: The path of the run directory; by default ``runs/DATA-AGGREGATION-seedN``, with a number if that exists.
        progress: If True (default), show a progress bar on standard error or, if that is not a terminal, one line per
            epoch and every 30 seconds.
        data: The data sets to train on, in place of those that ``config.data`` names, by split: ``train``, ``val`` and,
            if the run shall be evaluated on it, ``test``. None by default.
        keep_data: If True (default), ``data`` are written to the folder ``data`` of the run directory, which the
            configuration of the run then names; if False, they must be passed again to everything that uses them.
        callbacks: The objects that follow the training, called after those of ``train.callbacks``; none by default.

    Returns:
        The run with its best checkpoint, as :func:`pyro_mmvae.load` returns it.

    Raises:
        RunError: If ``out`` exists already.
        ValueError: If the configuration does not fit the data or the machine.
        ImportError: If a callback of the configuration needs a package that is not installed.
        TrainingError: If the loss or a gradient is not finite.
        Interrupted: On Ctrl-C, after saving.
    """
    runs.import_plugins(config.plugins)
    path = _free_path(config if data is None else named_after(config, data)) if out is None else Path(out)
    with passed_data(config, path, data, keep_data) as (named, splits):
        resolved = runs.resolve(named)
        session = Session(resolved, path, progress, callbacks, splits)
        config = session.config
        session.writer.create(config, describe_environment(config, session.device, session.precision, session.data))
    session.write_data_record()
    return session.run(resuming=False)


def resume(
    path: str | Path,
    *,
    epochs: int | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    allow_changed_data: bool = False,
    data: Any = None,
    labels: Any = None,
    present: Any = None,
    covariates: Any = None,
) -> Run:
    """Resume an interrupted training, with the result that it would have had without the interruption.

    Args:
        path: The path of the run directory.
        epochs: The total number of epochs, in place of that in the configuration; the learning rate then follows the
            schedule for this number, and a training that was stopped early goes on with new patience.
        progress: If True (default), show a progress bar on standard error or, if that is not a terminal, one line per
            epoch and every 30 seconds.
        callbacks: The objects that follow the training, called after those of ``train.callbacks``; those passed to
            :func:`train` are not stored. None by default.
        allow_changed_data: If True, training goes on with data that have changed since it began, and these take the
            place of the earlier data in the record of the run. False by default.
        data: The data of a run that was trained with ``keep_data=False``: the values that were passed to :func:`fit`,
            which are divided as they were there, or the data sets ``train`` and ``val`` by name. They are matched by
            name to those of the start. None (default) for a run that finds its data itself.
        labels: The labels that were passed to :func:`fit` with the values; None by default.
        present: The mask that was passed to :func:`fit` with the values; None by default.
        covariates: The covariates that were passed to :func:`fit` with the values; None by default.

    Returns:
        The run with its best checkpoint.

    Raises:
        DataChangedError: If the data have changed since the training began; the message says in what.
        RunError: If ``path`` is not a run directory, or one that another version wrote in another format, or ``epochs``
            is less than the run has trained already.
        ValueError: If the run needs ``data`` and got none, or the other way round, or they do not fit it.
        CheckpointError: If its checkpoint is missing or damaged.
        TrainingError: If the loss or a gradient is not finite.
        Interrupted: On Ctrl-C, after saving.
    """
    config = runs.read_config(Path(path))
    runs.import_plugins(config.plugins)
    splits = resumed_splits(Path(path), config, data, labels, present, covariates)
    if epochs is not None:
        state = read_state(RunFiles(Path(path)).checkpoint("last"))
        started = state["epoch"] + (state["batch"] > 0)
        if epochs < started:
            raise RunError(
                f"{path}: epochs must be at least {started}, which the run has trained already, got {epochs}"
            )
        config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs})})
    session = Session(config, Path(path), progress, callbacks, splits)
    session.check_data(allow_changed_data)
    if epochs is not None:
        session.writer.write_config(runs.resolve(config))
    return session.run(resuming=True, go_on=epochs is not None)


def _free_path(config: Config) -> Path:
    data = Path(config.data.name)
    name = data.stem if data.is_absolute() else config.data.name
    aggregation = config.model.aggregation
    label = aggregation if isinstance(aggregation, str) else aggregation.name
    name = f"{name}-{label}-seed{config.train.seed}".replace("/", "_").replace(":", "-")
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path
