"""Checkpoints that were damaged, or made to harm: one line that names the file, and nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, read_extra, read_state, save_checkpoint
from pyro_mmvae.runs.optimization import OPTIMIZERS, make_optimizer

Change = Callable[[dict[str, Tensor], dict[str, Any]], None]


def trained(name: str = "adam", seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a module and an optimizer of it after two steps."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = make_optimizer(name, module.parameters(), lr=1e-2, betas=(0.9, 0.95))
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return module, optimizer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    module, optimizer = trained()
    save_checkpoint(tmp_path / "checkpoint.safetensors", module, optimizer, extra={"scale": torch.ones(2)}, epoch=1)
    return tmp_path / "checkpoint.safetensors"


def rewrite(file: Path, change: Change) -> None:
    """Change the content of a checkpoint and write it without checksums, as someone who means harm would."""
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        state = json.loads(opened.metadata()["pyro_mmvae"])
    change(tensors, state)
    save_file(tensors, file, metadata={"pyro_mmvae": json.dumps(state)})


def put(name: str, value: Tensor | None) -> Change:
    """Return a change that replaces a tensor, or removes it."""

    def change(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value

    return change


def set_option(name: str, value: Any) -> Change:  # noqa: ANN401
    return lambda _, state: state["optimizer"]["groups"][0].update({name: value})


ATTACKS: dict[str, tuple[Change, str]] = {
    "weights of another shape": (
        put("model.0.weight", torch.zeros(4, 2)),
        r"must be \(4, 3\) of float32, got \(4, 2\)",
    ),
    "weights of another type": (put("model.0.weight", torch.zeros(4, 3).half()), "of float32, got .* of float16"),
    "weights that are missing": (put("model.0.bias", None), "tensor '0.bias' of the model is missing"),
    "weights that are surplus": (put("model.2.bias", torch.zeros(4)), "tensor '2.bias' of the model is surplus"),
    "weights of NaN": (
        put("model.0.bias", torch.full((4,), torch.nan)),
        "'0.bias' of the model must be finite, got NaN",
    ),
    "slot of another shape": (
        put("optimizer.0.exp_avg", torch.zeros(400, 3)),
        r"'exp_avg' .* must be \(4, 3\) of float32",
    ),
    "slot of fewer values": (put("optimizer.0.exp_avg", torch.zeros(1)), r"'exp_avg' .* must be \(4, 3\) of float32"),
    "slot of another type": (
        put("optimizer.1.exp_avg_sq", torch.zeros(4).double()),
        "must be .* of float32, got .* float64",
    ),
    "step of another shape": (put("optimizer.0.step", torch.ones(7)), r"'step' .* must be \(\) of float32"),
    "slot that is missing": (
        put("optimizer.0.exp_avg", None),
        "slots of parameter 0 .* must be exp_avg, exp_avg_sq, step",
    ),
    "slot that is unknown": (put("optimizer.0.evil", torch.zeros(4, 3)), "slots of parameter 0 .* must be"),
    "slot of NaN": (
        put("optimizer.0.exp_avg", torch.full((4, 3), torch.nan)),
        "slot|tensor 'exp_avg' .* must be finite",
    ),
    "slot of another parameter": (
        put("optimizer.99.step", torch.ones(())),
        "must be INDEX.SLOT of one of 4 parameters",
    ),
    "slot without a name": (put("optimizer.zero", torch.ones(())), "must be INDEX.SLOT"),
    "generator of floats": (put("rng.cpu", torch.zeros(5056)), "state of the generator 'cpu' must be bytes"),
    "generator of other length": (
        put("rng.cpu", torch.zeros(7, dtype=torch.uint8)),
        "state of the generator 'cpu' must be",
    ),
    "generator of nonsense": (
        put("rng.cpu", torch.full((5056,), 255, dtype=torch.uint8)),
        "state of the generator 'cpu'",
    ),
    "generator that is missing": (put("rng.cpu", None), "holds no optimizer"),
    "learning rate of words": (set_option("lr", "fast"), "option 'lr' of the optimizer must be like 0.01, got 'fast'"),
    "learning rate of NaN": (set_option("lr", float("nan")), "option 'lr' of the optimizer must be like"),
    "betas of another length": (set_option("betas", [0.9]), "option 'betas' of the optimizer must be like"),
    "option that is unknown": (set_option("evil", 1), "option 'evil' of the optimizer must be like None"),
    "parameters in another order": (
        set_option("params", [3, 2, 1, 0]),
        "must hold the parameters of the model in their order",
    ),
    "groups that are missing": (
        lambda _, state: state["optimizer"].update(groups=[]),
        "groups of parameters must be 1",
    ),
    "slots that are a list": (
        lambda _, state: state["optimizer"].update(slots=[1]),
        "slots must be a mapping, got list",
    ),
    "another optimizer": (
        lambda _, state: state["optimizer"].update(name="SGD"),
        "the optimizer must be SGD, got Adam",
    ),
    "optimizer that is a list": (lambda _, state: state.update(optimizer=[1]), "optimizer must be a mapping, got list"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_load_checkpoint_of_hostile_content_raises_one_line_and_loads_nothing(file: Path, attack: str) -> None:
    change, expected = ATTACKS[attack]
    rewrite(file, change)
    module, optimizer = trained(seed=1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    moments = [slots["exp_avg"].clone() for slots in optimizer.state.values()]
    generator = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=expected) as error:
        load_checkpoint(file, module, optimizer)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(moments, optimizer.state.values(), strict=True))
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_load_checkpoint_of_every_optimizer_restores_it(tmp_path: Path, name: str) -> None:
    module, optimizer = trained(name)
    save_checkpoint(tmp_path / "file", module, optimizer)
    other, restored = trained(name, seed=1)
    load_checkpoint(tmp_path / "file", other, restored)
    for ours, theirs in zip(restored.state.values(), optimizer.state.values(), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in theirs)


def test_read_extra_of_another_shape_raises_one_line(file: Path) -> None:
    assert read_extra(file, {"scale": torch.zeros(2)})["scale"].tolist() == [1, 1]
    with pytest.raises(CheckpointError, match=r"tensor 'scale' of the objective must be \(3,\) of float32, got \(2,\)"):
        read_extra(file, {"scale": torch.zeros(3)})


def test_load_checkpoint_with_any_bit_flipped_raises_or_changes_nothing(file: Path) -> None:
    content = file.read_bytes()
    module, optimizer = trained()
    load_checkpoint(file, module, optimizer)
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    accepted, messages = 0, list[str]()
    for place in torch.randint(0, len(content), (150,), generator=generator).tolist():
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        module, optimizer = trained(seed=1)
        try:
            load_checkpoint(file, module, optimizer)
        except CheckpointError as error:
            messages.append(str(error))
            continue
        accepted += 1  # a flip in a part that is not read here, or in the padding of the header
        assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
    assert accepted <= 3
    assert all(str(file) in message for message in messages)


@pytest.mark.parametrize("name", ["model.0.weight", "optimizer.1.exp_avg_sq", "rng.cpu"])
def test_load_checkpoint_with_a_flipped_bit_names_the_tensor(file: Path, name: str) -> None:
    length = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + length])
    place = 8 + length + header[name]["data_offsets"][0]
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"the checksum of tensor '{name}' differs from its content"):
        load_checkpoint(file, *trained())


def test_read_state_with_a_changed_state_raises(file: Path) -> None:
    assert read_state(file)["epoch"] == 1
    file.write_bytes(file.read_bytes().replace(b'\\"epoch\\": 1', b'\\"epoch\\": 2'))
    with pytest.raises(CheckpointError, match="the checksum of the state differs from its content"):
        read_state(file)


def test_read_state_of_a_file_without_checksums_reads_it(file: Path) -> None:
    rewrite(file, lambda _, state: state.update(epoch=5))
    assert read_state(file)["epoch"] == 5


def test_read_state_of_deep_metadata_raises_one_line(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "file", metadata={"pyro_mmvae": "[" * 100_000})
    with pytest.raises(CheckpointError, match="damaged, or not a checkpoint"):
        read_state(tmp_path / "file")
