"""Checks of omics values that ask the user for a decision: raw counts that look like vectors, and corrected counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.options import describe_item
from pyro_mmvae.data.storage.rows import MatrixRows

_LOOKED_AT = 1_000  # rows of a matrix in a file that are looked at


def check_kind(
    where: str,
    name: str,
    values: NDArray[Any] | MatrixRows,
    kind: str | None,
    layers: tuple[str, ...],
    items: Sequence[str],
) -> None:
    """Check that the kind of a modality of integers was set, and that counts are whole numbers.

    Args:
        where: File and modality, the beginning of error messages.
        name: Name of the modality.
        values: Its values `(item, feature)`. If they stay in a file, only the first rows are looked at.
        kind: Kind that the user set, or None.
        layers: Names of the layers that could be read instead.
        items: Names of the items, for messages.

    Raises:
        ValueError: If the modality holds whole numbers only and has no kind, or counts are not whole numbers.
    """
    if kind not in {None, "counts"}:
        return
    stored = values.stored_values() if isinstance(values, MatrixRows) else values
    looked_at: NDArray[Any] = values[:_LOOKED_AT] if stored is None else stored
    are_whole = (looked_at == np.floor(looked_at)) | np.isnan(looked_at)
    if kind is None and are_whole.all() and not (looked_at < 0).any():
        raise ValueError(
            f"{where}: modality {name!r} must have a kind, as it holds integers only and may be counts, got none: set "
            f"it to counts or vector by the option kinds, as in --set 'data.kinds={{{name}: counts}}'"
        )
    if kind == "counts" and not are_whole.all():
        found = _find_fraction(values)
        if found is not None:
            item, variable, value = found
            others = f"choose another matrix by the option layer ({', '.join(layers)}), " if layers else ""
            raise ValueError(
                f"{where}: modality {name!r}: {describe_item(items, item)}: value at ({variable},) must be a whole "
                f"number, as a count is, got {value}: {others}round the values, or set the kind to vector"
            )


def _find_fraction(values: NDArray[Any] | MatrixRows) -> tuple[int, int, Any] | None:
    """Return item, feature and value of the first number that is not whole, or None if no item has one."""
    for start in range(0, len(values), _LOOKED_AT):
        block = values[start : start + _LOOKED_AT]
        places = np.argwhere((block != np.floor(block)) & ~np.isnan(block))
        if len(places):
            row, variable = places[0].tolist()
            return start + row, variable, block[row, variable]
    return None
