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
