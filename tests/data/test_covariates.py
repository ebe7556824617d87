"""Tests of the covariates of data sets: carrying, indicators, frequencies, and matching by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import MultimodalDataset, describe_data, from_arrays, match_data, select_items
from pyro_mmvae.data.covariate_matching import match_covariates
from pyro_mmvae.data.covariates import category_frequencies, one_hot, unseen_categories
from pyro_mmvae.data.missing import Missing

DONORS = ["B", "A", "", "C", "A", "B"]


def make(**options: Any) -> MultimodalDataset:  # noqa: ANN401
    values = np.random.default_rng(0).normal(size=(len(DONORS), 2))
    options.setdefault("covariates", {"donor": DONORS, "plate": [10, 9, 10, 9, 10, 9]})
    options.setdefault("item_ids", list("uvwxyz"))
    return from_arrays({"x": values, "y": values + 1}, name="new", **options)


def test_from_arrays_given_covariates_numbers_sorted_categories() -> None:
    data = make()
    assert data.covariate_names == {"donor": ("A", "B", "C"), "plate": ("10", "9")}
    assert data.covariates["donor"].tolist() == [1, 0, -1, 2, 0, 1]
    assert data.covariates["donor"].dtype == torch.int64
    assert data.covariates["plate"].tolist() == [0, 1, 0, 1, 0, 1]


def test_dataset_functions_that_select_items_carry_covariates() -> None:
    data = make()
    rows = [3, 0, 2]
    expected = data.covariates["donor"][rows].tolist()
    mask = torch.zeros(6, dtype=torch.bool)
    mask[[0, 2, 3]] = True
    assert data.subset(rows).covariates["donor"].tolist() == expected
    assert data.subset(mask).covariates["donor"].tolist() == data.covariates["donor"][[0, 2, 3]].tolist()
    assert select_items(data, np.array(rows)).covariates["donor"].tolist() == expected
    assert data.to("cpu").covariates["donor"].tolist() == data.covariates["donor"].tolist()
    assert Missing(missing_rate=0.5).apply(data).covariates["plate"].tolist() == data.covariates["plate"].tolist()
    assert data.subset(rows).covariate_names == data.covariate_names


@pytest.mark.parametrize(
    ("covariates", "names", "message"),
    [
        ({"d": torch.zeros(6, dtype=torch.int64)}, {}, "covariate_names must name the categories"),
        (
            {"d": torch.zeros(5, dtype=torch.int64)},
            {"d": ("A", "B")},
            "'d' must be codes .item,. = .6,. of",
        ),
        ({"d": torch.zeros(6)}, {"d": ("A", "B")}, "got .6,. of torch.float32"),
        ({"d": torch.full((6,), 2)}, {"d": ("A", "B")}, "codes must be from 0 to 1, or -1 .* got 2"),
        ({"d": torch.full((6,), -2)}, {"d": ("A", "B")}, "got -2"),
        ({"d": torch.zeros(6, dtype=torch.int64)}, {"d": ("A", "A")}, "must be distinct, got 'A' twice"),
    ],
)
def test_dataset_of_wrong_covariates_raises(covariates: Any, names: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=message):
        replace(make(), covariates=covariates, covariate_names=names)


def test_one_hot_of_an_unknown_category_is_a_block_of_zeros() -> None:
    data = make()
    indicators = one_hot(data.covariates, data.covariate_names, torch.tensor([0, 2]))
    assert indicators is not None
    assert indicators.tolist() == [[0, 1, 0, 1, 0], [0, 0, 0, 1, 0]]
    assert indicators.dtype == torch.float32
    assert one_hot({}, {}, slice(None)) is None


def test_category_frequencies_leaves_unknown_categories_out() -> None:
    data = make()
    shares = category_frequencies(data.covariates, data.covariate_names)
    assert shares.tolist() == pytest.approx([0.4, 0.4, 0.2, 0.5, 0.5])


def test_unseen_categories_names_them_and_refuses_a_single_category() -> None:
    data = make()
    assert unseen_categories(data.covariates, data.covariate_names) == []
    part = data.subset([0, 1, 4])
    with pytest.raises(ValueError, match="'plate' must have two or more categories .* got 1"):
        unseen_categories({"plate": torch.zeros(3, dtype=torch.int64)}, {"plate": ("10", "9")})
    lines = unseen_categories({"donor": part.covariates["donor"]}, {"donor": data.covariate_names["donor"]})
    assert lines == ["covariate 'donor': no training item has the category 'C': its effect stays unknown"]


def test_match_data_given_a_subset_of_categories_uses_the_training_codes() -> None:
    new = make(covariates={"plate": [9] * 6, "donor": ["C", "B", "", "C", "C", "B"]})
    assert new.covariate_names == {"plate": ("9",), "donor": ("B", "C")}
    matched, notes = match_data(new, describe_data(make()))
    assert list(matched.covariate_names) == ["donor", "plate"]
    assert matched.covariate_names == make().covariate_names
    assert matched.covariates["donor"].tolist() == [2, 1, -1, 2, 2, 1]
    assert matched.covariates["plate"].tolist() == [1] * 6
    assert notes == ()


def test_match_data_given_a_new_category_names_item_and_categories() -> None:
    new = make(covariates={"donor": ["A", "D", "E", "A", "A", "D"], "plate": [9] * 6})
    with pytest.raises(
        ValueError, match=r"new: item 'v': covariate 'donor' .*\(A, B, C\), got 'D' and 1 other new categories: correct"
    ):
        match_data(new, describe_data(make()))


def test_match_data_without_the_covariate_makes_it_unknown_with_a_note() -> None:
    matched, notes = match_data(make(covariates={"plate": [9] * 6, "room": [1] * 6}), describe_data(make()))
    assert matched.covariates["donor"].tolist() == [-1] * 6
    assert list(matched.covariates) == ["donor", "plate"]
    assert len(notes) == 2
    assert notes[0].startswith("covariate 'donor': the data lack it")
    assert notes[1] == "covariate 'room': left out, since the model was not trained on it"


def test_match_covariates_of_equal_categories_returns_the_data_themselves() -> None:
    data = make()
    assert match_covariates(data, data.covariate_names)[0] is data
    assert match_covariates(data, {})[0].covariates == {}
