"""The types of the settings of a training that take more than one form, with their checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

from pyro_mmvae.runs.optimization import check_optimizer, check_schedule


def _check_threads(value: Any) -> Any:
    if value is None or value == "auto":
        return value
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or isinstance(value, (bool, float)):
        raise ValueError(f"must be a positive number, auto, or null for all cores, got {value!r}")
    return count


def _check_callbacks(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"must be a list of names or of mappings with a name, got {value!r}")
    for item in value:
        if not isinstance(item.get("name") if isinstance(item, Mapping) else item, str):
            raise ValueError(f"must hold names of callbacks, or mappings with a name and options, got {item!r}")
    return value


OptimizerSpec: TypeAlias = Annotated[str | dict[str, Any], BeforeValidator(check_optimizer)]
"""The name of an optimizer of torch, or a mapping with ``name`` and its options."""

ScheduleSpec: TypeAlias = Annotated[str | dict[str, Any], BeforeValidator(check_schedule)]
"""The name of a learning-rate schedule, or a mapping with ``name`` and its options."""

CallbackSpecs: TypeAlias = Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_check_callbacks)]
"""Names of callbacks, or mappings with ``name`` and their options."""

ThreadCount: TypeAlias = Annotated[int | Literal["auto"] | None, BeforeValidator(_check_threads)]
"""A number of CPU threads, ``auto`` to time several numbers, or None for all cores."""
