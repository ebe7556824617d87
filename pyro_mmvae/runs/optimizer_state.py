"""The state of an optimizer as named tensors and a dictionary that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_IMPLEMENTATIONS = {"params", "fused", "foreach", "capturable", "differentiable"}  # they belong to the device


def split_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the state of an optimizer into tensors and numbers.

    Args:
        optimizer: An optimizer of torch or a subclass, whose slots hold tensors, numbers, strings or None.

    Returns:
        The tensors by ``INDEX.SLOT``, and a dictionary with the name of the class, the other slots, and the options of
        the groups of parameters, such as learning rates.

    Raises:
        TypeError: If a slot or an option holds anything else.
    """
    content, kind = optimizer.state_dict(), type(optimizer).__name__
    tensors, slots = dict[str, Tensor](), dict[str, dict[str, Any]]()
    for index, state in content["state"].items():
        for slot, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{slot}"] = value
            else:
                slots.setdefault(str(index), {})[slot] = _plain(value, f"{kind} slot {slot!r}")
    groups = [
        {
            key: _plain(value, f"{kind} option {key!r}")
            for key, value in group.items()
            if key not in _IMPLEMENTATIONS
        }
        for group in content["param_groups"]
    ]  # fmt: skip
    return tensors, {"name": kind, "slots": slots, "groups": groups}


def load_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any] | None) -> None:
    """Load the state that :func:`split_state` returned.

    Args:
        optimizer: The optimizer to load into, of the same class and with as many parameters.
        tensors: The tensors by ``INDEX.SLOT``.
        rest: The dictionary; None for a checkpoint of an earlier version, which holds tensors only.

    Raises:
        ValueError: If the optimizer is of another class, or has other groups of parameters.
    """
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, slot = name.split(".")
        state.setdefault(int(index), {})[slot] = value
    content = optimizer.state_dict()
    if rest is not None:
        if rest["name"] != type(optimizer).__name__:
            raise ValueError(f"the optimizer must be {rest['name']}, got {type(optimizer).__name__}")
        for index, slots in rest["slots"].items():
            state.setdefault(int(index), {}).update(slots)
        if len(rest["groups"]) != len(content["param_groups"]):
            raise ValueError(f"groups of parameters must be {len(rest['groups'])}, got {len(content['param_groups'])}")
        for group, saved in zip(content["param_groups"], rest["groups"], strict=True):
            group.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
    optimizer.load_state_dict({**content, "state": state})


def _plain(value: Any, what: str) -> Any:
    """Return a value that JSON can hold, with lists for tuples."""
    if isinstance(value, (list, tuple)):
        return [_plain(item, what) for item in value]
    if isinstance(value, Tensor) and value.ndim == 0:
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{what} must be a tensor, a number, a string or None, got {type(value).__name__}")
