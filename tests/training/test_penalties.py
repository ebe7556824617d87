"""Penalties of a configuration: in training, in the files of a run, by a plugin, and on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from pyro_mmvae import load, train
from pyro_mmvae.cli import main
from pyro_mmvae.plots import plot_training
from pyro_mmvae.runs import read_metrics
from pyro_mmvae.runs.config import Config, ConfigError, dump_config, make_config

PLUGIN = '''
"""A penalty with a parameter."""

import torch

from pyro_mmvae import Penalty, register_penalty


class Shrink(Penalty):
    """A penalty of large locations.

    Args:
        weight: The weight of the penalty before training.
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.log_weight = torch.nn.Parameter(torch.tensor(weight).log())

    def forward(self, experts, members, guide):
        return self.log_weight.exp() * (experts.loc.square().sum(-1) * experts.mask).sum(-1)


register_penalty("shrink", Shrink)
'''


@pytest.fixture
def plugin(registered: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "shrink_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shrink_plugin", raising=False)  # another test has imported a file of this name
    return "shrink_plugin"


def test_train_with_penalties_records_and_draws_them_and_loads(
    toy_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalties = [{"name": "frechet", "gamma": 0.5}, {"name": "infonce", "tau": "1e1"}]
    config = toy_config(train__penalties=penalties, model__aggregation="mwb")
    assert config.train.penalties == ({"name": "frechet", "gamma": 0.5}, {"name": "infonce", "tau": 10.0})
    run = train(config, tmp_path / "run", progress=False)
    for row in read_metrics(run.path):
        assert set(row["penalties"]) == {"z_frechet", "z_infonce"}
        assert all(value > 0 for value in row["penalties"].values())
        terms = sum(row["log_likelihood"].values()) - row["kl"] - sum(row["penalties"].values())
        assert row["objective"] == pytest.approx(terms, rel=1e-4)
    assert [penalty.name for penalty in load(run.path).guide.penalties] == ["frechet", "infonce"]
    titles = {axis.get_title(): axis for axis in plot_training(run).axes}
    [panel] = [axis for title, axis in titles.items() if "z_frechet" in title]
    assert any("z_infonce" in title for title in titles)
    assert panel.lines[0].get_ydata().tolist() == [r["penalties"]["z_frechet"] for r in read_metrics(run.path)]


def test_command_line_trains_a_penalty_of_a_plugin_with_its_parameter(
    plugin: str, toy_config: Callable[..., Config], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(toy_config(train__epochs=1, data__train_size=32)))
    words = ["train", "--config", str(file), "--plugin", plugin, "--quiet", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*words, "--set", "train.penalties=[{name: shrink, weight: 0.5}, frechet]"])
    assert result.exit_code == 0, result.output
    assert set(read_metrics(tmp_path / "run")[0]["penalties"]) == {"z_shrink", "z_frechet"}
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["train"]["penalties"] == [{"name": "shrink", "weight": 0.5}, "frechet"]
    assert load(tmp_path / "run").guide.penalties[0].log_weight.exp() != 0.5


def test_command_line_with_an_unknown_penalty_lists_those_there_are(
    toy_config: Callable[..., Config], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(toy_config()))
    words = ["train", "--config", str(file), "--quiet", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*words, "--set", "train.penalties=[frechett]"])
    assert result.exit_code != 0
    assert "unknown penalty 'frechett', did you mean 'frechet'? Available: frechet, infonce" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("frechet", "train.penalties: must be a list of names or of mappings with a name, got 'frechet'"),
        ([{"gamma": 1}], "train.penalties: must hold names of penalties, or mappings with a name and options"),
    ],
)
def test_make_config_with_penalties_of_another_form_names_the_key(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(None, {"train.penalties": value})


def test_settings_command_lists_the_options_of_penalties(plugin: str) -> None:
    result = CliRunner().invoke(main, ["settings", "penalties", "--plugin", plugin, "--json"])
    assert result.exit_code == 0, result.output
    options = {(row["part"], row["key"]): row["default"] for row in json.loads(result.output)}
    assert options["frechet", "train.penalties.gamma"] == 1.0
    assert options["infonce", "train.penalties.tau"] == 1.0
    assert options["shrink", "train.penalties.weight"] == 1.0
