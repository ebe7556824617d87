"""The state of optimizers in checkpoints: every optimizer of torch goes on as if it had not been stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_mmvae.runs.optimization import OPTIMIZERS, make_optimizer
from pyro_mmvae.runs.optimizer_state import load_state, split_state


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        network(torch.linspace(-1, 1, 6).reshape(2, 3) + number).square().sum().backward()
        optimizer.step()


def made(network: nn.Module, spec: Any) -> torch.optim.Optimizer:
    return make_optimizer(spec, network.parameters(), lr=0.05, betas=(0.8, 0.9))


@pytest.mark.parametrize("spec", [*OPTIMIZERS, {"name": "SGD", "momentum": 0.9}], ids=str)
def test_load_checkpoint_with_each_optimizer_resumes_exactly(tmp_path: Path, spec: Any) -> None:
    network = module()
    optimizer = made(network, spec)
    steps(network, optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.02  # as a scheduler sets it
    save_checkpoint(tmp_path / "a", network, optimizer, epoch=1)
    steps(network, optimizer, 3)
    other = module()
    restored = made(other, spec)
    load_checkpoint(tmp_path / "a", other, restored)
    assert restored.param_groups[0]["lr"] == 0.02
    steps(other, restored, 3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_load_checkpoint_into_another_optimizer_raises_and_names_both(tmp_path: Path) -> None:
    network = module()
    save_checkpoint(tmp_path / "a", network, made(network, "SGD"))
    with pytest.raises(CheckpointError, match="does not fit .*: the optimizer must be SGD, got Adam"):
        load_checkpoint(tmp_path / "a", network, made(network, "adam"))


class Counting(torch.optim.SGD):
    """An optimizer with slots that are not tensors."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            slots = self.state[parameter]
            slots["count"] = slots.get("count", 0) + 1
            slots["window"], slots["name"], slots["mean"] = (1.5, None), "x", torch.ones(2)
        return super().step(closure)


def test_split_state_keeps_numbers_and_tensors_of_a_custom_optimizer() -> None:
    network = module()
    optimizer = Counting(network.parameters(), lr=0.1)
    steps(network, optimizer, 2)
    tensors, rest = split_state(optimizer)
    assert set(tensors) == {f"{index}.mean" for index in range(4)}
    assert rest["slots"]["3"] == {"count": 2, "window": [1.5, None], "name": "x"}
    other = Counting(module().parameters(), lr=0.7)
    load_state(other, tensors, rest)
    assert other.state_dict()["state"][3]["count"] == 2
    assert torch.equal(other.state_dict()["state"][3]["mean"], torch.ones(2))
    assert other.param_groups[0]["lr"] == 0.1


def test_split_state_of_something_that_json_cannot_hold_raises() -> None:
    network = module()
    optimizer = Counting(network.parameters(), lr=0.1)
    optimizer.state[next(network.parameters())]["odd"] = object()
    with pytest.raises(TypeError, match="Counting slot 'odd' must be a tensor, a number, a string or None, got object"):
        split_state(optimizer)


def test_load_state_of_an_earlier_version_takes_the_tensors_alone() -> None:
    network = module()
    optimizer = made(network, "adam")
    steps(network, optimizer, 2)
    tensors: dict[str, Tensor] = split_state(optimizer)[0]
    other = made(module(), "adam")
    load_state(other, tensors, None)
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert other.param_groups[0]["lr"] == 0.05
