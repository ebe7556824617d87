"""The registry of test statistics for posterior predictive checks, open to user-defined ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import nn

from pyro_mmvae._typing import Tensor
from pyro_mmvae.registry import Registry

EVENT_DIMS = {"image": 3, "vector": 1, "categorical": 1}
"""The kinds of observations that statistics are registered for, with their numbers of event dimensions."""


class ClassifierLike(Protocol):
    """The interface that classifier-based statistics need; :class:`~pyro_mmvae.evaluation.Classifiers` provides it."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """A mapping from modality to classifier."""

    def predict(self, name: str, images: Tensor) -> Tensor:
        """Return classes `(item,)` or attributes `(item, attribute)` of images, tokens or vectors `(item, …)`."""


@dataclass(frozen=True)
class StatisticContext:
    """A description of the modality that a statistic is made for.

    Attributes:
        modality: The name of the modality.
        classes: The number of classes of a categorical modality, or None for other modalities.
        classifiers: The classifiers to judge the modality by, or None if there are none.
    """

    modality: str
    classes: int | None = None
    classifiers: ClassifierLike | None = None


@dataclass(frozen=True)
class Statistic:
    """A function from one observation to a number.

    Attributes:
        function: The function, from `(*batch, *event)` to `(*batch)`.
        kind: The kind of observation, a key of ``EVENT_DIMS``.
        nominal: If True, the values are classes without an order; False by default.
    """

    function: Callable[[Tensor], Tensor]
    kind: str
    nominal: bool = False

    def __call__(self, values: Tensor, event_dim: int) -> Tensor:
        """Return the statistic of each observation.

        Args:
            values: Observations of shape `(*batch, *event)`.
            event_dim: The number of last dimensions that make one observation.

        Returns:
            The statistic in float64, of shape `(*batch)`.

        Raises:
            ValueError: If the function returns another shape.
        """
        batch = values.shape[: values.dim() - event_dim]
        result = self.function(values if self.kind == "image" else values.reshape(*batch, -1))
        if result.shape != batch:
            name = getattr(self.function, "__name__", "?")
            raise ValueError(f"statistic {name!r} must return shape {tuple(batch)}, got {tuple(result.shape)}")
        return result.double()


Function: TypeAlias = Callable[[Tensor], Tensor]
Maker: TypeAlias = Callable[[StatisticContext], dict[str, Function]]

STATISTICS: Registry[dict[str, tuple[Maker, bool]]] = Registry("statistic", "Add one with @register_statistic.")
"""A table from name to kind of observation to the maker of a statistic and its ``nominal`` flag."""


def register_maker(name: str, kinds: Sequence[str], nominal: bool, maker: Maker) -> None:
    """Register a function that makes the statistics of a modality from its description.

    Args:
        name: The name of the statistic, not empty or ``"raw"`` and without dots and slashes.
        kinds: The kinds of observations that the statistic is for, keys of ``EVENT_DIMS``.
        nominal: If True, the values are classes without an order.
        maker: A function from a :class:`StatisticContext` to functions by label.

    Raises:
        ValueError: If the name is invalid or taken for one of the kinds, or a kind is unknown.
    """
    # Dots separate modality and label in keys, "raw" labels the observations, and slashes are reserved by netCDF.
    if not name or name == "raw" or any(c in name for c in "./"):
        raise ValueError(f"the name of a statistic must not be empty or 'raw' nor contain '.' or '/', got {name!r}")
    by_kind = STATISTICS.get(name, {})
    for kind in kinds:
        if kind not in EVENT_DIMS:
            raise ValueError(f"kinds of statistic {name!r} must be among {', '.join(EVENT_DIMS)}, got {kind!r}")
        if kind in by_kind:
            raise ValueError(f"statistic {name!r} is already registered for kind {kind!r}")
    if name not in STATISTICS:
        STATISTICS.register(name, by_kind)
    by_kind.update(dict.fromkeys(kinds, (maker, nominal)))


def register_statistic(
    name: str, *, kinds: Sequence[str] = ("image",), nominal: bool = False
) -> Callable[[Function], Function]:
    """Register a user-defined test statistic.

    The function maps `(*batch, *event)` to `(*batch)` for any number of leading dimensions. The event of an ``image``
    is `(channel, height, width)`; that of a ``vector`` or ``categorical`` modality is flattened to `(position,)`.

    Args:
        name: The name of the statistic, without dots and slashes.
        kinds: The kinds of observations that it is for: ``image`` (the default), ``vector``, ``categorical``.
        nominal: If True, the values are classes without an order; False by default.

    Returns:
        A decorator of the function.

    Raises:
        ValueError: If the name is taken for one of the kinds, or a kind is unknown.

    Example:
        >>> @register_statistic("brightest", kinds=("image",))
        ... def brightest(images):
        ...     return images.amax((-3, -2, -1))
        >>> "brightest" in statistic_names("image")
        True
        >>> unregister_statistic("brightest")
    """

    def decorate(function: Function) -> Function:
        register_maker(name, kinds, nominal, lambda context: {name: function})
        return function

    return decorate


def unregister_statistic(name: str) -> None:
    """Remove a statistic for all kinds of observations.

    Raises:
        ValueError: If the name is unknown.
    """
    STATISTICS.unregister(name)


def statistic_names(kind: str | None = None) -> tuple[str, ...]:
    """Return the names of the statistics for one kind of observation, or for any, in the order of registration."""
    return tuple(name for name, by_kind in STATISTICS.items() if kind is None or kind in by_kind)


def make_statistics(names: Sequence[str] | None, kind: str, context: StatisticContext) -> dict[str, Statistic]:
    """Make the statistics of one modality.

    Args:
        names: The names of the statistics, or None for all; those for other kinds of observations are left out.
        kind: The kind of observation, a key of ``EVENT_DIMS``.
        context: The description of the modality.

    Returns:
        A mapping from label to statistic. ``token_frequency`` makes one per token, labelled ``token_frequency.0``, …; a
        statistic that is unavailable, such as ``predicted_class`` without a classifier, makes none.

    Raises:
        ValueError: If a name is unknown; the message lists those that exist.
    """
    made = {}
    for name in statistic_names(kind) if names is None else dict.fromkeys(names):
        by_kind = STATISTICS.lookup(name)
        if kind in by_kind:
            maker, nominal = by_kind[kind]
            made.update({label: Statistic(function, kind, nominal) for label, function in maker(context).items()})
    return made
