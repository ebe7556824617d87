"""Tests of the exported names, the cost of an import, and the dependencies of the package."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import pyro_mmvae

ROOT = Path(pyro_mmvae.__file__).parents[1]
HEAVY = ("torch", "pyro", "numpy", "matplotlib", "sklearn", "scipy", "arviz", "pydantic", "torchvision", "jaxtyping")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
        timeout=100,
    )


def imported_by(*arguments: str) -> set[str]:
    """Return the top-level names of the modules that a command imports."""
    done = python("-X", "importtime", *arguments)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_all_names_can_be_imported() -> None:
    for name in pyro_mmvae.__all__:
        assert getattr(pyro_mmvae, name) is not None
        assert name in dir(pyro_mmvae)
    assert set(pyro_mmvae._HOMES) == set(pyro_mmvae.__all__) - {"__version__"}
    for name, home in pyro_mmvae._HOMES.items():
        assert getattr(importlib.import_module(f"pyro_mmvae.{home}"), name) is getattr(pyro_mmvae, name)
    scope: dict[str, object] = {}
    exec("from pyro_mmvae import *", scope)
    assert set(pyro_mmvae.__all__) <= set(scope)


def test_exported_names_are_visible_to_type_checkers() -> None:
    source = Path(pyro_mmvae.__file__).read_text()
    for name, home in pyro_mmvae._HOMES.items():
        assert f"from pyro_mmvae.{home} import {name} as {name}" in source
    assert Path(pyro_mmvae.__file__).with_name("py.typed").exists()


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pyro_mmvae' has no attribute 'Barycentre'"):
        pyro_mmvae.Barycentre  # noqa: B018
    assert not hasattr(pyro_mmvae, "nothing")


def test_version_equals_that_of_the_project() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dynamic = settings["tool"]["setuptools"].get("dynamic", {}).get("version", {}).get("attr")
    assert settings["project"].get("version", pyro_mmvae.__version__) == pyro_mmvae.__version__
    assert ("version" in settings["project"]) != (dynamic == "pyro_mmvae._version.__version__")


def test_import_of_the_package_is_light() -> None:
    assert "pyro_mmvae" in imported_by("-c", "import pyro_mmvae")
    assert not imported_by("-c", "import pyro_mmvae; dir(pyro_mmvae)") & {*HEAVY, "click", "yaml"}


@pytest.mark.parametrize(
    "words", [("--help",), ("train", "--help"), ("sample", "-h"), ("data", "-h"), ("data", "build", "polymnist", "-h")]
)
def test_help_imports_no_heavy_package(words: tuple[str, ...]) -> None:
    imported = imported_by("-m", "pyro_mmvae", *words)
    assert "click" in imported
    assert not imported & set(HEAVY)


def test_module_runs_the_command_line() -> None:
    done = python("-m", "pyro_mmvae", "aggregations")
    assert done.returncode == 0
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()][:5] == ["poe", "moe", "mopoe", "wb", "mwb"]
    assert python("-m", "pyro_mmvae", "fly").returncode == 2


def test_command_line_prints_its_version() -> None:
    done = python("-m", "pyro_mmvae", "--version")
    assert done.returncode == 0, done.stderr
    assert pyro_mmvae.__version__ in done.stdout


def modules() -> list[str]:
    files = (file.relative_to(ROOT).with_suffix("") for file in sorted(Path(pyro_mmvae.__file__).parent.rglob("*.py")))
    return [".".join(file.parts).removesuffix(".__init__") for file in files if file.name != "__main__"]


@pytest.mark.parametrize("name", modules())
def test_module_can_be_imported_first_without_packages_of_the_tests(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "pyro_mmvae"]:
        monkeypatch.delitem(sys.modules, loaded)
    for absent in ("jaxtyping", "beartype", "hypothesis", "pytest", "mlxtend", "skimage"):
        monkeypatch.setitem(sys.modules, absent, None)
    try:
        assert importlib.import_module(name).__name__ == name
    finally:
        for loaded in [loaded for loaded in sys.modules if loaded.split(".")[0] == "pyro_mmvae"]:
            del sys.modules[loaded]


def test_annotations_without_jaxtyping_are_plain_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pyro_mmvae._typing")
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    bare = importlib.import_module("pyro_mmvae._typing")
    assert bare.Float[torch.Tensor, "*batch latent"] is bare.Bool[torch.Tensor, " item"] is torch.Tensor
    assert bare.Int[torch.Tensor, "..."] | None == torch.Tensor | None
