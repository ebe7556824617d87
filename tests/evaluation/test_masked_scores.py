"""Scores of imputed values and their standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyro_mmvae.evaluation.masked_scores import Imputed, ModalityScale, score_items, summarise_scores
from pyro_mmvae.modality_spec import ModalitySpec


def test_score_items_of_vectors_measures_errors_and_intervals() -> None:
    scale = ModalityScale("vector", np.array([2.0, 10.0]))
    truth = np.array([[0.0, 0.0], [1.0, 1.0]])
    ends = (np.array([[-1.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 4.0]]))
    scores = score_items(truth, Imputed(np.array([[4.0, 0.0], [1.0, 11.0]]), {90: ends}), scale)
    assert scores["rmse"].tolist() == [8, 50]
    assert scores["nrmse"].tolist() == [2, 0.5]
    assert scores["coverage_90"].tolist() == [0.5, 1]
    assert scores["width_90"].tolist() == [1.5, 2.5]


def test_score_items_of_counts_adds_errors_of_logarithms() -> None:
    scale = ModalityScale("counts", np.ones(1))
    scores = score_items(np.array([[0.0]]), Imputed(np.array([[math.e - 1]])), scale)
    assert scores["rmse_log1p"] == pytest.approx(1)


def test_score_items_of_tokens_leaves_padding_out() -> None:
    scale = ModalityScale.fit(np.zeros((2, 3)), ModalitySpec(data_type="tokens", alphabet=" ab*", padding="*"))
    truth = np.array([[1, 2, 3], [3, 3, 3], [1, 1, 1]])
    scores = score_items(truth, Imputed(np.array([[1, 1, 3], [3, 3, 1], [1, 1, 1]])), scale)
    np.testing.assert_equal(scores["accuracy"], [0.5, np.nan, 1])
    assert scores["exact_match"].tolist() == [0, 0, 1]
    assert summarise_scores("accuracy", scores["accuracy"])[::2] == (0.75, 2)


def test_score_items_of_binary_values_cuts_at_one_half() -> None:
    scores = score_items(np.array([[0, 1]]), Imputed(np.array([[0.4, 0.3]])), ModalityScale("binary", np.ones(2)))
    assert scores["accuracy"].tolist() == [0.5]


def test_summarise_scores_root_has_the_standard_error_of_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    roots = [summarise_scores("rmse", rng.normal(size=400) ** 2) for _ in range(500)]
    assert np.std([root for root, _, _ in roots]) == pytest.approx(np.mean([se for _, se, _ in roots]), rel=0.1)
    value, se, count = summarise_scores("coverage_50", np.array([0.0, 1.0, 1.0, 0.0]))
    assert (value, se, count) == (0.5, pytest.approx(math.sqrt(1 / 12)), 4)


def test_summarise_scores_of_one_item_has_no_standard_error() -> None:
    value, se, count = summarise_scores("rmse", np.array([4.0]))
    assert (value, count) == (2.0, 1)
    assert math.isnan(se)
    assert math.isnan(summarise_scores("rmse", np.array([np.nan]))[0])
