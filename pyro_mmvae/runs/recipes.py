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
    """

    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    aggregations: tuple[str, ...] = ()


RECIPES: Registry[Recipe] = Registry("recipe")
"""The recipes by name."""

RECIPES.register("plain", Recipe("The ELBO alone, which is the default."), built_in=True)
RECIPES.register(
    "contrastive",
    Recipe(
        "Half of the subsets are single modalities, and a contrastive penalty draws the posteriors of disjoint subsets "
        "of an item together.",
        {
            "model.subset_weights": "singles:0.5",
            "train.penalties": [{"name": "infonce", "eta": 20.0, "tau": 5.0}],
        },
    ),
    built_in=True,
)


def choose_recipe(name: str, aggregation: str) -> str:
    """Return the name of a recipe; ``auto`` is that of the aggregation.

    Args:
        name: The name of a recipe, or ``auto``.
        aggregation: The name of the aggregation.

    Raises:
        ValueError: If the recipe is unknown; the message lists those that exist.
    """
    if name == AUTO:
        return next((key for key, recipe in RECIPES.items() if aggregation in recipe.aggregations), "plain")
    RECIPES.lookup(name)
    return name
