"""The rules of language that a machine can check, for docstrings, comments and help texts of the project."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pyro_mmvae.cli import main

ROOT = Path(__file__).parents[1]
FOLDERS = ("pyro_mmvae", "benchmarks", "examples", "scripts")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

BANNED_OPENINGS = (
    "As", "For", "From", "Gives", "Has", "How", "In", "Likewise", "Of", "Same", "Says", "See there", "Somebody",
    "That", "The same", "There", "Those", "To", "What", "When", "Where", "Whether", "Which", "Who", "Why",
)  # fmt: skip
BANNED_ANYWHERE = (
    "likewise", "see there", "somebody", "anyone's", "of ours", "not to be had", "to be had", "one's own", "besides",
)  # fmt: skip
MINIMUM_WORDS = 4
SECTIONS = {"Args:", "Returns:", "Raises:", "Yields:", "Example:", "Attributes:", "References:", "Warns:", "Note:"}


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each docstring of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                name = getattr(node, "name", "module")
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {name}", text


def argument_entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the description of each entry of a docstring's Args and Attributes sections."""
    section, indent, name, words = "", 0, "", list[str]()
    for line in [*text.splitlines(), "End:"]:
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        entry = re.match(r"(\*{0,2}\w+): ?(.*)", stripped)
        is_heading = stripped in SECTIONS or (depth == 0 and stripped)
        starts_entry = section in {"Args:", "Attributes:"} and entry and (not indent or depth == indent)
        if name and (is_heading or starts_entry):
            yield name, " ".join(words)
            name, words = "", []
        if is_heading:
            section, indent = (stripped if stripped in SECTIONS else ""), 0
        elif starts_entry and entry:
            name, words, indent = entry.group(1), [entry.group(2)], depth
        elif name:
            words.append(stripped)


def comments(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each comment of a file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield f"{path.relative_to(ROOT)}:{token.start[0]}", token.string


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield each command of the command line with its full name."""
    yield name, command
    if isinstance(command, click.Group):
        for key, child in command.commands.items():
            yield from commands(child, f"{name} {key}")


def describe(faults: list[str]) -> str:
    return f"{len(faults)} faults:\n" + "\n".join(faults)


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstring_does_not_open_with_a_fragment(folder: str) -> None:
    pattern = re.compile(rf"r?(?:{'|'.join(BANNED_OPENINGS)})\b")
    faults = [
        f"{place}: {text.splitlines()[0]}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for place, text in docstrings(path)
        if pattern.match(text)
    ]
    assert not faults, describe(faults)


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_and_comments_avoid_banned_phrases(folder: str) -> None:
    pattern = re.compile(rf"\b(?:{'|'.join(BANNED_ANYWHERE)})\b", re.IGNORECASE)
    faults = [
        f"{place}: {match.group(0)!r}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for place, text in [*docstrings(path), *comments(path)]
        for match in pattern.finditer(text)
    ]
    assert not faults, describe(faults)


@pytest.mark.parametrize("folder", FOLDERS)
def test_argument_descriptions_have_at_least_four_words(folder: str) -> None:
    faults = [
        f"{place}: {name}: {entry}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == folder
        for place, text in docstrings(path)
        for name, entry in argument_entries(text)
        if len(entry.split()) < MINIMUM_WORDS
    ]
    assert not faults, describe(faults)


@pytest.mark.parametrize(("name", "command"), list(commands(main, "pyro-mmvae")), ids=str)
def test_help_of_each_option_is_a_sentence(name: str, command: click.Command) -> None:
    assert command.help, f"{name} has no help text"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in {"help", "version"}:
            assert parameter.help, f"{name} {parameter.opts[0]} has no help text"
            assert len(parameter.help.split()) >= MINIMUM_WORDS, f"{name} {parameter.opts[0]}: {parameter.help!r}"
            assert parameter.help[0].isupper(), f"{name} {parameter.opts[0]}: {parameter.help!r}"
            assert parameter.help.rstrip().endswith((".", ")")), f"{name} {parameter.opts[0]}: {parameter.help!r}"
