"""The configuration of a run: typed, frozen, read from YAML, overridden by ``key=value``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.run_files import RunFiles

RUN_FOLDER = "./"
"""The beginning of the names of data in the directory of the run itself."""

_AGGREGATION = "model.aggregation"

_RENAMED = {
    "modality_weights": "reconstruction_weights",
    "weight": "reconstruction_weight",
    "weights": "expert_weights",
    "mixture_weights": "subset_weights",
    "weights_entropy": "expert_weights_entropy",
}
"""Keys of earlier versions, which an error message for an unknown key translates."""


class ConfigError(ValueError):
    """An error in a configuration; the message is one line and names the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(BaseModel):
    """The data of a run, by a name or a path; every other key is an option of its loader.

    Options are kept as YAML would return them, with tuples for lists and strings for keys, so that two configurations
    with equal content are equal. :func:`pyro_mmvae.data.resolve_options` checks them, converts them to the types of the
    loader's options, and fills in its defaults.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "polymnist-mini"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        return {str(key): _frozen(value) for key, value in values.items()} if isinstance(values, dict) else values

    def options(self) -> dict[str, Any]:
        """Return the options of the loader, as they were set."""
        return dict(self.model_extra or {})


@dataclass(frozen=True)
class NetworkConfig(NetworkOptions):
    """The options of all networks, see :class:`~pyro_mmvae.networks.NetworkOptions`, whose defaults it has.

    Attributes:
        name: Name of the networks of the modalities that have no other; ``auto`` leaves them to data and shapes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str = "auto"


class AggregationConfig(BaseModel):
    """An aggregation by name; every other key is a keyword of it, see :func:`pyro_mmvae.make_aggregation`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    def __str__(self) -> str:
        """Return the name and the options, as a label."""
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in (self.model_extra or {}).items())})"


class ModelConfig(_Section):
    """The generative model, the guide, and the objective.

    ``private_size`` is the number of latent dimensions that each modality alone has, in addition to the ``latent_size``
    shared ones. ``likelihood`` and ``scale`` apply to images and vectors; ``auto`` leaves them to the data. Settings of
    one modality in ``modalities`` take precedence over all of these.
    """

    aggregation: str | AggregationConfig = "wb"
    bound: Literal["mixture", "component"] = "component"
    latent_size: int = Field(32, ge=1)
    private_size: int = Field(0, ge=0)
    beta: float = Field(1.0, gt=0, allow_inf_nan=False)
    likelihood: str = "auto"
    scale: float | Literal["auto", "learned"] = "auto"
    reconstruction_weights: dict[str, float] = Field(default_factory=dict)
    modalities: dict[str, ModalitySpec] = Field(default_factory=dict)
    expert_weights: tuple[float, ...] | Literal["learned", "precision", "gate"] | None = None
    subset_weights: Literal["uniform", "by_size", "learned"] = "uniform"
    expert_weights_entropy: float = Field(0.0, ge=0, allow_inf_nan=False)
    prior_expert: Literal["none", "complete", "joint_only", "all"] | None = None
    network: NetworkConfig = NetworkConfig()

    @field_serializer("modalities")
    def _without_none(self, modalities: dict[str, ModalitySpec]) -> dict[str, dict[str, Any]]:
        return {name: spec.settings() for name, spec in modalities.items()}

    @field_validator("aggregation", mode="before")
    @classmethod
    def _name_or_mapping(cls, value: Any) -> Any:
        if isinstance(value, (str, AggregationConfig)):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(f"must be a name, or a mapping with a name and options, got {value!r}")
        return value["name"] if len(value) == 1 else _frozen(value)

    @property
    def aggregation_options(self) -> str | dict[str, Any]:
        """The aggregation as :func:`pyro_mmvae.make_aggregation` takes it: a name, or a mapping with a name."""
        return self.aggregation if isinstance(self.aggregation, str) else self.aggregation.model_dump()


class TrainConfig(_Section):
    """The optimization and the machine.

    ``objective`` is the name of an objective, or a mapping with ``name`` and its options. ``select`` names the figure
    by which the best checkpoint is chosen: the validation ELBO of the whole ``mixture`` or of one drawn ``component``
    per item; ``last`` takes the last epoch.
    """

    epochs: int = Field(10, ge=0)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(3e-3, gt=0, allow_inf_nan=False)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = Field(None, ge=1)
    objective: str | dict[str, Any] = "elbo"
    select: Literal["mixture", "component", "last"] = "mixture"

    @field_validator("objective", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value.get("name") if isinstance(value, dict) else value, str):
            raise ValueError(f"must be the name of an objective, or a mapping with name and its options, got {value!r}")
        return value


class Config(_Section):
    """The whole configuration of a run, which determines its result."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    plugins: tuple[str, ...] = ()


