"""Plugins: imported if the caller names them, and never because a run directory or a configuration does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyro_mmvae import load
from pyro_mmvae.cli import main
from pyro_mmvae.runs import RunError, import_plugins, make_config
from pyro_mmvae.runs.plugins import installed_plugins
from pyro_mmvae.training import resume, train
from tests.runs.golden_runs import copy_run

EVIL = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\n"
NAMES = ("evil_plugin", "evil_installed")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a run directory beside the module that its configuration names, which leaves a file when it is executed."""
    (tmp_path / "evil_plugin.py").write_text(EVIL)
    path = copy_run(tmp_path / "run")
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("plugins: []", "plugins: [evil_plugin]"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield path
    for name in NAMES:
        sys.modules.pop(name, None)


COMMANDS = ["sample", "evaluate", "ppc", "calibrate", "encode", "impute", "predict", "score", "fit-prior"]


@pytest.mark.parametrize("command", [*COMMANDS, "train"])
def test_commands_on_a_run_with_a_plugin_refuse_to_import_it_in_one_line(hostile: Path, command: str) -> None:
    out = (
        []
        if command in {"evaluate", "ppc", "fit-prior", "train"}
        else ["--out", "x.png" if command == "sample" else "x.csv"]
    )
    words = {"predict": ["--label", "label"]}.get(command, [])
    run = ["--resume", "run"] if command == "train" else ["run"]
    result = CliRunner().invoke(main, [command, *run, *out, *words])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: run needs the plugin 'evil_plugin', which is code and not imported because")
    assert result.stderr.endswith("pass --plugin evil_plugin (in Python, plugins=['evil_plugin'])\n")
    assert result.stderr.count("\n") == 1
    assert not (hostile.parent / "executed").exists()


@pytest.mark.parametrize("open_run", [load, resume])
def test_load_and_resume_of_a_run_with_a_plugin_refuse_to_import_it(hostile: Path, open_run: object) -> None:
    with pytest.raises(RunError, match="pass --plugin evil_plugin"):
        open_run(hostile)  # type: ignore[operator]
    assert not (hostile.parent / "executed").exists()


def test_load_with_the_plugin_of_the_caller_imports_it_and_opens_the_run(hostile: Path) -> None:
    assert load(hostile, device="cpu", plugins=["evil_plugin"]).config.plugins == ("evil_plugin",)
    assert (hostile.parent / "executed").exists()


def test_load_of_a_plugin_that_the_caller_has_imported_opens_the_run(hostile: Path) -> None:
    import_plugins(["evil_plugin"])
    assert load(hostile, device="cpu").names == ("gauge", "note")


def test_sample_command_with_the_plugin_option_draws(hostile: Path) -> None:
    result = CliRunner().invoke(main, ["sample", "run", "--plugin", "evil_plugin", "--device", "cpu", "-n", "2"])
    assert result.exit_code == 0, result.output
    assert (hostile.parent / "executed").exists()


def test_train_command_does_not_import_the_plugins_of_a_configuration_file(hostile: Path) -> None:
    (hostile.parent / "mine.yaml").write_text("plugins: [evil_plugin]")
    result = CliRunner().invoke(main, ["train", "--config", "mine.yaml", "--out", "new"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: mine.yaml needs the plugin 'evil_plugin'")
    assert not (hostile.parent / "executed").exists()
    assert not (hostile.parent / "new").exists()


def test_train_does_not_import_the_plugins_of_a_configuration(hostile: Path) -> None:
    with pytest.raises(RunError, match="the configuration needs the plugin 'evil_plugin'"):
        train(make_config(None, {"plugins": ["evil_plugin"]}), hostile.parent / "new")
    assert not (hostile.parent / "executed").exists()


def test_load_imports_an_installed_plugin_only_by_its_name(hostile: Path) -> None:
    about = hostile.parent / "evil-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pyro_mmvae.plugins]\nshiny = evil_installed\n")
    (hostile.parent / "evil_installed.py").write_text(EVIL)
    text = (hostile / "config.yaml").read_text()
    (hostile / "config.yaml").write_text(text.replace("evil_plugin", "shiny"))
    assert "shiny" in installed_plugins()
    with pytest.raises(RunError, match="pass --plugin shiny"):
        load(hostile)
    with pytest.raises(RunError, match=r"plugin 'shine' cannot be imported: .* \(installed plugins: .*shiny"):
        import_plugins(["shine"])
    assert not (hostile.parent / "executed").exists()
    assert load(hostile, device="cpu", plugins=["shiny"]).names == ("gauge", "note")
    assert load(hostile, device="cpu").names == ("gauge", "note")  # the caller has imported it before


@pytest.mark.parametrize("name", ["", ".evil", "..."])
def test_import_plugins_with_a_name_that_is_not_one_raises_in_words(name: str) -> None:
    with pytest.raises(RunError, match="plugin must be the name of a module or of an installed plugin, got"):
        import_plugins([name])


def test_import_plugins_that_raises_says_what_its_code_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("int('one')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RunError, match="plugin 'broken_plugin' cannot be imported: ValueError: invalid literal"):
        import_plugins(["broken_plugin"])
