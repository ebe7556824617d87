"""Text from data in a terminal and in pictures: control characters are escaped, everything else stays."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyro_mmvae._printable import one_line, printable
from pyro_mmvae.cli import main
from pyro_mmvae.reports import image_grid
from pyro_mmvae.reports.files import save_figure
from pyro_mmvae.reports.styles import styled

EVIL = "\x1b[2J\x1b]0;owned\x07"
ESCAPED = r"\x1b[2J\x1b]0;owned\x07"
CLI = Path(__file__).parents[1] / "pyro_mmvae" / "cli"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EVIL, ESCAPED),
        ("a\tb\nc", "a\tb\nc"),
        ("Zürich, 東京, 👩\u200d🔬, a\u00a0b", "Zürich, 東京, 👩\u200d🔬, a\u00a0b"),
        ("user\u202egnp.exe", r"user\u202egnp.exe"),
        ("\x9b31m, \r, \x00", r"\x9b31m, \r, \x00"),
        ("\udcff", r"\udcff"),
    ],
)
def test_printable_escapes_control_characters_only(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("not a table\n\t in line 3"), "not a table in line 3"),
        (OSError(f"no file {EVIL}"), f"no file {ESCAPED}"),
        (MemoryError(), "MemoryError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_one_line_is_the_message_of_an_error_as_one_printable_line(error: Exception, expected: str) -> None:
    assert one_line(error) == expected


def test_one_line_has_at_most_the_number_of_characters() -> None:
    assert one_line(ValueError("twelve letters"), 6) == "twelve"


@pytest.mark.parametrize("module", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_commands_print_by_the_function_that_escapes(module: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in calls]
    # The flag --json prints JSON in ASCII, and lines that the function has escaped.
    allowed = 1 if module.name in {"common.py", "json_output.py"} else 0
    assert sum(name in {"click.echo", "click.secho", "print"} for name in names) == allowed


def test_commands_on_data_with_terminal_escapes_print_them_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"data{EVIL}"
    folder.mkdir()
    rng = np.random.default_rng(0)
    np.save(folder / "a.npy", rng.normal(size=(20, 2)))
    np.save(folder / "b.npy", rng.normal(size=(20, 2)))
    np.save(folder / "labels.npy", np.arange(20) % 2)
    (folder / "meta.yaml").write_text(json.dumps({"class_names": [f"cat{EVIL}", "dog"]}))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["data", "info", folder.name])
    assert result.exit_code == 0, result.output
    assert f"cat{ESCAPED}" in result.output
    assert f"data{ESCAPED}" in result.output
    assert "\x1b" not in result.output
    failed = CliRunner().invoke(main, ["data", "info", folder.name, "--split", f"x{EVIL}"])
    assert failed.exit_code == 2
    assert "\x1b" not in failed.output


def test_pictures_show_names_as_text_without_formulas_or_control_characters(tmp_path: Path) -> None:
    names = [r"price $\frac$ in $", EVIL, "_a", "x$^{"]
    rows = [(name, np.random.default_rng(0).normal(size=(3, 4))) for name in names]
    file = image_grid(rows, tmp_path / "grid$x_{.png", title=r"$\bad", note=EVIL)
    assert file.read_bytes().startswith(b"\x89PNG")


@styled
def test_save_figure_escapes_control_characters_of_every_text(tmp_path: Path) -> None:
    figure = Figure()
    axis = figure.subplots()
    axis.plot([0, 1], label=f"m{EVIL}")
    axis.set_title(r"$\frac")
    axis.legend()
    save_figure(figure, tmp_path / "figure.svg")
    shown = [text.get_text() for text in figure.findobj(Text)]
    assert f"m{ESCAPED}" in shown
    assert not any("\x1b" in text for text in shown)
