"""Imputations as tables of items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyro_mmvae.inference.imputed import Imputation
from pyro_mmvae.inference.imputed_tables import imputation_table


def make(**arrays: Any) -> Imputation:
    names = tuple(dict.fromkeys(key.split("__")[1] for key in arrays))
    imputed = np.eye(3, len(names), dtype=bool)
    parts = {key.replace("__", "/").replace("quantile_", "quantile-"): array for key, array in arrays.items()}
    return Imputation(np.array(["a", "b", "c"]), names, imputed, parts, {})


def test_imputation_table_has_a_column_per_feature_and_text_and_leaves_out_images() -> None:
    means, spreads, high = np.arange(6.0).reshape(3, 2), np.ones((3, 2)), np.full((3, 2), 9.0)
    text, codes = np.array(["one", "two", ""]), np.arange(12).reshape(3, 4)
    imputation = make(
        mean__photo=np.zeros((3, 3, 8, 8)), sd__photo=np.zeros((3, 3, 8, 8)), mean__sensors=means, sd__sensors=spreads,
        quantile_0__sensors=high, mode__note=codes, probability__note=np.ones((3, 4)), text__note=text,
    )  # fmt: skip
    table, left_out = imputation_table(imputation, {"sensors": ("kelvin", "pascal")})
    assert left_out == ("photo",)
    columns = table.flat()
    assert list(columns) == [
        "kelvin", "pascal", "sd_kelvin", "sd_pascal", "quantile-0_kelvin", "quantile-0_pascal", "note",
        "imputed_sensors", "imputed_note",
    ]  # fmt: skip
    np.testing.assert_array_equal(columns["pascal"], means[:, 1])
    np.testing.assert_array_equal(columns["quantile-0_kelvin"], 9.0)
    assert columns["note"].tolist() == ["one", "two", ""]
    assert columns["imputed_sensors"].tolist() == [False, True, False]
    assert columns["imputed_note"].tolist() == [False, False, True]


def test_imputation_table_of_features_with_equal_names_puts_the_modality_before_them() -> None:
    values = np.zeros((3, 2))
    imputation = make(mean__left=values, mean__right=values + 1, mode__word=np.full((3, 2), 4))
    table, _ = imputation_table(imputation, {"left": ("x", "y"), "right": ("x", "z")})
    columns = table.flat()
    assert list(columns)[:6] == ["left_x", "y", "right_x", "z", "word_0", "word_1"]
    assert (columns["right_x"] == 1).all()


def test_imputation_table_of_images_alone_raises() -> None:
    with pytest.raises(ValueError, match="must have a vector, counts or a text .*, got photo: write a folder"):
        imputation_table(make(mean__photo=np.zeros((3, 1, 8, 8))), {})
