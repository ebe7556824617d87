"""One training from a configuration to a run directory, interrupted and taken up again as need be."""

from __future__ import annotations

import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pyro_mmvae import __version__, runs
from pyro_mmvae.data import complete_traits, infer_traits
from pyro_mmvae.device import resolve_device, resolve_precision, threads
from pyro_mmvae.runs.checkpoint import load_checkpoint, save_checkpoint
from pyro_mmvae.runs.config import Config, dump_config
from pyro_mmvae.runs.pictures import sample_pictures
from pyro_mmvae.runs.run import CHECKPOINTS, Run
from pyro_mmvae.training.learned_weights import learned_weights
from pyro_mmvae.training.progress import make_progress
from pyro_mmvae.training.trainer import (
    Averages,
    NonFiniteError,
    Trainer,
    deterministic,
    evaluate_elbo,
    local_pyro,
)


class TrainingError(RuntimeError):
    """Training stopped because something was not finite; the message says where and what is left."""


class Interrupted(Exception):  # noqa: N818  (no error)
    """Training was interrupted and saved.

    Args:
        path: the run directory.
        epoch: the one that was running, counted from 0.
    """

    def __init__(self, path: Path, epoch: int) -> None:
        super().__init__(f"interrupted in epoch {epoch + 1}; everything is saved in {path}")
        self.path, self.epoch = path, epoch


def train(config: Config, out: str | Path | None = None, *, progress: bool = True) -> Run:
    """Train a multimodal variational autoencoder into a new run directory.

    The torch generators are seeded inside and put back after, so a result depends on the configuration alone (and on
    the machine's arithmetic). The test split is never opened.

    Args:
        config: what to train; see :func:`pyro_mmvae.runs.config.make_config`.
        out: the run directory; by default ``runs/DATA-AGGREGATION-seedN`` and a number if that exists.
        progress: show a progress bar on standard error, or, where that is no terminal, a line an epoch and every 30
            seconds.

    Returns:
        The run with its best checkpoint, as :func:`pyro_mmvae.load` gives it.

    Raises:
        RunError: if ``out`` exists.
        ValueError: if the configuration does not fit the data or the machine.
        TrainingError: if the loss or a gradient is not finite.
        Interrupted: on Ctrl-C, after saving.
    """
    runs.import_plugins(config.plugins)
    config = runs.resolve(config)
    session = _Session(config, progress)
    path = _free_path(config) if out is None else Path(out)
    runs.create(path, config, session.environment())
    return session.run(path, resuming=False)


