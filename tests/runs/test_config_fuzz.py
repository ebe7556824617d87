"""Fuzz tests of settings: any key and any value is taken and kept, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.cli.common import read_config
from pyro_mmvae.runs.config import Config, dump_config, make_config
from pyro_mmvae.runs.settings import list_settings
from tests.fuzzing import fuzz, returns_or_explains, values

KEYS = [setting.key.replace("NAME", "m0") for setting in list_settings()]
SECTIONS = [
    "data", "model", "train", "model.network", "model.modalities", "model.modalities.m0", "train.objective.delta",
    "model.prior.components", "model.aggregation.name", "model.aggregation.alpha", "train.optimizer.name",
    "train.optimizer.momentum", "train.schedule.step_size", "model.reconstruction_weights.m0", "data.anything", "", ".",
    "model.", ".model", "a.b.c.d", "train.lr.x", "model.aggregation.a.b", "__class__",
]  # fmt: skip
names = st.one_of(*[st.sampled_from(KEYS)] * 5, st.sampled_from(SECTIONS) | st.text(max_size=8))
overrides = st.lists(st.tuples(names, values()), min_size=1, max_size=2)


def read(path: Path | None, words: list[str]) -> Config | None:
    return returns_or_explains(lambda: read_config(config=path, overrides=tuple(words), plugins=()))


def check_kept(config: Config, folder: Path) -> None:
    text = dump_config(config)
    (folder / "kept.yaml").write_text(text)
    again = make_config(folder / "kept.yaml", use_recipe=False)
    assert dump_config(again) == text
    assert again == config or ".nan" in text  # NaN does not equal itself


@fuzz(150)
@given(overrides)
def test_read_config_of_any_overrides_is_kept_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]
) -> None:
    config = read(None, [f"{key}={value}" for key, value in pairs])
    if config is not None:
        check_kept(config, tmp_path_factory.getbasetemp())


def as_file(pairs: list[tuple[str, str]]) -> str:
    """Return the text of a configuration file with a line for each setting."""
    tree: dict[str, list[str]] = {}
    for key, value in pairs:
        section, _, name = key.partition(".")
        tree.setdefault(section, []).append(f"  {name or 'name'}: {value}")
    return "\n".join(line for section, lines in tree.items() for line in (f"{section}:", *lines))


@fuzz(100)
@given(overrides.map(as_file) | values() | st.text(max_size=60))
def test_read_config_of_any_file_is_kept_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    config = read(folder / "a.yaml", [])
    if config is not None:
        check_kept(config, folder)
