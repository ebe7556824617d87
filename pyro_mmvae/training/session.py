"""Training from a configuration into a run directory, which can be interrupted and resumed."""

from __future__ import annotations

import math
import platform
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pyro_mmvae import runs
from pyro_mmvae._seeding import seeded
from pyro_mmvae._version import __version__
from pyro_mmvae.data import MultimodalDataset, complete_specs, find_moments, infer_specs, range_problems
from pyro_mmvae.device import resolve_device, resolve_precision, threads
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, read_extra
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.layout import RunWriter, process_rank
from pyro_mmvae.runs.run import Run
from pyro_mmvae.runs.sampling import training_samples
from pyro_mmvae.training.elbo import Averages, ElboEstimate, MeanTerms, evaluate_elbo, local_pyro
from pyro_mmvae.training.learned_weights import learned_weights
from pyro_mmvae.training.objectives import make_objective
from pyro_mmvae.training.passed_data import named_after, passed_data
from pyro_mmvae.training.progress import make_progress
from pyro_mmvae.training.trainer import NonFiniteError, Trainer

_STEPS_PER_SUMMARY = 20  # reading the averages waits for the device


class TrainingError(RuntimeError):
    """Training that stopped because a loss or gradient was not finite; the message says where, and what to do."""


class Interrupted(Exception):  # noqa: N818  (an interruption is not an error)
    """Training that was interrupted and saved.

    Args:
        path: The path of the run directory.
        epoch: The number of the epoch that was running, counted from 0.
    """

    def __init__(self, path: Path, epoch: int) -> None:
        super().__init__(f"interrupted in epoch {epoch + 1}; everything is saved in {path}")
        self.path, self.epoch = path, epoch


