"""The options of callables: their names, annotations and descriptions, and the error for one that does not exist."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from pyro_mmvae.aggregation import aggregation_options, aggregations, make_aggregation
from pyro_mmvae.signatures import check_options, describe_options, find_options, read_entries


class Base:
    """A base.

    Args:
        size: The size of the base.
        shared: The option that all have, see :class:`~somewhere.Other`.
    """

    def __init__(self, size: int, shared: float = 1.0) -> None:
        self.size, self.shared = size, shared


class Derived(Base):
    """A class that hands options on.

    Args:
        tau: The temperature of the class,
            in kelvin.
    """

    def __init__(self, first: str, *, tau: float = 2.0, **options: Any) -> None:
        super().__init__(3, **options)
        self.first, self.tau = first, tau


def test_find_options_of_class_follows_keywords_to_its_bases() -> None:
    options, is_open = find_options(Derived)
    assert (list(options), is_open) == (["first", "tau", "shared"], False)  # size is passed by the class itself
    assert list(find_options(Derived, positional=1)[0]) == ["tau", "shared"]
    assert list(find_options(partial(Derived, "a"))[0]) == ["tau", "shared"]


def test_find_options_of_function_with_keywords_is_open() -> None:
    def make(tau: int, **others: Any) -> None: ...

    options, is_open = find_options(make)
    assert (list(options), is_open) == (["tau"], True)


def test_describe_options_returns_default_hint_and_meaning_of_each() -> None:
    described = {option.name: option for option in describe_options(Derived)}
    assert (described["tau"].default, described["tau"].hint) == (2.0, float)
    assert described["tau"].meaning == "The temperature of the class, in kelvin."
    assert described["shared"].meaning == "The option that all have, see Other."
    assert described["first"].meaning == ""


def test_read_entries_ignores_other_sections() -> None:
    text = """Do it.

    Args:
        one: The first.

    Raises:
        ValueError: If it fails.
    """
    assert read_entries(text) == {"one": "The first."}


def test_check_options_unknown_name_lists_options_and_suggests_the_close_one() -> None:
    check_options("part 'p'", ["tau"], ["tau"])
    with pytest.raises(
        ValueError, match=r"^option of part 'p' must be one of tau, size, got 'taus'; did you mean 'tau'\?$"
    ):
        check_options("part 'p'", ["taus"], ["tau", "size"])
    with pytest.raises(ValueError, match="option 'x' of part 'p' must be left out, since it does not have options"):
        check_options("part 'p'", ["x"], [])


@pytest.mark.parametrize("name", aggregations())
def test_aggregation_options_of_built_in_are_all_accepted_and_described(name: str) -> None:
    options = aggregation_options(name)
    assert {"expert_weights", "subset_weights", "prior", "prior_expert"} <= {option.name for option in options}
    for option in options:
        assert len(option.meaning.split()) > 3, option.name
        make_aggregation(name, **{option.name: option.default})
