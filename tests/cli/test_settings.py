"""The command ``settings``, and what the command line says of settings that do not exist or contradict each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pyro_mmvae.aggregation import aggregations
from pyro_mmvae.cli import main
from pyro_mmvae.cli.common import read_config
from pyro_mmvae.runs.config import Config, make_config
from pyro_mmvae.runs.settings import list_settings
from pyro_mmvae.training import ELBOObjective, register_objective, unregister_objective


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    return result.output


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each setting of a dumped configuration."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_list_settings_has_every_setting_with_the_default_of_the_configuration() -> None:
    listed = {setting.key: setting for setting in list_settings()}
    for key, default in leaves(Config().model_dump(mode="json")):
        if key != "model.modalities":
            assert json.loads(json.dumps(listed[key].default)) == default, key
    assert {"model.modalities.NAME.likelihood", "data.train_size", "plugins"} <= set(listed)
    for setting in listed.values():
        assert len(setting.meaning.split()) > 3, setting.key
        assert setting.type
        assert setting.type != "any value", setting.key


def test_settings_without_section_prints_key_default_type_and_meaning() -> None:
    lines = invoke("settings").splitlines()
    index = lines.index("train.lr = 0.003  (a number above 0)")
    assert lines[index + 1] == "    Learning rate after the warm-up."
    assert "model.bound = component  (mixture, component or subsets)" in lines
    assert "train.threads = null  (an integer, auto or null)" in lines


def test_settings_section_prints_it_alone_and_data_its_options() -> None:
    keys = [line.split()[0] for line in invoke("settings", "model.network").splitlines() if line[0] != " "]
    assert keys[0] == "model.network.width"
    assert all(key.startswith("model.network.") for key in keys)
    data = invoke("settings", "data", "--data", "celeba")
    assert "data.max_items = null" in data
    assert "train_size" not in data


def test_settings_json_holds_schemas_that_a_program_can_read() -> None:
    (setting,) = json.loads(invoke("settings", "train.lr", "--json"))
    assert (setting["key"], setting["default"], setting["schema"]["exclusiveMinimum"]) == ("train.lr", 0.003, 0)
    parts = json.loads(invoke("settings", "aggregations", "--json"))
    assert {entry["part"] for entry in parts} == set(aggregations())
    options = {entry["key"]: entry for entry in parts if entry["part"] == "renyi"}
    assert options["model.aggregation.parameter"]["type"] == "a number or null"


def test_settings_of_one_aggregation_or_objective_lists_its_options() -> None:
    assert "model.aggregation.parameter = null  (a number or null)" in invoke("settings", "aggregations.renyi:0.3")
    assert "model.aggregation.parameter" not in invoke("settings", "aggregations.wb")

    class FreeBits(ELBOObjective):
        """An ELBO with free bits.

        Args:
            vae: The model and guide to train.
            nats: The number of nats that are free.
        """

        def __init__(self, vae: Any, nats: float = 1.0) -> None:
            super().__init__(vae)
            self.nats = nats

    register_objective("free_bits", FreeBits)
    try:
        assert invoke("settings", "objectives.free_bits").splitlines() == [
            "free_bits: An ELBO with free bits.",
            "train.objective.nats = 1.0  (a number)",
            "    The number of nats that are free.",
        ]
    finally:
        unregister_objective("free_bits")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("trian",), "SECTION must be one of data, model, .*, got 'trian'; did you mean train"),
        (("aggregations.renyy",), "unknown aggregation 'renyy'"),
        (("--data", "nothing"), "unknown data set 'nothing'"),
    ],
)
def test_settings_of_something_unknown_is_refused(words: tuple[str, ...], expected: str) -> None:
    output = invoke("settings", *words, code=2)
    assert output.count("\n") == 1
    assert re.match(f"error: {expected}", output), output


def test_train_help_shows_the_defaults_of_the_configuration() -> None:
    keys = {
        "aggregation": "model.aggregation", "bound": "model.bound", "data": "data.name", "epochs": "train.epochs",
        "seed": "train.seed", "device": "train.device", "precision": "train.precision",
    }  # fmt: skip
    defaults = dict(leaves(Config().model_dump(mode="json")))
    shown = {p.name: p.show_default for p in main.commands["train"].params if isinstance(p, click.Option)}
    recipes = {"bound": "subsets with the recipe contrastive, otherwise "}
    for name, key in keys.items():
        assert shown[name] == f"{recipes.get(name, '')}{defaults[key]}, or that of --config"
    assert defaults["train.threads"] is None
    assert "The command 'settings' lists" in " ".join(invoke("train", "--help").split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("--agg", "wb", "--set", "model.aggregation={name: mwb}"),
            "--agg wb must agree with --set model.aggregation, got 'mwb' there: leave one of them out",
        ),
        (("--agg", "wb", "--set", "model.aggregation.name=mwb"), "--agg wb must agree with --set model.aggregation"),
        (("--epochs", "3", "--set", "train.epochs=2"), "--epochs 3 must agree with --set train.epochs, got 2 there"),
        (
            ("--agg", "renyi", "--set", "model.aggregation.paramter=0.3"),
            "option of aggregation 'renyi' must be one of parameter, tolerance, max_iterations, expert_weights, "
            "subset_weights, prior, prior_expert, got 'paramter'; did you mean 'parameter'?",
        ),
        (("--agg", "wb", "--set", "model.aggregation.tau.x=1"), "option of aggregation 'wb' must be one of"),
        (
            ("--agg", "renyi", "--set", "model.aggregation.parameter.x=1"),
            "the parameter of divergence 'renyi' must be a number between 0 and inf",
        ),
        (
            ("--set", "model.expert_weights=foo"),
            "model.expert_weights: must be a list of numbers, learned, precision, gate or null, got 'foo'",
        ),
        (("--set", "train.lr=0"), "train.lr: must be a number above 0, got 0"),
        (("--set", "train.objective={name: elbo, nats: 2}"), "option 'nats' of objective 'elbo' must be left out"),
    ],
)
def test_train_wrong_settings_are_refused_in_one_line(words: tuple[str, ...], expected: str, elsewhere: Path) -> None:
    output = invoke("train", "--quiet", "--set", "data.train_size=20", "--set", "data.val_size=10", *words, code=2)
    assert output.startswith(f"error: {expected}"), output
    assert output.count("\n") == 1
    assert list(elsewhere.iterdir()) == []


def test_read_config_option_and_mapping_of_one_aggregation_keep_its_options(elsewhere: Path) -> None:
    config = read_config(
        config=None, plugins=(), aggregation="renyi", overrides=("model.aggregation={name: renyi, parameter: 0.3}",)
    )
    assert config.model.aggregation_options == {"name": "renyi", "parameter": 0.3}


def test_make_config_options_of_parts_read_numbers_with_an_exponent() -> None:
    config = make_config(
        None,
        {
            "model.aggregation": {"name": "renyi", "tolerance": "1e-6"},
            "train.objective": {"name": "free_bits", "nats": "2e-1", "kind": "1e"},
        },
    )
    assert config.model.aggregation_options == {"name": "renyi", "tolerance": 1e-6}
    assert config.train.objective == {"name": "free_bits", "nats": 0.2, "kind": "1e"}


def test_settings_priors_lists_the_options_of_a_learned_one() -> None:
    lines = invoke("settings", "priors").splitlines()
    assert lines[0].startswith("standard: The prior of mean 0 and scale 1")
    assert "model.prior.components = 40  (an integer)" in lines
    assert "model.prior.init = spread  (a string)" in lines
