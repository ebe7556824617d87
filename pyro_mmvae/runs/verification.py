"""Checks of the tensors and the state of a checkpoint, before anything of it reaches a model, an optimizer or torch."""

from __future__ import annotations

import inspect
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_mmvae._printable import one_line
from pyro_mmvae.runs.state_types import check_parts
from pyro_mmvae.runs.tensor_file import tensor_bytes

_MAX_SIZE = 1 << 40  # of a shape of a modality
_LARGEST = 1e300  # of an option of an optimizer
_SLOT = re.compile(r"(\d{1,9})\.(\w+)", re.ASCII)
_NEEDED = ("lr", "initial_lr", "betas", "momentum", "weight_decay")  # options that a step computes with
_IMPLEMENTATIONS = ("fused", "foreach", "capturable", "differentiable")

_TYPES: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
    (dict, "a mapping", ("modality_specs", "covariate_names", "config", "config_before", "arithmetic", "averages",
                         "schedule", "stopping", "checksums")),
    (list, "a list", ("accepted",)),
    (str, "a text", ("stopped", "run_id")),
    ((int, float), "a number", ("best", "seconds")),
)  # fmt: skip

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""The shape and the type of each tensor by name."""


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the CRC-32 of the type, the shape and the bytes of each tensor, by name.

    Args:
        tensors: Tensors by name, of any device, of which one at a time is copied if it is not contiguous on the CPU.
    """
    return {name: _checksum(tensor) for name, tensor in tensors.items()}


def _checksum(tensor: Tensor) -> int:
    about = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(tensor_bytes(tensor), zlib.crc32(about))


def layout_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape and the type of each tensor, by name."""
    return {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Check that tensors have the names, shapes and types of others, and that their values are finite.

    Args:
        tensors: The tensors of a file by name.
        expected: The tensors that they replace, by name; where one of these is not finite, its replacement need not be.
        what: The whole that the tensors belong to, in words.

    Raises:
        ValueError: If they differ; the message is one line and names the first tensor that does.
    """
    for lacking, others, problem in ((tensors, expected, "is missing"), (expected, tensors, "is surplus")):
        names = [name for name in others if name not in lacking]
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"tensor {names[0]!r} of {what} {problem}{more}")
    _check_layout(tensors, layout_of(expected), what)
    for name, value in tensors.items():
        if not _is_finite(value) and _is_finite(expected[name]):
            raise ValueError(f"tensor {name!r} of {what} must be finite, got NaN or infinity")


def _check_layout(tensors: Mapping[str, Tensor], expected: Layout, what: str) -> None:
    for name, (shape, dtype) in expected.items():
        value = tensors[name]
        if (tuple(value.shape), value.dtype) != (shape, dtype):
            raise ValueError(
                f"tensor {name!r} of {what} must be {_words(shape, dtype)}, got {_words(value.shape, value.dtype)}"
            )


def _words(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{tuple(shape)} of {str(dtype).removeprefix('torch.')}"


def _is_finite(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex()) or bool(value.isfinite().all())


def check_slots(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Any) -> None:
    """Check that the state of an optimizer is that of an optimizer of the same class and parameters.

    Torch itself trusts the shapes: an update of a parameter by a slot of another shape reads and writes other memory.

    Args:
        optimizer: The optimizer that the state is loaded into afterwards.
        tensors: Its tensors by ``INDEX.SLOT``.
        rest: Its other values, see :func:`~pyro_mmvae.runs.optimizer_state.split_state`; None in a checkpoint of an
            earlier version.

    Raises:
        ValueError: If a slot is missing, unknown, of another shape or type, or not finite, or an option has another
            type; the message is one line.
    """
    parameters = [(group, value) for group in optimizer.param_groups for value in group["params"]]
    slots: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, slot = _slot(name, len(parameters))
        slots.setdefault(index, {})[slot] = value
    for key, values in _mapping(_mapping(rest, "optimizer").get("slots", {}), "slots").items():
        index = _slot(f"{key}.x", len(parameters))[0]
        slots.setdefault(index, {}).update(_mapping(values, "slots"))
    trials: dict[Any, dict[str, Any] | None] = {}
    for index, found in slots.items():
        group, parameter = parameters[index]
        kind = (id(group), tuple(parameter.shape), parameter.dtype)
        if kind not in trials:
            trials[kind] = _slots_after_a_step(optimizer, group, parameter)
        _check_slots_of(index, found, trials[kind], parameter, has_rest=rest is not None)
    if rest is not None:
        _check_groups(_mapping(rest, "optimizer").get("groups"), optimizer.state_dict()["param_groups"])


def _slot(name: str, count: int) -> tuple[int, str]:
    match = _SLOT.fullmatch(name)
    if match is None or int(match[1]) >= count:
        raise ValueError(f"slot {name[:40]!r} of the optimizer must be INDEX.SLOT of one of {count} parameters")
    return int(match[1]), match[2]


def _slots_after_a_step(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], parameter: Tensor
) -> dict[str, Any] | None:
    """Return the slots of a parameter after a step of an optimizer of the same class; None if that cannot be tried."""
    kind = type(optimizer)
    accepted = set(inspect.signature(kind).parameters)
    options = {key: value for key, value in group.items() if key in accepted and key not in {"params", "maximize"}}
    options |= {key: False for key in _IMPLEMENTATIONS if key in accepted}
    trial_parameter = torch.zeros(parameter.shape, dtype=parameter.dtype, requires_grad=True)
    trial_parameter.grad = torch.zeros_like(trial_parameter)
    try:
        trial = kind([trial_parameter], **options)
        trial.step()
    except (TypeError, ValueError, RuntimeError, ArithmeticError):  # an optimizer of a user, with other arguments
        return None
    return dict(trial.state[trial_parameter])


