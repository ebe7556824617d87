"""Completion of names, by the protocol of click."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from pyro_mmvae.cli import completion, main


def complete(*words: str) -> list[str]:
    """Return the words that the last one can become; a mark in angle brackets stands for files."""
    *before, incomplete = words
    found = ShellComplete(main, {}, "pyro-mmvae", "_PYRO_MMVAE_COMPLETE").get_completions(before, incomplete)
    return [f"<{item.type}>" if item.type != "plain" else str(item.value) for item in found]


@pytest.fixture
def run(tmp_path: Path) -> str:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0, "log_likelihood": {"image": -1.0, "text": -2.0}}\n')
    return str(tmp_path)


def test_aggregations_are_completed() -> None:
    assert complete("train", "--agg", "mw") == ["mwb"]
    assert complete("evaluate", "RUN", "--agg", "mop") == ["mopoe"]
    assert complete("compare", "--agg", "wb,mw") == ["wb,mwb"]
    assert "wb,wb" not in complete("compare", "--read-with", "wb,")


def test_settings_data_recipes_and_configurations_are_completed() -> None:
    assert "train.lr=" in complete("train", "--set", "train.l")
    assert complete("train", "--data", "polym") == ["polymnist-mini", "<file>"]
    assert complete("data", "info", "cele") == ["celeba", "<file>"]
    assert complete("train", "--recipe", "con") == ["contrastive"]
    assert complete("train", "--config", "celeba") == ["celeba", "celeba-cpu", "<file>"]
    assert "train.lr" in complete("settings", "train.l")
    assert complete("encode", "RUN", "--split", "t") == ["train", "test"]


def test_modalities_of_the_run_are_completed(run: str) -> None:
    assert complete("sample", run, "--given", "") == ["image", "text"]
    assert complete("sample", run, "--given", "image,") == ["image,text"]
    assert complete("impute", run, "--targets", "te") == ["text"]
    assert complete("ppc", run, "--given", "im") == ["image"]


def test_modalities_of_no_run_are_none(tmp_path: Path) -> None:
    assert complete("sample", str(tmp_path / "none"), "--given", "") == []
    (tmp_path / "metrics.jsonl").write_text("[1]\n")
    assert complete("sample", str(tmp_path), "--given", "") == []


def test_rows_of_a_comparison_are_completed() -> None:
    assert complete("compare", "--agg", "wb,mopoe", "--baseline", "m") == ["mopoe"]
    words = ("compare", "--agg", "wb", "--variant", "a", "--variant", "b: model.beta=2", "--baseline", "wb")
    assert complete(*words) == ["wb, a", "wb, b"]


@pytest.mark.parametrize("version", ["9.9.9", "9.9.9.dev0"])
def test_names_are_cached(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(completion, "__version__", version)
    assert complete("train", "--agg", "mw") == ["mwb"]
    file = tmp_path / "cache" / f"completion-{version}.json"
    names = json.loads(file.read_text())
    file.write_text(json.dumps({**names, "aggregations": ["mwb", "mwx"]}))
    assert complete("train", "--agg", "mw") == ["mwb", "mwx"]
    file.write_text("damaged")
    assert complete("train", "--agg", "mw") == ["mwb"]


def test_names_in_the_cache_are_read_again_after_a_module_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package" / "cli"
    package.mkdir(parents=True)
    (package / "completion.py").touch()
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(completion, "__file__", str(package / "completion.py"))
    names = {"aggregations": ["mwb"]}
    monkeypatch.setattr(completion, "_read_names", lambda: dict(names))
    assert complete("train", "--agg", "mw") == ["mwb"]
    names["aggregations"] = ["mwb", "mwx"]
    assert complete("train", "--agg", "mw") == ["mwb"]
    os.utime(package / "completion.py", ns=(0, 0))
    assert complete("train", "--agg", "mw") == ["mwb", "mwx"]
    (package / "other.py").touch()
    names["aggregations"] = ["mwy"]
    assert complete("train", "--agg", "mw") == ["mwy"]


def test_bash_gets_names_from_the_process(run: str) -> None:
    words = f"pyro-mmvae sample {run} --given im"
    environment = {**os.environ, "_PYRO_MMVAE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "4"}
    command = "import sys; sys.argv[0] = 'pyro-mmvae'; from pyro_mmvae.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("plain,image\n", "")
