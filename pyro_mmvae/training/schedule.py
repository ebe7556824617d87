"""The course of the learning rate and of β during a training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from pyro_mmvae.runs.optimization import make_scheduler
from pyro_mmvae.runs.train_settings import TrainConfig


class Schedule:
    """The learning rate of an optimizer, which a scheduler of torch changes after each step or epoch.

    Args:
        config: The schedule, its warm-up, and the number of epochs.
        optimizer: The optimizer, with the learning rate that the schedule starts from.
        total_steps: The number of steps of the whole training.

    Attributes:
        scheduler: The scheduler of torch.
        every: The unit after which it is stepped, ``"step"`` or ``"epoch"``.
    """

    def __init__(self, config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        self.optimizer = optimizer
        try:
            self.scheduler, self.every = make_scheduler(
                config.schedule, optimizer, warmup=config.warmup, total_steps=total_steps, epochs=config.epochs
            )
        except ValueError as error:
            raise ValueError(f"train.schedule: {error}") from None

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Follow one step of the optimizer."""
        if self.every == "step":
            self.scheduler.step()

    def after_epoch(self, figure: float) -> None:
        """Follow one epoch.

        Args:
            figure: The validation ELBO of the epoch, which ``ReduceLROnPlateau`` watches.
        """
        if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(-figure)
        elif self.every == "epoch":
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """Return the state of the scheduler as JSON can hold it; the rest follows from the configuration."""
        options = set(inspect.signature(type(self.scheduler)).parameters) - {"last_epoch"}
        return {
            name: value
            for name, value in vars(self.scheduler).items()
            if name not in options and (value is None or isinstance(value, (bool, int, float, str)))
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a state, after that of the optimizer, which has the learning rate.

        Args:
            state: The dictionary that :meth:`state` returned, for this schedule.

        Raises:
            ValueError: If it holds anything else.
        """
        current = self.state()
        for name, value in state.items():
            is_plain = value is None or isinstance(value, (bool, int, float, str))
            is_text_for_number = isinstance(value, str) and isinstance(current.get(name), (int, float))
            is_method = callable(getattr(type(self.scheduler), name, None))
            if is_method or not is_plain or is_text_for_number:
                raise ValueError(f"schedule: {name} must be like {current.get(name)!r}, got {value!r}")
        # Not load_state_dict, which asks for the parts that the configuration determines.
        vars(self.scheduler).update(state)
        self._follow()

    def scale_to(self, rates: list[float]) -> None:
        """Start from other learning rates, as if the schedule had begun with them.

        Args:
            rates: The initial learning rate of each group of parameters, which the optimizer has already.
        """
        self.scheduler.base_lrs = list(rates)
        self._follow()

    def _follow(self) -> None:
        if isinstance(self.scheduler, lr_scheduler.LambdaLR):
            # The length of the training may have been changed, on which these factors depend.
            groups = zip(self.optimizer.param_groups, self.scheduler.lr_lambdas, strict=True)
            for group, factor in groups:
                group["lr"] = group["initial_lr"] * factor(self.scheduler.last_epoch)


class BetaWarmup:
    """A linear warm-up of β, the weight of the KL term.

    At the step s of the n steps of the warm-up, counted from 0, β is ``start + (end - start) * (s + 1) / (n + 1)``,
    which is positive.

    Args:
        start: The value that the warm-up starts from.
        end: The value after the warm-up.
        steps: The number n of its steps, which need not be an integer; 0 for none.
    """

    def __init__(self, start: float, end: float, steps: float) -> None:
        self.start, self.end, self.steps = start, end, steps

    def __call__(self, step: int) -> float:
        """Return β at a step.

        Args:
            step: The number of the step, counted from 0.

        Returns:
            The value of β, positive.
        """
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step + 1) / (self.steps + 1)