def make_config(path: Path | str | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Return a configuration of defaults, a file and overrides, each of which takes precedence over those before.

    Args:
        path: YAML file with any part of the sections ``data``, ``model`` and ``train``; no file by default.
        overrides: Dotted keys to values, such as ``{"train.lr": "1e-3"}``. A string is converted to the field's type.

    Raises:
        ConfigError: If the file cannot be read or does not hold a mapping, or a key or value is wrong; the message
            names the key. Names of registered parts are looked up later, when plugins have been imported.
    """
    tree = {} if path is None else _with_absolute_data(_read(Path(path)), Path(path))
    # A name of an aggregation comes before options of it, whichever was given first.
    for key, value in sorted((overrides or {}).items(), key=lambda item: item[0].startswith(_AGGREGATION + ".")):
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if isinstance(child, str) and ".".join(parents) == _AGGREGATION:
                child = node[parent] = {"name": child}
            if not isinstance(child, dict):
                raise ConfigError(f"{key}: {parent} is a value, not a section")
            node = child
        node[last] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_describe(error, path)) from None


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
        if not equals or not key.strip():
            raise ConfigError(f"{item!r} is not of the form section.key=value, such as train.lr=1e-3")
        try:
            overrides[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{key}: cannot read {text!r} as a value") from None
    return overrides


def dump_config(config: Config) -> str:
    """Return a configuration as YAML that :func:`make_config` reads."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _frozen(value: Any) -> Any:
    """Return a value of YAML with tuples for lists and strings for keys."""
    if isinstance(value, Mapping):
        return {str(key): _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


def _with_absolute_data(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the tree of a file, with an absolute path for data that a run names relative to its directory."""
    data = tree.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or not name.startswith(RUN_FOLDER) or not RunFiles(path.parent).environment.exists():
        return tree
    return {**tree, "data": {**tree["data"], "name": str(path.resolve().parent / name)}}


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(f"{path}{where}: not valid YAML") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the file must hold sections data, model, train, got a {type(tree).__name__}")
    return tree


def _describe(error: ValidationError, path: Path | str | None) -> str:
    """Return the first problem of a configuration in one line, with the existing keys if one does not exist."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # in brackets: a branch of a union
    source = "" if path is None else f" (from {path} and the overrides)"
    if first["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        names = _keys_of_section(first["loc"][:-1])
        current = _RENAMED.get(str(first["loc"][-1]))
        hint = f", it is called {current} now" if current in names else f"; there are {', '.join(names)}"
        if current not in names:
            hint += _suggest(key, names)
        return f"{key}: no such setting{source}{hint}"
    if first["type"] == "value_error":  # which says by itself what it got
        return f"{key}: {first['msg'].removeprefix('Value error, ')}{source}"
    return f"{key}: {first['msg']}, got {first['input']!r}{source}"


def _suggest(key: str, names: list[str]) -> str:
    """Return the question whether a similar setting was meant, of the section of a key or of another one."""
    *parents, last = key.split(".")
    here = [".".join([*parents, name]) for name in difflib.get_close_matches(last, names, n=1)]
    elsewhere = {
        f"{section}.{name}": name for section in ("train", "model", "model.network") for name in _keys_of(section)
    }
    similar = difflib.get_close_matches(last, elsewhere.values(), n=1, cutoff=0.7)
    close = [path for path, name in elsewhere.items() if name == last] or here
    close += [path for path, name in elsewhere.items() if name in similar]
    return f"; did you mean {close[0]}?" if close else ""


def _keys_of(section: str) -> list[str]:
    return _keys_of_section(tuple(section.split(".")))


def _keys_of_section(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Config
    for part in location:
        section = get_args(section)[1] if get_origin(section) is dict else section.model_fields[part].annotation
    return [field.name for field in fields(section)] if is_dataclass(section) else list(section.model_fields)
