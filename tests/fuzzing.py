"""Helpers of the fuzz tests: strategies of wrong and unusual input, and the check of the message that it ends with."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("PYRO_MMVAE_FUZZ", "1"))
"""The number by which the examples of the whole suite are multiplied."""

_OF_PYTHON = re.compile(
    r"NoneType|unsupported operand|not supported between|is not (iterable|callable|subscriptable)|has no attribute|"
    r"unexpected keyword argument|positional argument|unhashable|can only concatenate|object (cannot|is not)|"
    r"must be real number|argument of type|<class |maximum recursion|invalid literal|list index|errors.pydantic"
)
"""What messages of Python itself say, which its user cannot do anything with."""


def fuzz(max_examples: int) -> settings:
    """Return settings of Hypothesis for a test with files, with more examples if ``PYRO_MMVAE_FUZZ`` says so."""
    return settings(
        max_examples=max_examples * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def check_message(message: str) -> None:
    """Check that a message is one printable line of the package, not one of Python."""
    assert message.strip()
    assert "\n" not in message
    assert not _OF_PYTHON.search(message.partition("got an error:")[0]), message  # what follows is quoted


def returns_or_explains(function: Callable[[], Any]) -> Any:
    """Return the result of a function, or None if it raises an error that says in one line what is wrong."""
    try:
        return function()
    except (ValueError, TypeError, OSError, ImportError) as error:
        check_message(str(error))
        return None


def files_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file and folder in a folder, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        found[str(path.relative_to(folder))] = (0, 0) if path.is_dir() else (about.st_size, about.st_mtime_ns)
    return found


SCALARS = [
    "", "null", "~", "true", "no", "0", "1", "-1", "2", "3", "0.5", "1e-3", "1e-300", "1e400", "-1e400", ".nan", ".inf",
    "-.inf", "9" * 30, "9" * 400, "0x1F", "0b2", "1_000", "1:30:00", "2020-01-01", "2001-12-14t21:59:43.10-05:00",
    "auto", "learned", "none", "all", "mwb", "wb", "poe", "mopoe", "renyi:0.5", "renyi:nan", "renyi:", "mixture:w1",
    "mixture:mixture:poe", "singles:0.5", "singles:2", "calibrated:0.75", "calibrated:-1", "learned:1", "learned:0",
    "infonce", "elbo", "masked", "iwae", "sgd", "adamw", "Adam", "StepLR", "constant", "cpu", "cuda", "cuda:99", "meta",
    "bf16", "normal", "laplace", "bernoulli", "conv", "mlp", "image", "vector", "categorical", "text", "standard",
    "mixture", "'a b'", "'$HOME'", "../..", "/", "/dev/null", "ä", "'\\u202e'", '"\\x1b[31mred"', '"\\0"', '"a\\nb"',
    "!!binary YWJj", "!!set {a, b}", "!!omap [a: 1]", "[a, b]", "[1, 2]", "[0.9, 0.999]", "{name: mwb}", "{name: [a]}",
    "{name: infonce, eta: -1}", "[{name: infonce, tau: 0}]", "{name: mixture, components: 0}", "{m0: 2}", "{1: 2}",
]  # fmt: skip
"""Texts of YAML that are values of some setting, or of none."""

BROKEN = [
    "2020-13-01", '"\\ud800"', "!!python/name:os.system", "&a b", "*a", "<<: 1", "%", "@a", "`", "|", ">", "- a",
    "? a", "[", "{", "]", "'", '"', "&a [*a]", "!!timestamp x", "!!int a", "!!float a", "!!binary é", "{[1]: 2}",
    "{{a: 1}: 2}",
]  # fmt: skip
"""Texts that are not a value of YAML, or of a type that no setting has."""


def _with_collections(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    keys = st.sampled_from(
        ["name", "a", "m0", "1", "null", "true", "2020-01-01", "1.5", "''", "tau", "eta", "weight", "alpha", "K",
         "delta", "lr", "scale", "likelihood", "components", "init", "step_size", "momentum", "<<", "[a]", "data_type"]
    )  # fmt: skip
    pairs = st.lists(st.tuples(keys, inner), max_size=3)
    return st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]") | pairs.map(
        lambda found: "{" + ", ".join(f"{key}: {value}" for key, value in found) + "}"
    )


def values() -> st.SearchStrategy[str]:
    """Return a strategy of texts of YAML: scalars, lists and mappings of them, deep nests, and any text."""
    leaves = st.sampled_from(SCALARS)
    deep = st.tuples(st.sampled_from(["[", "{a: ", "- "]), st.integers(2, 3_000)).map(lambda pair: pair[0] * pair[1])
    closed = st.integers(2, 70).map(lambda depth: "[" * depth + "]" * depth)
    nested = st.recursive(leaves, _with_collections, max_leaves=6)
    odd = deep | closed | st.text(max_size=12) | st.sampled_from(BROKEN)
    return st.one_of(*[leaves] * 4, *[nested] * 4, odd)
