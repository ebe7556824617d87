"""Checkpoints: saving and loading, and the errors for files that cannot be used."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pyro_mmvae import __version__
from pyro_mmvae.files import write_atomically
from pyro_mmvae.networks import ConvEncoder, NetworkOptions
from pyro_mmvae.runs.checkpoint import (
    FORMAT_VERSION,
    CheckpointError,
    load_checkpoint,
    read_extra,
    read_state,
    save_checkpoint,
)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(ConvEncoder((3, 8, 8), 4, NetworkOptions(width=4, hidden=8, norm="group"), groups=2))


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        loc, scale = module(torch.randn(5, 2, 3, 8, 8))
        optimizer.zero_grad()
        (loc.square().sum() + scale.sum()).backward()
        optimizer.step()


KINDS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "fused Adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=False),
    "AMSGrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
}


@pytest.mark.parametrize("kind", KINDS)
def test_load_checkpoint_with_an_optimizer_resumes_training_exactly(tmp_path: Path, kind: str) -> None:
    module = network(0)
    optimizer = KINDS[kind](module.parameters())
    steps(module, optimizer, 3)
    save_checkpoint(tmp_path / "a", module, optimizer, epoch=3, best=None, shapes={"m0": [3, 8, 8]})
    steps(module, optimizer, 3)
    after = torch.rand(2)
    other = network(1)
    other_optimizer = KINDS[kind](other.parameters())
    torch.manual_seed(99)
    state = load_checkpoint(tmp_path / "a", other, other_optimizer)
    versions = {"format_version": FORMAT_VERSION, "package_version": __version__}
    assert state == {**versions, "epoch": 3, "best": None, "shapes": {"m0": [3, 8, 8]}}
    assert read_state(tmp_path / "a") == state
    steps(other, other_optimizer, 3)
    assert torch.equal(torch.rand(2), after)
    for ours, theirs in zip(other.parameters(), module.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        for slot, value in optimizer.state[theirs].items():
            if value is not None:
                assert torch.equal(torch.as_tensor(other_optimizer.state[ours][slot]), torch.as_tensor(value))


def test_load_checkpoint_without_an_optimizer_restores_the_weights_only(tmp_path: Path) -> None:
    module = network(0)
    save_checkpoint(tmp_path / "a", module)
    before = torch.get_rng_state()
    other = network(1)
    torch.set_rng_state(before)
    load_checkpoint(tmp_path / "a", other)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in module.state_dict().items())
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        load_checkpoint(tmp_path / "a", other, KINDS["Adam"](other.parameters()))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def behead(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4])


def garbage(path: Path) -> None:
    path.write_bytes(b"not a checkpoint at all" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_content(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def metadata(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save_file({"model.weight": torch.zeros(2)}, path, metadata={"pyro_mmvae": text})

    write.__name__ = f"metadata {text}"
    return write


BAD = [cut, behead, garbage, empty, other_content, Path.unlink, *map(metadata, ("{", "{}", "3"))]


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
def test_load_checkpoint_of_a_damaged_file_raises_in_one_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.parent.mkdir()
    module = network(0)
    save_checkpoint(path, module)
    damage(path)
    for read in (read_state, lambda p: load_checkpoint(p, module)):
        with pytest.raises(CheckpointError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_read_state_of_a_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged, or not a checkpoint"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"format_version": 1},
            "written by pyro_mmvae 0.1 (format 1), this version reads format 2: train again or open it with "
            "pyro_mmvae 0.1",
        ),
        (
            {"format_version": 3, "package_version": "0.9"},
            "written by pyro_mmvae 0.9 (format 3), this version reads format 2: update pyro_mmvae",
        ),
    ],
    ids=["earlier", "later"],
)
def test_read_state_of_another_format_raises_and_names_the_version(
    tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a"
    save_file({"model.weight": torch.zeros(2)}, path, metadata={"pyro_mmvae": json.dumps(metadata)})
    with pytest.raises(CheckpointError) as error:
        read_state(path)
    assert str(error.value) == f"{path}: {message}"


def test_read_extra_returns_the_extra_tensors(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    save_checkpoint(tmp_path / "a", module, extra={"log_scale": torch.tensor(2.0)})
    assert read_extra(tmp_path / "a") == {"log_scale": torch.tensor(2.0)}
    load_checkpoint(tmp_path / "a", module)
    save_checkpoint(tmp_path / "b", module)
    assert read_extra(tmp_path / "b") == {}


@pytest.mark.parametrize("other", [nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))])
def test_load_checkpoint_of_another_model_raises_in_one_line(tmp_path: Path, other: nn.Module) -> None:
    save_checkpoint(tmp_path / "a", nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="do not fit the model") as error:
        load_checkpoint(tmp_path / "a", other)
    assert str(error.value).startswith(str(tmp_path / "a"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("where", ["replace", "fsync"])
def test_save_checkpoint_after_a_crash_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "a"
    save_checkpoint(path, network(0), epoch=1)
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "replace":
            patch.setattr(Path, "replace", fail)
            patch.setattr(os, "replace", fail)
        else:
            patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, network(1), epoch=2)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    save_checkpoint(path, network(1), epoch=2)
    assert read_state(path)["epoch"] == 2


def test_write_atomically_creates_the_file_after_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a", []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(path.exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_atomically(path, b"content")
    assert seen == [False, True]  # before the renaming, and after it for the folder
    assert path.read_bytes() == b"content"


def test_save_checkpoint_writes_no_pickle(tmp_path: Path) -> None:
    module = network(0)
    optimizer = KINDS["fused Adam"](module.parameters())
    steps(module, optimizer, 1)
    save_checkpoint(tmp_path / "a", module, optimizer)
    assert {name.split(".")[0] for name in load_file(tmp_path / "a")} == {"model", "optimizer", "rng"}


def test_save_checkpoint_writes_equal_bytes_each_time(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    for number in range(8):
        save_checkpoint(tmp_path / str(number), module, note='a "quoted" é \n text', epoch=number // 100)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert read_state(tmp_path / "7")["note"] == 'a "quoted" é \n text'
