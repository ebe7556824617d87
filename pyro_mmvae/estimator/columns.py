"""The columns of a table that make up each modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Columns: TypeAlias = Mapping[str, Any] | None
"""The columns of each modality by its name: names, indices, a mask, a slice, or one name or index."""

Positions: TypeAlias = dict[str, NDArray[np.int64]]
"""The positions of the columns of each modality by its name."""

ONLY_MODALITY = "x"
"""The name of the modality of a table whose columns are not divided."""

_MOST_LISTED = 5  # columns in a message


def find_columns(columns: Columns, count: int, names: Sequence[str] | None) -> Positions:
    """Return the positions of the columns of each modality.

    Args:
        columns: The columns of each modality; None for one modality ``"x"`` of all columns.
        count: The number of columns of the table.
        names: The names of the columns, or None for a table without names.

    Raises:
        TypeError: If ``columns`` is not a mapping from names to columns.
        ValueError: If a column does not exist, belongs to two modalities, or does not belong to any.
    """
    if columns is None:
        return {ONLY_MODALITY: np.arange(count)}
    if not isinstance(columns, Mapping) or not columns or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"columns must be a mapping from names of modalities to columns, or None, got {columns!r}")
    known = None if names is None else {name: position for position, name in enumerate(names)}
    positions = {name: _find(f"columns of {name!r}", chosen, count, known) for name, chosen in columns.items()}
    owners: dict[int, str] = {}
    for name, found in positions.items():
        if not len(found):
            raise ValueError(
                f"columns of {name!r} must select at least one column, got {columns[name]!r} in a table of "
                f"{count} feature(s)"
            )
        for position in found.tolist():
            if position in owners:
                raise ValueError(
                    f"columns must be in one modality each, got {_label(position, names)} in {owners[position]!r} and "
                    f"{name!r}"
                )
            owners[position] = name
    others = [position for position in range(count) if position not in owners]
    if others:
        listed = ", ".join(_label(position, names) for position in others[:_MOST_LISTED])
        raise ValueError(
            f"columns must divide all {count} columns among the modalities, got {len(others)} columns in none of them "
            f"({listed}{', …' if len(others) > _MOST_LISTED else ''}): add them, or select columns before the estimator"
        )
    return positions


def _label(position: int, names: Sequence[str] | None) -> str:
    return str(position) if names is None else repr(names[position])


def _find(where: str, chosen: Any, count: int, known: Mapping[str, int] | None) -> NDArray[np.int64]:
    """Return the positions of the columns of one modality."""
    if isinstance(chosen, slice):
        return np.arange(count)[_positional(where, chosen, known)]
    selection = np.atleast_1d(np.asarray(chosen))
    if selection.ndim == 1 and selection.dtype.kind == "b" and len(selection) == count:
        return np.flatnonzero(selection)
    if selection.ndim == 1 and selection.dtype.kind in "iu":
        outside = selection[(selection < -count) | (selection >= count)]
        if len(outside):
            raise ValueError(f"{where} must be positions below {count} feature(s), got {outside[0]}")
        return np.arange(count)[selection]
    labels = selection.tolist()
    if selection.ndim != 1 or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{where} must be names, positions, a mask of {count} columns, or a slice, got {chosen!r}")
    return np.array([_position(where, label, known) for label in labels], dtype=np.int64)


def _positional(where: str, chosen: slice, known: Mapping[str, int] | None) -> slice:
    """Return a slice of positions; a slice of names includes its end, as in pandas."""
    start, stop = chosen.start, chosen.stop
    if isinstance(start, str):
        start = _position(where, start, known)
    if isinstance(stop, str):
        stop = _position(where, stop, known) + 1
    return slice(start, stop, chosen.step)


def _position(where: str, name: str, known: Mapping[str, int] | None) -> int:
    if known is None:
        raise ValueError(
            f"{where} must be positions in an array, which does not have names of columns, got {name!r}: pass a table "
            "of pandas, and use set_output(transform='pandas') on the steps before this one"
        )
    if name not in known:
        raise ValueError(f"{where} must be among the columns of the table, got {name!r}")
    return known[name]