def resume(path: str | Path, *, epochs: int | None = None, progress: bool = True) -> Run:
    """Go on with an interrupted training where it stopped, to the same result as without the interruption.

    Args:
        path: the run directory.
        epochs: train up to so many instead of what the configuration says; the learning rate then follows the new
            schedule.
        progress: show a progress bar on standard error, or, where that is no terminal, a line an epoch and every 30
            seconds.

    Returns:
        The run with its best checkpoint.

    Raises:
        RunError: if ``path`` is no run directory.
        CheckpointError: if its checkpoint is missing or damaged.
        TrainingError: if the loss or a gradient is not finite.
        Interrupted: on Ctrl-C, after saving.
    """
    path = Path(path)
    config = runs.read_config(path)
    runs.import_plugins(config.plugins)
    if epochs is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs})})
        runs.write_text(path / runs.CONFIG, dump_config(runs.resolve(config)))
    return _Session(config, progress).run(path, resuming=True)


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
    """Data, model and trainer of one configuration, and the files they leave."""

    def __init__(self, config: Config, progress: bool) -> None:
        self.config, self.progress = config, progress
        self.device = resolve_device(config.train.device)
        self.precision = resolve_precision(config.train.precision, self.device)
        self.data = runs.load_split(config, "train").to(self.device)
        self.val = runs.load_split(config, "val").to(self.device)
        self.shapes = {name: list(value.shape[1:]) for name, value in self.data.modalities.items()}
        self.traits = complete_traits(self.data, runs.settle_traits(config, infer_traits(self.data)))
        self.best = -float("inf")
        with deterministic(config.train.seed, self.device):
            self.vae = runs.build_vae(config, self.shapes, self.traits).to(self.device)
        per_epoch = -(-len(self.data) // config.train.batch_size)
        self.trainer = Trainer(
            self.vae, config.train, total_steps=per_epoch * config.train.epochs, precision=self.precision
        )

    def environment(self) -> dict[str, Any]:
        """Where and with what this runs."""
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

    def run(self, path: Path, *, resuming: bool) -> Run:
        """Train from the start or from the last checkpoint."""
        epoch, batch = 0, 0
        seed = self.config.train.seed
        with threads(self.config.train.threads), deterministic(seed, self.device), local_pyro():
            if resuming:
                state = load_checkpoint(path / CHECKPOINTS["last"], self.vae, self.trainer.optimizer)
                epoch, batch, self.best = state["epoch"], state["batch"], state["best"] or -float("inf")
                self.trainer.steps = state["step"]
            else:
                self.save(path, 0, 0)
            self.vae.train()
            with _interruptible() as interrupted:
                for number in range(epoch, self.config.train.epochs):
                    self.one_epoch(path, number, batch if number == epoch else 0, interrupted)
                    if interrupted.is_set() and number + 1 < self.config.train.epochs:
                        raise Interrupted(path, number)
        run = runs.load(path, device=str(self.device))
        with threads(self.config.train.threads):
            pictures = sample_pictures(run, self.val)
        if pictures:
            runs.write_arrays(path / runs.SAMPLES, pictures)
        return run

    def save(self, path: Path, epoch: int, batch: int) -> None:
        """Everything needed to go on."""
        best = self.best if self.best > -float("inf") else None
        state = {"epoch": epoch, "batch": batch, "step": self.trainer.steps, "best": best, **self.about_modalities()}
        save_checkpoint(path / CHECKPOINTS["last"], self.vae, self.trainer.optimizer, **state)

    def about_modalities(self) -> dict[str, Any]:
        """What a checkpoint says of them, so that a run can be opened without its data."""
        return {"shapes": self.shapes, "traits": {name: asdict(known) for name, known in self.traits.items()}}

    def one_epoch(self, path: Path, epoch: int, skip: int, interrupted: threading.Event) -> None:
        """Train, validate, record, save."""
        started, size = time.perf_counter(), self.config.train.batch_size
        title, total = f"epoch {epoch + 1}/{self.config.train.epochs}", len(self.data)
        bar = make_progress(title, total, skip * size, sys.stderr, show=self.progress)

        def after_step(done: int, averages: Averages) -> None:
            if interrupted.is_set() and done * size < len(self.data):
                bar.close()
                self.save(path, epoch, done)
                raise Interrupted(path, epoch)
            bar.update(min(size, len(self.data) - (done - 1) * size))
            if done % 20 == 0:
                bar.set_postfix(_summary(averages.read()), refresh=False)

        try:
            averages = self.trainer.epoch(self.data, epoch, skip=skip, after_step=after_step)
        except NonFiniteError as error:
            bar.close()
            raise TrainingError(self.explain(path, error)) from None
        seconds = time.perf_counter() - started
        means = averages.read()
        val = evaluate_elbo(self.vae, self.val, seed=self.config.train.seed)
        bar.set_postfix({**_summary(means), "val_elbo": f"{val['elbo']:.1f}"})
        bar.close()
        self.record(path, epoch, (averages.items, seconds), means, val)

    def record(
        self, path: Path, epoch: int, pace: tuple[int, float], means: dict[str, float], val: dict[str, float]
    ) -> None:
        """One line of metrics, and the checkpoints."""
        model = self.config.model
        row = {
            "epoch": epoch,
            "step": self.trainer.steps,
            "objective": -means.pop("loss"),
            "bound": model.bound,
            "beta": model.beta,
            "kl": means.pop("kl"),
            "log_likelihood": means,
            "lr": self.trainer.rate(self.trainer.steps),
            "items_per_second": pace[0] / pace[1],
            "seconds": pace[1],
            "val": {**val, "items": len(self.val), "seed": self.config.train.seed, "samples": 1},
            **learned_weights(self.vae, self.val),
        }
        runs.append_metrics(path, row)
        if val["elbo"] > self.best:
            self.best = val["elbo"]
            save_checkpoint(
                path / CHECKPOINTS["best"], self.vae, epoch=epoch + 1, step=self.trainer.steps, best=self.best,
                **self.about_modalities(),
            )  # fmt: skip
        self.save(path, epoch + 1, 0)

    def explain(self, path: Path, error: NonFiniteError) -> str:
        """What a user must know when training broke down."""
        per_epoch = -(-len(self.data) // self.config.train.batch_size)
        good = path / CHECKPOINTS["best" if (path / CHECKPOINTS["best"]).exists() else "last"]
        return (
            f"step {error.step} (epoch {error.step // per_epoch + 1}): {error.where} not finite; the last good "
            f"checkpoint is {good}. Try a lower train.lr (now {self.config.train.lr:g}) or train.precision=fp32"
        )


def _summary(means: dict[str, float]) -> dict[str, str]:
    reconstruction = sum(value for name, value in means.items() if name not in {"loss", "kl"})
    return {"loss": f"{means['loss']:.1f}", "rec": f"{-reconstruction:.1f}", "kl": f"{means['kl']:.2f}"}


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, to be looked at between steps; the second one is the usual one."""
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
