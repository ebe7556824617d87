"""The arrays of a user's data as they were read, whatever format they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae.data.own.meta import Meta
from pyro_mmvae.data.storage.rows import MatrixRows


@dataclass(frozen=True, eq=False)
class RawArrays:
    """The unchecked arrays of a data set.

    Attributes:
        where: Path of the whole data set, for messages.
        files: File or key that each array comes from, by the array's name.
        modalities: Observations by modality name, `(item, …)`, in the order of the columns of ``present``; arrays, or
            rows of a matrix that are made dense as they are read.
        labels: Classes `(item,)`, or attributes of 0 and 1 `(item, attribute)`, or None.
        present: True where a modality is present, `(item, modality)`, or None if all are.
        split: The split of each item, `(item,)`, as 0, 1, 2 or as names, or None for a random split.
        meta: The description of the data, such as the content of ``meta.yaml``.
        name: Name of the data.
        provenance: Everything that identifies the content, serialisable as JSON.
        ids: Identifier of each item, strings or integers `(item,)`, or None.
        feature_names: Names of the features of a modality, strings `(feature,)`, by its name; empty by default.
        covariates: Category of each item, `(item,)`, by covariate name: strings, integers, bool, whole floats, or
            objects, of which None, NaN and empty strings are unknown; empty by default.
    """

    where: str
    files: Mapping[str, str]
    modalities: Mapping[str, NDArray[Any] | MatrixRows]
    labels: NDArray[Any] | None
    present: NDArray[Any] | None
    split: NDArray[Any] | None
    meta: Meta
    name: str
    provenance: dict[str, Any] = field(default_factory=dict)
    ids: NDArray[Any] | None = None
    feature_names: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    covariates: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def locate(self, name: str) -> str:
        """Return file and modality, with which messages about a modality begin."""
        return f"{self.files.get(name, self.where)}: modality {name!r}"
