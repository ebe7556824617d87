"""Tests of how the columns of a table are divided among modalities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyro_mmvae.estimator.columns import find_columns

NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (None, {"x": [0, 1, 2, 3]}),
        ({"u": [0, 2], "v": [3, 1]}, {"u": [0, 2], "v": [3, 1]}),
        ({"u": slice(2), "v": slice(2, None)}, {"u": [0, 1], "v": [2, 3]}),
        ({"u": ["d", "a"], "v": ("b", "c")}, {"u": [3, 0], "v": [1, 2]}),
        ({"u": slice("a", "c"), "v": "d"}, {"u": [0, 1, 2], "v": [3]}),
        ({"u": -1, "v": np.arange(3)}, {"u": [3], "v": [0, 1, 2]}),
        ({"u": [True, False, False, True], "v": np.array([1, 2])}, {"u": [0, 3], "v": [1, 2]}),
    ],
)
def test_find_columns_given_any_selection_returns_positions(columns: Any, expected: dict[str, list[int]]) -> None:
    found = find_columns(columns, 4, NAMES)
    assert {name: positions.tolist() for name, positions in found.items()} == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"u": [0, 1], "v": [1, 2, 3]}, "columns must be in one modality each, got 'b' in 'u' and 'v'"),
        (
            {"u": [0, 1], "v": [2]},
            r"must divide all 4 columns among the modalities, got 1 columns in none of them \('d'",
        ),
        ({"u": [0, 4]}, r"columns of 'u' must be positions below 4 feature\(s\), got 4"),
        ({"u": ["a", "z"]}, "columns of 'u' must be among the columns of the table, got 'z'"),
        ({"u": slice(4, None), "v": slice(4)}, "columns of 'u' must select at least one column"),
        ({"u": [0.5]}, "columns of 'u' must be names, positions, a mask of 4 columns, or a slice"),
        ({"u": [True, False]}, "columns of 'u' must be names, positions, a mask of 4 columns, or a slice"),
    ],
)
def test_find_columns_given_a_wrong_selection_raises(columns: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_columns(columns, 4, NAMES)


@pytest.mark.parametrize("columns", [["a", "b"], {}, {0: ["a"]}])
def test_find_columns_given_no_mapping_from_names_raises(columns: Any) -> None:
    with pytest.raises(TypeError, match="columns must be a mapping from names of modalities to columns, or None"):
        find_columns(columns, 4, NAMES)


def test_find_columns_given_names_for_an_array_says_how_to_keep_them() -> None:
    with pytest.raises(ValueError, match=r"use set_output\(transform='pandas'\) on the steps before this one"):
        find_columns({"u": ["a"]}, 4, None)
