"""The check of the rows of training metrics, which may come from anyone, before a reader computes with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_LARGEST = 1e300  # of an integer that becomes a float
_MOST = 2**53  # of epochs and steps
_NUMBERS = ("objective", "beta", "kl", "lr", "items_per_second")
_BY_NAME = ("log_likelihood", "penalties", "expert_weights", "subset_weights")
_FIGURES = ("last", "mixture", "component", "subsets")  # the figures that a checkpoint is selected by


def row_epoch(row: Any) -> int | None:
    """Return the epoch of a value of JSON, or None if it is not the row of an epoch.

    Args:
        row: The value of one line of the file.
    """
    epoch = row.get("epoch") if isinstance(row, dict) else None
    return epoch if type(epoch) is int and 0 <= epoch < _MOST else None


def check_row(row: Mapping[str, Any]) -> None:
    """Check the types of the metrics of an epoch that have a meaning; every one of them may be missing.

    Args:
        row: The metrics of the epoch, in which further keys are not checked.

    Raises:
        ValueError: If a value has another type; the message is one line and names the key.
    """
    _check(row, "", _NUMBERS)
    for name in ("val", "select"):
        if not isinstance(row.get(name, {}), dict):
            raise _error(name, "a mapping", row[name])
    _check(row.get("val", {}), "val.", ("elbo", "kl"))
    if not isinstance(row.get("val", {}).get("density", ""), str):
        raise _error("val.density", "a text", row["val"]["density"])
    by = row.get("select", {}).get("by", _FIGURES[0])
    if by not in _FIGURES:
        raise _error("select.by", f"one of {', '.join(_FIGURES)}", by)
    step, seconds = row.get("step", 0), row.get("seconds", 0.0)
    if type(step) is not int or not 0 <= step < _MOST:
        raise _error("step", "an integer of at least 0", step)
    if not _is_number(seconds) or not math.isfinite(seconds):
        raise _error("seconds", "a finite number", seconds)
    if not isinstance(row.get("stopped", ""), str):
        raise _error("stopped", "a text", row["stopped"])


def check_plotted(row: Mapping[str, Any]) -> None:
    """Check that the metrics of an epoch have everything that curves are drawn from.

    Args:
        row: The metrics of the epoch, whose types :func:`check_row` has checked.

    Raises:
        ValueError: If a key is missing; the message is one line and names it.
    """
    val = row.get("val", {})
    missing = [name for name in ("objective", "beta", "kl", "log_likelihood", "val") if name not in row]
    missing += [f"val.{name}" for name in ("elbo", "kl") if "val" in row and name not in val]
    if missing:
        raise ValueError(f"must have {', '.join(missing)} to be drawn, got none")


def _check(tree: Mapping[str, Any], prefix: str, numbers: tuple[str, ...]) -> None:
    """Check the numbers, and the numbers by name, of a row or of its validation."""
    for name in numbers:
        if name in tree and not _is_number(tree[name]):
            raise _error(prefix + name, "a number", tree[name])
    for name in _BY_NAME:
        value = tree.get(name, {})
        if not isinstance(value, dict) or not all(map(_is_number, value.values())):
            raise _error(prefix + name, "a mapping of numbers", value)


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and -_LARGEST < value < _LARGEST)


def _error(key: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{key} must be {expected}, got {repr(value)[:80]}")
