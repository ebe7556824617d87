"""The baselines of imputation against scikit-learn called by hand, and the features they work on."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge

from pyro_mmvae.evaluation.baselines import (
    IterativeBaseline,
    MeanBaseline,
    NeighborsBaseline,
    remove_in_turn,
)
from pyro_mmvae.evaluation.masked_features import FeatureMap

SIZES = {"a": 3, "b": 2}
COLUMNS = {"a": slice(0, 3), "b": slice(3, 5)}
TYPES = dict.fromkeys(SIZES, "vector")


def observations(count: int, seed: int, missing: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return two correlated vectors in units of their own, and which of them are present."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, 2))
    weight = np.random.default_rng(0).normal(size=(2, 5))
    joint = 100 + 7 * (z @ weight + 0.3 * rng.normal(size=(count, 5)))
    present = rng.random((count, 2)) >= missing
    present[~present.any(1), 0] = True
    return {"a": joint[:, :3], "b": joint[:, 3:]}, {"a": present[:, 0], "b": present[:, 1]}


def scaled(values: dict[str, np.ndarray], present: dict[str, np.ndarray], like: tuple) -> np.ndarray:
    """Standardise by the observed values of training items, and give each modality the total variance 1."""
    blocks = []
    for name, size in SIZES.items():
        observed = like[0][name][like[1][name]]
        block = (values[name] - observed.mean(0)) / observed.std(0) / np.sqrt(size)
        blocks.append(np.where(present[name][:, None], block, np.nan))
    return np.concatenate(blocks, 1)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_baselines_equal_scikit_learn_called_by_hand(missing: float) -> None:
    train, items = observations(80, 1, missing), observations(20, 2, 0.0)
    maps = {name: FeatureMap.fit(train[0][name][train[1][name]], "vector", 0, 100, 0) for name in SIZES}
    given = {"a": np.ones(20, bool), "b": np.zeros(20, bool)}
    targets = {"b": np.ones(20, bool)}
    observed = train[0]["b"][train[1]["b"]]
    mean = MeanBaseline(*train, TYPES).impute(items[0], given, targets)["b"]
    np.testing.assert_allclose(mean, np.tile(observed.mean(0), (20, 1)))

    knn = NeighborsBaseline(maps, *train, num_neighbors=4).impute(items[0], given, targets)["b"]
    completed = KNNImputer(n_neighbors=4).fit(scaled(*train, train)).transform(scaled(items[0], given, train))
    np.testing.assert_allclose(knn, completed[:, 3:] * np.sqrt(2) * observed.std(0) + observed.mean(0), rtol=1e-9)
    rotated = {name: FeatureMap.fit(train[0][name][train[1][name]], "vector", 0, 30, 0, rotate=True) for name in SIZES}
    iterative = IterativeBaseline(rotated, *train, num_rounds=40).impute(items[0], given, targets)["b"]
    axes = {name: PCA().fit(scaled(*train, train)[train[1][name]][:, columns]) for name, columns in COLUMNS.items()}

    def rotate(values: np.ndarray) -> np.ndarray:
        blocks = []
        for name, columns in COLUMNS.items():
            block = values[:, columns].copy()
            known = ~np.isnan(block).any(1)
            block[known] = axes[name].transform(block[known]) if known.any() else 0
            blocks.append(block)
        return np.concatenate(blocks, 1)

    imputer = IterativeImputer(BayesianRidge(), max_iter=40, random_state=0)
    imputer.fit(rotate(scaled(train[0], remove_in_turn(train[1]), train)))
    completed = imputer.transform(rotate(scaled(items[0], given, train)))[:, COLUMNS["b"]]
    expected = axes["b"].inverse_transform(completed) * np.sqrt(2) * observed.std(0) + observed.mean(0)
    np.testing.assert_allclose(iterative, expected, rtol=1e-6)
    error = [np.sqrt(((guess - items[0]["b"]) ** 2).mean()) for guess in (mean, knn, iterative)]
    assert error[0] > error[1] > error[2]


def test_mean_baseline_of_tokens_is_the_most_frequent_token_per_position() -> None:
    tokens = np.array([[1, 4], [1, 3], [2, 3], [9, 9]])
    baseline = MeanBaseline({"t": tokens}, {"t": np.array([True, True, True, False])}, {"t": "tokens"})
    found = baseline.impute({}, {}, {"t": np.array([True, False, True])})["t"]
    assert found.tolist() == [[1, 3], [1, 3]]


def test_remove_in_turn_keeps_an_observed_modality_of_every_item() -> None:
    present = {"a": np.array([1, 1, 1, 1, 1, 0], bool), "b": np.array([1, 1, 1, 1, 1, 1], bool)}
    found = remove_in_turn(present)
    assert found["a"].tolist() == [True, False, True, True, True, False]
    assert found["b"].tolist() == [True, True, True, False, True, True]
    assert present["b"].all()


@pytest.mark.parametrize("data_type", ["vector", "counts", "image", "binary", "tokens"])
def test_feature_map_decode_inverts_encode(data_type: str) -> None:
    rng = np.random.default_rng(3)
    values = {
        "vector": rng.normal(50, 9, (40, 4)), "counts": rng.poisson(6, (40, 4)), "image": rng.random((40, 1, 2, 2)),
        "binary": rng.integers(0, 2, (40, 4)), "tokens": rng.integers(0, 3, (40, 4)),
    }[data_type]  # fmt: skip
    classes = 3 if data_type == "tokens" else 0
    for most in (100, 12):  # as they are, and by principal components that span everything
        found = FeatureMap.fit(values, data_type, classes, most, 0)
        features = found.encode(values)
        assert features.var(0).sum() == pytest.approx(1)
        np.testing.assert_allclose(found.decode(features), values, atol=1e-9)
    few = FeatureMap.fit(values, data_type, classes, 2, 0)
    assert few.encode(values).shape == (40, 2)


def test_feature_map_decode_stays_within_the_counts_of_training() -> None:
    values = np.array([[0, 10], [1, 20], [3, 40]])
    found = FeatureMap.fit(values, "counts", 0, 100, 0)
    np.testing.assert_allclose(found.decode(np.array([[-50.0, 50.0]])), [[0, 40]])


def test_feature_map_constant_feature_is_not_blown_up() -> None:
    values = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    found = FeatureMap.fit(values, "vector", 0, 100, 0)
    assert found.encode(np.array([[1.0, 6.0]]))[0, 1] == pytest.approx(1.0)
