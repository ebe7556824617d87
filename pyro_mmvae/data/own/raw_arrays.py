"""A user's own arrays as they were found, whatever format they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from pyro_mmvae.data.own.meta import Meta


@dataclass(frozen=True, eq=False)
class Source:
    """Arrays as they were found.

    Attributes:
        where: path of the whole, for messages.
        files: name of an array, modality or other, to the file or key that it comes from.
        modalities: name to `(item, …)`, in the order of the columns of ``present``.
        labels: `(item,)`, or `(item, attribute)` of 0 and 1, or None.
        present: `(item, modality)` or None.
        split: `(item,)` of 0, 1, 2 or of names, or None.
        meta: what is said of them.
        name: of the data.
        provenance: what identifies the content.
    """

    where: str
    files: Mapping[str, str]
    modalities: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None
    present: NDArray[Any] | None
    split: NDArray[Any] | None
    meta: Meta
    name: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def place(self, name: str) -> str:
        """File and modality, for messages."""
        return f"{self.files.get(name, self.where)}: modality {name!r}"
