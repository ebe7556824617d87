"""The options of commands that draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pyro_mmvae import train
from pyro_mmvae.cli import main
from pyro_mmvae.cli.common import picture_options
from pyro_mmvae.runs.config import Config


@pytest.mark.parametrize(
    ("one_file", "arguments", "expected"),
    [
        (False, [], {"formats": ("png",), "dpi": 150}),
        (True, [], {"formats": (), "dpi": 150}),
        (True, ["--format", "pdf", "--format", "svg", "--dpi", "300"], {"formats": ("pdf", "svg"), "dpi": 300}),
    ],
)
def test_picture_options_become_arguments_of_functions_that_draw(
    one_file: bool, arguments: list[str], expected: dict[str, Any]
) -> None:
    passed = []

    @click.command()
    @picture_options(one_file=one_file)
    def draw(pictures: dict[str, Any]) -> None:
        passed.append(pictures)

    result = CliRunner().invoke(draw, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert passed == [expected]


@pytest.mark.parametrize("command", ["train", "evaluate", "ppc", "compare", "sample", "data info"])
def test_commands_that_draw_list_the_formats(command: str) -> None:
    output = CliRunner().invoke(main, [*command.split(), "--help"], catch_exceptions=False).output
    assert "--format [png|pdf|svg]" in output
    assert "--dpi INTEGER RANGE" in output


def test_picture_options_unknown_format_lists_those_there_are() -> None:
    result = CliRunner().invoke(main, ["train", "--format", "doc"])
    assert result.exit_code == 2
    assert "'doc' is not one of 'png', 'pdf', 'svg'" in result.output


def test_sample_format_of_arrays_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["sample", "run", "--out", str(tmp_path / "a.npz"), "--format", "pdf"])
    assert result.exit_code == 2
    assert "--format must come with an --out for pictures" in result.output


def test_sample_writes_every_format_in_place_of_the_suffix(toy_config: Callable[..., Config], tmp_path: Path) -> None:
    run = train(toy_config(), tmp_path / "run", progress=False).path
    words = ["sample", str(run), "--given", "m0", "-n", "2", "--device", "cpu", "--out", str(tmp_path / "a.png")]
    words += ["--format", "pdf", "--format", "svg", "--dpi", "50"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert {file.name for file in tmp_path.glob("a.*")} == {"a.pdf", "a.svg"}
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 2
    assert "a.pdf" in again.output


def test_compare_unknown_baseline_is_reported_before_anything_is_trained(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [
        "compare",
        "--agg",
        "wb,mwb",
        "--seeds",
        "1",
        "--variant",
        "plain",
        "--baseline",
        "mopoe",
        "--out",
        str(out),
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "baseline must be the name of a row (wb, plain; mwb, plain), got 'mopoe'" in result.output
    assert not out.exists()
