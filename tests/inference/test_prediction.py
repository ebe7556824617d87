"""Predictors of labels and their calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pyro_mmvae.inference import ItemTable, fit_predictor, load_predictor
from pyro_mmvae.inference.prediction import calibration_error


def latents(classes: int = 3, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    return (3 * np.eye(4)[labels] + rng.normal(size=(count, 4))) * [1, 10, 0.1, 1] + 5, labels


@pytest.mark.parametrize("classes", [2, 3])
def test_fit_predictor_probabilities_equal_those_of_scikit_learn(classes: int, tmp_path: Path) -> None:
    z, labels = latents(classes)
    predictor = fit_predictor(z, labels, class_names=("a", "b", "c")[:classes])
    standardised = (z - z.mean(0)) / z.std(0)
    expected = LogisticRegression(max_iter=1000).fit(standardised, labels).predict_proba(standardised)
    np.testing.assert_allclose(predictor.probabilities(z), expected, atol=1e-6)
    np.testing.assert_allclose(predictor.probabilities(z).sum(-1), 1)
    predictor.save(tmp_path / "new" / "p.npz")
    again = load_predictor(tmp_path / "new" / "p.npz")
    assert again.targets == predictor.targets
    assert again.about == predictor.about == {"train_items": 300}
    assert np.array_equal(again.probabilities(z), predictor.probabilities(z))
    (tmp_path / "new" / "p.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"p\.npz: must be a predictor of pyro_mmvae.*delete it to fit again"):
        load_predictor(tmp_path / "new" / "p.npz")


def test_fit_predictor_leaves_unlabelled_items_out_and_keeps_codes() -> None:
    z, labels = latents()
    shifted = np.where(np.arange(300) < 30, -1, labels * 2)  # codes 0, 2 and 4
    predictor = fit_predictor(z, shifted)
    assert predictor.targets == ("0", "2", "4")
    assert predictor.about["train_items"] == 270
    figures = predictor.figures(z, shifted)
    assert figures["items"] == 270
    assert figures["accuracy"] > 0.8
    with pytest.raises(ValueError, match="labels must exist for some training item"):
        fit_predictor(z, np.full(300, -1))


def test_fit_predictor_attributes_have_one_regression_each() -> None:
    z, labels = latents()
    attributes = np.stack([labels == 0, labels > 0, np.ones(300, dtype=bool)], -1)
    predictor = fit_predictor(z, attributes, label_names=("first", "later", "always"))
    probabilities = predictor.probabilities(z)
    np.testing.assert_allclose(probabilities[:, 0] + probabilities[:, 1], 1, atol=1e-3)
    np.testing.assert_allclose(probabilities[:, 2], 300.5 / 301)
    figures = predictor.figures(z, attributes)
    assert set(figures) == {"first", "later", "always"}
    assert figures["always"]["accuracy"] == 1


def test_table_matches_classes_by_name() -> None:
    z, labels = latents()
    predictor = fit_predictor(z, labels, class_names=("a", "b", "c"))
    table = ItemTable(np.arange(300).astype(str), {"z": z})
    own = predictor.table(table, labels, ("a", "b", "c"))
    renamed = predictor.table(table, labels + 1, ("x", "a", "b", "c"))
    assert renamed.summary["figures"] == own.summary["figures"]
    assert renamed["label"].tolist() == own["label"].tolist()
    foreign = predictor.table(table, np.where(labels == 0, 0, labels + 1), ("x", "a", "b", "c"))
    assert foreign.summary["figures"]["accuracy"] == pytest.approx(own.summary["figures"]["accuracy"] - 1 / 3, abs=0.1)
    assert list(own.flat()) == ["predicted", "label", "p_a", "p_b", "p_c"]


def test_calibration_error_matches_hand_values() -> None:
    probabilities = np.repeat([0.2, 0.8], 10)
    outcomes = np.concatenate([np.arange(10) < 2, np.arange(10) < 8]).astype(float)
    assert calibration_error(probabilities, outcomes, bins=2) == pytest.approx(0)
    assert calibration_error(probabilities, 1 - outcomes, bins=2) == pytest.approx(0.6)
    assert calibration_error(np.array([0.9]), np.array([1.0])) == pytest.approx(0.1)


def test_figures_of_certain_and_right_predictions_are_perfect() -> None:
    z = np.eye(3)[np.arange(300) % 3] * 1000
    predictor = fit_predictor(z, np.arange(300) % 3)
    figures = predictor.figures(z, np.arange(300) % 3)
    assert figures["accuracy"] == 1
    assert figures["brier"] < 1e-3
    assert figures["ece"] < 0.05
