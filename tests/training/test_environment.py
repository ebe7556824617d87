"""The description of the environment of a training."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pyro_mmvae import train
from pyro_mmvae.runs.config import Config, ConfigError
from pyro_mmvae.training.determinism import deterministic
from pyro_mmvae.training.installation import git_revision, installed_versions


def test_train_records_versions_command_and_processor(toy_config: Callable[..., Config], tmp_path: Path) -> None:
    train(toy_config(train__epochs=0, train__deterministic=True), tmp_path / "run", progress=False)
    about = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {"python", "pyro_mmvae", "torch", "pyro-ppl", "numpy", "safetensors"} <= set(about["versions"])
    assert about["versions"]["torch"].split("+")[0] == str(torch.__version__).split("+", maxsplit=1)[0]
    assert (about["command"], about["threads"], about["deterministic"]) == (sys.argv, 1, True)
    assert about["cpu"]["model"]
    assert about["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert not torch.are_deterministic_algorithms_enabled()


def test_installed_versions_include_dependencies_of_dependencies() -> None:
    versions = installed_versions()
    assert {"torch", "sympy", "contourpy"} <= set(versions)  # the latter of torch and of Matplotlib
    assert all(re.match(r"\d", version) for version in versions.values())


def test_git_revision_is_a_hash_or_none() -> None:
    revision = git_revision()
    assert revision is None or re.fullmatch(r"[0-9a-f]{40}(\+changed)?", revision)


def test_deterministic_is_restored_on_leaving() -> None:
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_config_deterministic_with_automatic_threads_raises(toy_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="threads must be a number or null with deterministic, got auto"):
        toy_config(train__deterministic=True, train__threads="auto")
