"""What a run is made of: typed, frozen, read from YAML, overridden by ``key=value``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line and says where."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(BaseModel):
    """Which data, by a name or a path; every other key is an option of its loader.

    Options are kept as YAML would give them back, with tuples for lists and strings for keys, so that two
    configurations of the same content are equal. :func:`pyro_mmvae.data.resolve_options` checks them, converts them to
    the types that the loader wants, and fills in its defaults.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "polymnist-mini"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        return {str(key): _frozen(value) for key, value in values.items()} if isinstance(values, dict) else values

    def options(self) -> dict[str, Any]:
        """Options of the loader, as they were given."""
        return dict(self.model_extra or {})


class NetworkConfig(_Section):
    """Sizes of encoders and decoders; see :class:`pyro_mmvae.networks.NetworkOptions`."""

    name: Literal["auto", "conv", "conv4", "mlp", "residual", "text"] = "auto"
    width: int = Field(16, ge=1)
    hidden: int = Field(512, ge=1)
    depth: int = Field(1, ge=0)
    decoder_hidden: bool = False
    norm: Literal["none", "group"] = "group"
    activation: Literal["relu", "silu", "gelu"] = "silu"
    isotropic: bool = False
    covariance: Literal["diagonal", "isotropic", "full", "low_rank"] = "diagonal"
    rank: int = Field(4, ge=1)
    family: Literal["normal", "laplace", "student_t", "logistic"] = "normal"
    df: float = Field(5.0, gt=2, allow_inf_nan=False)


_AGGREGATION = "model.aggregation"

SIZES = ("width", "hidden", "depth", "private_size")
"""Sizes that a modality may have for itself, of its networks and of its private latent."""


class ModalityConfig(_Section):
    """Settings of one modality; what is None is as the data says, see :class:`pyro_mmvae.data.Traits`.

    ``width``, ``hidden`` and ``depth`` of its networks go before those of ``model.network``, ``private_size`` before
    that of ``model``.
    """

    likelihood: Literal["laplace", "normal", "bernoulli", "categorical", "poisson", "negative_binomial"] | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["learned"] | None = None
    classes: int | None = Field(None, ge=2)
    network: Literal["auto", "conv", "conv4", "mlp", "residual", "text"] | None = None
    output: Literal["identity", "sigmoid"] | None = None
    weight: float | None = Field(None, ge=0, allow_inf_nan=False)
    private_size: int | None = Field(None, ge=0)
    width: int | None = Field(None, ge=1)
    hidden: int | None = Field(None, ge=1)
    depth: int | None = Field(None, ge=0)


class AggregationConfig(BaseModel):
    """An aggregation by name; every other key is a keyword of it, see :func:`pyro_mmvae.make_aggregation`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    def __str__(self) -> str:
        """Return the name and the options, as a label."""
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in (self.model_extra or {}).items())})"


class ModelConfig(_Section):
    """The generative model, the guide, and the objective.

    ``private_size`` is the number of latent dimensions that each modality has for itself, besides the ``latent_size``
    shared ones. ``likelihood`` and ``scale`` are of images and vectors, and ``auto`` is as the data says; tokens and
    counts have likelihoods of their own. ``modalities`` has the last word on each.
    """

    aggregation: str | AggregationConfig = "wb"
    bound: Literal["mixture", "component"] = "component"
    latent_size: int = Field(32, ge=1)
    private_size: int = Field(0, ge=0)
    beta: float = Field(1.0, gt=0, allow_inf_nan=False)
    likelihood: Literal["auto", "laplace", "normal", "bernoulli"] = "auto"
    scale: float | Literal["auto", "learned"] = "auto"
    modality_weights: dict[str, float] = Field(default_factory=dict)
    modalities: dict[str, ModalityConfig] = Field(default_factory=dict)
    expert_weights: tuple[float, ...] | Literal["learned", "precision", "gate"] | None = None
    subset_weights: Literal["uniform", "by_size", "learned"] = "uniform"
    expert_weights_entropy: float = Field(0.0, ge=0, allow_inf_nan=False)
    prior_expert: Literal["none", "joint_only", "all"] | None = None
    network: NetworkConfig = NetworkConfig()

    @field_validator("aggregation", mode="before")
    @classmethod
    def _name_or_mapping(cls, value: Any) -> Any:
        if isinstance(value, (str, AggregationConfig)):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError("must be a name, or a mapping with a name and options")
        return value["name"] if len(value) == 1 else _frozen(value)

    @property
    def aggregation_options(self) -> str | dict[str, Any]:
        """The aggregation as :func:`pyro_mmvae.make_aggregation` takes it: a name, or a mapping with a name."""
        return self.aggregation if isinstance(self.aggregation, str) else self.aggregation.model_dump()


class TrainConfig(_Section):
    """The optimization and the machine.

    ``objective`` is the name of an objective, or a mapping with ``name`` and its options.
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

    @field_validator("objective")
    @classmethod
    def _named(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, dict) and not isinstance(value.get("name"), str):
            raise ValueError("must be the name of an objective, or a mapping with name and its options")
        return value


class Config(_Section):
    """Everything that determines a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    plugins: tuple[str, ...] = ()


def make_config(path: Path | str | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """A configuration from defaults, then a file, then overrides.

    Args:
        path: a YAML file with the sections ``data``, ``model``, ``train``; any part of them.
        overrides: dotted keys to values, such as ``{"train.lr": "1e-3"}``. A string is converted to the field's type.

    Returns:
        The resolved configuration.

    Raises:
        ConfigError: if the file cannot be read or is no mapping, or a key or value is wrong; it names the key.
    """
    tree = {} if path is None else _read(Path(path))
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
    """Read ``key=value`` words, values as YAML.

    Raises:
        ConfigError: for a word without ``=`` or a value that is no YAML.
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
    """YAML that :func:`make_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _frozen(value: Any) -> Any:
    """A value of YAML with tuples for lists and strings for keys."""
    if isinstance(value, Mapping):
        return {str(key): _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value


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
        raise ConfigError(f"{path}: expected sections data, model, train, found a {type(tree).__name__}")
    return tree


def _describe(error: ValidationError, path: Path | str | None) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # in brackets: a branch of a union
    source = "" if path is None else f" (from {path} and the overrides)"
    if first["type"] == "extra_forbidden":
        section: Any = Config
        for part in first["loc"][:-1]:
            is_mapping = get_origin(section) is dict
            section = get_args(section)[1] if is_mapping else section.model_fields[part].annotation
        return f"{key}: no such setting{source}; there are {', '.join(section.model_fields)}"
    return f"{key}: {first['msg']}, got {first['input']!r}{source}"
