"""The course of the learning rate and of β: values, steps and epochs, and their state."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from pyro_mmvae.runs.train_settings import TrainConfig
from pyro_mmvae.training.schedule import BetaWarmup, Schedule

EPOCHS, STEPS = 8, 3  # per epoch
SPECS: list[Any] = [
    "constant",
    "cosine",
    {"name": "StepLR", "step_size": 3, "gamma": 0.5},
    {"name": "StepLR", "step_size": 5, "gamma": 0.5, "every": "step"},
    {"name": "MultiStepLR", "milestones": [2, 5]},
    {"name": "ExponentialLR", "gamma": 0.9},
    {"name": "CyclicLR", "base_lr": 1e-3, "step_size_up": 4},
    {"name": "CosineAnnealingWarmRestarts", "T_0": 3},
    {"name": "ReduceLROnPlateau", "patience": 0, "cooldown": 1},
    "OneCycleLR",
    "CosineAnnealingLR",
    "PolynomialLR",
    "LinearLR",
    "ConstantLR",
]


def make(spec: Any, epochs: int = EPOCHS) -> Schedule:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)
    return Schedule(TrainConfig(schedule=spec, epochs=epochs, lr=0.1, warmup=0.2), optimizer, epochs * STEPS)


def rates(schedule: Schedule, first: int, last: int) -> list[float]:
    """Return the rates of the steps from the first to before the last one, with a figure that improves twice."""
    result = []
    for step in range(first, last):
        result.append(schedule.rate)
        schedule.optimizer.step()
        schedule.after_step()
        if (step + 1) % STEPS == 0:
            schedule.after_epoch(figure=-100.0 + min(step // STEPS, 2))
    return result


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("cut", [1, 7, 12])
def test_load_of_a_saved_state_goes_on_with_the_rates(spec: Any, cut: int) -> None:
    whole = rates(make(spec), 0, EPOCHS * STEPS)
    schedule = make(spec)
    before = rates(schedule, 0, cut)
    state, group = json.loads(json.dumps(schedule.state())), dict(schedule.optimizer.param_groups[0])
    other = make(spec)
    other.optimizer.param_groups[0].update({key: value for key, value in group.items() if key != "params"})
    other.load(state)
    assert before + rates(other, cut, EPOCHS * STEPS) == whole


def test_schedule_by_epoch_and_by_step_is_stepped_in_that_unit() -> None:
    by_epoch = rates(make({"name": "StepLR", "step_size": 1, "gamma": 0.5}), 0, 7)
    assert by_epoch == pytest.approx([0.1] * 3 + [0.05] * 3 + [0.025])
    by_step = rates(make({"name": "StepLR", "step_size": 2, "gamma": 0.5, "every": "step"}), 0, 6)
    assert by_step == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_plateau_lowers_the_rate_without_improvement_for_either_sign_of_the_elbo(sign: float) -> None:
    schedule = make({"name": "ReduceLROnPlateau", "patience": 1, "factor": 0.1})
    found = []
    for figure in (sign * 1000 - 10, sign * 1000, sign * 1000, sign * 1000 - 0.05, sign * 1000 + 0.05):
        schedule.optimizer.step()
        schedule.after_epoch(figure)
        found.append(schedule.rate)
    assert found == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])


def test_load_of_a_cosine_with_another_number_of_epochs_follows_the_new_one() -> None:
    schedule = make("cosine", epochs=4)
    rates(schedule, 0, 12)
    longer = make("cosine", epochs=8)
    longer.load(schedule.state())
    assert longer.rate == rates(make("cosine", epochs=8), 0, 13)[-1] > 0


def test_load_without_the_state_of_a_schedule_follows_the_number_of_steps() -> None:
    schedule = make("cosine")
    schedule.load({"last_epoch": 5, "_step_count": 6})
    assert rates(schedule, 5, 24) == rates(make("cosine"), 0, 24)[5:]


def test_schedule_that_does_not_fit_the_optimizer_raises() -> None:
    optimizer = torch.optim.Adagrad([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match="^train.schedule: CyclicLR: .*momentum") as error:
        Schedule(TrainConfig(schedule={"name": "CyclicLR", "base_lr": 1e-3}), optimizer, 10)
    assert "\n" not in str(error.value)


def test_beta_warmup_is_linear_positive_and_ends_at_the_last_value() -> None:
    warmup = BetaWarmup(0.0, 2.0, 4)
    assert [warmup(step) for step in range(6)] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert [BetaWarmup(1.0, 0.5, 1)(step) for step in range(3)] == pytest.approx([0.75, 0.5, 0.5])
    assert BetaWarmup(0.0, 1.0, 0)(0) == 1.0
