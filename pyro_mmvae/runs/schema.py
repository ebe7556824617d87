"""JSON schemas in words: the type of a setting, and the schema behind a key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

Schema = Mapping[str, Any]

_SIMPLE = {"integer": "an integer", "number": "a number", "string": "a string", "null": "null"}
_PLURALS = {"a number": "numbers", "an integer": "integers", "a string": "strings"}


def type_in_words(schema: Schema, root: Schema | None = None) -> str:
    """Return the type that a JSON schema describes, as a phrase such as ``"an integer of at least 0"``.

    Args:
        schema: The schema of a value.
        root: The schema that holds the definitions, by default ``schema`` itself.

    Example:
        >>> type_in_words({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"enum": ["auto", "learned"]}]})
        'a number above 0, auto or learned'
    """
    root = schema if root is None else root
    phrases = dict.fromkeys(phrase for branch in _branches(schema, root) for phrase in _phrases(branch, root))
    *first, last = phrases or ["any value"]
    return f"{', '.join(first)} or {last}" if first else last


def schema_of_hint(hint: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation, of a union only the types that a configuration can hold.

    Args:
        hint: The annotation of an option, such as ``float | None``.

    Returns:
        The schema; empty, which stands for any value, if a configuration cannot hold such a value.
    """
    try:
        return TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError):
        parts = get_args(hint)
    if get_origin(hint) in {Union, UnionType}:
        schemas = [schema for part in parts if (schema := schema_of_hint(part))]
        return {"anyOf": schemas} if schemas else {}
    if get_origin(hint) is tuple and all(schema_of_hint(part) for part in parts):
        return {"type": "array", "prefixItems": [schema_of_hint(part) for part in parts]}
    return {}


def locate(root: Schema, location: Sequence[int | str]) -> tuple[list[str], Schema]:
    """Return the key and the schema at a location in a validation error.

    Args:
        root: The schema of the whole configuration.
        location: Keys and indices, among them names of branches of unions, which are left out of the key.

    Returns:
        The parts of the key as far as it exists, and the schema of its value.
    """
    key, schemas = list[str](), [root]
    for part in location:
        children = [child for schema in schemas for child in _children(schema, root, part)]
        if children:
            key.append(str(part))
            schemas = children
    return key, schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def default_in_words(value: Any) -> str:
    """Return a default as it is written in a configuration.

    Args:
        value: The default, such as None or ``"auto"``.
    """
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except TypeError:
        return str(value)


def _branches(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Yield the members of a union, or the schema itself, with references resolved."""
    if "$ref" in schema:
        yield from _branches(root["$defs"][schema["$ref"].split("/")[-1]], root)
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _branches(branch, root)
    else:
        yield schema


def _phrases(schema: Schema, root: Schema) -> list[str]:
    """Return the types of a schema that is not a union, or its values."""
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return [str(value) for value in values]
    kind = schema.get("type")
    if kind in {"integer", "number"}:
        return [_SIMPLE[kind] + _range_in_words(schema)]
    if kind == "boolean":
        return ["true", "false"]
    if kind == "array":
        return ["a list" + _items_in_words(schema, root)]
    if kind == "object":
        values = schema.get("additionalProperties")
        return [
            f"a mapping from names to {_plural(values, root)}" if isinstance(values, dict) and values else "a mapping"
        ]
    return list(schema.get("examples", ())) or [_SIMPLE.get(str(kind), "any value")]


def _range_in_words(schema: Schema) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    lower = f"of at least {least:.15g}" if least is not None else f"above {above:.15g}" if above is not None else ""
    upper = f"at most {most:.15g}" if most is not None else f"below {below:.15g}" if below is not None else ""
    return "".join(f" {part}" for part in (lower, "and" * bool(lower and upper), upper) if part)


def _items_in_words(schema: Schema, root: Schema) -> str:
    fixed = schema.get("prefixItems")
    if fixed:
        words = [type_in_words(item, root) for item in fixed]
        return f" of {len(words)}: {', '.join(words)}"
    items = schema.get("items")
    return f" of {_plural(items, root)}" if items else ""


def _plural(schema: Schema, root: Schema) -> str:
    words = type_in_words(schema, root)
    return _PLURALS.get(words, f"values, each {words}")


def _children(schema: Schema, root: Schema, part: int | str) -> Iterator[Schema]:
    """Yield the schemas of the value under a key or at an index, one per branch that has it."""
    for branch in _branches(schema, root):
        if isinstance(part, int):
            items = branch.get("prefixItems", ())
            if part < len(items):
                yield items[part]
            elif "items" in branch:
                yield branch["items"]
        elif part in branch.get("properties", {}):
            yield branch["properties"][part]
        elif isinstance(branch.get("additionalProperties"), dict):
            yield branch["additionalProperties"]
