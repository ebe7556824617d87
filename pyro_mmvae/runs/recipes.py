"""Recipes: named settings that replace the defaults of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_mmvae.registry import Registry

AUTO = "auto"
"""The name that stands for the recipe of the aggregation."""


@dataclass(frozen=True)
class Recipe:
    """Settings that replace the defaults of a configuration.

    Attributes:
        summary: One sentence that says what the settings are.
        settings: The settings that differ from the defaults, by dotted key.
        aggregations: The names of the aggregations that use the recipe unless another one is chosen.
        only_with: The values of other settings, by dotted key, that the recipe is meant for. A configuration that sets
            one to another value gets the recipe only if it names it.
    """

    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    aggregations: tuple[str, ...] = ()
    only_with: Mapping[str, Any] = field(default_factory=dict)


RECIPES: Registry[Recipe] = Registry("recipe")
"""The recipes by name."""

PLAIN = "plain"
"""The name of the recipe without settings of its own."""

LEFT_OUT = ", left out"
"""The end of the name of a recipe that did not suit the data of a run, which has the settings of ``plain`` instead."""

RECIPES.register(PLAIN, Recipe("The ELBO alone: the method as published."), built_in=True)
RECIPES.register(
    "contrastive",
    Recipe(
        "One subset is drawn per item, half of them single modalities; a contrastive penalty draws the posteriors of "
        "disjoint subsets of an item together; private latents hold what one modality has alone; the last epoch is "
        "kept. The default of wb and mwb.",
        {
            "model.bound": "subsets",
            "model.subset_weights": "singles:0.5",
            "model.private_size": 8,
            "model.private_auxiliary": "learned:1",
            "train.penalties": [{"name": "infonce", "eta": 80.0, "tau": 5.0}],
            # The validation ELBO has no penalty in it: on small data it is largest long before the penalty has done
            # its work, and the checkpoint of that epoch imputes worse than the last one.
            "train.select": "last",
        },
        aggregations=("wb", "mwb"),
        only_with={"model.bound": "subsets", "train.objective": "elbo", "model.network.covariance": "diagonal"},
    ),
    built_in=True,
)


def choose_recipe(name: str, aggregation: str, settings: Mapping[str, Any] | None = None) -> str:
    """Return the name of a recipe; ``auto`` is that of the aggregation, if it is meant for the other settings.

    Args:
        name: The name of a recipe, ``auto``, or the name of a recipe that was left out, for ``plain``.
        aggregation: The name of the aggregation.
        settings: The settings that the configuration sets, by dotted key; none by default.

    Raises:
        ValueError: If the recipe is unknown; the message lists those that exist.
    """
    if name == AUTO:
        known = settings or {}
        fitting = (
            key
            for key, recipe in RECIPES.items()
            if aggregation in recipe.aggregations
            and all(known.get(setting, value) == value for setting, value in recipe.only_with.items())
        )
        return next(fitting, PLAIN)
    if name.endswith(LEFT_OUT):
        return PLAIN
    RECIPES.lookup(name)
    return name
