"""Configurations: defaults, files, overrides, and errors that name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from pyro_mmvae import register_encoder
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.runs.config import (
    Config,
    ConfigError,
    DataConfig,
    dump_config,
    make_config,
    parse_overrides,
    without_recipe,
)
from pyro_mmvae.runs.recipes import RECIPES, Recipe
from pyro_mmvae.runs.resolution import resolve_modalities
from pyro_mmvae.vae.custom_networks import ENCODERS


def test_make_config_without_file_has_the_defaults() -> None:
    assert make_config(None, {"recipe": "plain"}) == Config()
    assert make_config() == make_config(None, {"recipe": "contrastive"})
    assert Config().data.name == "polymnist-mini"


def test_make_config_overrides_take_precedence_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: {aggregation: mwb, network: {width: 8}}\ntrain:\n  lr: 1e-3\n  epochs: 7\nplugins: [a.b]\n")
    config = make_config(file, {"train.epochs": 9, "model.network.hidden": "32", "data.photographs": ["a", "b"]})
    assert (config.model.aggregation, config.model.network.width, config.model.network.hidden) == ("mwb", 8, 32)
    assert (config.train.epochs, config.train.batch_size) == (9, 64)
    assert config.train.lr == 1e-3  # YAML 1.1 reads 1e-3 as a string
    assert isinstance(config.train.lr, float)
    assert config.plugins == ("a.b",)
    assert config.data.photographs == ("a", "b")


def test_make_config_given_sections_equals_one_given_dotted_keys(tmp_path: Path) -> None:
    nested = make_config(None, {"model": {"aggregation": "wb", "latent_size": 3}, "train": {"epochs": 2}})
    assert nested == make_config(None, {"model.aggregation": "wb", "model.latent_size": 3, "train.epochs": 2})
    assert (nested.recipe, nested.model.private_size, nested.train.penalties[0]["name"]) == (
        "contrastive",
        8,
        "infonce",
    )
    file = tmp_path / "a.yaml"
    file.write_text("model: {latent_size: 5}\n")
    assert make_config(file, {"model": {"beta": 2.0}}).model.latent_size == 5


def test_make_config_recipe_is_below_the_file_and_the_overrides(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("recipe: contrastive\nmodel: {subset_weights: by_size}\n")
    config = make_config(file)
    assert (config.recipe, config.model.subset_weights) == ("contrastive", "by_size")
    assert list(config.train.penalties) == RECIPES["contrastive"].settings["train.penalties"]
    assert list(make_config(file, {"train.penalties": []}).train.penalties) == []
    plain = make_config(None, {"model.subset_weights": "by_size", "recipe": "plain"})
    assert make_config(file, {"recipe": "plain"}) == plain
    assert make_config(None, {"recipe": "contrastive"}).model.subset_weights == "singles:0.5"


def test_make_config_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="recipe: unknown recipe 'contrastve', did you mean 'contrastive'"):
        make_config(None, {"recipe": "contrastve"})


def test_make_config_recipe_auto_is_that_of_the_aggregation(monkeypatch: pytest.MonkeyPatch) -> None:
    for_mwb = Recipe("A recipe.", {"train.lr": 0.5, "train.objective": {"name": "masked", "delta": 0.5}}, ("mwb",))
    monkeypatch.delitem(RECIPES._parts, "contrastive")
    monkeypatch.setitem(RECIPES._parts, "first", for_mwb)
    config = make_config(None, {"model.aggregation": "mwb", "train.objective.delta": 0.25})
    assert (config.recipe, config.train.lr) == ("first", 0.5)
    assert config.train.objective == {"name": "masked", "delta": 0.25}
    assert make_config(None, {"model.aggregation.name": "mwb"}).train.lr == 0.5
    assert make_config(None, {"model.aggregation": "mwb", "train.objective": "iwae"}).train.objective == "iwae"
    assert make_config(None, {"model.aggregation": "poe"}) == Config.model_validate({"model": {"aggregation": "poe"}})
    assert make_config(None, {"model.aggregation": "mwb", "recipe": "plain"}).train.lr == Config().train.lr


@pytest.mark.parametrize("aggregation", ["wb", "mwb", {"name": "mwb"}])
def test_make_config_of_a_barycenter_has_the_contrastive_recipe(aggregation: Any) -> None:
    config = make_config(None, {"model.aggregation": aggregation, "train.lr": 0.5})
    assert (config.recipe, config.model.bound, config.model.private_size) == ("contrastive", "subsets", 8)
    assert (config.model.subset_weights, config.train.select) == ("singles:0.5", "last")
    assert (config.train.penalties, config.train.lr) == (({"name": "infonce", "eta": 80.0, "tau": 5.0},), 0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {"model.aggregation": "poe"},
        {"model.aggregation": "mopoe"},
        {"model.bound": "component"},
        {"model.bound": "mixture"},
        {"train.objective": "masked"},
        {"train.objective": {"name": "masked", "delta": 0.5}},
        {"model.network.covariance": "full"},
        {"recipe": "plain"},
    ],
)
def test_make_config_that_does_not_suit_the_recipe_is_plain(settings: dict[str, Any]) -> None:
    config = make_config(None, settings)
    assert (config.recipe, config.model.private_size, config.train.penalties) == ("plain", 0, ())
    assert config == make_config(None, {**settings, "recipe": "plain"})


def test_make_config_named_recipe_is_taken_with_any_settings() -> None:
    config = make_config(None, {"model.aggregation": "poe", "model.bound": "mixture", "recipe": "contrastive"})
    assert (config.recipe, config.model.bound, config.model.private_size) == ("contrastive", "mixture", 8)


def test_without_recipe_keeps_settings_that_were_changed() -> None:
    config = make_config(None, {"model.private_size": 3, "train.lr": 0.5, "model.beta": 2.0})
    plain = without_recipe(config)
    settings = {"model.private_size": 3, "train.lr": 0.5, "model.beta": 2.0}
    assert plain.recipe == "contrastive, left out"
    assert plain.model_copy(update={"recipe": "plain"}) == make_config(None, {**settings, "recipe": "plain"})
    assert without_recipe(plain) == plain
    assert make_config(None, {"recipe": plain.recipe}) == make_config(None, {"recipe": "plain"})


def test_make_config_of_a_run_without_recipe_and_newer_settings_keeps_its_meaning(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: {aggregation: mwb, private_size: 4}\n")
    assert make_config(file, use_recipe=False).model.private_auxiliary == "prior"
    file.write_text(dump_config(make_config(None, {"model.private_auxiliary": "learned"})))
    assert make_config(file, use_recipe=False).model.private_auxiliary == "learned"


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}"])
def test_make_config_empty_file_has_the_defaults(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert make_config(tmp_path / "a.yaml") == make_config()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"train.lr": "1e-3", "model.scale": "learned", "model.expert_weights": [1, 2], "plugins": ["x"]},
        {"model.reconstruction_weights": {"m0": 2}, "model.prior_expert": "none", "train.threads": 2, "model.scale": 1},
        {
            "model.aggregation": {"name": "renyi", "alpha": float("inf")},
            "train.objective": {"name": "elbo", "x": -1e400},
        },
        {"data.photographs": ["coffee"], "train.lr": 3.0000000000000004e-05},
        {"data.missing_by_label": {"m0": {3: 0.5}}, "data.missing_rate": 0.25, "data.anything": None},
        {
            "model.modalities": {
                "m0": {"likelihood": "poisson", "reconstruction_weight": 0},
                "m1": {"scale": "learned", "network": "mlp", "width": 3, "hidden": "9", "depth": 0},
            }
        },
    ],
)
def test_dump_config_is_read_back_unchanged(tmp_path: Path, overrides: dict[str, Any]) -> None:
    config = make_config(None, overrides)
    (tmp_path / "a.yaml").write_text(dump_config(config))
    assert make_config(tmp_path / "a.yaml") == config
    assert dump_config(make_config(tmp_path / "a.yaml")) == dump_config(config)


def test_parse_overrides_reads_values_and_refuses_other_words() -> None:
    assert parse_overrides(["train.lr=1e-3", "model.expert_weights=[1, 2]", "a=", "b = x=y", "c=true", "d=null"]) == {
        "train.lr": "1e-3", "model.expert_weights": [1, 2], "a": None, "b": "x=y", "c": True, "d": None
    }  # fmt: skip
    for word in ("train.lr", "=3", " =3", "train\n.lr=3", f"={'[' * 9000}"):
        with pytest.raises(ConfigError, match=r"is not of the form section\.key=value"):
            parse_overrides([word])
    with pytest.raises(ConfigError, match=r"train\.lr: cannot read '\[1' as a value"):
        parse_overrides(["train.lr=[1"])


def message(path: Path | None = None, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as error:
        make_config(path, {key.replace("__", "."): value for key, value in overrides.items()})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"trian__lr": 1}, "trian: no such setting; there are data, model, train, plugins"),
        ({"train__learning_rate": 1}, "train.learning_rate: no such setting; there are epochs, batch_size, lr"),
        (
            {"model__network__depht": 1},
            "model.network.depht: no such setting; there are width, hidden, depth, decoder_hidden, norm",
        ),
        ({"train__lr": "fast"}, "train.lr: "),
        ({"train__lr": 0}, "train.lr: "),
        ({"train__lr": "nan"}, "train.lr: "),
        ({"train__lr": "inf"}, "train.lr: "),
        ({"train__epochs": 1.5}, "train.epochs: "),
        ({"train__epochs": -1}, "train.epochs: "),
        ({"train__warmup": 1.0}, "train.warmup: "),
        ({"train__threads": 0}, "train.threads: "),
        ({"train__seed": -1}, "train.seed: "),
        ({"train__precision": "fp16"}, "train.precision: "),
        ({"model__beta": 0}, "model.beta: "),
        ({"model__latent_size": 0}, "model.latent_size: "),
        ({"model__bound": "full"}, "model.bound: "),
        ({"model__scale": "free"}, "model.scale"),
        ({"model__expert_weights": "equal"}, "model.expert_weights: "),
        ({"model__expert_weights": [1, "x"]}, "model.expert_weights.1: "),
        ({"model__reconstruction_weights": {"m0": "x"}}, "model.reconstruction_weights.m0: "),
        ({"data__name": 3}, "data.name: "),
        (
            {"model__modalities": {"m0": {"likelyhood": "normal"}}},
            "model.modalities.m0.likelyhood: no such setting; there",
        ),
        ({"model__modalities": {"m0": {"likelihood": 3}}}, "model.modalities.m0.likelihood: "),
        (
            {"model__modalities": {"m0": {"scale": 0}}},
            "model.modalities.m0: scale must be a positive number, 'learned', 'calibrated' or 'calibrated_per_feature'",
        ),
        (
            {"model__modalities": {"m0": {"reconstruction_weight": -1}}},
            "model.modalities.m0: reconstruction_weight must be finite and not negative, got -1.0",
        ),
        ({"model__modalities": {"m0": {"classes": 1}}}, "model.modalities.m0: classes must be at least 2, got 1"),
        ({"model__modalities": {"m0": {"width": 0}}}, "model.modalities.m0: width must be at least 1, got 0"),
        ({"model__modalities": {"m0": {"hidden": 0}}}, "model.modalities.m0: hidden must be at least 1, got 0"),
        ({"model__modalities": {"m0": {"depth": -1}}}, "model.modalities.m0: depth must be at least 0, got -1"),
        ({"model__network__width": 0}, "model.network: width must be at least 1, got 0"),
        ({"model__network__norm": "batch"}, "model.network: norm must be one of none, group, "),
        (
            {"model__modality_weights": {"m0": 2}},
            "model.modality_weights: no such setting, it is called reconstruction_weights now",
        ),
        (
            {"model__modalities": {"m0": {"weight": 2}}},
            "model.modalities.m0.weight: no such setting, it is called reconstruction_weight now",
        ),
        ({"train__lr__x": 1}, "train.lr: "),
    ],
)
def test_make_config_wrong_key_or_value_is_named(overrides: dict[str, Any], expected: str) -> None:
    assert message(**overrides).startswith(expected)


def test_make_config_override_below_a_value_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("train: {lr: 0.1}")
    assert message(file, train__lr__x=1) == "train.lr.x: lr is a value, not a section"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: [1", ", line 1: not valid YAML"),
        ("train:\n\tlr: 1", ", line 2: not valid YAML"),
        ("- a\n- b", ": the file must hold sections data, model, train, got a list"),
        ("just words", ": the file must hold sections data, model, train, got a str"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_make_config_file_without_sections_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    found = message(file)
    assert found.startswith(str(file))
    assert expected in found


def test_make_config_unreadable_file_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert message(missing) == f"cannot read the configuration {missing}: No such file or directory"
    assert message(tmp_path).startswith(f"cannot read the configuration {tmp_path}: ")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    assert message(tmp_path / "a.yaml").startswith(f"cannot read the configuration {tmp_path / 'a.yaml'}: not UTF-8")
    (tmp_path / "b.yaml").write_text("train: {lr: fast}")
    assert f"(from {tmp_path / 'b.yaml'} and the overrides)" in message(tmp_path / "b.yaml")


def test_config_is_frozen_and_keeps_options_of_the_loader() -> None:
    config = make_config()
    with pytest.raises(ValidationError):
        config.train.lr = 3.0  # type: ignore[misc]
    assert DataConfig().options() == {}
    given = make_config(None, {"data.name": "x", "data.sizes": [1, [2]], "data.rates": {3: 0.5}}).data
    assert given.options() == {"sizes": (1, (2,)), "rates": {"3": 0.5}}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "train.lr"),
        ("trian", "train"),
        ("train.epoch", "train.epochs"),
        ("train.latent_size", "model.latent_size"),
        ("model.width", "model.network.width"),
        ("model.aggregatoin", "model.aggregation"),
        ("epochs", "train.epochs"),
    ],
)
def test_make_config_with_an_unknown_key_asks_for_the_similar_one(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: no such setting; there are .*; did you mean {meant}\?$"):
        make_config(None, {key: 1})


@pytest.mark.parametrize("objective", [3, ["elbo"], {"nats": 2}])
def test_make_config_names_the_key_of_a_wrong_objective(objective: Any) -> None:
    with pytest.raises(ConfigError, match=r"^train\.objective: must be the name of an objective, .*, got "):
        make_config(None, {"train.objective": objective})


def test_resolve_modalities_negative_weight_names_the_modality() -> None:
    config = make_config(None, {"model.reconstruction_weights.b": -1})
    with pytest.raises(ValueError, match=r"^model\.reconstruction_weights\.b: reconstruction_weight must be finite"):
        resolve_modalities(config, {"a": ModalitySpec(data_type="vector"), "b": ModalitySpec(data_type="vector")})


def test_resolve_modalities_recipe_gives_no_private_latent_to_a_custom_encoder() -> None:
    @register_encoder("plain_encoder")
    class PlainEncoder(torch.nn.Module):
        def __init__(self, shape: Any, latent_size: int, options: Any, *, private_size: int = 0) -> None:
            super().__init__()

    def sizes(**settings: Any) -> list[int | None]:
        config = make_config(None, {"model.modalities": {"a": {"encoder": "plain_encoder"}}} | settings)
        specs = {name: ModalitySpec(data_type="vector") for name in "ab"}
        return [spec.private_size for spec in resolve_modalities(config, specs).values()]

    try:
        assert sizes() == [0, 8]
        assert sizes(**{"model.private_size": 3}) == [3, 3]
        assert sizes(**{"model.modalities": {"a": {"encoder": "plain_encoder", "private_size": 2}}}) == [2, 8]
        assert sizes(**{"recipe": "plain", "model.private_size": 8}) == [8, 8]
    finally:
        ENCODERS.unregister("plain_encoder")
