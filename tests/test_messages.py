"""Settings, options and commands that the messages and help texts of the package name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import pyro_mmvae
from pyro_mmvae.cli import main
from pyro_mmvae.data.registry import DATA_SETS, FORMATS
from pyro_mmvae.runs.settings import list_settings

FOLDER = Path(pyro_mmvae.__file__).parent
SETTING = re.compile(r"(?<![\w./])(?:model|train|(?<=--set )data)(?:\.[A-Za-z]\w*)+")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")
COMMAND = re.compile(r"(?<![\w-])pyro-mmvae ([a-z][a-z-]*)")
MAPPINGS = ("model.aggregation", "model.reconstruction_weights", "train.objective")
"""Settings whose keys are names of modalities or options of a part."""


def strings(file: Path) -> Iterator[str]:
    """Yield the strings of a file that are not docstrings, with NAME in place of each value of an f-string."""
    tree, skipped = ast.parse(file.read_text(encoding="utf-8")), set[int]()
    for node in ast.walk(tree):  # parents first
        if isinstance(node, ast.Expr):  # a string that is a statement is a docstring, of an attribute or anything else
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(value) for value in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "NAME" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


@cache
def messages() -> list[tuple[str, str]]:
    """Return the messages of the package, each with its file."""
    files = sorted(FOLDER.rglob("*.py"))
    return [(text, str(file.relative_to(FOLDER))) for file in files for text in strings(file)]


def names_in_messages(pattern: re.Pattern[str]) -> set[tuple[str, str]]:
    """Return the names that match a pattern in the messages of the package, each with its file."""
    return {(name, file) for text, file in messages() for name in pattern.findall(text)}


@cache
def settings() -> set[str]:
    """Return the keys of all settings and of the sections that hold them."""
    keys = {setting.key for setting in list_settings()}
    keys |= {f"data.{name}" for table in (DATA_SETS, FORMATS) for entry in table.values() for name in entry.options}
    parts = [key.split(".") for key in keys]
    return {".".join(part[:length]) for part in parts for length in range(1, len(part) + 1)}


def is_setting(name: str) -> bool:
    return (
        name in settings()
        or name.rpartition(".")[0] in MAPPINGS
        or name in {"data.KEY", "model.NAME", "model.network.NAME"}
    )


def options(command: click.Command) -> set[str]:
    """Return the options of a command and of those below it."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union({"--help"}, *map(options, below))


def test_settings_that_messages_name_exist() -> None:
    found = names_in_messages(SETTING)
    assert len({name for name, _ in found}) > 20  # the pattern finds them
    assert sorted((name, file) for name, file in found if not is_setting(name)) == []


def test_options_that_messages_name_exist() -> None:
    of_git = {"--porcelain", "--untracked-files", "--no-optional-locks"}
    known = options(main) | of_git | {"--max-restarts", "--nproc-per-node"}  # the last two are torchrun's
    found = names_in_messages(OPTION)
    assert len({name for name, _ in found}) > 20
    assert sorted((name, file) for name, file in found if name not in known) == []


def test_commands_that_messages_name_exist() -> None:
    assert isinstance(main, click.Group)
    found = names_in_messages(COMMAND)
    assert found
    assert sorted((name, file) for name, file in found if name not in main.commands) == []


@pytest.mark.parametrize("name", ["model.warmup_beta", "train.learning_rate", "data.nothing", "model.network.size"])
def test_is_setting_of_an_unknown_name_is_false(name: str) -> None:
    assert not is_setting(name)
