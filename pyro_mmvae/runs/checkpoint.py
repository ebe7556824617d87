"""Checkpoints: tensors in safetensors, the rest as JSON in its metadata. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pyro_mmvae.files import write_atomically

FORMAT_VERSION = 2


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line and names the file."""


def save_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None, **state: Any
) -> None:
    """Save a module and, to go on from there, an optimiser and the state of the random number generators.

    Args:
        path: of the file.
        module: whose ``state_dict`` is saved.
        optimizer: saved too if given, and then the random number generators as well.
        **state: anything JSON can hold: epoch, step, ….
    """
    tensors = {f"model.{name}": value.detach() for name, value in module.state_dict().items()}
    meta: dict[str, Any] = {"format_version": FORMAT_VERSION, **state}
    if optimizer is not None:
        saved = optimizer.state_dict()
        for index, slots in saved["state"].items():
            tensors.update({f"optimizer.{index}.{slot}": torch.as_tensor(value) for slot, value in slots.items()})
        tensors["rng.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
    contiguous = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"pyro_mmvae": json.dumps(meta)}))


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without its tensors.

    Raises:
        CheckpointError: if the file is missing, damaged or of a later format.
    """
    return _read(path, tensors=False)[0]


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Put back what :func:`save_checkpoint` saved.

    Args:
        path: of the file.
        module: of the same shape as the one saved.
        optimizer: of the same parameters, if training goes on; the random number generators are put back as well.

    Returns:
        The state given when saving, and ``format_version``.

    Raises:
        CheckpointError: if the file is missing, damaged, of a later format, or of another model.
    """
    state, tensors = _read(path, tensors=True)
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: made for another model than this configuration ({reason[:300]})") from None
    if optimizer is not None:
        _load_optimizer(path, optimizer, tensors)
    return state


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["pyro_mmvae"])
            content = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, KeyError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: damaged, or no checkpoint of pyro_mmvae ({error})") from None
    if not isinstance(state, dict) or not isinstance(state.get("format_version"), int):
        raise CheckpointError(f"{path}: no checkpoint of pyro_mmvae (its metadata say no format)")
    if state["format_version"] > FORMAT_VERSION:
        raise CheckpointError(f"{path}: format {state['format_version']}, this version reads up to {FORMAT_VERSION}")
    return state, content


def _load_optimizer(path: Path, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    if "rng.cpu" not in tensors:
        raise CheckpointError(f"{path}: holds no optimiser; training goes on from checkpoint.safetensors only")
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".")
            state.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    torch.set_rng_state(tensors["rng.cpu"])
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
