"""The check of the values inside of the state of a checkpoint, which a resumed training computes with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LARGEST = 1e300  # of an integer that becomes a float
_MOST = 2**53  # of items, epochs and steps
_PARTS = ("schedule", "stopping", "averages", "checksums", "accepted", "modality_specs", "covariate_names", "config")
_COUNTS = ("last_epoch", "_step_count")  # in the state of every scheduler of torch


def check_parts(state: Mapping[str, Any]) -> None:
    """Check the values in the mappings and lists of the state of a checkpoint, each of which may be missing.

    Args:
        state: The state, whose mappings and lists are known to be such or None.

    Raises:
        ValueError: If a value has another type or is out of range; the message is one line.
    """
    for key in _PARTS:
        if key in state and state[key] is None:
            raise ValueError(f"{key} must be left out or have values, got None")
    for key in _COUNTS:
        _check(state.get("schedule", {}), "schedule", key, "an integer", _is_integer)
    stopping = state.get("stopping", {})
    _check(stopping, "stopping", "epochs", "an integer of at least 0", _is_count)
    _check(stopping, "stopping", "best", "a number or None", lambda value: value is None or _is_number(value))
    for split in state.get("checksums", {}):
        _check(state["checksums"], "checksums", split, "a mapping of integers", _is_mapping_of_integers)
    if "averages" in state:
        _check_averages(state["averages"])
    for name in state.get("covariate_names", {}):
        _check(state["covariate_names"], "covariate_names", name, "a list of texts", _is_texts)
    if not _is_texts(state.get("accepted", [])):
        raise ValueError(f"accepted must be a list of texts, got {repr(state['accepted'])[:80]}")


def _check_averages(averages: Mapping[str, Any]) -> None:
    """Check the sums over the epoch that was interrupted, all of which are needed."""
    missing = [key for key in ("items", "loss", "kl", "log_likelihood", "penalties") if key not in averages]
    if missing:
        raise ValueError(f"averages must have {', '.join(missing)}, got none")
    _check(averages, "averages", "items", "an integer of at least 0", _is_count)
    for key in ("loss", "kl"):
        _check(averages, "averages", key, "a number", _is_number)
    for key in ("log_likelihood", "penalties"):
        _check(averages, "averages", key, "a mapping of numbers", _is_mapping_of_numbers)


def _check(part: Mapping[str, Any], name: str, key: str, expected: str, is_valid: Any) -> None:
    if key in part and not is_valid(part[key]):
        raise ValueError(f"{name}: {key} must be {expected}, got {repr(part[key])[:80]}")


def _is_integer(value: Any) -> bool:
    return type(value) is int and abs(value) < _MOST


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _LARGEST)


def _is_mapping_of_integers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_integer, value.values()))


def _is_mapping_of_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
