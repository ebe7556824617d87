"""Checkpoints: tensors in a safetensors file, everything else as JSON in its metadata, without pickles."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pyro_mmvae._bounded import check_regular, load_json
from pyro_mmvae._printable import one_line
from pyro_mmvae._version import __version__
from pyro_mmvae.files import write_atomically
from pyro_mmvae.run_files import CHECKPOINTS
from pyro_mmvae.runs.optimizer_state import load_state, split_state
from pyro_mmvae.runs.tensor_file import TensorFile
from pyro_mmvae.runs.verification import check_random_states, check_slots, check_tensors, checksums

_logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""The version of the format of run directories and checkpoints; other versions of it are refused."""

_RELEASES = {1: "0.1"}  # the release that reads an earlier format
_MODEL, _OPTIMIZER, _EXTRA, _RNG = "model.", "optimizer.", "extra.", "rng."  # prefixes of tensors
_TEXT, _SUMS = "pyro_mmvae", "checksums"  # keys of the metadata; files before 0.2.0 have the first one only
_OPTIMIZER_KEY = "optimizer"  # of the part of the metadata that is not returned as state


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line and names the file."""


def save_checkpoint(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    extra: Mapping[str, Tensor] | None = None,
    **state: Any,
) -> None:
    """Save a module and, for resuming, an optimizer and the states of the random number generators.

    Args:
        path: The path of the file, replaced atomically.
        module: The module whose ``state_dict`` is saved.
        optimizer: The optimizer to save together with the states of the generators; by default neither is saved.
        extra: Further tensors by name, such as the parameters of an objective; none by default.
        **state: Values that JSON can hold, such as the epoch and the step.
    """
    tensors = {_MODEL + name: value.detach() for name, value in module.state_dict().items()}
    tensors.update({_EXTRA + name: value.detach() for name, value in (extra or {}).items()})
    metadata: dict[str, Any] = {"format_version": FORMAT_VERSION, "package_version": __version__, **state}
    if optimizer is not None:
        slots, metadata[_OPTIMIZER_KEY] = split_state(optimizer)
        tensors.update({_OPTIMIZER + name: value for name, value in slots.items()})
        tensors[_RNG + "cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors[_RNG + "cuda"] = torch.cuda.get_rng_state()
    text = json.dumps(metadata)
    sums = {_TEXT: zlib.crc32(text.encode()), **checksums(tensors)}
    content = TensorFile(tensors, {_TEXT: text, _SUMS: json.dumps(sums, sort_keys=True)})
    write_atomically(path, content, verify=True)
    _logger.debug("saved %s", path)


def read_state(path: Path) -> dict[str, Any]:
    """Read the state saved in a checkpoint without its tensors.

    Args:
        path: The path of the checkpoint.

    Returns:
        The state given to :func:`save_checkpoint`, with ``format_version`` and ``package_version``.

    Raises:
        CheckpointError: If the file is missing, damaged or of another format.
    """
    state = _read(path, ())[0]
    state.pop(_OPTIMIZER_KEY, None)
    return state


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Load a checkpoint into a module and, for resuming, into an optimizer and the random number generators.

    Args:
        path: The path of the checkpoint.
        module: The module to load into, with the parameters of the one that was saved.
        optimizer: The optimizer to load into, of those parameters; by default only the module is loaded.

    Returns:
        The state given to :func:`save_checkpoint`, with ``format_version`` and ``package_version``.

    Raises:
        CheckpointError: If the file is missing, damaged, of another format, or of another model; nothing is loaded
            then.
    """
    state, tensors = _read(path, (_MODEL,) if optimizer is None else (_MODEL, _OPTIMIZER, _RNG))
    parameters, rest = _without_prefix(tensors, _MODEL), state.pop(_OPTIMIZER_KEY, None)
    _check_model(path, parameters, module.state_dict())
    if optimizer is not None:
        _check_optimizer(path, optimizer, tensors, rest)
    module.load_state_dict(parameters)
    if optimizer is not None:
        _load_optimizer(path, optimizer, tensors, rest)
    _logger.debug("loaded %s", path)
    return state


