"""Optimizers and schedules by name: their classes, their options, and the errors for those that do not exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pyro_mmvae.runs.config import ConfigError, make_config
from pyro_mmvae.runs.optimization import OPTIMIZERS, SCHEDULERS, make_optimizer, make_scheduler

REQUIRED: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 5]},
    "ExponentialLR": {"gamma": 0.9},
    "CyclicLR": {"base_lr": 1e-3},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
}
"""The options that torch asks for, by scheduler."""


def optimizer(spec: Any, **options: Any) -> torch.optim.Optimizer:
    return make_optimizer(spec, [nn.Parameter(torch.ones(2))], lr=0.1, betas=(0.8, 0.9), **options)


def message(**train: Any) -> str:
    with pytest.raises(ConfigError) as error:
        make_config(None, {f"train.{key}": value for key, value in train.items()})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_make_optimizer_of_each_name_lowers_a_loss(name: str) -> None:
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    made = make_optimizer(name.lower(), [parameter], lr=0.01, betas=(0.8, 0.9))
    assert type(made).__name__ == name
    assert made.param_groups[0]["lr"] == 0.01
    for _ in range(5):
        made.zero_grad()
        parameter.square().sum().backward()
        made.step()
    assert parameter.square().sum() < 5.0


def test_make_optimizer_adam_is_the_fused_adam_of_torch_with_the_betas() -> None:
    made = optimizer("adam")
    assert type(made) is torch.optim.Adam
    (group,) = made.param_groups
    assert (group["betas"], group["fused"], group["weight_decay"]) == ((0.8, 0.9), True, 0)
    assert optimizer({"name": "adam", "foreach": True}).param_groups[0]["fused"] is None
    assert optimizer({"name": "adamw", "betas": [0.5, 0.6]}).param_groups[0]["betas"] == (0.5, 0.6)


def test_make_optimizer_without_weight_decay_keeps_that_of_the_optimizer() -> None:
    assert optimizer("AdamW").param_groups[0]["weight_decay"] == 0.01
    assert optimizer("AdamW", weight_decay=0.0).param_groups[0]["weight_decay"] == 0.0
    with pytest.raises(ValueError, match=r"Rprop has no weight decay: train.weight_decay must be null, got 0.1"):
        optimizer("Rprop", weight_decay=0.1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_make_scheduler_of_each_name_changes_the_rate_within_a_training(name: str) -> None:
    made = optimizer({"name": "SGD", "momentum": 0.9})
    spec = {"name": name.lower(), **REQUIRED.get(name, {})}
    scheduler, every = make_scheduler(spec, made, warmup=0.0, total_steps=20, epochs=10)
    assert type(scheduler).__name__ == name
    assert every == ("step" if name in {"OneCycleLR", "CyclicLR"} else "epoch")
    rates = set()
    for _ in range(20 if every == "step" else 12):
        made.step()
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        rates.add(made.param_groups[0]["lr"])
    assert len(rates) > 1


def test_make_scheduler_has_the_length_of_the_training_as_default() -> None:
    for every, count in (("epoch", 10), ("step", 20)):
        scheduler, _ = make_scheduler(
            {"name": "CosineAnnealingLR", "every": every}, optimizer("SGD"), warmup=0.0, total_steps=20, epochs=10
        )
        assert scheduler.T_max == count  # type: ignore[attr-defined]
    cycle = {"name": "OneCycleLR", "total_steps": 19}
    with pytest.raises(ValueError, match="total_steps must be at least 20, the length of the training, got 19"):
        make_scheduler(cycle, optimizer("Adam"), warmup=0.0, total_steps=20, epochs=10)


def test_make_config_reads_numbers_that_yaml_takes_for_text() -> None:
    config = make_config(None, {"train.optimizer": {"name": "SGD", "momentum": "9e-1"}, "train.threads": "auto"})
    assert config.train.optimizer == {"name": "SGD", "momentum": 0.9}
    assert config.train.threads == "auto"
    assert make_config(None, {"train.threads": "3"}).train.threads == 3
    schedule = {"name": "MultiStepLR", "milestones": [2, 3], "gamma": "1e-1"}
    assert make_config(None, {"train.schedule": schedule}).train.schedule == {**schedule, "gamma": 0.1}


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"optimizer": "sdg"}, "train.optimizer: unknown optimizer 'sdg', did you mean 'SGD'? Available: ASGD, "),
        ({"optimizer": 3}, "train.optimizer: must be the name of an optimizer, or a mapping with name and its options"),
        ({"optimizer": {"momentum": 0.9}}, "train.optimizer: must be the name of an optimizer, or a mapping with name"),
        ({"optimizer": "lbfgs"}, "train.optimizer: optimizer 'LBFGS' cannot be used: it evaluates the loss several"),
        (
            {"optimizer": {"name": "SGD", "momentun": 0.9}},
            "train.optimizer: SGD has no option 'momentun', did you mean 'momentum'? Available: ",
        ),
        (
            {"optimizer": {"name": "SGD", "momentum": -1}},
            "train.optimizer: SGD: Invalid momentum value: -1 (options: momentum=-1)",
        ),
        ({"optimizer": {"name": "RMSprop", "alpha": "fast"}}, "train.optimizer: RMSprop: "),
        ({"optimizer": {"name": "SGD", "lr": 0.1}}, "train.optimizer: SGD: lr must be given as train.lr"),
        ({"optimizer": {"name": "SGD", "maximize": True}}, "train.optimizer: SGD has no option 'maximize'"),
        ({"schedule": "cosin"}, "train.schedule: unknown schedule 'cosin', did you mean 'cosine'? Available: constant"),
        ({"schedule": "StepLR"}, "train.schedule: StepLR needs the option 'step_size'"),
        ({"schedule": {"name": "StepLR", "step_size": 0}}, "train.schedule: StepLR: "),
        ({"schedule": {"name": "StepLR", "step": 3}}, "train.schedule: StepLR has no option 'step', did you mean "),
        ({"schedule": "LambdaLR"}, "train.schedule: schedule 'LambdaLR' cannot be used: it takes a Python function"),
        ({"schedule": {"name": "cosine", "warmup": 0.1}}, "train.schedule: cosine takes no options, got 'warmup'"),
        (
            {"schedule": {"name": "ExponentialLR", "gamma": 0.9, "every": "batch"}},
            "train.schedule: ExponentialLR: every must be 'step' or 'epoch', got 'batch'",
        ),
        ({"schedule": {"name": "ReduceLROnPlateau", "every": "step"}}, "train.schedule: ReduceLROnPlateau: every must"),
        ({"schedule": {"name": "ReduceLROnPlateau", "mode": "max"}}, "train.schedule: ReduceLROnPlateau has no option"),
        ({"threads": "many"}, "train.threads: must be a positive number, auto, or null for all cores, got 'many'"),
        ({"threads": 10**12}, "train.threads: must be at most 4096 threads, got 1000000000000"),
        ({"threads": 1.5}, "train.threads: must be a positive number, auto, or null for all cores, got 1.5"),
        ({"callbacks": "tensorboard"}, "train.callbacks: must be a list of names or of mappings with a name"),
        ({"callbacks": [{"project": "x"}]}, "train.callbacks: must hold names of callbacks, or mappings with a name"),
        ({"patience": 0}, "train.patience: "),
        ({"min_delta": -1}, "train.min_delta: "),
        ({"clip_norm": 0}, "train.clip_norm: "),
        ({"beta_warmup": -1}, "train.beta_warmup: "),
        ({"beta_start": "nan"}, "train.beta_start: "),
        ({"weight_decay": -0.1}, "train.weight_decay: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_make_config_with_a_wrong_train_setting_says_what_it_must_be(train: dict[str, Any], expected: str) -> None:
    assert message(**train).startswith(expected)
