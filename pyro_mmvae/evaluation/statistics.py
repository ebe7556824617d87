"""Test statistics of single observations, by name, for posterior predictive checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import nn

from pyro_mmvae._typing import Tensor

EVENT_DIMS = {"image": 3, "vector": 1, "categorical": 1}
SPARSITY_THRESHOLD = 0.1


class ClassifierLike(Protocol):
    """What ``predicted_class`` needs; :class:`~pyro_mmvae.evaluation.Classifiers` has it."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Modality name to classifier."""

    def predict(self, name: str, images: Tensor) -> Tensor:
        """Classes `(item,)`, or attributes `(item, attribute)`, of images, tokens or vectors, each `(item, …)`."""


@dataclass(frozen=True)
class StatisticContext:
    """What is known of the modality that a statistic is for.

    Attributes:
        modality: its name.
        classes: how many, of a categorical modality.
        classifiers: to judge it by.
    """

    modality: str
    classes: int | None = None
    classifiers: ClassifierLike | None = None


@dataclass(frozen=True)
class Statistic:
    """A number that says something of one observation.

    Attributes:
        function: `(*batch, *event)` to `(*batch)`.
        kind: of the modality, a key of ``EVENT_DIMS``.
        nominal: whether its values are names (classes) that have no order.
    """

    function: Callable[[Tensor], Tensor]
    kind: str
    nominal: bool = False

    def __call__(self, values: Tensor, event_dim: int) -> Tensor:
        """The statistic of each observation.

        Args:
            values: `(*batch, *event)`.
            event_dim: how many of the last dimensions are one observation.

        Returns:
            `(*batch)`, float64.

        Raises:
            ValueError: if the function gives another shape.
        """
        batch = values.shape[: values.dim() - event_dim]
        result = self.function(values if self.kind == "image" else values.reshape(*batch, -1))
        if result.shape != batch:
            name = getattr(self.function, "__name__", "?")
            raise ValueError(f"statistic {name!r} gave shape {tuple(result.shape)}, expected {tuple(batch)}")
        return result.double()


Function: TypeAlias = Callable[[Tensor], Tensor]
Maker: TypeAlias = Callable[[StatisticContext], dict[str, Function]]

_REGISTRY: dict[tuple[str, str], tuple[Maker, bool]] = {}


def _register(name: str, kinds: Sequence[str], nominal: bool, maker: Maker) -> None:
    if not name or name == "raw" or any(c in name for c in "./"):
        raise ValueError(f"a statistic's name must not be empty or 'raw', nor have a dot or slash in it: {name!r}")
    for kind in kinds:
        if kind not in EVENT_DIMS:
            raise ValueError(f"statistic {name!r}: unknown kind {kind!r}, there are {', '.join(EVENT_DIMS)}")
        if (name, kind) in _REGISTRY:
            raise ValueError(f"statistic {name!r} is registered already for kind {kind!r}")
    _REGISTRY.update({(name, kind): (maker, nominal) for kind in kinds})


def register_statistic(
    name: str, *, kinds: Sequence[str] = ("image",), nominal: bool = False
) -> Callable[[Function], Function]:
    """Register a test statistic of one's own.

    The function maps `(*batch, *event)` to `(*batch)`, whatever the leading dimensions. The event of an ``image`` is
    `(channel, height, width)`; that of a ``vector`` or ``categorical`` modality arrives flattened, `(position,)`.

    Args:
        name: without dots or slashes.
        kinds: of modalities it is for: ``image``, ``vector``, ``categorical``.
        nominal: whether its values are classes without an order.

    Raises:
        ValueError: for a name that is taken, or an unknown kind.

    Example:
        >>> @register_statistic("brightest", kinds=("image",))
        ... def brightest(images):
        ...     return images.amax((-3, -2, -1))
        >>> "brightest" in statistic_names("image")
        True
        >>> unregister_statistic("brightest")
    """

    def decorate(function: Function) -> Function:
        _register(name, kinds, nominal, lambda context: {name: function})
        return function

    return decorate


def unregister_statistic(name: str) -> None:
    """Forget a statistic, for all kinds.

    Raises:
        ValueError: if there is none of that name.
    """
    _known(name)
    for key in [key for key in _REGISTRY if key[0] == name]:
        del _REGISTRY[key]


def statistic_names(kind: str | None = None) -> tuple[str, ...]:
    """Names of the statistics of one kind of modality, or of any, in the order of registration."""
    return tuple(dict.fromkeys(name for name, of in _REGISTRY if kind in {None, of}))


