"""The settings of a configuration with their defaults, types and meanings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pyro_mmvae.data import data_options
from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.runs.config import Config, DataConfig
from pyro_mmvae.runs.model_settings import NetworkConfig
from pyro_mmvae.runs.recipes import RECIPES
from pyro_mmvae.runs.schema import default_in_words, schema_of_hint, type_in_words
from pyro_mmvae.signatures import Option, describe_options


@dataclass(frozen=True)
class Setting:
    """A setting that a configuration file or ``--set`` can have.

    Attributes:
        key: The dotted key of the setting, such as ``train.lr``.
        default: The default value; None also if there is none.
        type: The type in words, such as ``"a number above 0"``.
        meaning: The description of the setting.
        schema: The JSON schema of the value.
        is_required: True if the setting has to be given.
    """

    key: str
    default: Any
    type: str
    meaning: str
    schema: dict[str, Any] = field(repr=False)
    is_required: bool = False

    @property
    def default_text(self) -> str:
        """The default as it is written in a configuration, or ``"required"``."""
        return "required" if self.is_required else default_in_words(self.default)


def list_settings(data: str | None = None) -> list[Setting]:
    """Return every setting of a configuration.

    Args:
        data: Name of the data set or path of its files, whose options are included; by default the default data set.

    Raises:
        ValueError: If the data is unknown.
    """
    name = DataConfig().name if data is None else data
    root = Config.model_json_schema()
    settings = list(_of_model(root, DataConfig, "data", skip=()))
    settings += settings_of_options(data_options(name), "data")
    model, train = (Config.model_fields[section].annotation for section in ("model", "train"))
    settings += _of_model(root, model, "model", skip=("modalities", "network"))
    settings += _of_dataclass(root, NetworkConfig, "model.network")
    settings += _of_dataclass(root, ModalitySpec, "model.modalities.NAME")
    settings += _of_model(root, train, "train", skip=())
    return [*settings, *_of_model(root, Config, "", skip=("data", "model", "train"))]


def recipe_settings(name: str) -> list[Setting]:
    """Return the settings of a recipe, with its values in place of the defaults.

    Args:
        name: The name of a recipe.

    Raises:
        ValueError: If the recipe is unknown.
    """
    known = {setting.key: setting for setting in list_settings()}
    return [replace(known[key], default=value) for key, value in RECIPES.lookup(name).settings.items()]


def settings_of_options(options: Iterable[Option], prefix: str) -> list[Setting]:
    """Return settings for the options of a data set, an aggregation or an objective.

    Args:
        options: The options of the part.
        prefix: The key of the section that they are set in, such as ``model.aggregation``.
    """
    result = []
    for option in options:
        schema, is_required = schema_of_hint(option.hint), option.default is inspect.Parameter.empty
        default = None if is_required else option.default
        key = f"{prefix}.{option.name}"
        result.append(Setting(key, default, type_in_words(schema), option.meaning, schema, is_required))
    return result


def _of_model(root: dict[str, Any], model: Any, prefix: str, skip: tuple[str, ...]) -> Iterator[Setting]:
    """Yield the settings of a section that is a model of pydantic."""
    properties = _properties(root, model.__name__)
    for name, information in model.model_fields.items():
        if name not in skip:
            schema = properties[name]
            factory: Any = information.default_factory
            default = information.default if factory is None else factory()
            key = f"{prefix}.{name}" if prefix else name
            yield Setting(key, default, type_in_words(schema, root), information.description or "", schema)


def _of_dataclass(root: dict[str, Any], section: type, prefix: str) -> Iterator[Setting]:
    """Yield the settings of a section that is a dataclass, whose docstring describes them."""
    properties = _properties(root, section.__name__)
    for option in describe_options(section):
        schema = properties[option.name]
        yield Setting(f"{prefix}.{option.name}", option.default, type_in_words(schema, root), option.meaning, schema)


def _properties(root: dict[str, Any], name: str) -> dict[str, Any]:
    section = root if name == Config.__name__ else root["$defs"][name]
    return dict(section["properties"])