def train(
    config: Config,
    out: str | Path | None = None,
    *,
    progress: bool = True,
    data: Mapping[str, MultimodalDataset] | None = None,
    keep_data: bool = True,
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

    Returns:
        The run with its best checkpoint, as :func:`pyro_mmvae.load` returns it.

    Raises:
        RunError: If ``out`` exists already.
        ValueError: If the configuration does not fit the data or the machine.
        TrainingError: If the loss or a gradient is not finite.
        Interrupted: On Ctrl-C, after saving.
    """
    runs.import_plugins(config.plugins)
    path = _free_path(config if data is None else named_after(config, data)) if out is None else Path(out)
    with passed_data(config, path, data, keep_data) as (named, splits):
        resolved = runs.resolve(named)
        session = _Session(resolved, path, progress, splits)
        session.writer.create(resolved, session.environment())
    session.write_data_record()
    return session.run(resuming=False)


def resume(
    path: str | Path, *, epochs: int | None = None, progress: bool = True, allow_changed_data: bool = False
) -> Run:
    """Resume an interrupted training, with the result that it would have had without the interruption.

    Args:
        path: The path of the run directory.
        epochs: The total number of epochs, in place of that in the configuration; the learning rate then follows the
            schedule for this number.
        progress: If True (default), show a progress bar on standard error or, if that is not a terminal, one line per
            epoch and every 30 seconds.
        allow_changed_data: If True, training goes on with data that have changed since it began, and these take the
            place of the earlier data in the record of the run. False by default.

    Returns:
        The run with its best checkpoint.

    Raises:
        DataChangedError: If the data have changed since the training began; the message says in what.
        RunError: If ``path`` is not a run directory, or one that another version wrote in another format.
        CheckpointError: If its checkpoint is missing or damaged.
        TrainingError: If the loss or a gradient is not finite.
        Interrupted: On Ctrl-C, after saving.
    """
    config = runs.read_config(Path(path))
    runs.import_plugins(config.plugins)
    if epochs is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs})})
    session = _Session(config, Path(path), progress)
    session.check_data(allow_changed_data)
    if epochs is not None:
        session.writer.write_config(runs.resolve(config))
    return session.run(resuming=True)


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


class _Session:
    """The data, model and trainer of one configuration, and the run directory that the training writes to."""

    def __init__(
        self, config: Config, path: Path, progress: bool, splits: Mapping[str, MultimodalDataset] | None = None
    ) -> None:
        self.config, self.progress = config, progress
        self.files, self.writer = RunFiles(path), RunWriter(path, process_rank())
        self.device = resolve_device(config.train.device)
        self.precision = resolve_precision(config.train.precision, self.device)
        self.data = (splits["train"] if splits else runs.load_split(config, "train")).to(self.device)
        self.val = (splits["val"] if splits else runs.load_split(config, "val")).to(self.device)
        self.shapes = {name: list(value.shape[1:]) for name, value in self.data.modalities.items()}
        self.modality_specs = complete_specs(self.data, runs.resolve_modalities(config, infer_specs(self.data)))
        self.best: float | None = None
        for problem in range_problems(self.data):
            warnings.warn(f"{self.data.name}: {problem}", UserWarning, stacklevel=3)
        with seeded(config.train.seed, self.device):
            self.vae = runs.build_vae(config, self.shapes, self.modality_specs).to(self.device)
            self.vae.set_moments(find_moments(self.data, self.modality_specs))
            self.objective = make_objective(config.train.objective, self.vae).to(self.device)
        self.steps_per_epoch = -(-len(self.data) // config.train.batch_size)
        total_steps = self.steps_per_epoch * config.train.epochs
        self.trainer = Trainer(self.objective, config.train, total_steps=total_steps, precision=self.precision)

    def write_data_record(self) -> None:
        """Record the content of the data, which later uses of the run are compared with."""
        record = runs.make_record({"train": self.data, "val": self.val}, self.modality_specs)
        self.writer.write_data_record(asdict(record))

    def check_data(self, allow_changed_data: bool) -> None:
        """Check that the data are those that the run has recorded, or record them anew if changes are allowed."""
        try:
            runs.check_splits(self.files.path, {"train": self.data, "val": self.val})
        except runs.DataChangedError:
            if not allow_changed_data:
                raise
            self.write_data_record()

    def environment(self) -> dict[str, Any]:
        """Return the versions, device and data of the training."""
        packages = {name: version(name) for name in ("torch", "pyro-ppl", "numpy")}
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return {
            "versions": {"python": platform.python_version(), "pyro_mmvae": __version__, **packages},
            "platform": platform.platform(),
            "device": str(self.device),
            "gpu": gpu,
            "precision": self.precision,
            "seed": self.config.train.seed,
            "data": self.data.provenance,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def run(self, *, resuming: bool) -> Run:
        """Train from the start or from the last checkpoint, and open the run."""
        settings = self.config.train
        with threads(settings.threads), seeded(settings.seed, self.device), local_pyro():
            first_epoch, batches_done = 0, 0
            if resuming:
                first_epoch, batches_done = self._restore()
            else:
                self._save(0, 0)
            self.objective.train()
            with _interruptible() as interrupted:
                for epoch in range(first_epoch, settings.epochs):
                    self._run_epoch(epoch, batches_done if epoch == first_epoch else 0, interrupted)
                    if interrupted.is_set() and epoch + 1 < settings.epochs:
                        raise Interrupted(self.files.path, epoch)
        run = runs.load_run(self.files.path, device=str(self.device))
        with threads(settings.threads):
            samples = training_samples(run, self.val)
        if samples:
            self.writer.write_samples(samples)
        return run

    def _restore(self) -> tuple[int, int]:
        """Load the last checkpoint; return its epoch and the number of batches completed in it."""
        file = self.files.checkpoint("last")
        extra, expected = read_extra(file), set(self.objective.extra_state_dict())
        if set(extra) != expected:
            raise CheckpointError(
                f"{file}: the parameters of the objective must be {sorted(expected)}, got {sorted(extra)}"
            )
        self.objective.load_state_dict(extra, strict=False)
        # Last, since it restores the states of the random number generators too.
        state = load_checkpoint(file, self.vae, self.trainer.optimizer)
        self.best, self.trainer.steps = state["best"], state["step"]
        return state["epoch"], state["batch"]

    def _save(self, epoch: int, batches_done: int) -> None:
        """Save everything that resuming needs."""
        self._save_checkpoint(
            "last", self.trainer.optimizer, extra=self.objective.extra_state_dict(), epoch=epoch, batch=batches_done
        )

    def _save_checkpoint(self, name: str, optimizer: torch.optim.Optimizer | None = None, **state: Any) -> None:
        # Shapes and descriptions of the modalities let a run be opened without its data.
        specs = {modality: spec.settings() for modality, spec in self.modality_specs.items()}
        self.writer.save_checkpoint(
            name,
            self.vae,
            optimizer,
            **state,
            step=self.trainer.steps,
            best=self.best,
            shapes=self.shapes,
            modality_specs=specs,
        )

    def _run_epoch(self, epoch: int, skip: int, interrupted: threading.Event) -> None:
        """Train for one epoch, evaluate on the validation data, record and save."""
        started, size, count = time.perf_counter(), self.config.train.batch_size, len(self.data)
        title = f"epoch {epoch + 1}/{self.config.train.epochs}"
        bar = make_progress(title, count, skip * size, sys.stderr, show=self.progress)

        def after_step(batches_done: int, averages: Averages) -> None:
            if interrupted.is_set() and batches_done * size < count:
                bar.close()
                self._save(epoch, batches_done)
                raise Interrupted(self.files.path, epoch)
            bar.update(min(size, count - (batches_done - 1) * size))
            if batches_done % _STEPS_PER_SUMMARY == 0:
                bar.set_postfix(_summary(averages.read()), refresh=False)

        try:
            averages = self.trainer.epoch(self.data, epoch, skip=skip, after_step=after_step)
        except NonFiniteError as error:
            bar.close()
            raise TrainingError(self._explain(error)) from None
        seconds = time.perf_counter() - started
        means = averages.read()
        val = evaluate_elbo(self.vae, self.val, seed=self.config.train.seed)
        chosen_by = self._selection_figure(val)
        bar.set_postfix({**_summary(means), "val_elbo": f"{val['elbo']:.1f}"})
        bar.close()
        pace = {"items_per_second": averages.items / seconds, "seconds": seconds}
        self._record(epoch, means, val, chosen_by, pace)

    def _selection_figure(self, val: ElboEstimate) -> ElboEstimate:
        """Return the validation figure that chooses the best checkpoint, which ``val`` is unless another is set."""
        if self.config.train.select == "component" and val["density"] != "component":
            return evaluate_elbo(self.vae, self.val, seed=self.config.train.seed, density="component")
        return val

    def _record(
        self, epoch: int, means: MeanTerms, val: ElboEstimate, chosen_by: ElboEstimate, pace: dict[str, float]
    ) -> None:
        """Append the metrics of an epoch, and save the checkpoints."""
        model, last = self.config.model, self.config.train.select == "last"
        row = {
            "epoch": epoch,
            "step": self.trainer.steps,
            "objective": -means.loss,
            "bound": model.bound,
            "beta": model.beta,
            "kl": means.kl,
            "log_likelihood": means.log_likelihood,
            "penalties": means.penalties,
            "lr": self.trainer.rate(self.trainer.steps),
            **pace,
            "val": val,
            "select": {"by": "last" if last else chosen_by["density"], "elbo": chosen_by["elbo"]},
            **learned_weights(self.vae, self.val),
        }
        self.writer.append_metrics(row)
        if last or chosen_by["elbo"] > (-math.inf if self.best is None else self.best):  # never NaN unless last
            self.best = chosen_by["elbo"]
            self._save_checkpoint("best", epoch=epoch + 1)
        self._save(epoch + 1, 0)

    def _explain(self, error: NonFiniteError) -> str:
        """Return the message for a training that stopped: where, what is saved, and what to try."""
        best, last = self.files.checkpoint("best"), self.files.checkpoint("last")
        return (
            f"step {error.step} (epoch {error.step // self.steps_per_epoch + 1}): {error.where} not finite; the last "
            f"good checkpoint is {best if best.exists() else last}. Try a lower train.lr (now "
            f"{self.config.train.lr:g}) or train.precision=fp32"
        )


def _summary(means: MeanTerms) -> dict[str, str]:
    """Return the values for the progress bar: the loss, the negative log likelihood and the KL term."""
    reconstruction = sum(means.log_likelihood.values())
    return {"loss": f"{means.loss:.1f}", "rec": f"{-reconstruction:.1f}", "kl": f"{means.kl:.2f}"}


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event that is checked between steps; the second one interrupts as usual.

    Yields:
        The event. Outside the main thread, which alone receives signals, it is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(_signal: int, _frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
