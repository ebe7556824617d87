"""The start of a training in a new run directory, and the resumption of one that was interrupted."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyro_mmvae import runs
from pyro_mmvae._bounded import read_json
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.run import Run
from pyro_mmvae.training.callbacks import Callback
from pyro_mmvae.training.finishing import finished_run
from pyro_mmvae.training.passed_data import named_after, passed_data
from pyro_mmvae.training.processes import joined, launch_id, restarts
from pyro_mmvae.training.resumed_data import resumed_splits
from pyro_mmvae.training.resumption import choose_settings, read_last
from pyro_mmvae.training.session import Session


def train(
    config: Config,
    out: str | Path | None = None,
    *,
    progress: bool = True,
    data: Mapping[str, MultimodalDataset] | None = None,
    keep_data: bool = True,
    callbacks: Sequence[Callback] = (),
    plugins: Sequence[str] = (),
) -> Run:
    """Train a multimodal variational autoencoder into a new run directory.

    Torch's generators are seeded during the training and restored afterwards, so that a result depends on the
    configuration and on the machine's arithmetic only. The test split is not opened. Several processes that
    ``torchrun`` has started train together; the result is that of one, up to rounding, and started again after a
    failure they go on from the last checkpoint.

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
        plugins: The names of modules or installed plugins that register custom parts, which are imported first and
            recorded in the configuration. Those that ``config.plugins`` names already must be among them, or imported;
            none by default.

    Returns:
        The run with its best checkpoint, as :func:`pyro_mmvae.load` returns it.

    Raises:
        RunError: If ``out`` exists already, or a plugin of ``config`` is not imported.
        ValueError: If the configuration does not fit the data or the machine.
        ImportError: If a callback of the configuration needs a package that is not installed.
        TrainingError: If the loss or a gradient is not finite, or another process of the training is lost.
        Interrupted: On Ctrl-C, SIGTERM or SIGHUP, after saving.
    """
    runs.require_plugins("the configuration", config.plugins, plugins)
    config = config.model_copy(update={"plugins": tuple(dict.fromkeys((*config.plugins, *plugins)))})
    with joined(config.train.device) as team:
        begun = team.share(lambda: _begun_before(config, out, data)) if restarts() else None
        if begun is not None:
            passed = data if not keep_data else None
            return resume(begun, progress=progress, callbacks=callbacks, data=passed, plugins=config.plugins)
        path = team.share(lambda: _new_path(config, out, data))
        with ExitStack() as stack:
            if data is None:
                # Only now, so that a mistake leaves nothing behind; the lock on it is kept until the end.
                session = team.together(lambda: Session(runs.resolve(config), path, progress, callbacks, team=team))
                place = team.together(lambda: stack.enter_context(runs.new_run(path, team.rank)))
                session.move(place.folder)
            else:
                place = team.together(lambda: stack.enter_context(runs.new_run(path, team.rank)))
                named, splits = team.together(lambda: passed_data(config, place.folder, data, keep_data))
                session = team.together(
                    lambda: Session(runs.resolve(named), place.folder, progress, callbacks, splits, team)
                )
            team.together(session.create)
            team.together(place.commit)
            session.move(path)
            return session.run(resuming=False)


def resume(
    path: str | Path,
    *,
    epochs: int | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    allow_changed_data: bool = False,
    force: bool = False,
    data: Any = None,
    labels: Any = None,
    present: Any = None,
    covariates: Any = None,
    plugins: Sequence[str] = (),
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
        force: If True, training goes on although settings in the configuration file or data have changed since the
            last checkpoint; the changes are recorded in the checkpoint and in the environment of the run. False by
            default.
        data: The data of a run that was trained with ``keep_data=False``: the values that were passed to :func:`fit`,
            which are divided as they were there, or the data sets ``train`` and ``val`` by name. They are matched by
            name to those of the start. None (default) for a run that finds its data itself.
        labels: The labels that were passed to :func:`fit` with the values; None by default.
        present: The mask that was passed to :func:`fit` with the values; None by default.
        covariates: The covariates that were passed to :func:`fit` with the values; None by default.
        plugins: The names of the modules or installed plugins that register custom parts of the run, see
            :func:`pyro_mmvae.load`; none by default.

    Returns:
        The run with its best checkpoint; of a finished run at once, without opening its data.

    Raises:
        SettingsChangedError: If a setting that matters to the result was changed in the configuration file.
        DataChangedError: If the data have changed since the training began; the message says in what.
        RunError: If ``path`` is not a run directory, or one that another version wrote in another format, or another
            process trains it, or ``epochs`` is less than the run has trained already.
        ValueError: If the run needs ``data`` and got none, or the other way round, or they do not fit it.
        CheckpointError: If its checkpoint is missing or damaged.
        TrainingError: If the loss or a gradient is not finite.
        Interrupted: On Ctrl-C, SIGTERM or SIGHUP, after saving.
    """
    path = Path(path)
    device = runs.read_config(path).train.device  # before anything is written to what may be another folder
    with joined(device) as team, ExitStack() as stack:
        team.together(lambda: stack.enter_context(runs.locked_run(path, team.rank)))

        def prepare() -> Run | tuple[Session, tuple[str, ...]]:
            config = runs.read_config(path)
            runs.require_plugins(path, config.plugins, plugins)
            state = read_last(path)
            config, changes = choose_settings(path, config, state, epochs=epochs, force=force)
            is_stopped = state.get("stopped") is not None and epochs is None
            is_trained = (is_stopped or state["epoch"] == config.train.epochs) and not state["batch"] and not changes
            if data is labels is present is covariates is None:
                finished = finished_run(path, config, is_trained=is_trained)
                if finished is not None:
                    return finished
            splits = resumed_splits(path, config, data, labels, present, covariates)
            session = Session(config, path, progress, callbacks, splits, team)
            return session, (*changes, *session.check_data(state, allow_changed_data or force))

        prepared = team.together(prepare)
        if isinstance(prepared, Run):
            return prepared
        session, changes = prepared
        return session.run(resuming=True, go_on=epochs is not None, changes=changes)


