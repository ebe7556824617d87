"""The flag --json of the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from pyro_mmvae import train
from pyro_mmvae.cli import main
from pyro_mmvae.cli.common import echo, plain_errors
from pyro_mmvae.cli.json_output import JsonGroup, add_json, as_plain
from pyro_mmvae.runs.config import Config


def call(*words: str, group: click.Group = main) -> tuple[int, Any]:
    """Return the exit status and the JSON object of a command, which must be all of its standard output."""
    done = CliRunner().invoke(group, [*words, "--json"])
    return done.exit_code, json.loads(done.stdout)


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


@click.group(cls=JsonGroup)
def toy() -> None:
    """Run toys."""


@toy.command()
@click.option("--fail", type=click.Choice(["use", "late", "bug"]))
@plain_errors
def work(fail: str | None) -> dict[str, Any]:
    """Work, or fail."""
    echo("begun")
    echo("careful", err=True)
    if fail == "use":
        raise ValueError("lr must be positive, got -1")
    if fail == "late":
        echo("error: the disk is full", err=True)
        sys.exit(1)
    if fail == "bug":
        raise KeyError("x")
    return {"file": Path("a/b"), "value": np.float32(0.5), "bad": float("nan"), "list": np.arange(2)}


add_json(toy)


def test_json_of_a_command_is_its_result_and_nothing_else() -> None:
    status, found = call("work", group=toy)
    assert status == 0
    assert found == {
        "command": "work",
        "exit_code": 0,
        "result": {"file": "a/b", "value": 0.5, "bad": None, "list": [0, 1]},
        "messages": ["begun"],
        "notes": ["careful"],
    }
    done = CliRunner().invoke(toy, ["work"])
    assert (done.stdout, done.stderr) == ("begun\n", "careful\n")


@pytest.mark.parametrize(
    ("fail", "status", "error"), [("use", 2, "lr must be positive, got -1"), ("late", 1, "the disk is full")]
)
def test_json_of_an_error_has_the_exit_code(fail: str, status: int, error: str) -> None:
    code, found = call("work", "--fail", fail, group=toy)
    assert code == found["exit_code"] == status
    assert found["error"] == error
    assert "result" not in found
    assert found["messages"] == ["begun"]


def test_json_of_wrong_use_is_json_too() -> None:
    code, found = call("work", "--fail", "no", group=toy)
    assert (code, found["exit_code"], found["command"]) == (2, 2, "work")
    assert "'no' is not one of 'use', 'late', 'bug'" in found["error"]
    code, found = call("data", "info", "--nothing")
    assert (code, found["command"]) == (2, "data info")
    assert "No such option" in found["error"]
    code, found = call("fly")
    assert (code, found["command"]) == (2, "")


def test_json_does_not_hide_a_bug() -> None:
    done = CliRunner().invoke(toy, ["work", "--fail", "bug", "--json"])
    assert isinstance(done.exception, KeyError)


@pytest.mark.parametrize(("name", "command"), list(commands(main)), ids=str)
def test_every_command_has_the_flag(name: str, command: click.Command) -> None:
    has_flag = any("--json" in parameter.opts for parameter in command.params)
    assert has_flag == (name != "explore")  # which serves a page until it is stopped


def test_json_of_aggregations_and_settings() -> None:
    status, found = call("aggregations")
    assert status == 0
    assert {"poe", "wb", "mwb"} <= set(found["result"])
    status, found = call("settings", "train.lr")
    assert status == 0
    assert [setting["key"] for setting in found] == ["train.lr"]
    status, found = call("settings", "train.rate")
    assert (status, found["exit_code"], found["command"]) == (2, 2, "settings")


def test_json_of_commands_of_a_run(toy_config: Callable[..., Config], tmp_path: Path) -> None:
    run = str(train(toy_config(), tmp_path / "run", progress=False).path)
    status, found = call("encode", run, "--out", str(tmp_path / "z.csv"), "--quiet")
    assert status == 0
    assert (found["result"]["file"], found["result"]["items"]) == (str(tmp_path / "z.csv"), 32)
    status, found = call("sample", run, "--out", str(tmp_path / "s.png"), "-n", "3")
    assert status == 0
    assert found["result"]["draws"] == 3
    assert all(Path(file).exists() for file in found["result"]["files"])
    status, found = call("sample", run, "--out", str(tmp_path / "s.png"))
    assert (status, found["exit_code"]) == (2, 2)
    assert "must not exist" in found["error"]


def test_json_of_the_process_is_the_whole_of_its_output(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pyro_mmvae", "evaluate", str(tmp_path / "none"), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert done.stderr.startswith("error: ")


def test_as_plain_has_types_of_json_only() -> None:
    value = {1: (True, None, {"x"}), "a": np.array([[1.0, np.inf]]), "b": b"x"}
    assert as_plain(value) == {"1": [True, None, ["x"]], "a": [[1.0, None]], "b": "b'x'"}
