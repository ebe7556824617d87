"""Training objectives: their interface, the evidence lower bound, and the registry of names."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor, nn

from pyro_mmvae.batch import Batch
from pyro_mmvae.guides import stratified
from pyro_mmvae.registry import Registry
from pyro_mmvae.signatures import Option, check_options, describe_options, find_options, plain_text
from pyro_mmvae.training.elbo import RecordingELBO, Terms
from pyro_mmvae.vae.vae import MultimodalVAE


class Objective(nn.Module):
    """A training objective of a multimodal VAE, as a module that maps a batch to a loss and its terms.

    A subclass implements :meth:`forward`. It may have further parameters, which are trained, saved and restored
    together with those of the model. Since the loss comes from calling the module,
    ``torch.nn.parallel.DistributedDataParallel`` can wrap it.

    Args:
        vae: The model and guide to train.
    """

    def __init__(self, vae: MultimodalVAE) -> None:
        super().__init__()
        self.vae = vae

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the loss of a batch.

        Args:
            batch: Items on the device of the model.

        Returns:
            The loss, which is the negative objective, a scalar summed over the items of the batch, in nats, to be
            differentiated; and its terms, detached.
        """

    def extra_state_dict(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of the objective that do not belong to the model and guide, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("vae.")}


class ELBOObjective(Objective):
    """The evidence lower bound with the bound, β and reconstruction weights w_m of the model and guide.

    With both bounds the drawn subsets are stratified over the batch, see :func:`pyro_mmvae.guides.stratified`.

    Args:
        vae: The model and guide to train.
    """

    def __init__(self, vae: MultimodalVAE) -> None:
        super().__init__(vae)
        self.estimator = RecordingELBO(max_plate_nesting=1)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """Compute the negative ELBO of a batch, see :meth:`Objective.forward`."""
        # Calling a PyroModule makes a pyro.param statement for each parameter at every step. The optimizer has the
        # parameters already, so the programs are called by their forward methods.
        guide = stratified(self.vae.guide.forward)
        loss = self.estimator.differentiable_loss(self.vae.model.forward, guide, batch)
        return loss, self.estimator.terms


ObjectiveFactory: TypeAlias = Callable[..., Objective]
"""A class of objectives, or a function: the model and guide, then the options as keywords, to an objective."""

_OBJECTIVES: Registry[ObjectiveFactory] = Registry(
    "objective", "Register a custom one with pyro_mmvae.training.register_objective"
)
_OBJECTIVES.register("elbo", ELBOObjective, built_in=True)


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
    return plain_text(inspect.getdoc(_OBJECTIVES.lookup(name)) or name).split("\n")[0]


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
    names, is_open = find_options(factory, positional=1)
    if not is_open:
        check_options(f"objective {name!r}", options, names)
    missing = [option for option, p in names.items() if p.default is p.empty and option not in options]
    if missing:
        raise ValueError(f"option {missing[0]!r} of objective {name!r} must be given, as it has no default, got none")
    result = factory(vae, **options)
    if not isinstance(result, Objective):
        raise TypeError(f"objective {name!r} must be an Objective, got {type(result).__name__}")
    return result
