"""The built-in test statistics of single observations for posterior predictive checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.evaluation.statistic_registry import (
    EVENT_DIMS,
    ClassifierLike,
    Function,
    Maker,
    Statistic,
    StatisticContext,
    make_statistics,
    register_maker,
    register_statistic,
    statistic_names,
    unregister_statistic,
)

__all__ = [
    "EVENT_DIMS",
    "SPARSITY_THRESHOLD",
    "ClassifierLike",
    "Statistic",
    "StatisticContext",
    "edge_energy",
    "make_statistics",
    "register_statistic",
    "statistic_names",
    "statistics_of",
    "unregister_statistic",
]

SPARSITY_THRESHOLD = 0.1
"""The absolute value below which ``sparsity`` counts an element, in units of the data: 0.1 of full brightness."""


def statistics_of(
    modality: str, distribution: Any, names: Sequence[str] | None = None, classifiers: ClassifierLike | None = None
) -> dict[str, Statistic]:
    """Make the statistics of the observations that a likelihood describes.

    Classes without an order (Categorical, but not Bernoulli) make a ``categorical`` modality, three event dimensions an
    ``image``, and everything else a ``vector``.

    Args:
        modality: The name of the modality.
        distribution: The distribution of its observations.
        names: The names of the statistics, see :func:`make_statistics`; all that fit by default.
        classifiers: The classifiers for ``predicted_class`` and ``attributes_seen``, which are left out by default.

    Returns:
        A mapping from label to statistic.
    """
    support = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    upper = getattr(support, "upper_bound", None) if support.is_discrete else None
    classes = None if upper is None else int(upper) + 1
    kind = "categorical" if classes else "image" if distribution.event_dim == 3 else "vector"
    return make_statistics(names, kind, StatisticContext(modality, classes, classifiers))


def _register_numeric(kind: str) -> None:
    """Register the statistics of numbers for one kind of observation."""
    axes = tuple(range(-EVENT_DIMS[kind], 0))

    @register_statistic("mean", kinds=(kind,))
    def mean(values: Tensor) -> Tensor:
        """Return the mean of all elements."""
        return values.mean(axes)

    @register_statistic("contrast", kinds=(kind,))
    def contrast(values: Tensor) -> Tensor:
        """Return the standard deviation of all elements, without Bessel's correction."""
        return values.std(axes, correction=0)

    @register_statistic("sparsity", kinds=(kind,))
    def sparsity(values: Tensor) -> Tensor:
        """Return the share of elements whose absolute value is below ``SPARSITY_THRESHOLD``."""
        return (values.abs() < SPARSITY_THRESHOLD).double().mean(axes)


_register_numeric("image")
_register_numeric("vector")


@register_statistic("edge_energy")
def edge_energy(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbouring pixels, over all horizontal and vertical pairs and channels.

    Args:
        images: Images of shape `(*batch, channel, height, width)`.

    Returns:
        The mean of shape `(*batch)`; 0 for an image of one pixel.
    """
    down, across = images.diff(dim=-2).square(), images.diff(dim=-1).square()
    pairs = sum(part.shape[-3:].numel() for part in (down, across))
    return (down.sum((-3, -2, -1)) + across.sum((-3, -2, -1))) / max(pairs, 1)


def _judges_attributes(classifiers: ClassifierLike) -> bool:
    """Return True if the classifiers predict attributes rather than classes."""
    return bool(getattr(classifiers, "label_names", None))


def _predicted_class(kind: str) -> Maker:
    """Return the maker of the class that the modality's classifier predicts."""

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
    """Return the maker of the number of attributes that the modality's classifier predicts."""

    def make(context: StatisticContext) -> dict[str, Function]:
        classifiers, name = context.classifiers, context.modality
        if classifiers is None or name not in classifiers.networks or not _judges_attributes(classifiers):
            return {}

        def attributes_seen(values: Tensor) -> Tensor:
            batch = values.dim() - EVENT_DIMS[kind]
            predicted = classifiers.predict(name, values.reshape(-1, *values.shape[batch:]))
            return predicted.double().sum(-1).reshape(values.shape[:batch])

        return {"attributes_seen": attributes_seen}

    return make


def _token_frequency(context: StatisticContext) -> dict[str, Function]:
    """Make one statistic per token: its share of the positions."""

    def make(token: int) -> Function:
        def token_frequency(values: Tensor) -> Tensor:
            return (values == token).to(torch.float64).mean(-1)

        return token_frequency

    return {f"token_frequency.{token}": make(token) for token in range(context.classes or 0)}


for _kind in EVENT_DIMS:
    register_maker("predicted_class", (_kind,), True, _predicted_class(_kind))
    register_maker("attributes_seen", (_kind,), False, _attributes_seen(_kind))
register_maker("token_frequency", ("categorical",), False, _token_frequency)
