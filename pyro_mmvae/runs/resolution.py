"""A configuration together with its data: options of the loader filled in, settings of every modality settled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_mmvae.data import MultimodalDataset, Traits, data_names, load_data, resolve_options
from pyro_mmvae.runs.config import SIZES, Config, DataConfig, ModalityConfig, ModelConfig


def resolve(config: Config) -> Config:
    """A configuration with every option of its data, and an absolute path where the data is a path.

    Plugins must have been imported: they may register the data.

    Raises:
        ValueError: if the data or an option is unknown, or a value is not of the option's type.
    """
    name, options = config.data.name, resolve_options(config.data.name, config.data.options())
    if name not in data_names():
        name = str(Path(name).expanduser().resolve())
    return config.model_copy(update={"data": DataConfig.model_validate({"name": name, **options})})


def load_split(config: Config, split: str) -> MultimodalDataset:
    """A split of the data of a configuration."""
    return load_data(config.data.name, split, **resolve_options(config.data.name, config.data.options()))


def settle_traits(config: Config, traits: Mapping[str, Traits]) -> dict[str, Traits]:
    """What is known of each modality with what the configuration says, and defaults for the rest.

    ``model.modalities`` goes before ``model.modality_weights``, ``model.likelihood``, ``model.scale`` and
    ``model.network.name``, and these before what the data says. Likelihood and scale are of images and vectors only.

    Args:
        config: of the run.
        traits: modality name to what the data says; the kinds are known.

    Raises:
        ValueError: for a modality that the data does not have, or a setting that does not fit its kind.
    """
    model, result = config.model, {}
    for section, names in (("modality_weights", model.modality_weights), ("modalities", model.modalities)):
        unknown = sorted(set(names) - set(traits))
        if unknown:
            raise ValueError(f"model.{section} names {unknown[0]!r}, the data has {', '.join(traits)}")
    for name, known in traits.items():
        shared: dict[str, Any] = {"weight": model.modality_weights.get(name)}
        if model.network.name != "auto":
            shared["network"] = model.network.name
        if known.kind in {"image", "vector"}:
            shared["likelihood"] = None if model.likelihood == "auto" else model.likelihood
            shared["scale"] = None if model.scale == "auto" else model.scale
        own = model.modalities.get(name)
        if own is not None and own.classes is not None and own.classes < (known.classes or 0):
            raise ValueError(f"model.modalities.{name}: {own.classes} classes, the data has {known.classes}")
        settled = known.updated(shared).updated({} if own is None else own.model_dump(exclude=set(SIZES)))
        result[name] = settled.settled(f"model.modalities.{name}")
    return result


def sizes_of(model: ModelConfig, name: str) -> dict[str, Any]:
    """Sizes that are a modality's own, as arguments of :class:`~pyro_mmvae.Modality`; ``private_size`` of every one."""
    own = model.modalities.get(name, ModalityConfig())
    sizes = {size: getattr(own, size) for size in SIZES}
    return {**sizes, "private_size": model.private_size if own.private_size is None else own.private_size}


def read_traits(state: Mapping[str, Any]) -> dict[str, Traits] | None:
    """What a checkpoint says of the modalities; None in those of before it said anything."""
    return {name: Traits(**known) for name, known in state["traits"].items()} if "traits" in state else None
