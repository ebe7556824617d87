"""The items that a report shows: plain arrays that a model has filled, so that reports need not see the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ShownModality:
    """The observations of a modality and what each subset of the modalities says about it.

    Attributes:
        name: The name of the modality.
        kind: The way in which values are shown: ``image``, ``text`` or ``numbers``.
        observed: The observations: uint8 `(item, channel, height, width)`, strings `(item,)`, or floats
            `(item, feature)`.
        generated: The values decoded given each subset, in the form of ``observed`` after an axis `subset`.
        features: The names of the features of numbers; empty for images and texts.
        unit: The unit of numbers, such as ``standard deviations from the training mean``; empty if it is that of the
            data.
        num_features: The number of features in the data, of which those with the largest variance are shown.
        size: The height and width of an image in the data; images may be shown smaller.
        data_type: The data type of the modality, such as ``vector``.
        likelihood: The name of the likelihood of the modality.
    """

    name: str
    kind: str
    observed: NDArray[Any]
    generated: NDArray[Any]
    features: tuple[str, ...] = ()
    unit: str = ""
    num_features: int = 0
    size: tuple[int, int] = (0, 0)
    data_type: str = ""
    likelihood: str = ""


@dataclass(frozen=True, eq=False)
class LatentMap:
    """The positions of items in the first two principal components of their posterior means.

    The first items are those of :class:`Exhibits`, in its order.

    Attributes:
        subsets: The subsets of the modalities that the positions are given; the last one is of all modalities, which
            the components are fitted to.
        points: The positions, of shape `(subset, item, 2)`.
        seen: True where an item has all modalities of a subset, of shape `(subset, item)`.
        explained: The share of the variance that each component explains, of shape `(2,)`.
        labels: The class of each item, of shape `(item,)`, empty for an item without one; None without labels.
        title: The name of the label, empty if it does not have one.
        disagreement: The mean W₂ distance between the experts of each item, of shape `(item,)`, NaN for an item with
            fewer than two modalities.
        ids: The identifier of each item, of shape `(item,)`.
    """

    subsets: tuple[tuple[int, ...], ...]
    points: NDArray[Any]
    seen: NDArray[Any]
    explained: NDArray[Any]
    labels: NDArray[Any] | None
    title: str
    disagreement: NDArray[Any]
    ids: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Exhibits:
    """A few items with what every subset of their modalities says about them.

    Attributes:
        names: The names of the modalities.
        subsets: The subsets of the modalities, as indices, ordered by size.
        modalities: The values of each modality, in the order of ``names``.
        ids: The identifier of each item, of shape `(item,)`.
        labels: The label of each item, of shape `(item,)`, empty for an item without one; None without labels.
        present: True where the modality of an item was observed, of shape `(item, modality)`.
        distances: The W₂ distance between two experts of an item, of shape `(item, modality, modality)`, NaN where one
            is absent.
        expected: The distance expected of two experts that err independently around one latent, the root of the sum of
            their squared scales, in the shape of ``distances``.
        spread: The root of the summed variances of the posterior given each subset, of shape `(subset, item)`.
        protocol: How values were decoded, in words.
        latent: The map of these and further items.
        notes: Facts about the selection that a reader must know; empty by default.
    """

    names: tuple[str, ...]
    subsets: tuple[tuple[int, ...], ...]
    modalities: tuple[ShownModality, ...]
    ids: NDArray[Any]
    labels: NDArray[Any] | None
    present: NDArray[Any]
    distances: NDArray[Any]
    expected: NDArray[Any]
    spread: NDArray[Any]
    protocol: str
    latent: LatentMap
    notes: Sequence[str] = field(default_factory=tuple)
