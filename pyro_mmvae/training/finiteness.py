"""The checks that a training stays finite, and the search for a checkpoint that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.checkpoint import CheckpointError, read_state, read_weights
from pyro_mmvae.training.trainer import NonFiniteError


class TrainingError(RuntimeError):
    """Training that stopped because something was not finite; the message says where, and what to do."""


def check_weights(module: nn.Module, step: int) -> None:
    """Check that all parameters and buffers of a module are finite.

    Args:
        module: The objective, with its model and guide.
        step: The number of steps taken, which an error names.

    Raises:
        NonFiniteError: If a value is NaN or infinite; it names the first parameter.
    """
    tensors = [(name, value) for name, value in module.state_dict().items() if value.is_floating_point()]
    if not tensors:
        return
    # A sum is finite only if its terms are, but for overflow, which is looked at more closely.
    sums = torch.stack([value.detach().double().sum() for _, value in tensors])
    if bool(sums.isfinite().all()):
        return
    bad = [name for name, value in tensors if not bool(value.isfinite().all())]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise NonFiniteError(max(step - 1, 0), f"the weights {bad[0]}{more}")


def check_row(row: Mapping[str, Any], step: int) -> None:
    """Check that all numbers among the metrics of an epoch are finite.

    Args:
        row: The metrics of the epoch, as ``metrics.jsonl`` holds them.
        step: The number of steps taken, which an error names.

    Raises:
        NonFiniteError: If a number is NaN or infinite; it names the first ones.
    """
    bad = [name for name, value in _numbers(row) if not math.isfinite(value)]
    if bad:
        named = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        raise NonFiniteError(max(step - 1, 0), f"the figures {named}")


def explain(error: NonFiniteError, files: RunFiles, steps_per_epoch: int, lr: float) -> str:
    """Return the message for a training that stopped: where, what is saved, and what to try.

    Args:
        error: The error of the step or the epoch.
        files: The files of the run.
        steps_per_epoch: The number of steps in each epoch.
        lr: The learning rate of the configuration.
    """
    good = next((file for file in map(files.checkpoint, ("best", "last")) if is_good(file)), None)
    saved = "no checkpoint is good" if good is None else f"the last good checkpoint is {good}"
    return (
        f"step {error.step} (epoch {error.step // steps_per_epoch + 1}): {error.where} not finite; {saved}. Try a "
        f"lower train.lr (now {lr:g}) or train.precision=fp32"
    )


def is_good(file: Path) -> bool:
    """Return True if a checkpoint can be read, and its weights and its validation are finite.

    A checkpoint inside of an epoch has not been validated, and one before the first step has not been trained: neither
    is good.

    Args:
        file: The path of the checkpoint.
    """
    try:
        state = read_state(file)
        weights = read_weights(file)
    except (CheckpointError, OSError):
        return False
    best = state.get("best")
    validated = not state.get("batch") and state.get("step") != 0 and (best is None or math.isfinite(best))
    return validated and all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the dotted names and values of the numbers in nested mappings and lists."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield from _numbers({str(number): item for number, item in enumerate(value)}, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", value