def make_statistics(names: Sequence[str] | None, kind: str, context: StatisticContext) -> dict[str, Statistic]:
    """The statistics of one modality.

    Args:
        names: which; those that are not for this kind are left out. All by default.
        kind: of the modality.
        context: what is known of it.

    Returns:
        Label to statistic. ``token_frequency`` gives one a token, labelled ``token_frequency.0``, …; a statistic that
        cannot be had (``predicted_class`` without a classifier) gives none.

    Raises:
        ValueError: for an unknown name; the message lists those there are.
    """
    for name in names or ():
        _known(name)
    made = {}
    for name in statistic_names(kind) if names is None else dict.fromkeys(names):
        if (name, kind) in _REGISTRY:
            maker, nominal = _REGISTRY[name, kind]
            made.update({label: Statistic(function, kind, nominal) for label, function in maker(context).items()})
    return made


def statistics_of(
    modality: str, distribution: Any, names: Sequence[str] | None = None, classifiers: ClassifierLike | None = None
) -> dict[str, Statistic]:
    """The statistics of what a likelihood gives.

    Classes without an order (Categorical, not Bernoulli) make a ``categorical`` modality, three event dimensions an
    ``image``, and everything else is a ``vector``.

    Args:
        modality: its name.
        distribution: of its observations.
        names: see :func:`make_statistics`.
        classifiers: for ``predicted_class``.

    Returns:
        Label to statistic.
    """
    support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    upper = getattr(support, "upper_bound", None) if support.is_discrete else None
    classes = None if upper is None else int(upper) + 1
    kind = "categorical" if classes else "image" if distribution.event_dim == 3 else "vector"
    return make_statistics(names, kind, StatisticContext(modality, classes, classifiers))


def _known(name: str) -> None:
    if name not in statistic_names():
        raise ValueError(
            f"unknown statistic {name!r}; there are {', '.join(statistic_names())} (add one with @register_statistic)"
        )


def _axes(kind: str) -> tuple[int, ...]:
    return tuple(range(-EVENT_DIMS[kind], 0))


def _register_numeric(kind: str) -> None:
    axes = _axes(kind)

    @register_statistic("mean", kinds=(kind,))
    def mean(values: Tensor) -> Tensor:
        """The mean of all pixels and channels."""
        return values.mean(axes)

    @register_statistic("contrast", kinds=(kind,))
    def contrast(values: Tensor) -> Tensor:
        """Their standard deviation, divided by their number and not by one less."""
        return values.std(axes, correction=0)

    @register_statistic("sparsity", kinds=(kind,))
    def sparsity(values: Tensor) -> Tensor:
        """The share of pixels with |x| < 0.1 (``SPARSITY_THRESHOLD``), in units of the data: 0.1 of full brightness."""
        return (values.abs() < SPARSITY_THRESHOLD).double().mean(axes)


_register_numeric("image")
_register_numeric("vector")


@register_statistic("edge_energy")
def edge_energy(images: Tensor) -> Tensor:
    """The mean squared difference of neighbouring pixels, over all horizontal and vertical pairs and channels.

    Args:
        images: `(*batch, channel, height, width)`.

    Returns:
        `(*batch)`; 0 for an image of one pixel.
    """
    down, across = images.diff(dim=-2).square(), images.diff(dim=-1).square()
    pairs = sum(part.shape[-3:].numel() for part in (down, across))
    return (down.sum((-3, -2, -1)) + across.sum((-3, -2, -1))) / max(pairs, 1)


def _judges_attributes(classifiers: ClassifierLike) -> bool:
    return bool(getattr(classifiers, "label_names", None))


def _predicted_class(kind: str) -> Maker:
    def make(context: StatisticContext) -> dict[str, Function]:
        classifiers, name = context.classifiers, context.modality
        if classifiers is None or name not in classifiers.networks or _judges_attributes(classifiers):
            return {}

        def predicted_class(values: Tensor) -> Tensor:
            batch = values.dim() - EVENT_DIMS[kind]
            items = values.reshape(-1, *values.shape[batch:])
            return classifiers.predict(name, items).reshape(values.shape[:batch])

        return {"predicted_class": predicted_class}

    return make


def _attributes_seen(kind: str) -> Maker:
    def make(context: StatisticContext) -> dict[str, Function]:
        classifiers, name = context.classifiers, context.modality
        if classifiers is None or name not in classifiers.networks or not _judges_attributes(classifiers):
            return {}

        def attributes_seen(values: Tensor) -> Tensor:
            """How many attributes the classifier sees."""
            batch = values.dim() - EVENT_DIMS[kind]
            found = classifiers.predict(name, values.reshape(-1, *values.shape[batch:]))
            return found.double().sum(-1).reshape(values.shape[:batch])

        return {"attributes_seen": attributes_seen}

    return make


def _token_frequency(context: StatisticContext) -> dict[str, Function]:
    def of(token: int) -> Function:
        def token_frequency(values: Tensor) -> Tensor:
            return (values == token).to(torch.float64).mean(-1)

        return token_frequency

    return {f"token_frequency.{token}": of(token) for token in range(context.classes or 0)}


for _kind in EVENT_DIMS:
    _register("predicted_class", (_kind,), True, _predicted_class(_kind))
    _register("attributes_seen", (_kind,), False, _attributes_seen(_kind))
_register("token_frequency", ("categorical",), False, _token_frequency)
