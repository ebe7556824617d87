"""Checks of the identifiers of items and the names of features of a user's data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae.data.own.raw_arrays import RawArrays


def read_ids(raw: RawArrays, count: int) -> NDArray[np.str_] | None:
    """Check the identifiers of the items of a data set.

    Args:
        raw: The arrays of the data set.
        count: Number of items in the data set.

    Returns:
        The identifiers as strings, `(item,)`, or None if the data has none.

    Raises:
        ValueError: If they have another shape or type, or two items share one; the message names it.
    """
    if raw.ids is None:
        return None
    where = raw.files.get("ids", raw.where)
    if raw.ids.shape != (count,) or raw.ids.dtype.kind not in "iuU":
        raise ValueError(
            f"{where}: ids must be (item,) = ({count},) of strings or integers, got {raw.ids.shape} of {raw.ids.dtype}"
        )
    ids: NDArray[np.str_] = np.array(raw.ids).astype(np.str_)
    _check_distinct(f"{where}: ids", ids)
    return ids


def read_feature_names(raw: RawArrays) -> dict[str, tuple[str, ...]]:
    """Check the names of the features of a data set.

    Args:
        raw: The arrays of the data set, with strings encoded as tokens.

    Returns:
        The names of the features by modality name, in the order of the modalities; modalities without names are left
        out.

    Raises:
        ValueError: If there is no such modality, or its items are not vectors of as many features, or two features
            share a name; the message names the modality.
    """
    for name in raw.feature_names:
        if name not in raw.modalities:
            raise ValueError(
                f"{raw.files.get(f'features_{name}', raw.where)}: must name the features of a modality, got names for "
                f"{name!r}, which is none of {', '.join(raw.modalities)}: names of modalities may not begin with "
                "'features_'"
            )
    result = {}
    for name, array in raw.modalities.items():
        if name not in raw.feature_names:
            continue
        names, where = raw.feature_names[name], raw.files.get(f"features_{name}", raw.where)
        if array.ndim != 2 or names.shape != array.shape[1:] or names.dtype.kind != "U":
            raise ValueError(
                f"{where}: must be strings (feature,) for a modality {name!r} of vectors (item, feature), got "
                f"{names.shape} of {names.dtype} for items of shape {array.shape[1:]}"
            )
        _check_distinct(f"{where}: names of features of {name!r}", names)
        result[name] = tuple(names.tolist())
    return result


def _check_distinct(what: str, names: NDArray[Any]) -> None:
    """Check that no name occurs twice."""
    listed = names.tolist()
    if len(set(listed)) < len(listed):
        repeated = next(name for name, number in Counter(listed).items() if number > 1)
        raise ValueError(f"{what} must be distinct, got {repeated!r} twice")
