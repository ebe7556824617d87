"""The configuration of a run: typed, frozen, read from YAML, overridden by ``key=value``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, field_validator, model_validator

from pyro_mmvae.modality_spec import ModalitySpec
from pyro_mmvae.networks import NetworkOptions
from pyro_mmvae.run_files import RunFiles
from pyro_mmvae.runs.config_errors import describe_error
from pyro_mmvae.runs.train_settings import CallbackSpecs, OptimizerSpec, ScheduleSpec, ThreadCount

RUN_FOLDER = "./"
"""The beginning of the names of data in the directory of the run itself."""

_NAMED = ("model.aggregation", "train.objective")
"""Settings that are a name, or a mapping with a name and options."""

_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")


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

    name: str = Field("polymnist-mini", description="Name of the data set, or path of its files.")

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

    name: str = Field(description="Name of the aggregation.")

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        return _with_numbers(values)

    def __str__(self) -> str:
        """Return the name and the options, as a label."""
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in (self.model_extra or {}).items())})"


class ModelConfig(_Section):
    """The generative model and the guide; settings of one modality in ``modalities`` take precedence."""

    aggregation: str | AggregationConfig = Field(
        "wb", description="Aggregation of the experts: its name, or a mapping with name and options."
    )
    bound: Literal["mixture", "component"] = Field(
        "component", description="Training bound: the ELBO of the whole mixture, or of one component drawn per item."
    )
    latent_size: int = Field(32, ge=1, description="Number of latent dimensions that the modalities share.")
    private_size: int = Field(
        0, ge=0, description="Number of latent dimensions that each modality alone has, in addition to the shared ones."
    )
    beta: float = Field(1.0, gt=0, allow_inf_nan=False, description="Weight of the KL term in training.")
    likelihood: str = Field(
        "auto", description="Likelihood of images and vectors; auto leaves it to the data and the type of the modality."
    )
    scale: float | Literal["auto", "learned"] = Field(
        "auto",
        description="Scale of the likelihoods of images and vectors; auto takes the default of the modality's type.",
    )
    reconstruction_weights: dict[str, float] = Field(
        default_factory=dict, description="Weight of the reconstruction term in training, by name of the modality."
    )
    modalities: dict[str, ModalitySpec] = Field(
        default_factory=dict, description="Settings of single modalities, by name of the modality."
    )
    expert_weights: tuple[float, ...] | Literal["learned", "precision", "gate"] | None = Field(
        None,
        description="Weights of the experts: one number per modality, or how they are learned; equal if null.",
    )
    subset_weights: Literal["uniform", "by_size", "learned"] = Field(
        "uniform", description="Weights of the subsets in a mixture: all equal, each size equally likely, or learned."
    )
    expert_weights_entropy: float = Field(
        0.0, ge=0, allow_inf_nan=False,
        description="Coefficient of the entropy of the expert weights that is added to the objective, in nats.",
    )  # fmt: skip
    prior_expert: Literal["none", "complete", "joint_only", "all"] | None = Field(
        None, description="Subsets in which the prior is one more expert; null for the default of the aggregation."
    )
    network: NetworkConfig = Field(NetworkConfig(), description="Options of all encoders and decoders.")

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
    """The optimization and the machine."""

    epochs: int = Field(10, ge=0, description="Number of passes over the training data.")
    batch_size: int = Field(64, ge=1, description="Number of items per step.")
    lr: float = Field(3e-3, gt=0, allow_inf_nan=False, description="Learning rate after the warm-up.")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95), description="Decay rates of Adam's running means of the gradient and its square."
    )
    schedule: ScheduleSpec = Field(
        "cosine",
        description="Course of the learning rate after the warm-up: constant, a cosine that falls to zero, or a "
        "scheduler of torch.optim.lr_scheduler by name, or a mapping with name and its options.",
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="Share of all steps in which the learning rate rises linearly.")
    seed: int = Field(0, ge=0, description="Seed of the initial weights, the order of the items and all draws.")
    device: str = Field("auto", description="Device to train on: auto, cpu, cuda or another device of torch.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Precision of the networks; auto takes bf16 if the device computes faster with it."
    )
    threads: ThreadCount = Field(
        None,
        description="Number of CPU threads; all cores if null; auto times a few steps with several numbers.",
    )
    objective: str | dict[str, Any] = Field(
        "elbo", description="Objective of the training: its name, or a mapping with name and options."
    )
    select: Literal["mixture", "component", "last"] = Field(
        "mixture",
        description="Choice of the best checkpoint: by the validation ELBO of the whole mixture, or of one component "
        "drawn per item, or the last epoch.",
    )
    optimizer: OptimizerSpec = Field(
        "adam",
        description="Optimizer of torch.optim by name, or a mapping with name and its options.",
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Weight decay, decoupled from the gradient where the optimizer offers it; null for the optimizer's "
        "own.",
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Largest norm of the gradient of all parameters together, which is scaled down to it; null for "
        "none.",
    )
    beta_warmup: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Length of the linear warm-up of beta: below 1 a fraction of the training, from 1 on a number of "
        "epochs.",
    )
    beta_start: float = Field(0.0, ge=0, allow_inf_nan=False, description="Value of beta that its warm-up starts from.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Number of epochs without improvement of the figure of train.select after which training stops; "
        "null for never.",
    )
    min_delta: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Smallest gain in nats per item that train.patience counts as an improvement.",
    )
    callbacks: CallbackSpecs = Field(
        (), description="Registered callbacks by name, or mappings with name and their options."
    )

    @field_validator("objective", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value.get("name") if isinstance(value, dict) else value, str):
            raise ValueError(f"must be the name of an objective, or a mapping with name and its options, got {value!r}")
        return _with_numbers(value)


class Config(_Section):
    """The whole configuration of a run, which determines its result."""

    data: DataConfig = Field(DataConfig(), description="The data and the options of its loader.")
    model: ModelConfig = Field(ModelConfig(), description="The generative model and the guide.")
    train: TrainConfig = Field(TrainConfig(), description="The optimization and the machine.")
    plugins: tuple[str, ...] = Field((), description="Python modules to import first, which register parts.")


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
    options = tuple(f"{name}." for name in _NAMED)
    # A name of a part comes before options of it, whichever was given first.
    for key, value in sorted((overrides or {}).items(), key=lambda item: item[0].startswith(options)):
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
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(describe_error(error, Config, path)) from None


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


def _with_numbers(options: Any) -> Any:
    """Return options with numbers for words such as 1e-3, which YAML takes for strings; no type says what they are."""
    if not isinstance(options, Mapping):
        return options
    return {key: float(v) if isinstance(v, str) and _EXPONENT.fullmatch(v) else v for key, v in options.items()}


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
