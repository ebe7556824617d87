"""Stochastic optimization of an objective over a data set, one step or one epoch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_mmvae.batch import Batch
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.device import autocast
from pyro_mmvae.runs.optimization import make_optimizer
from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training.elbo import Averages, Terms
from pyro_mmvae.training.objectives import Objective, make_objective
from pyro_mmvae.training.schedule import BetaWarmup, Schedule
from pyro_mmvae.training.team import LossFunction, Team
from pyro_mmvae.vae.vae import MultimodalVAE

_CHECK_EVERY = {"cpu": 1}  # steps; a CPU has nothing to wait for
_CHECK_EVERY_ON_ACCELERATORS = 50


class NonFiniteError(ArithmeticError):
    """A loss or a gradient that is NaN or infinite.

    Args:
        step: The first step at which it occurred, counted from 0.
        where: The terms or gradients that are not finite, with the names of modalities and parameters.
    """

    def __init__(self, step: int, where: str) -> None:
        super().__init__(f"step {step}: {where} not finite")
        self.step, self.where = step, where


class Trainer:
    """The optimization of an objective with an optimizer, a learning-rate schedule and a warm-up of β.

    Args:
        objective: The objective to minimize, on its device; or a model and guide, for the objective that ``config``
            names, by default the evidence lower bound.
        config: The optimizer, the learning rate and its schedule, the warm-up of β, the bound of the gradient's norm,
            the batch size and the seed.
        total_steps: The number of steps of the whole training, which the schedule depends on.
        precision: The precision of the networks' arithmetic, ``"fp32"`` (default) or ``"bf16"``.
        optimizer: The optimizer of the objective's parameters, whose learning rate is replaced by that of ``config``;
            by default the one that ``config`` names.
        team: The processes that train together, of which each computes its share of every batch; by default this one
            alone.

    Attributes:
        terms: The terms of the last loss.
        schedule: The schedule of the learning rate.
        steps: The number of steps taken.

    Raises:
        ValueError: If an option of the optimizer or the schedule does not fit the training.
    """

    terms: Terms

    def __init__(
        self,
        objective: Objective | MultimodalVAE,
        config: TrainConfig,
        *,
        total_steps: int,
        precision: str = "fp32",
        optimizer: torch.optim.Optimizer | None = None,
        team: Team | None = None,
    ) -> None:
        self.team = team or Team()
        self._loss_of: LossFunction | None = None
        if isinstance(objective, MultimodalVAE):
            objective = make_objective(config.objective, objective)
        self.objective, self.vae = objective, objective.vae
        self.config, self.precision = config, precision
        self.total_steps, self.steps = total_steps, 0
        self.parameters = list(objective.parameters())
        self.device = self.parameters[0].device
        self.optimizer = optimizer or _make_optimizer(config, self.parameters)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr
        self.schedule = Schedule(config, self.optimizer, total_steps)
        warmup = config.beta_warmup
        warmup_steps = warmup * total_steps / (1 if warmup < 1 else max(config.epochs, 1))
        self._beta = BetaWarmup(config.beta_start, self.vae.guide.beta, warmup_steps)
        self._check_every = _CHECK_EVERY.get(self.device.type, _CHECK_EVERY_ON_ACCELERATORS)
        self._first_bad_step = torch.tensor(-1, device=self.device)
        self._bad: Tensor | None = None

    @property
    def beta(self) -> float:
        """The weight β of the KL term at the next step."""
        return self._beta(self.steps)

    def state(self) -> dict[str, Any]:
        """Return the state of the trainer but for its optimizer, as JSON can hold it."""
        return {"step": self.steps, "schedule": self.schedule.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a state, after that of the optimizer.

        Args:
            state: The dictionary that :meth:`state` returned; further keys are ignored. A checkpoint of an earlier
                version has no ``schedule``, which then follows from the number of steps.
        """
        self.steps = state["step"]
        self.schedule.load(state.get("schedule", {"last_epoch": self.steps, "_step_count": self.steps + 1}))

    def options(self) -> list[dict[str, Any]]:
        """Return the options of the optimizer's groups of parameters, such as learning rates."""
        return [
            {name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups
        ]

    def follow_changes(self, options: Sequence[Mapping[str, Any]], changed: Iterable[str]) -> None:
        """Apply changed settings of the optimizer and the schedule, after :meth:`load` has restored the earlier ones.

        Args:
            options: The options of the groups by the changed settings, from :meth:`options` before the loading.
            changed: The keys of the changed settings, such as ``train.lr``.
        """
        keys = set(changed)
        if any(key.startswith(("train.schedule", "train.warmup")) for key in keys):
            done = self.steps if self.schedule.every == "step" else self.steps * self.config.epochs // self.total_steps
            self.schedule.load({"last_epoch": done, "_step_count": done + 1})
        if not any(
            key.startswith(("train.lr", "train.betas", "train.weight_decay", "train.optimizer")) for key in keys
        ):
            return
        for group, new in zip(self.optimizer.param_groups, options, strict=True):
            factor = new["initial_lr"] / group["initial_lr"]
            group.update({**new, "lr": group["lr"] * factor})
        self.schedule.scale_to([group["initial_lr"] for group in self.optimizer.param_groups])

    def step(self, batch: Batch) -> Tensor:
        """Take one optimization step.

        Args:
            batch: Items on the device of the trainer, of several processes its own share of the batch.

        Returns:
            The loss, which is the negative objective of the batch, in nats, detached and on the device; its terms are
            in the attribute ``terms``. Several processes return those of the whole batch.

        Raises:
            NonFiniteError: If the loss or a gradient is not finite; on a GPU this is checked every 50 steps.
        """
        if self._beta.steps:
            self.vae.guide.beta = self.vae.model.beta = self.beta
        with autocast(self.precision, self.device):
            loss = self.loss(batch)
        self.optimizer.zero_grad()
        self.team.backward(loss)
        total, self.terms = self.team.add_up(loss.detach(), self.terms)
        self._watch(total)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        self.schedule.after_step()
        self.steps += 1
        return total

    def loss(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch, and record its terms in the attribute ``terms``.

        Args:
            batch: Items on the device of the trainer.

        Returns:
            The loss, which is the negative objective, to be differentiated.
        """
        if self._loss_of is None:  # only now, since it waits for the other processes
            self._loss_of = self.team.wrap(self.objective)
        loss, self.terms = self._loss_of(batch)
        return loss

    def epoch(
        self,
        data: MultimodalDataset,
        epoch: int,
        *,
        skip: int = 0,
        averages: Averages | None = None,
        after_step: Callable[[int, Averages], None] | None = None,
    ) -> Averages:
        """Train on every item once, in an order that depends on the seed and the epoch only.

        Args:
            data: The data set, on the device of the trainer.
            epoch: The number of the epoch, counted from 0.
            skip: The number of batches to leave out at the start, which were trained on before an interruption.
            averages: The averages over the batches that are left out, which are added to; new ones by default.
            after_step: A function called after each step with the number of batches completed and the averages so far.

        Returns:
            The means of the loss and its terms over the items trained on.

        Raises:
            NonFiniteError: If the loss or a gradient is not finite.
        """
        averages = Averages() if averages is None else averages
        data = data.at_epoch(epoch)
        for number, index in enumerate(self._order(data, epoch, skip), skip):
            with self.team.shard(len(index)) as own:
                loss = self.step(make_batch(data, index[own.start : own.stop]))
            averages.add(len(index), loss, self.terms)
            if after_step is not None:
                after_step(number + 1, averages)
        self.check()
        return averages

    def _order(self, data: MultimodalDataset, epoch: int, skip: int) -> Iterable[Tensor]:
        """Return the indices of the items of each batch, without those of the batches to leave out."""
        size, seed = self.config.batch_size, self.config.seed
        if data.shards is not None:
            return data.shards.batches(size, seed, epoch, skip=skip)
        # The order moves to the device once: moving the indices of each batch would wait for the steps before it.
        return batches(len(data), size, seed, epoch, self.device)[skip:]

    def check(self) -> None:
        """Check that every step so far was finite, waiting for the device.

        Raises:
            NonFiniteError: If one was not.
        """
        step = int(self._first_bad_step)
        if step < 0 or self._bad is None:
            return
        labels = [label for label, bad in zip(self._term_labels(), self._bad.tolist(), strict=False) if bad]
        if len(labels) > 1 and labels[0] == "the loss":  # it follows from its terms
            labels = labels[1:]
        if not labels:
            names = {id(parameter): name for name, parameter in self.vae.named_parameters()}
            names = {id(parameter): name for name, parameter in self.objective.named_parameters()} | names
            bad_gradients = self._bad.tolist()[len(self._term_labels()) :]
            first, *others = [names[id(p)] for p, bad in zip(self.parameters, bad_gradients, strict=True) if bad]
            labels = [f"the gradient of {first}" + (f" and {len(others)} more" if others else "")]
        raise NonFiniteError(step, ", ".join(labels))

    def _watch(self, loss: Tensor) -> None:
        """Record the first step at which something is not finite, without waiting for the device."""
        with_grad = [p.grad for p in self.parameters if p.grad is not None]
        if self._check_every == 1:
            # A sum is finite only if its terms are, and summing is cheaper than testing each of them.
            total = torch.stack([loss, *(gradient.sum() for gradient in with_grad)]).sum()
            if bool(total.isfinite()):
                return
        zero = loss.new_zeros(())
        norms = iter(torch._foreach_norm(with_grad))
        gradients = [zero if p.grad is None else next(norms).float() for p in self.parameters]
        bad = ~torch.stack([loss.float(), *self._term_values(zero), *gradients]).isfinite()
        is_first = (self._first_bad_step < 0) & bad.any()
        self._first_bad_step = torch.where(is_first, self.steps, self._first_bad_step)
        self._bad = bad if self._bad is None else torch.where(is_first, bad, self._bad)
        if (self.steps + 1) % self._check_every == 0:
            self.check()

    def _term_values(self, zero: Tensor) -> list[Tensor]:
        """Return the terms in the order of ``_term_labels()`` after the loss, 0 for those that the batch lacks."""
        likelihoods = [self.terms.log_likelihood.get(name, zero).float() for name in self.vae.names]
        penalties = sum((penalty.float() for penalty in self.terms.penalties.values()), zero)
        return [*likelihoods, self.terms.kl.float(), penalties]

    def _term_labels(self) -> list[str]:
        return ["the loss", *(f"log p({name} | z)" for name in self.vae.names), "the KL term", "a penalty"]


def _make_optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    try:
        return make_optimizer(
            config.optimizer, parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
    except ValueError as error:
        raise ValueError(f"train.optimizer: {error}") from None


def batches(count: int, size: int, seed: int, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """Split items into batches in a random order that depends on the seed and the epoch only.

    Args:
        count: The number of items.
        size: The number of items per batch; the last one may have fewer.
        seed: The seed of the training.
        epoch: The number of the epoch, counted from 0.
        device: The device of the result, by default the CPU; the order is equal on every device.

    Returns:
        The indices of the items of each batch.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return list(torch.randperm(count, generator=generator).to(device).split(size))
