"""Types of settings in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
from torch import Tensor

from pyro_mmvae.runs.config import Config
from pyro_mmvae.runs.schema import default_in_words, locate, schema_of_hint, type_in_words


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (int, "an integer"),
        (float | None, "a number or null"),
        (bool, "true or false"),
        (Literal["a", "b"] | float, "a, b or a number"),
        (Sequence[str], "a list of strings"),
        (tuple[float, int], "a list of 2: a number, an integer"),
        (Mapping[str, float], "a mapping from names to numbers"),
        (Mapping[str, list[float]], "a mapping from names to values, each a list of numbers"),
        (Tensor | Sequence[float] | Callable[[Tensor], Tensor] | str | None, "a list of numbers, a string or null"),
        (tuple[Tensor | float, Tensor | float] | None, "a list of 2: a number, a number or null"),
        (Tensor, "any value"),
        (Any, "any value"),
    ],
)
def test_type_in_words_of_hint_is_a_phrase(hint: Any, expected: str) -> None:
    assert type_in_words(schema_of_hint(hint)) == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"minimum": 0}, "a number of at least 0"),
        ({"exclusiveMinimum": 0, "maximum": 1}, "a number above 0 and at most 1"),
        ({"exclusiveMaximum": 0.5}, "a number below 0.5"),
    ],
)
def test_type_in_words_of_number_names_its_range(limits: dict[str, float], expected: str) -> None:
    assert type_in_words({"type": "number", **limits}) == expected


def test_locate_leaves_branches_of_unions_out_of_the_key() -> None:
    root = Config.model_json_schema()
    key, schema = locate(root, ("model", "expert_weights", "tuple[float, ...]", 1))
    assert (key, type_in_words(schema, root)) == (["model", "expert_weights", "1"], "a number")
    key, schema = locate(root, ("model", "scale", "float"))
    assert (key, type_in_words(schema, root)) == (
        ["model", "scale"],
        "a number, learned, calibrated, calibrated_per_feature or auto",
    )


def test_default_in_words_is_as_in_a_file() -> None:
    assert [default_in_words(value) for value in (None, "auto", 0.5, (1, 2), True, {1})] == [
        "null", "auto", "0.5", "[1, 2]", "true", "{1}"
    ]  # fmt: skip
