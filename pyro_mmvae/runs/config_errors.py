"""The message for a configuration that is not valid: one line that names the key, and what it must be."""

from __future__ import annotations

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pyro_mmvae.runs.schema import locate, type_in_words

_LONGEST = 200  # the number of characters of a value in a message

_RENAMED = {
    "modality_weights": "reconstruction_weights",
    "weight": "reconstruction_weight",
    "weights": "expert_weights",
    "mixture_weights": "subset_weights",
    "weights_entropy": "expert_weights_entropy",
}
"""Keys of earlier versions, which an error message for an unknown key translates."""


def describe_error(error: ValidationError, config: type[BaseModel], path: Path | str | None) -> str:
    """Return the first problem of a configuration in one line, with the existing keys if one does not exist.

    Args:
        error: The error of the validation.
        config: The class of the configuration.
        path: The file that was read, which the message names; None for no file.
    """
    first = error.errors()[0]
    source = "" if path is None else f" (from {path} and the overrides)"
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # in brackets: a branch of a union
        return f"{key}: no such setting{source}{_hint(key, first['loc'], config)}"
    parts, schema = locate(root := config.model_json_schema(), first["loc"])
    key = ".".join(parts)
    if first["type"] == "value_error":  # which says by itself what it got
        return f"{key}: {first['msg'].removeprefix('Value error, ')}{source}"
    return f"{key}: must be {type_in_words(schema, root)}, got {_shown(first['input'])}{source}"


def _shown(value: Any) -> str:
    """Return a value as Python writes it, without its end if it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _hint(key: str, location: tuple[int | str, ...], config: type[BaseModel]) -> str:
    """Return the names that exist in a section, and the one that was probably meant."""
    names = _keys_of(config, location[:-1])
    current = _RENAMED.get(str(location[-1]))
    if current in names:
        return f", it is called {current} now"
    return f"; there are {', '.join(names)}{_suggest(key, names, config)}"


def _suggest(key: str, names: list[str], config: type[BaseModel]) -> str:
    """Return the question whether a similar setting was meant, of the section of a key or of another one."""
    *parents, last = key.split(".")
    here = [".".join([*parents, name]) for name in difflib.get_close_matches(last, names, n=1)]
    elsewhere = {
        f"{section}.{name}": name
        for section in ("train", "model", "model.network")
        for name in _keys_of(config, tuple(section.split(".")))
    }
    similar = difflib.get_close_matches(last, elsewhere.values(), n=1, cutoff=0.7)
    close = [path for path, name in elsewhere.items() if name == last] or here
    close += [path for path, name in elsewhere.items() if name in similar]
    return f"; did you mean {close[0]}?" if close else ""


def _keys_of(config: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    section: Any = config
    for part in location:
        section = get_args(section)[1] if get_origin(section) is dict else section.model_fields[part].annotation
    return [field.name for field in fields(section)] if is_dataclass(section) else list(section.model_fields)
