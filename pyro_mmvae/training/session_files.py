"""The part of a training session that writes the run directory, and goes on from what it holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pyro_mmvae import runs
from pyro_mmvae._seeding import seeded
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.device import threads
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, read_extra
from pyro_mmvae.runs.config import Config, DataConfig
from pyro_mmvae.runs.layout import RunWriter, check_run_id
from pyro_mmvae.training.covariates import check_resumed_covariates
from pyro_mmvae.training.determinism import deterministic
from pyro_mmvae.training.early_stopping import EarlyStopping
from pyro_mmvae.training.elbo import Averages, local_pyro
from pyro_mmvae.training.environment import describe_arithmetic, describe_environment
from pyro_mmvae.training.objectives import Objective
from pyro_mmvae.training.processes import launched
from pyro_mmvae.training.resumed_data import changed_values
from pyro_mmvae.training.resumption import check_position, plain_settings, read_last, warn_of_arithmetic
from pyro_mmvae.training.team import Team
from pyro_mmvae.training.trainer import Trainer
from pyro_mmvae.vae.vae import MultimodalVAE

_ORDER = ("train.batch_size:", "train.seed:", "split ")  # changes of the order of the items


class SessionFiles:
    """The state of a training session that its run directory keeps, and the ways to and from it.

    Attributes:
        team: The processes that train together.
        config: The resolved configuration of the run.
        files: The files of the run directory.
        writer: The writer of the run directory.
        device: The device of the training.
        precision: The precision of the networks' arithmetic, ``"fp32"`` or ``"bf16"``.
        data: The items to train on.
        val: The items of the validation split.
        checksums: The checksums of the data that are in memory, by split and name.
        shapes: The shape of one item of each modality, by name.
        modality_specs: The description of each modality, by name.
        vae: The model and guide.
        objective: The objective that is minimized.
        trainer: The optimization of the objective.
        stopping: The count of early stopping.
        steps_per_epoch: The number of steps in each epoch.
        best: The best figure so far, None before the first epoch.
        stopped: The reason for which the training was stopped early, None otherwise.
        accepted: The changes of settings and data that were accepted at resumptions, one line each.
        averages: The averages over the batches of the epoch that was interrupted.
        elapsed: The seconds that these batches took.
        arithmetic: The description of the machine, which the rounding depends on.
    """

    team: Team
    config: Config
    files: RunFiles
    writer: RunWriter
    device: torch.device
    precision: str
    data: MultimodalDataset
    val: MultimodalDataset
    checksums: dict[str, dict[str, int]]
    shapes: dict[str, list[int]]
    modality_specs: dict[str, ModalitySpec]
    vae: MultimodalVAE
    objective: Objective
    trainer: Trainer
    stopping: EarlyStopping
    steps_per_epoch: int
    best: float | None
    stopped: str | None
    accepted: list[str]
    averages: Averages
    elapsed: float
    arithmetic: dict[str, Any]

    def create(self) -> None:
        """Write everything that a training can start from: configuration, environment, data record and checkpoint."""
        with self._settings() as count:
            processes = self.team.describe() | launched()
            about = describe_environment(self.config, self.device, self.precision, self.data, count, processes)
            self.writer.create(self.config, about)
            self.write_data_record()
            self._save(0, 0)

    def move(self, path: Path) -> None:
        """Follow the run directory to another place.

        Args:
            path: The new path of the run directory.
        """
        data = Path(self.config.data.name)
        if data.is_absolute() and data.is_relative_to(self.files.path.resolve()):
            place = str(path.resolve() / data.relative_to(self.files.path.resolve()))
            self.config = self.config.model_copy(
                update={"data": DataConfig.model_validate({"name": place, **self.config.data.options()})}
            )
        self.files, self.writer = RunFiles(path), RunWriter(path, self.writer.rank)

    def write_data_record(self) -> None:
        """Record the content of the data, which later uses of the run are compared with."""
        record = runs.make_record({"train": self.data, "val": self.val}, self.modality_specs)
        self.writer.write_data_record(asdict(record))

    def check_data(self, state: Mapping[str, Any], allow_changed_data: bool) -> tuple[str, ...]:
        """Check that the data are those that the run has recorded, or record them anew if changes are allowed.

        Args:
            state: The state of the last checkpoint, which has the checksums of the data.
            allow_changed_data: If True, changes are allowed.

        Returns:
            The changes, one line each.
        """
        changes: tuple[str, ...] = ()
        try:
            runs.check_splits(self.files.path, {"train": self.data, "val": self.val})
            if self.files.data_record.exists():  # without it a run goes on with any data
                changes = changed_values(state.get("checksums", {}), self.checksums)
            if changes:
                raise runs.DataChangedError(self.files.path, changes)
        except runs.DataChangedError as error:
            if not allow_changed_data:
                raise
            changes = error.changes
            self.write_data_record()
        return changes

    @contextmanager
    def _settings(self) -> Iterator[int]:
        """Set threads, seeds and determinism, and yield the number of threads."""
        settings = self.config.train
        with deterministic(settings.deterministic), threads(settings.threads, self.team.size_here) as count:
            named = "auto" if settings.threads == "auto" else count
            self.arithmetic = describe_arithmetic(self.device, self.precision, named, self.team.size)
            with seeded(settings.seed, self.device), self.team.common_draws(), local_pyro():
                yield count

    def _resume(self, go_on: bool, changes: Sequence[str]) -> tuple[int, int]:
        """Load the last checkpoint, record the resumption, and return its epoch and the batches completed in it."""
        state = self._restore(go_on, changes)
        self.team.together(lambda: None)  # the first process writes what the others have read
        self.writer.remove_leftovers()
        self.writer.cut_metrics(state["epoch"])
        arithmetic = warn_of_arithmetic(self.files.path, state, self.arithmetic)
        before = self.team.share(lambda: plain_settings(runs.read_config(self.files.path), self.files.path))
        if changes:
            # The checkpoint comes first, and says what the file held before: a kill between the two is seen.
            self._save(state["epoch"], state["batch"], config_before=before)
        if before != plain_settings(self.config, self.files.path):
            self.writer.write_config(runs.resolve(self.config))
        self.writer.record_resumption(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "step": self.trainer.steps, "changes": list(changes),
                "arithmetic": list(arithmetic), "command": list(sys.argv),
            }
        )  # fmt: skip
        return state["epoch"], state["batch"]

    def _restore(self, go_on: bool, changes: Sequence[str]) -> dict[str, Any]:
        """Load the last checkpoint; return its state, with its position in the settings to go on with."""
        file = self.files.checkpoint("last")
        extra = read_extra(file, self.objective.extra_state_dict())
        state = read_last(self.files.path)
        check_run_id(self.files, file, state)
        self.objective.load_state_dict(extra, strict=False)
        is_forced = any(not change.startswith("train.epochs:") for change in changes)
        check_position(file, state, self.config.train.epochs, self.steps_per_epoch, is_forced=is_forced)
        check_resumed_covariates(file, state, self.data)
        fresh = self.trainer.options()
        # Last, since it restores the states of the random number generators too.
        load_checkpoint(file, self.vae, self.trainer.optimizer)
        self.team.adopt_draws()
        try:
            self.trainer.load(state)
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from None
        if is_forced:
            self.trainer.follow_changes(fresh, [change.partition(":")[0] for change in changes])
            self.accepted = [*state.get("accepted", []), *(f"step {state['step']}: {change}" for change in changes)]
            if any(change.startswith(_ORDER) for change in changes):
                state["batch"] = 0  # the order of the items is another one, so that the epoch begins anew
        else:
            self.accepted = state.get("accepted", [])
        self.best, self.stopped = state["best"], state.get("stopped")
        if state["batch"] and "averages" in state:
            self.averages.load(state["averages"], self.device)
            self.elapsed = state["seconds"]
        self.stopping.load(state.get("stopping", {}))
        if go_on and self.stopped is not None:
            self.stopped = None
            self.stopping.load({})
        return state

    def _save(self, epoch: int, batches_done: int, **further: Any) -> None:
        """Save everything that resuming needs."""
        if batches_done:
            further |= {"averages": self.averages.state(), "seconds": self.elapsed}
        self._save_checkpoint(
            "last",
            self.trainer.optimizer,
            extra=self.objective.extra_state_dict(),
            epoch=epoch,
            batch=batches_done,
            schedule=self.trainer.schedule.state(),
            stopping=self.stopping.state(),
            stopped=self.stopped,
            config=plain_settings(self.config, self.files.path),
            arithmetic=self.arithmetic,
            accepted=self.accepted,
            checksums=self.checksums,
            **further,
        )

    def _save_checkpoint(self, name: str, optimizer: torch.optim.Optimizer | None = None, **state: Any) -> None:
        # Shapes and descriptions of the modalities let a run be opened without its data.
        specs = {modality: spec.settings() for modality, spec in self.modality_specs.items()}
        with self.team.lent_draws():
            self.writer.save_checkpoint(
                name,
                self.vae,
                optimizer,
                **state,
                step=self.trainer.steps,
                best=self.best,
                shapes=self.shapes,
                modality_specs=specs,
                covariate_names=dict(self.data.covariate_names),
            )
