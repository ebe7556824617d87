"""Fuzz tests of command lines: no command ends in a traceback, and one that fails leaves no file behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae import evaluation
from pyro_mmvae.cli import cells, main
from pyro_mmvae.evaluation import ppc
from pyro_mmvae.explore import app
from pyro_mmvae.hub import transfer
from pyro_mmvae.runs import calibration
from pyro_mmvae.runs.settings import list_settings
from pyro_mmvae.training.session import Session
from tests.fuzzing import SCALARS, check_message, files_in, fuzz, values

SMALL = ["model.latent_size=2", "model.network.hidden=4", "train.batch_size=8", "train.threads=1", "train.device=cpu"]
KEYS = [setting.key.replace("NAME", "a") for setting in list_settings()]
LEFT_OUT = {"polymnist"}  # long if nothing is wrong
PATHS = [
    "run",
    "data",
    "data.npz",
    "config.yaml",
    "ids.txt",
    "empty",
    "missing",
    "missing/deep",
    "",
    "/dev/null",
]
TEXTS = ["a", "b", "a,b", "a,a", "none", "all", "test", "train", "val", "best", "0:3", "3:0", "999", "x" * 5000, "a=1"]
NUMBERS = ["1", "2", "3", "0", "-1", "1.5", "nan", "inf", "1e3", "9" * 30, "", "x", "0x2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Change to a folder with data, a configuration and a trained run."""
    place, before = tmp_path_factory.mktemp("place"), Path.cwd()
    os.chdir(place)
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=(30, 3)), "b": rng.normal(size=(30, 2)) > 0}
    (place / "data").mkdir()
    (place / "empty").mkdir()
    for name, array in arrays.items():
        np.save(place / "data" / f"{name}.npy", array)
    np.savez(place / "data.npz", **arrays)
    (place / "config.yaml").write_text("model: {aggregation: mwb, latent_size: 2}\ntrain: {epochs: 1}\n")
    (place / "ids.txt").write_text("0\n1\n")
    words = [word for setting in SMALL for word in ("--set", setting)]
    result = CliRunner().invoke(main, ["train", "--data", "data", "--epochs", "1", "--out", "run", "--quiet", *words])
    assert result.exit_code == 0, result.output
    yield place
    os.chdir(before)


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop commands that would compute for long, at the last moment before they do."""

    def stop(*_: Any, **__: Any) -> None:  # noqa: ANN401
        raise ValueError("stopped by the test")

    monkeypatch.setattr(Session, "create", stop)  # before the run directory has its name
    monkeypatch.setattr(evaluation, "evaluate", stop)
    monkeypatch.setattr(evaluation, "evaluate_readings", stop)
    monkeypatch.setattr(ppc, "posterior_predictive", stop)
    monkeypatch.setattr(calibration, "calibrate_run", stop)
    monkeypatch.setattr(cells.CellRunner, "run", stop)
    monkeypatch.setattr(transfer, "_client", stop)  # before the network
    monkeypatch.setattr(app, "import_panel", lambda: None)
    monkeypatch.setattr(app, "serve", stop)


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        elif name not in LEFT_OUT:
            yield (*words, name), command


COMMANDS = list(commands(main))


def value_of(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """Return a strategy of values of a parameter, of which many are of its type."""
    if "--set" in parameter.opts:
        short = values().filter(lambda text: len(text) < 200)
        return st.tuples(st.sampled_from(KEYS), short).map(lambda pair: f"{pair[0]}={pair[1]}")
    if "--out" in parameter.opts:
        return st.sampled_from(
            ["out", "out.npz", "out.png", "out.csv", "out.h5ad", "new/out.csv", "run", "data", "", "out.x"]
        )
    if isinstance(parameter.type, click.Choice):
        return st.sampled_from([*map(str, parameter.type.choices), "x", ""])
    if isinstance(parameter.type, (click.types.IntParamType, click.types.FloatParamType)):
        return st.sampled_from(NUMBERS)
    if isinstance(parameter.type, click.Path):
        return st.sampled_from(PATHS)
    return st.sampled_from(TEXTS + PATHS + NUMBERS + SCALARS)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Draw a command with its arguments and a few of its options."""
    words, command = draw(st.sampled_from(COMMANDS))
    line, options = list(words), [p for p in command.params if isinstance(p, click.Option)]
    chosen = draw(st.lists(st.sampled_from(options), max_size=3)) if options else []
    for option in dict.fromkeys([*(o for o in options if o.required and draw(st.integers(0, 9))), *chosen]):
        flag = max(option.opts, key=len)
        line += [flag] if option.is_flag else [flag, draw(value_of(option))]
    for argument in (p for p in command.params if isinstance(p, click.Argument)):
        usual = {"name": "data", "repository": "user/name"}.get(str(argument.name), "run")
        line += [usual if draw(st.integers(0, 4)) else draw(st.sampled_from(PATHS))]
    if words == ("train",):
        small = SMALL[draw(st.integers(0, 1)) :]
        line += [word for setting in small for word in ("--set", setting)]
        line += ["--data", "data"] if "--data" not in line and "--resume" not in line else []
    return [word for word in line if "\0" not in word]


def check_line(place: Path, line: list[str]) -> None:
    before = files_in(place)
    result = CliRunner().invoke(main, line)
    after = files_in(place)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"{line} ended in a traceback") from result.exception
    for name in ("out", "new", "runs"):  # so that the next line finds the folder as this one did
        shutil.rmtree(place / name, ignore_errors=True)
    for file in place.iterdir():
        if file.is_file() and file.name not in before:
            file.unlink()
    assert result.exit_code in {0, 1, 2}, line
    if result.exit_code == 2 and "--json" in line:
        found = json.loads(result.stdout)
        assert found["exit_code"] == 2, line
        check_message(" ".join(found["error"].split()))
        assert after == before, line
    elif result.exit_code == 2:
        errors = [row for row in result.stderr.splitlines() if row.lower().startswith("error: ")]
        assert len(errors) == 1, (line, result.stderr)
        check_message(errors[0])
        assert len(errors[0]) < 6_000, line
        assert after == before, line


@fuzz(60)
@given(lines())
def test_any_command_line_ends_without_a_traceback_or_a_partial_output(place: Path, line: list[str]) -> None:
    check_line(place, line)