def _new_path(config: Config, out: str | Path | None, data: Mapping[str, MultimodalDataset] | None) -> Path:
    """Return the path of a new run directory, after a check before the data are opened, which may take long."""
    path = _free_path(config if data is None else named_after(config, data)) if out is None else Path(out)
    runs.check_new(path)
    return path


def _begun_before(config: Config, out: str | Path | None, data: Mapping[str, MultimodalDataset] | None) -> Path | None:
    """Return the run directory that this training had begun before ``torchrun`` started it again, or None."""
    if out is not None:
        return Path(out) if _is_launched_here(Path(out)) else None
    stem = _stem(config if data is None else named_after(config, data))
    found = [path for path in Path("runs").glob(f"{glob.escape(stem)}*") if _is_launched_here(path)]
    return max(found, key=lambda path: RunFiles(path).environment.stat().st_mtime, default=None)


def _is_launched_here(path: Path) -> bool:
    """Return True if a run was begun by the launcher of this process."""
    try:
        processes = read_json(RunFiles(path).environment).get("processes")
    except (OSError, ValueError):
        return False
    return isinstance(processes, dict) and processes.get("launch") == launch_id()


def _free_path(config: Config) -> Path:
    stem = _stem(config)
    path, number = Path("runs") / stem, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{stem}-{number}"
    return path


def _stem(config: Config) -> str:
    """Return the name of the run directory of a configuration, without a number."""
    data = Path(config.data.name)
    data = data.parent if "{" in data.name else data  # a pattern of shards
    name = data.stem if data.is_absolute() else config.data.name
    aggregation = config.model.aggregation
    label = aggregation if isinstance(aggregation, str) else aggregation.name
    return f"{name}-{label}-seed{config.train.seed}".replace("/", "_").replace(":", "-")
