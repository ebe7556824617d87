"""Configurations that are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mmvae.runs import config_files
from pyro_mmvae.runs.config import ConfigError, make_config
from pyro_mmvae.runs.config_files import config_folder, config_names, find_config


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a package with two configurations, in an otherwise empty current folder."""
    folder = tmp_path / "site" / "pyro_mmvae"
    (folder / "configs").mkdir(parents=True)
    for name, size in (("large", 64), ("small", 8)):
        (folder / "configs" / f"{name}.yaml").write_text(f"model: {{latent_size: {size}}}\n")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(config_files, "_PACKAGE", folder)
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_find_config_name_is_the_file_of_the_package(package: Path) -> None:
    assert config_names() == ["large", "small"]
    assert find_config("small") == package / "configs" / "small.yaml"
    assert make_config("small").model.latent_size == 8


def test_find_config_file_in_the_current_folder_takes_precedence(package: Path) -> None:
    Path("small").write_text("model: {latent_size: 3}\n")
    assert make_config("small").model.latent_size == 3


@pytest.mark.parametrize("path", ["small.yaml", "sub/small", "missing.yml"])
def test_find_config_path_is_never_a_name(package: Path, path: str) -> None:
    assert find_config(path) == Path(path)
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        make_config(path)


def test_make_config_unknown_name_lists_those_there_are(package: Path) -> None:
    with pytest.raises(ConfigError, match="YAML file or one of large, small, which come with the package, got 'smal'"):
        make_config("smal")


def test_config_folder_of_a_checkout_is_beside_the_package(package: Path) -> None:
    (package / "configs").rename(package.parent / "configs")
    assert config_folder() is None  # a folder of this name beside an installed package belongs to another one
    (package.parent / "pyproject.toml").touch()
    assert config_folder() == package.parent / "configs"
    assert config_names() == ["large", "small"]
