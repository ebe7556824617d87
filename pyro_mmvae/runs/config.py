"""The configuration of a run: typed, frozen, read from YAML, overridden by ``key=value``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pyro_mmvae._bounded import TextError, load_yaml, read_text, refuse_links
from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config_errors import describe_error
from pyro_mmvae.runs.config_files import find_config
from pyro_mmvae.runs.model_settings import ModelConfig
from pyro_mmvae.runs.recipes import AUTO, LEFT_OUT, PLAIN, RECIPES, choose_recipe
from pyro_mmvae.runs.setting_values import Section, frozen, plain_values
from pyro_mmvae.runs.train_settings import TrainConfig

RUN_FOLDER = "./"
"""The beginning of the names of data in the directory of the run itself."""

_SHOWN = 80  # the number of characters of a value in a message

_SECTIONS = ("data", "model", "train")

_NAMED = ("model.aggregation", "model.prior", "train.objective")
"""Settings that are a name, or a mapping with a name and options."""

_BEFORE = {"model.private_auxiliary": "prior"}
"""Values of settings for runs that were trained before these settings existed, where the default is another one."""


class ConfigError(ValueError):
    """An error in a configuration; the message is one line and names the key."""


class DataConfig(BaseModel):
    """The data of a run, by a name or a path; every other key is an option of its loader.

    Options are kept as YAML would return them, with tuples for lists and strings for keys, so that two configurations
    with equal content are equal. :func:`pyro_mmvae.data.resolve_options` checks them, converts them to the types of the
    loader's options, and fills in its defaults.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field("polymnist-mini", description="Name of the data set, or path of its files.")

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        return {str(key): frozen(value) for key, value in values.items()} if isinstance(values, dict) else values

    def options(self) -> dict[str, Any]:
        """Return the options of the loader, as they were set."""
        return dict(self.model_extra or {})


class Config(Section):
    """The whole configuration of a run, which determines its result."""

    data: DataConfig = Field(DataConfig(), description="The data and the options of its loader.")
    model: ModelConfig = Field(ModelConfig(), description="The generative model and the guide.")
    train: TrainConfig = Field(TrainConfig(), description="The optimization and the machine.")
    plugins: tuple[str, ...] = Field(
        (),
        description="Modules or installed plugins that register parts: a "
        "record of --plugin, as no file can have them imported.",
    )
    recipe: str = Field(
        "plain",
        description="Recipe whose settings replace the defaults: its name, or auto for that of the aggregation, which "
        "commands and fit take unless it is set; auto is plain if other settings do not suit the recipe.",
    )


def make_config(
    path: Path | str | None = None, overrides: dict[str, Any] | None = None, *, use_recipe: bool = True
) -> Config:
    """Return a configuration of defaults, a recipe, a file and overrides, each with precedence over those before.

    Args:
        path: YAML file with any part of the sections ``data``, ``model`` and ``train``, or the name of one that comes
            with the package, such as ``"polymnist-cpu"``; no file by default.
        overrides: Dotted keys to values, such as ``{"train.lr": "1e-3"}``, or sections of a file with only some of
            their settings, ``{"train": {"lr": 1e-3}}``. A string is converted to the field's type.
        use_recipe: If True, the default, the settings of the recipe replace the defaults. False is for the files of
            runs, which have every setting that there was when they were written.

    Raises:
        ConfigError: If the file cannot be read or does not hold a mapping, or a key or value is wrong; the message
            names the key. Names of registered parts are looked up later, when plugins have been imported.
    """
    path = _find(path)
    file = {} if path is None else _with_absolute_data(_read(path), path)
    given = _by_dotted_key(overrides or {})
    tree = _override(copy.deepcopy(file), given)
    if use_recipe:
        name = _recipe_of(tree)
        defaults = _override({}, RECIPES[name].settings)
        tree = _override(_merge(defaults, file), {**given, "recipe": name})
    else:
        tree = _merge(_override({}, _BEFORE), tree)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe_error(error, Config, path)) from None


def _find(path: Path | str | None) -> Path | None:
    """Return the path of a configuration, which may be a name."""
    try:
        return None if path is None else find_config(path)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _by_dotted_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted key, of which those of a section may be nested."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        is_section = key in _SECTIONS and isinstance(value, Mapping)
        result |= {f"{key}.{name}": item for name, item in value.items()} if is_section else {key: value}
    return result