def read_extra(path: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read the ``extra`` tensors given to :func:`save_checkpoint`, on the CPU.

    Args:
        path: The path of the checkpoint.
        expected: The tensors that they replace, by name, whose names, shapes and types they must have; by default they
            are not compared.

    Returns:
        The tensors by name; empty if none were saved.

    Raises:
        CheckpointError: If the file is missing, damaged or of another format, or the tensors are not those expected.
    """
    extra = _without_prefix(_read(path, (_EXTRA,))[1], _EXTRA)
    if expected is None:
        return extra
    if set(extra) != set(expected):
        raise CheckpointError(
            f"{path}: the parameters of the objective must be {sorted(expected)}, got {sorted(extra)}"
        )
    try:
        check_tensors(extra, expected, "the objective")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return extra


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, those of the model and guide and the ``extra`` ones, on the CPU.

    Args:
        path: The path of the checkpoint.

    Returns:
        The tensors by their names in the file.

    Raises:
        CheckpointError: If the file is missing, damaged or of another format.
    """
    return _read(path, (_MODEL, _EXTRA))[1]


def check_format(source: Path, format_version: int, version: str | None, error: type[ValueError]) -> None:
    """Check that a run directory or checkpoint has the format of this version.

    Args:
        source: The path of what was read, which the message names.
        format_version: The version of its format.
        version: The version of the package that wrote it, if it is known.
        error: The class of the error to raise.

    Raises:
        ValueError: If the format is another one; an instance of ``error``.
    """
    if format_version == FORMAT_VERSION:
        return
    writer = version or _RELEASES.get(format_version) or "of an unknown version"
    if format_version < FORMAT_VERSION:
        remedy = f"train again or open it with pyro_mmvae {_RELEASES.get(format_version, writer)}"
    else:
        remedy = "update pyro_mmvae"
    raise error(
        f"{source}: written by pyro_mmvae {writer} (format {format_version}), this version reads format "
        f"{FORMAT_VERSION}: {remedy}"
    )


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read(path: Path, prefixes: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the state of a checkpoint, and the tensors whose names start with one of the prefixes."""
    try:
        check_regular(path)
        with safe_open(path, "pt") as file:
            names, metadata = list(file.keys()), dict(file.metadata() or {})
            state = load_json(metadata[_TEXT])
            content = {name: file.get_tensor(name) for name in names if name.startswith(prefixes)} if prefixes else {}
        _check_sums(metadata, names, content)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except (SafetensorError, KeyError, OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = one_line(error)
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of pyro_mmvae ({reason})") from None
    if not isinstance(state, dict) or not isinstance(state.get("format_version"), int):
        raise CheckpointError(f"{path}: not a checkpoint of pyro_mmvae (its metadata name no format)")
    check_format(path, state["format_version"], state.get("package_version"), CheckpointError)
    return state, content


def _check_sums(metadata: Mapping[str, str], names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Check the checksums of the state and of tensors; files of earlier versions have none and are not checked."""
    if set(metadata) == {_TEXT}:
        return
    if set(metadata) != {_TEXT, _SUMS}:
        raise ValueError(f"keys of the metadata must be {_TEXT} and {_SUMS}, got {', '.join(metadata)[:80]}")
    sums = load_json(metadata[_SUMS])
    if not isinstance(sums, dict) or set(sums) != {_TEXT, *names}:
        raise ValueError("the checksums must be those of its tensors")
    actual = {_TEXT: zlib.crc32(metadata[_TEXT].encode()), **checksums(tensors)}
    differing = [name for name, value in actual.items() if sums[name] != value]
    if differing:
        what = "the state" if differing[0] == _TEXT else f"tensor {differing[0]!r}"
        raise ValueError(f"the checksum of {what} differs from its content")


def _check_model(path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    try:
        check_tensors(tensors, expected, "the model")
    except ValueError as error:
        reason = "" if "must be finite" in str(error) else "the parameters do not fit the model of this configuration: "
        raise CheckpointError(f"{path}: {reason}{error}") from None


def _check_optimizer(path: Path, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Any) -> None:
    """Check the state of an optimizer and of the generators."""
    if _RNG + "cpu" not in tensors:
        raise CheckpointError(f"{path}: holds no optimizer; training can be resumed from {CHECKPOINTS['last']} only")
    try:
        check_random_states(_without_prefix(tensors, _RNG))
        if isinstance(rest, dict) and rest.get("name") != (name := type(optimizer).__name__):
            raise ValueError(f"the optimizer must be {rest.get('name')}, got {name}")
        check_slots(optimizer, _without_prefix(tensors, _OPTIMIZER), rest)
    except ValueError as error:
        raise CheckpointError(f"{path}: the state does not fit the optimizer of this configuration: {error}") from None


def _load_optimizer(
    path: Path, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any] | None
) -> None:
    try:
        load_state(optimizer, _without_prefix(tensors, _OPTIMIZER), rest)
    except ValueError as error:
        raise CheckpointError(f"{path}: the state does not fit the optimizer of this configuration: {error}") from None
    torch.set_rng_state(tensors[_RNG + "cpu"])
    if _RNG + "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[_RNG + "cuda"])
