"""The session of one training: data, model and trainer, and the run directory that it writes to."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_mmvae import runs
from pyro_mmvae._seeding import seeded
from pyro_mmvae.data import MultimodalDataset, complete_specs, find_moments, infer_specs, make_batch, range_problems
from pyro_mmvae.data.covariates import category_frequencies
from pyro_mmvae.device import resolve_device, resolve_precision
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.layout import RunWriter
from pyro_mmvae.runs.run import Run
from pyro_mmvae.training.callbacks import Callback, Outcome, TrainingInfo, make_callbacks
from pyro_mmvae.training.covariates import check_covariates_of_splits
from pyro_mmvae.training.early_stopping import EarlyStopping
from pyro_mmvae.training.elbo import Averages, ElboEstimate, MeanTerms, evaluate_elbo
from pyro_mmvae.training.finishing import finish
from pyro_mmvae.training.finiteness import TrainingError, check_row, check_weights, explain
from pyro_mmvae.training.interruption import Interrupted, Interruption, interruptible, signal_of
from pyro_mmvae.training.learned_weights import learned_weights
from pyro_mmvae.training.memory import (
    check_draws,
    check_memory,
    memory_errors_explained,
    steps_out_of_memory_explained,
)
from pyro_mmvae.training.objectives import make_objective
from pyro_mmvae.training.prior_start import start_prior
from pyro_mmvae.training.processes import ProcessLostError
from pyro_mmvae.training.progress import TimeLeft, make_progress, summarize
from pyro_mmvae.training.resumed_data import value_checksums
from pyro_mmvae.training.session_files import SessionFiles
from pyro_mmvae.training.shard_saves import ShardSaves
from pyro_mmvae.training.team import Team
from pyro_mmvae.training.thread_choice import ThreadChoice
from pyro_mmvae.training.trainer import NonFiniteError, Trainer
from pyro_mmvae.vae.trial import try_custom_parts, try_posterior

_logger = logging.getLogger(__name__)

_STEPS_PER_SUMMARY = 20  # reading the averages waits for the device


class Session(SessionFiles):
    """The data, model and trainer of one configuration, and the run directory that the training writes to."""

    def __init__(
        self,
        config: Config,
        path: Path,
        progress: bool,
        callbacks: Sequence[Callback],
        splits: Mapping[str, MultimodalDataset] | None = None,
        team: Team | None = None,
    ) -> None:
        self.team = team = team or Team()
        self.progress = progress and team.rank == 0
        self.files, self.writer = RunFiles(path), RunWriter(path, team.rank)
        self.device = resolve_device(team.device_name(config.train.device))
        self.precision = resolve_precision(config.train.precision, self.device)
        given = {name: splits[name] if splits else runs.load_split(config, name) for name in ("train", "val")}
        # Data that are passed again may have other types or an other order of features, and are matched by name.
        self.checksums = {} if config.data.name == runs.UNKEPT_DATA else value_checksums(given)
        self.data, self.val = (given[name].to(self.device) for name in ("train", "val"))
        self.config = config = runs.adapt_recipe(config, self.data)
        self.shapes = {name: list(value.shape[1:]) for name, value in self.data.modalities.items()}
        self.modality_specs = complete_specs(self.data, runs.resolve_modalities(config, infer_specs(self.data)))
        self.best: float | None = None
        self.stopped: str | None = None
        self.accepted: list[str] = []
        self.averages, self.elapsed = Averages(), 0.0  # of the epoch that was interrupted
        self.arithmetic: dict[str, Any] = {}
        self.stopping = EarlyStopping(config.train.patience, config.train.min_delta)
        followers = (config.train.callbacks, callbacks) if team.rank == 0 else ((), ())
        self.callbacks = make_callbacks(*followers, seed=config.train.seed, device=self.device)
        if config.train.batch_size < team.size:
            raise ValueError(
                f"train.batch_size must be at least the number of processes, {team.size}, got {config.train.batch_size}"
            )
        check_covariates_of_splits(self.data, self.val)
        for problem in range_problems(self.data):
            warnings.warn(f"{self.data.name}: {problem}", UserWarning, stacklevel=3)
        covariates = self.data.covariate_names
        check_memory(config, self.shapes, self.modality_specs, covariates, self.device)
        items = max(min(config.train.batch_size, len(self.data)) // team.size, 1)
        check_draws(config, self.shapes, self.modality_specs, items, self.device)
        with seeded(config.train.seed, self.device), memory_errors_explained():
            self.vae = runs.build_vae(config, self.shapes, self.modality_specs, covariates).to(self.device)
            self.vae.set_moments(find_moments(self.data, self.modality_specs))
            if covariates:
                self.vae.set_covariate_frequencies(category_frequencies(self.data.covariates, covariates))
            start_prior(self.vae, self.data)
            # Before the run directory exists, so that a mistake leaves nothing behind.
            first = make_batch(self.data.subset(_first_items(self.data)), slice(None))
            try_custom_parts(self.vae, first)
            self.objective = make_objective(config.train.objective, self.vae).to(self.device)
            try_posterior(self.vae, first)
        self.steps_per_epoch = -(-len(self.data) // config.train.batch_size)
        total_steps = self.steps_per_epoch * config.train.epochs
        self.trainer = Trainer(
            self.objective, config.train, total_steps=total_steps, precision=self.precision, team=team
        )

    def run(self, *, resuming: bool, go_on: bool = False, changes: Sequence[str] = ()) -> Run:
        """Train from the start or from the last checkpoint, and open the run.

        Args:
            resuming: If True, start from the last checkpoint.
            go_on: If True, go on with a training that was stopped early; False by default.
            changes: The changes of settings and data since the last checkpoint, which were accepted; none by default.
        """
        settings, number = self.config.train, 0
        with self._settings() as count, self.team.losses_explained(self.files.path):
            first_epoch, batches_done = self._resume(go_on, changes) if resuming else (0, 0)
            tunes = settings.threads == "auto" and self.device.type == "cpu"
            self.thread_choice = ThreadChoice(count) if tunes else None
            _logger.log(
                logging.INFO if self.team.rank == 0 else logging.DEBUG,
                "%s %s on %s with %s, %d threads, %d items, epoch %d of %d",
                "resuming" if resuming else "training", self.files.path, self.device, self.precision, count,
                len(self.data), first_epoch + 1, settings.epochs,
            )  # fmt: skip
            if first_epoch < settings.epochs and self.stopped is None:
                info = self._info(first_epoch)
                with self.callbacks.following(info, self._outcome), interruptible() as interrupted:
                    self._run_epochs(first_epoch, batches_done, interrupted)
                    number = self._signal(interrupted)  # one that has come since the last step
        if number not in {0, signal.SIGINT}:  # a request to end the process, which Ctrl-C after the last step is not
            raise Interrupted(self.files.path, settings.epochs - 1, number, finished=True)
        try:
            return finish(self.writer, self.config, self.data, self.val, self.device)
        except KeyboardInterrupt as stop:
            raise Interrupted(self.files.path, settings.epochs - 1, signal_of(stop), finished=True) from None

    def _info(self, first_epoch: int) -> TrainingInfo:
        return TrainingInfo(
            path=self.files.path,
            config=self.config,
            vae=self.vae,
            device=self.device,
            epochs=self.config.train.epochs,
            first_epoch=first_epoch,
            step=self.trainer.steps,
            steps_per_epoch=self.steps_per_epoch,
        )

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is not None:
            return "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        return "finished" if self.stopped is None else "stopped"

    def _run_epochs(self, first_epoch: int, batches_done: int, interrupted: Interruption) -> None:
        epochs = self.config.train.epochs
        self.time_left = TimeLeft(self.steps_per_epoch * epochs, self.trainer.steps)
        for epoch in range(first_epoch, epochs):
            self.objective.train()  # a callback may have changed the mode
            try:
                with steps_out_of_memory_explained(self.files, epoch):
                    self._run_epoch(epoch, batches_done if epoch == first_epoch else 0, interrupted)
            except NonFiniteError as error:
                text = explain(error, self.files, self.steps_per_epoch, self.config.train.lr)
                raise TrainingError(text) from None
            if self.stopped is not None:
                _logger.info("stopped early after epoch %d of %d: %s", epoch + 1, epochs, self.stopped)
                return
            number = self._signal(interrupted)
            if number and epoch + 1 < epochs:
                raise Interrupted(self.files.path, epoch, number)

    def _signal(self, interrupted: Interruption) -> int:
        """Return the number of the signal that has interrupted a process, on all of them; 0 if there was none."""
        return self.team.largest(interrupted.number if interrupted.is_set() else 0)

    def _run_epoch(self, epoch: int, skip: int, interrupted: Interruption) -> None:
        """Train for one epoch, evaluate on the validation data, record and save."""
        size, count = self.config.train.batch_size, len(self.data)
        started, averages = time.perf_counter() - self.elapsed, self.averages
        saves = ShardSaves(self.data.shards, size, skip)
        title = f"epoch {epoch + 1}/{self.config.train.epochs}"
        bar = make_progress(title, count, skip * size, sys.stderr, show=self.progress)
        if self.thread_choice is not None:
            self.thread_choice.start_epoch()
        done = skip

        def after_step(batches_done: int, averages: Averages) -> None:
            nonlocal done
            done = batches_done
            number = self._signal(interrupted) if batches_done * size < count else 0
            if number:
                self._save_inside(epoch, done, started)
                raise Interrupted(self.files.path, epoch, number)
            items = min(size, count - (batches_done - 1) * size)
            if saves.are_due(batches_done):
                self._save_inside(epoch, done, started)
            bar.update(items)
            if batches_done % _STEPS_PER_SUMMARY == 0:
                left = self.time_left(self.trainer.steps)
                bar.set_postfix({**summarize(averages.read()), "left": left}, refresh=False)
            if self.thread_choice is not None:
                self.thread_choice.after_step(items)

        try:
            with self.team.losses_explained(self.files.path):
                self.trainer.epoch(self.data, epoch, skip=skip, averages=averages, after_step=after_step)
            seconds = time.perf_counter() - started
            check_weights(self.objective, self.trainer.steps)
            means = averages.read()
            val = evaluate_elbo(self.vae, self.val, seed=self.config.train.seed, team=self.team)
            chosen_by = self._selection_figure(val)
            pace: dict[str, float] = {"items_per_second": averages.items / max(seconds, 1e-9), "seconds": seconds}
            if self.thread_choice is not None:
                pace["threads"] = self.thread_choice.count
            self.averages, self.elapsed = Averages(), 0.0
            self._record(epoch, means, val, chosen_by, pace)
            left = self.time_left(self.trainer.steps)
            bar.set_postfix({**summarize(means), "val_elbo": f"{val['elbo']:.1f}", "left": left})
        except ProcessLostError:
            self._save_inside(epoch, done, started)  # the steps up to here are those of all processes
            raise
        finally:
            bar.close()

    def _save_inside(self, epoch: int, batches_done: int, started: float) -> None:
        """Save inside of an epoch, unless that is complete or nothing has been trained."""
        if batches_done * self.config.train.batch_size < len(self.data) and self.trainer.steps:
            self.trainer.check()
            check_weights(self.objective, self.trainer.steps)
            self.elapsed = time.perf_counter() - started
            self._save(epoch, batches_done)

    def _selection_figure(self, val: ElboEstimate) -> ElboEstimate:
        """Return the validation figure that chooses the best checkpoint, which ``val`` is unless another is set."""
        density = "subsets" if self.config.model.bound == "subsets" else "component"
        if self.config.train.select == "component" and val["density"] != density:
            return evaluate_elbo(self.vae, self.val, seed=self.config.train.seed, density=density, team=self.team)
        return val

    def _record(
        self, epoch: int, means: MeanTerms, val: ElboEstimate, chosen_by: ElboEstimate, pace: dict[str, float]
    ) -> None:
        """Save the checkpoints of an epoch and append its metrics, after the callbacks have seen them."""
        last, figure = self.config.train.select == "last", chosen_by["elbo"]
        row = {
            "epoch": epoch,
            "step": self.trainer.steps,
            "objective": -means.loss,
            "bound": self.config.model.bound,
            "beta": self.trainer.beta,
            "kl": means.kl,
            "log_likelihood": means.log_likelihood,
            "penalties": means.penalties,
            "lr": self.trainer.schedule.rate,
            **pace,
            "val": val,
            "select": {"by": "last" if last else chosen_by["density"], "elbo": figure},
            **learned_weights(self.vae, self.val, team=self.team),
        }
        check_row(row, self.trainer.steps)
        self.trainer.schedule.after_epoch(figure)
        row["lr"] = self.trainer.schedule.rate
        _logger.info("epoch %d: objective %.2f, validation ELBO %.2f", epoch + 1, -means.loss, val["elbo"])
        if last or figure > (-math.inf if self.best is None else self.best):
            self.best = figure
            self._save_checkpoint("best", epoch=epoch + 1)
        try:
            reason = self._reason_to_stop(figure, row)
            if reason is not None and epoch + 1 < self.config.train.epochs:
                self.stopped = row["stopped"] = reason
        finally:  # a callback that fails does not cost the epoch
            self.writer.append_metrics(row)
            self._save(epoch + 1, 0)
        self.team.together(lambda: None)  # the others wait here, and not in a step, while the first writes

    def _reason_to_stop(self, figure: float, row: dict[str, Any]) -> str | None:
        """Count the epoch for early stopping, call the callbacks, and return the reason to stop, if there is one."""
        reason = None
        if self.stopping.update(figure):
            gain = f" by more than {self.stopping.min_delta:g} nats" if self.stopping.min_delta else ""
            reason = (
                f"the validation ELBO did not improve{gain} on {self.stopping.best:.2f} for {self.stopping.epochs} "
                f"epoch{'s' if self.stopping.epochs > 1 else ''} (train.patience)"
            )
        return self.team.share(lambda: self.callbacks.on_epoch_end(row)) or reason


def _first_items(data: MultimodalDataset) -> list[int]:
    """Return the numbers of items that together have every modality: the first with each."""
    present = data.present.cpu()
    return sorted({int(present[:, m].nonzero()[0]) for m in range(present.shape[1]) if bool(present[:, m].any())})
