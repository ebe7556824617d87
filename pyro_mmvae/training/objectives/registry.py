"""The registry of training objectives by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from pyro_mmvae.registry import Registry
from pyro_mmvae.signatures import Option, check_arguments, describe_options, summary_line
from pyro_mmvae.training.objectives.base import Objective
from pyro_mmvae.training.objectives.iwae import IWAEObjective
from pyro_mmvae.training.objectives.lower_bound import ELBOObjective
from pyro_mmvae.training.objectives.masked import MaskedObjective
from pyro_mmvae.training.objectives.mmvm import MMVMObjective
from pyro_mmvae.training.objectives.mvtcae import MVTCAEObjective
from pyro_mmvae.training.objectives.sub_elbos import SubELBOsObjective
from pyro_mmvae.vae.vae import MultimodalVAE

ObjectiveFactory: TypeAlias = Callable[..., Objective]
"""A class of objectives, or a function: the model and guide, then the options as keywords, to an objective."""

_OBJECTIVES: Registry[ObjectiveFactory] = Registry(
    "objective", "Register a custom one with pyro_mmvae.training.register_objective"
)
for _name, _class in (
    ("elbo", ELBOObjective),
    ("masked", MaskedObjective),
    ("mvtcae", MVTCAEObjective),
    ("iwae", IWAEObjective),
    ("sub_elbos", SubELBOsObjective),
    ("mmvm", MMVMObjective),
):
    _OBJECTIVES.register(_name, _class, built_in=True)


def register_objective(name: str, factory: ObjectiveFactory) -> None:
    """Register a custom objective under a name, for ``train.objective`` in a configuration.

    Args:
        name: The name of the objective, not taken yet.
        factory: The class of the objective, or a function that returns one; it is called with the model and guide,
            and with the options of the configuration as keywords.

    Raises:
        ValueError: If the name is taken or is not a non-empty string.

    Example:
        >>> class TemperedELBO(ELBOObjective):
        ...     def __init__(self, vae, temperature=1.0):
        ...         super().__init__(vae)
        ...         self.temperature = temperature
        ...     def forward(self, batch):
        ...         loss, terms = super().forward(batch)
        ...         return loss / self.temperature, terms
        >>> register_objective("tempered", TemperedELBO)
        >>> "tempered" in objective_names()
        True
        >>> unregister_objective("tempered")
    """
    _OBJECTIVES.register(name, factory)


def unregister_objective(name: str) -> None:
    """Remove a custom objective.

    Args:
        name: The name under which it was registered.

    Raises:
        ValueError: If the name is unknown or belongs to the package.
    """
    _OBJECTIVES.unregister(name)


def objective_names() -> tuple[str, ...]:
    """Return the names of all objectives, those of the package first."""
    return tuple(_OBJECTIVES)


def objective_options(name: str) -> tuple[Option, ...]:
    """Return the options of an objective by name.

    Args:
        name: The name of an objective, one of :func:`objective_names`.

    Returns:
        The options with their defaults, annotations and descriptions.

    Raises:
        ValueError: If the name is unknown.
    """
    return tuple(describe_options(_OBJECTIVES.lookup(name), positional=1))


def describe_objective(name: str) -> str:
    """Return a one-line summary of an objective by name.

    Args:
        name: The name of an objective, one of :func:`objective_names`.

    Raises:
        ValueError: If the name is unknown.
    """
    return summary_line(_OBJECTIVES.lookup(name), name)


def make_objective(objective: str | Mapping[str, Any], vae: MultimodalVAE) -> Objective:
    """Make an objective from its name and options.

    Args:
        objective: The name of the objective, or a mapping with ``name`` and its options, as ``train.objective`` of a
            configuration has it.
        vae: The model and guide to train.

    Returns:
        The objective.

    Raises:
        ValueError: If the name is unknown, or an option is.
        TypeError: If the registered factory returns something else than an objective.
    """
    options = {"name": objective} if isinstance(objective, str) else dict(objective)
    name = cast("str", options.pop("name", None))
    factory = _OBJECTIVES.lookup(name)
    check_arguments(f"objective {name!r}", factory, options, positional=1)
    result = factory(vae, **options)
    if not isinstance(result, Objective):
        raise TypeError(f"objective {name!r} must be an Objective, got {type(result).__name__}")
    return result