def _override(tree: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set values by dotted key in a tree of sections, which is changed and returned."""
    options = tuple(f"{name}." for name in _NAMED)
    # A name of a part comes before options of it, whichever was given first.
    for key, value in sorted(overrides.items(), key=lambda item: item[0].startswith(options)):
        node = tree
        *parents, last = key.split(".")
        for depth, parent in enumerate(parents, 1):
            child = node.setdefault(parent, {})
            if isinstance(child, str) and ".".join(parents[:depth]) in _NAMED:
                child = node[parent] = {"name": child}
            if not isinstance(child, dict):
                raise ConfigError(f"{key}: {parent} is a value, not a section")
            node = child
        node[last] = value
    return tree


def _merge(defaults: Mapping[str, Any], tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of sections, completed by settings of another one; a named part is not mixed with another one."""
    result = copy.deepcopy(dict(defaults))
    for key, value in tree.items():
        has_sections = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        if has_sections and f"{prefix}{key}" not in _NAMED:
            result[key] = _merge(result[key], value, f"{prefix}{key}.")
        else:
            result[key] = copy.deepcopy(value)
    return result


def _recipe_of(tree: Mapping[str, Any]) -> str:
    """Return the name of the recipe of a tree of sections, chosen by its aggregation if it does not name one."""
    model = tree.get("model")
    aggregation = model.get("aggregation", "wb") if isinstance(model, Mapping) else "wb"
    if isinstance(aggregation, Mapping):
        aggregation = aggregation.get("name")
    try:
        return choose_recipe(str(tree.get("recipe", AUTO)), str(aggregation), _flat(tree))
    except ValueError as error:
        raise ConfigError(f"recipe: {error}") from None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a tree of sections by dotted key; a named part without options is its name."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name not in _NAMED:
            result |= _flat(value, f"{name}.")
        else:
            result[name] = value.get("name") if isinstance(value, Mapping) and len(value) == 1 else value
    return result


def adapt_recipe(config: Config, data: MultimodalDataset) -> Config:
    """Return a configuration without its recipe if the data do not suit it.

    Recipes compare modalities, of which there must be two, and draw together what these share, which the effects of
    covariates must not be a part of.

    Args:
        config: The configuration of a run.
        data: The data to train on.
    """
    return config if len(data.names) > 1 and not data.covariate_names else without_recipe(config)


def without_recipe(config: Config) -> Config:
    """Return a configuration whose settings by its recipe have their defaults; those that were changed stay.

    Args:
        config: The configuration. Its recipe becomes the name with the end ``", left out"``; one that is ``plain``, or
            was left out before, stays.
    """
    if config.recipe == PLAIN or config.recipe.endswith(LEFT_OUT):
        return config
    settings = RECIPES.lookup(config.recipe).settings
    tree, default = _flat(plain_values(config)), _flat(plain_values(Config()))
    by_recipe = _flat(plain_values(Config.model_validate(_override({}, settings))))
    plain = {key: default[key] for key in settings if tree[key] == by_recipe[key]}
    return Config.model_validate(_override(plain_values(config), {**plain, "recipe": config.recipe + LEFT_OUT}))


def parse_overrides(items: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Return the overrides of ``key=value`` words, whose values are read as YAML.

    Args:
        items: Words such as ``train.lr=1e-3``.

    Raises:
        ConfigError: If a word has no ``=`` or a value is not valid YAML.
    """
    overrides = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip() or not key.isprintable():
            shown = repr(item if len(item) <= _SHOWN else f"{item[:_SHOWN]}…")
            raise ConfigError(f"{shown} is not of the form section.key=value, such as train.lr=1e-3")
        try:
            overrides[key.strip()] = load_yaml(text)
        except TextError as error:
            shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
            reason = "" if str(error) == "not valid YAML" else f": {error}"
            raise ConfigError(f"{key}: cannot read {shown} as a value{reason}") from None
    return overrides


def dump_config(config: Config) -> str:
    """Return a configuration as YAML that :func:`make_config` reads."""
    return yaml.safe_dump(plain_values(config), sort_keys=False)


def _with_absolute_data(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the tree of a file, with an absolute path for data that a run names relative to its directory."""
    data = tree.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or not name.startswith(RUN_FOLDER) or not RunFiles(path.parent).environment.exists():
        return tree
    try:
        place = RunFiles(path.resolve().parent).place(*Path(name).parts)
        refuse_links(place)
    except ValueError as error:
        raise ConfigError(f"{path}: data.name must be a folder in the run directory, got {name!r}: {error}") from None
    return {**tree, "data": {**tree["data"], "name": str(place)}}


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = load_yaml(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from None
    except TextError as error:
        raise ConfigError(f"{path}{error.where}: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the file must hold sections data, model, train, got a {type(tree).__name__}")
    return tree