def _check_slots_of(
    index: int, found: Mapping[str, Any], expected: Mapping[str, Any] | None, parameter: Tensor, *, has_rest: bool
) -> None:
    """Check the slots of one parameter against those that a step makes, or, if unknown, against its shape."""
    tensors = {slot: value for slot, value in found.items() if isinstance(value, Tensor)}
    what = f"parameter {index} of the optimizer"
    if expected is None:
        for slot, value in tensors.items():
            if value.dim() and value.shape != parameter.shape:
                raise ValueError(f"slot {slot!r} of {what} must be {tuple(parameter.shape)}, got {tuple(value.shape)}")
        return
    wanted = {slot for slot, value in expected.items() if has_rest or isinstance(value, Tensor)}
    if set(found) != wanted:
        raise ValueError(f"slots of {what} must be {', '.join(sorted(wanted))}, got {', '.join(sorted(found))}")
    for slot, value in expected.items():
        if isinstance(value, Tensor) != (slot in tensors) and slot in wanted:
            raise ValueError(
                f"slot {slot!r} of {what} must be {type(value).__name__}, got {type(found[slot]).__name__}"
            )
    _check_layout(tensors, layout_of({n: v for n, v in expected.items() if isinstance(v, Tensor)}), what)
    for slot, value in tensors.items():
        if not _is_finite(value):
            raise ValueError(f"slot {slot!r} of {what} must be finite, got NaN or infinity")


def _check_groups(saved: Any, current: Sequence[Mapping[str, Any]]) -> None:
    """Check the options of the groups of parameters: the same parameters, and options of the same types."""
    if not isinstance(saved, list) or len(saved) != len(current):
        count = len(saved) if isinstance(saved, list) else saved
        raise ValueError(f"groups of parameters must be {len(current)}, got {count!r}")
    for group, known in zip(saved, current, strict=True):
        for key, value in _mapping(group, "groups").items():
            if key == "params":
                if value != known["params"]:
                    raise ValueError("groups of parameters must hold the parameters of the model in their order")
            elif (
                key not in known
                or not _is_alike(value, known[key])
                or (key in _NEEDED and value is None and known[key] is not None)
            ):
                raise ValueError(f"option {key!r} of the optimizer must be like {known.get(key)!r}, got {value!r}")


def _is_alike(value: Any, known: Any) -> bool:
    """Return True if a value of JSON is of the type of an option, or one of them is None."""
    if value is None or known is None:
        return True
    if isinstance(known, (list, tuple)):
        return isinstance(value, list) and len(value) == len(known) and all(map(_is_alike, value, known))
    if isinstance(known, (bool, str)):
        return type(value) is type(known)
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    return -_LARGEST < number < _LARGEST


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise ValueError(f"{what} must be a mapping, got {type(value).__name__}")


def check_random_states(states: Mapping[str, Tensor]) -> None:
    """Check that states of random number generators are such states, without changing torch's generators.

    Args:
        states: The states by device, ``"cpu"`` and perhaps ``"cuda"``.

    Raises:
        ValueError: If one is not; the message is one line.
    """
    for device, state in states.items():
        if device not in {"cpu", "cuda"} or state.dtype != torch.uint8 or state.dim() != 1:
            raise ValueError(f"state of the generator {device!r} must be bytes, got {_words(state.shape, state.dtype)}")
        if device == "cuda" and not torch.cuda.is_available():
            continue
        try:
            torch.Generator(device).set_state(state)
        except (RuntimeError, TypeError) as error:
            reason = one_line(error, 100)
            raise ValueError(
                f"state of the generator {device!r} must be one of torch, got an error: {reason}"
            ) from None


def check_state(state: Mapping[str, Any]) -> None:
    """Check the parts of the state of a checkpoint that a model is built from.

    Args:
        state: The state, see :func:`~pyro_mmvae.runs.checkpoint.read_state`.

    Raises:
        ValueError: If a value has another type or is out of range; the message is one line.
    """
    shapes = state.get("shapes")
    if not isinstance(shapes, dict) or not shapes:
        raise ValueError("the shapes of the modalities are missing")
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(type(size) is int and 0 < size < _MAX_SIZE for size in shape):
            raise ValueError(f"the shape of modality {name!r} must be positive integers, got {str(shape)[:80]}")
        if math.prod(shape) >= _MAX_SIZE:
            raise ValueError(f"the shape of modality {name!r} must have fewer values, got {str(shape)[:80]}")
    for key in ("epoch", "step"):
        if key in state and not (type(state[key]) is int and 0 <= state[key] < _MAX_SIZE):
            raise ValueError(f"{key} must be an integer that is not negative, got {str(state[key])[:80]}")
    check_types(state)


def check_types(state: Mapping[str, Any]) -> None:
    """Check the types of the values in the state of a checkpoint that are not numbers of steps.

    Args:
        state: The state, see :func:`~pyro_mmvae.runs.checkpoint.read_state`.

    Raises:
        ValueError: If a value has another type; the message is one line.
    """
    for kind, name, keys in _TYPES:
        for key in keys:
            value = state.get(key)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ValueError(f"{key} must be {name}, got {type(value).__name__}")
            if isinstance(value, (int, float)) and not -_LARGEST < value < _LARGEST:
                raise ValueError(f"{key} must be finite, got {str(value)[:80]}")
    check_parts(state)
