"""A configuration together with its data: options of the loader filled in, and every modality described in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyro_mmvae.data import MultimodalDataset, data_names, load_data, resolve_options
from pyro_mmvae.likelihoods import LIKELIHOODS
from pyro_mmvae.modality_spec import ModalitySpec, resolve_modality
from pyro_mmvae.runs.config import Config, DataConfig
from pyro_mmvae.runs.model_settings import ModelConfig
from pyro_mmvae.runs.recipes import PLAIN, RECIPES
from pyro_mmvae.vae.custom_networks import check_names

UNKEPT_DATA = "(not kept)"
"""The name of data that were passed to a training and not kept in its run directory."""


def resolve(config: Config) -> Config:
    """Return a configuration with every option of its data, and an absolute path if the data is a path.

    Plugins must have been imported: they may register the data.

    Args:
        config: The configuration of a run.

    Raises:
        ValueError: If the data or an option is unknown, or a value does not have the type of its option.
    """
    if config.data.name == UNKEPT_DATA:
        return config
    name, options = config.data.name, resolve_options(config.data.name, config.data.options())
    if name not in data_names():
        name = str(Path(name).expanduser().resolve())
    return config.model_copy(update={"data": DataConfig.model_validate({"name": name, **options})})


def load_split(config: Config, split: str) -> MultimodalDataset:
    """Return a split of the data of a configuration.

    Args:
        config: The configuration of a run.
        split: Name of the split, such as ``train``.

    Raises:
        ValueError: If the data were not kept, or cannot be loaded.
    """
    if config.data.name == UNKEPT_DATA:
        raise ValueError(
            f"the split {split!r} must be passed as data, as the run was trained with keep_data=False, got none: pass "
            "the data, or train with keep_data=True"
        )
    return load_data(config.data.name, split, **resolve_options(config.data.name, config.data.options()))


def resolve_modalities(config: Config, specs: Mapping[str, ModalitySpec]) -> dict[str, ModalitySpec]:
    """Return the description of each modality by data, configuration and defaults.

    ``model.modalities`` takes precedence over ``model.reconstruction_weights``, ``model.likelihood``, ``model.scale``,
    ``model.private_size`` and ``model.network.name``, and these over the data. ``model.likelihood`` and ``model.scale``
    apply to images and vectors only, ``model.scale`` to those whose likelihood takes a scale. The private size of a
    recipe does not apply to modalities with a custom encoder.

    Args:
        config: The configuration of a run, whose plugins have been imported.
        specs: Modality name to the description by the data, with its data type.

    Raises:
        ValueError: If the configuration names a modality that the data does not have, or a setting does not fit; the
            message names the key.
    """
    model, result = config.model, {}
    for section, names in (("reconstruction_weights", model.reconstruction_weights), ("modalities", model.modalities)):
        unknown = sorted(set(names) - set(specs))
        if unknown:
            raise ValueError(f"model.{section} names {unknown[0]!r}, the data has {', '.join(specs)}")
    if model.likelihood != "auto" and model.likelihood not in LIKELIHOODS:
        raise ValueError(f"model.likelihood: {LIKELIHOODS.unknown(model.likelihood)}")
    check_names(ModalitySpec(network=model.network.name), "model.network.name")
    recipe = RECIPES.get(config.recipe, RECIPES[PLAIN]).settings
    for name, spec in specs.items():
        where, override = f"model.modalities.{name}", model.modalities.get(name, ModalitySpec())
        if override.classes is not None and override.classes < (spec.classes or 0):
            raise ValueError(f"{where}: classes must be at least {spec.classes} as in the data, got {override.classes}")
        if override.tokenizer is not None and override.tokenizer != spec.tokenizer:
            raise ValueError(
                f"{where}: tokenizer must be set where the data come from, got {override.tokenizer[:40]!r}: use the "
                f"option data.tokenizer={{{name}: …}}, or in Python the argument tokenizer"
            )
        shared = _shared_settings(model, name, spec, override)
        if (override.encoder or spec.encoder) and shared.private_size == recipe.get("model.private_size"):
            shared = replace(shared, private_size=0)  # a custom encoder may have no output for private latents
        result[name] = resolve_modality(spec, shared, override, where=where)
        check_names(result[name], where)
    return result


def read_specs(state: Mapping[str, Any]) -> dict[str, ModalitySpec] | None:
    """Return the descriptions of the modalities in the state of a checkpoint; None if it has none.

    Args:
        state: The state of a checkpoint, see :func:`pyro_mmvae.runs.checkpoint.read_state`.

    Raises:
        ValueError: If a description has an unknown field or a value of another type.
    """
    if "modality_specs" not in state:
        return None
    specs = {}
    for name, settings in state["modality_specs"].items():
        try:
            specs[name] = ModalitySpec(**settings)
        except (TypeError, AttributeError):  # whose messages are words of Python
            raise ValueError(
                f"modality_specs: {name} must be the description of a modality, got {repr(settings)[:80]}"
            ) from None
    return specs


def read_covariates(state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the names of the categories of each covariate in the state of a checkpoint; empty if it has none.

    Args:
        state: The state of a checkpoint, see :func:`pyro_mmvae.runs.checkpoint.read_state`.
    """
    return {name: tuple(categories) for name, categories in state.get("covariate_names", {}).items()}


def _shared_settings(model: ModelConfig, name: str, spec: ModalitySpec, override: ModalitySpec) -> ModalitySpec:
    """Return what the configuration says of all modalities and applies to one."""
    settings: dict[str, Any] = {
        "reconstruction_weight": model.reconstruction_weights.get(name),
        "private_size": model.private_size,
        "network": None if model.network.name == "auto" else model.network.name,
    }
    if (override.data_type or spec.implied_data_type) in {"image", "vector"}:
        settings["likelihood"] = None if model.likelihood == "auto" else model.likelihood
        likelihood = override.likelihood or settings["likelihood"] or spec.likelihood
        # The default likelihoods of images and vectors take a scale.
        if model.scale != "auto" and (likelihood is None or "scale" in LIKELIHOODS.lookup(likelihood).options):
            settings["scale"] = model.scale
    try:
        return ModalitySpec(**settings)
    except ValueError as error:
        where = f"model.reconstruction_weights.{name}" if f"{error}".startswith("reconstruction_weight") else "model"
        raise ValueError(f"{where}: {error}") from None
