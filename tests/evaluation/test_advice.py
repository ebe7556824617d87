"""The commands, options and settings that findings name, read from the source of every finding."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pyro_mmvae import aggregations
from pyro_mmvae.cli import main
from pyro_mmvae.evaluation import diagnostics, learning
from pyro_mmvae.runs.config import make_config, parse_overrides

MODES = {
    "short training", "diverged training", "lost pairing", "latent too small", "experts far apart",
    "collapsed modality", "dominating modality", "unfit guide", "inactive latent", "posterior far from the prior",
}  # fmt: skip


def texts_of(tree: ast.Module) -> list[str]:
    """Return the texts of a module but for its docstrings, with the name of a modality in the gaps."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "m0" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | inner:
            texts.append(node.value)
    return texts


def wrong_names(text: str) -> list[str]:
    """Return the commands, options, aggregations and settings of a text that do not exist."""
    commands = re.findall(r"pyro-mmvae ([a-z-]+)", text)
    wrong = [f"command {name}" for name in commands if name not in main.commands]
    known = [main.commands[name] for name in commands or ["train"] if name in main.commands]
    options = {option for command in known for parameter in command.params for option in parameter.opts}
    wrong += [option for option in re.findall(r"--[a-z][a-z-]*", text) if option not in options]
    wrong += [f"--agg {name}" for name in re.findall(r"--agg ([\w:]+)", text) if name not in aggregations()]
    for setting in re.findall(r"\b(?:model|train|data)\.[a-z0-9_.]*[a-z0-9_]", text):
        try:
            make_config(None, parse_overrides([f"{setting}=1"]))
        except ValueError:
            wrong.append(setting)
    return wrong


TREES = [ast.parse(Path(module.__file__).read_text(encoding="utf-8")) for module in (diagnostics, learning)]
TEXTS = [text for tree in TREES for text in texts_of(tree)]


def test_every_finding_is_read() -> None:
    calls = [node for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.Call)]
    findings = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "Finding"]
    assert {node.args[0].value for node in findings if isinstance(node.args[0], ast.Constant)} == MODES
    assert all(len(node.args) == 3 for node in findings)
    everything = "\n".join(TEXTS)
    for name in ("--epochs", "--agg mwb", "pyro-mmvae fit-prior", "evaluate RUN --refine", "model.modalities.m0.scale"):
        assert name in everything


@pytest.mark.parametrize(
    "text", [text for text in TEXTS if re.search(r"--[a-z]|pyro-mmvae|\b(model|train|data)\.", text)]
)
def test_findings_name_only_what_exists(text: str) -> None:
    assert wrong_names(text) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("a smaller model.betta", ["model.betta"]),
        ("(pyro-mmvae fit RUN)", ["command fit"]),
        ("more --epoch", ["--epoch"]),
        ("pyro-mmvae evaluate RUN --epochs 3", ["--epochs"]),
        ("--agg mwbs", ["--agg mwbs"]),
    ],
)
def test_wrong_names_finds_what_does_not_exist(text: str, wrong: list[str]) -> None:
    assert wrong_names(text) == wrong
