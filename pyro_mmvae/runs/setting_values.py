"""The base of the sections of a configuration, and conversions of values read from YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


class Section(BaseModel):
    """A section of a configuration, whose keys are fixed and whose values cannot be assigned."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def frozen(value: Any) -> Any:
    """Return a value of YAML with tuples for lists and strings for keys."""
    if isinstance(value, Mapping):
        return {str(key): frozen(item) for key, item in value.items()}
    return tuple(frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def with_numbers(options: Any) -> Any:
    """Return options with numbers for words such as 1e-3, which YAML takes for strings; no type says what they are."""
    if not isinstance(options, Mapping):
        return options
    return {key: float(v) if isinstance(v, str) and _EXPONENT.fullmatch(v) else v for key, v in options.items()}


def plain_values(section: BaseModel) -> dict[str, Any]:
    """Return a section as mappings, lists and values that YAML and JSON can hold, with NaN and infinity.

    Pydantic writes None for those in options of parts, whose types it does not know.

    Args:
        section: The configuration, or a section of it.
    """
    values: dict[str, Any] = _with_special_numbers(section.model_dump(mode="json"), section.model_dump())
    return values


def _with_special_numbers(value: Any, original: Any) -> Any:
    """Return a value of JSON in which None is replaced where the original is a number."""
    if isinstance(value, dict) and isinstance(original, Mapping):
        originals = {str(key): item for key, item in original.items()}
        return {key: _with_special_numbers(item, originals.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(original, (list, tuple)):
        return [_with_special_numbers(item, other) for item, other in zip(value, original, strict=True)]
    return original if value is None and isinstance(original, float) else value
