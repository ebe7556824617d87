"""The section ``train`` of a configuration, and the types of its settings that take more than one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pyro_mmvae.device import MOST_THREADS
from pyro_mmvae.runs.optimization import check_optimizer, check_schedule
from pyro_mmvae.runs.setting_values import Section, with_numbers


def _check_threads(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or isinstance(value, (bool, float)):
        raise ValueError(f"must be a positive number, auto, or null for all cores, got {value!r}")
    if count > MOST_THREADS:
        raise ValueError(f"must be at most {MOST_THREADS} threads, got {value!r}")
    return count


def _check_callbacks(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"must be a list of names or of mappings with a name, got {value!r}")
    for item in value:
        if not isinstance(item.get("name") if isinstance(item, Mapping) else item, str):
            raise ValueError(f"must hold names of callbacks, or mappings with a name and options, got {item!r}")
    return value


def _check_penalties(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"must be a list of names or of mappings with a name, got {value!r}")
    for item in value:
        if not isinstance(item.get("name") if isinstance(item, Mapping) else item, str):
            raise ValueError(f"must hold names of penalties, or mappings with a name and options, got {item!r}")
    return tuple(with_numbers(item) for item in value)


OptimizerSpec: TypeAlias = Annotated[str | dict[str, Any], BeforeValidator(check_optimizer)]
"""The name of an optimizer of torch, or a mapping with ``name`` and its options."""

ScheduleSpec: TypeAlias = Annotated[str | dict[str, Any], BeforeValidator(check_schedule)]
"""The name of a learning-rate schedule, or a mapping with ``name`` and its options."""

CallbackSpecs: TypeAlias = Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_check_callbacks)]
"""Names of callbacks, or mappings with ``name`` and their options."""

PenaltySpecs: TypeAlias = Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_check_penalties)]
"""Names of penalties, or mappings with ``name`` and their options."""

ThreadCount: TypeAlias = Annotated[int | Literal["auto"] | None, BeforeValidator(_check_threads)]
"""A number of CPU threads, ``auto`` to time several numbers, or None for all cores."""


class TrainConfig(Section):
    """The optimization and the machine."""

    epochs: int = Field(10, ge=0, le=10**9, description="Number of passes over the training data.")
    batch_size: int = Field(64, ge=1, le=2**31 - 1, description="Number of items per step.")
    lr: float = Field(3e-3, gt=0, allow_inf_nan=False, description="Learning rate after the warm-up.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95), description="Decay rates of Adam's running means of the gradient and its square."
    )
    schedule: ScheduleSpec = Field(
        "cosine",
        description="Course of the learning rate after the warm-up: constant, a cosine that falls to zero, or a "
        "scheduler of torch.optim.lr_scheduler by name, or a mapping with name and its options.",
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="Share of all steps in which the learning rate rises linearly.")
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="Seed of the initial weights, the order of the items and all draws."
    )
    device: str = Field("auto", description="Device to train on: auto, cpu, cuda or another device of torch.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Precision of the networks; auto takes bf16 if the device computes faster with it."
    )
    threads: ThreadCount = Field(
        None,
        description="Number of CPU threads; all cores if null; auto times a few steps with several numbers.",
    )
    deterministic: bool = Field(
        False,
        description="Only algorithms of torch that give equal bits on the same machine; threads must not be auto.",
    )
    objective: str | dict[str, Any] = Field(
        "elbo", description="Objective of the training: its name, or a mapping with name and options."
    )
    penalties: PenaltySpecs = Field(
        (), description="Penalties that are added to the loss, by name, or mappings with name and their options."
    )
    select: Literal["mixture", "component", "last"] = Field(
        "mixture",
        description="Choice of the best checkpoint: by the validation ELBO of the whole mixture, or of one component "
        "drawn per item, or the last epoch.",
    )
    optimizer: OptimizerSpec = Field(
        "adam",
        description="Optimizer of torch.optim by name, or a mapping with name and its options.",
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Weight decay, decoupled from the gradient where the optimizer offers it; null for the optimizer's "
        "own.",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Largest norm of the gradient of all parameters together, which is scaled down to it; null for "
        "none.",
    )
    beta_warmup: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Length of the linear warm-up of beta: below 1 a fraction of the training, from 1 on a number of "
        "epochs.",
    )
    beta_start: float = Field(0.0, ge=0, allow_inf_nan=False, description="Value of beta that its warm-up starts from.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Number of epochs without improvement of the figure of train.select after which training stops; "
        "null for never.",
    )
    min_delta: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Smallest gain in nats per item that train.patience counts as an improvement.",
    )
    fit_prior: int | None = Field(
        10,
        ge=0,
        description="Number of Gaussians of the prior that is fitted to the latents of the training items after the "
        "training; 0 or null for none.",
    )
    callbacks: CallbackSpecs = Field(
        (), description="Registered callbacks by name, or mappings with name and their options."
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value.get("name") if isinstance(value, dict) else value, str):
            raise ValueError(f"must be the name of an objective, or a mapping with name and its options, got {value!r}")
        return with_numbers(value)

    @model_validator(mode="after")
    def _same_threads(self) -> TrainConfig:
        if self.deterministic and self.threads == "auto":
            raise ValueError("threads must be a number or null with deterministic, got auto, which changes by timing")
        return self
