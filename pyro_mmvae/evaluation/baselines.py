"""Simple imputations of absent modalities by scikit-learn, with which those of a model are compared."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  (without it, the class cannot be imported)
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import BayesianRidge

from pyro_mmvae.evaluation.masked_features import FeatureMap, feature_slice, join_features

Values = Mapping[str, NDArray[Any]]
Present = Mapping[str, NDArray[np.bool_]]


class Baseline(ABC):
    """An imputation that is fitted to training items, which may lack modalities themselves.

    Attributes:
        name: The name of the method in tables.
    """

    name: str

    @abstractmethod
    def impute(self, values: Values, present: Present, targets: Present) -> dict[str, NDArray[Any]]:
        """Impute modalities of items.

        Args:
            values: Values `(item, *shape)` by modality; those of absent modalities do not matter.
            present: True where a modality of an item is given, `(item,)`, by modality.
            targets: True where a modality of an item is to be imputed, `(item,)`, by modality.

        Returns:
            For each target, the imputed values of the items in question, `(imputed item, *shape)`: the most probable
            tokens, otherwise floats.
        """


class MeanBaseline(Baseline):
    """The mean of each value over the training items that have the modality; of tokens the most frequent one.

    Args:
        values: Values of the training items `(item, *shape)`, by modality.
        present: True where a training item has the modality, `(item,)`, by modality.
        data_types: Data type by modality.
    """

    name = "mean"

    def __init__(self, values: Values, present: Present, data_types: Mapping[str, str]) -> None:
        self.typical: dict[str, NDArray[Any]] = {}
        for name, value in values.items():
            strategy = "most_frequent" if data_types[name] == "tokens" else "mean"
            observed = value[present[name]]
            flat = observed.reshape(len(observed), -1).astype(np.float64)
            imputer = SimpleImputer(strategy=strategy, keep_empty_features=True).fit(flat)
            self.typical[name] = imputer.statistics_.reshape(value.shape[1:])

    def impute(self, values: Values, present: Present, targets: Present) -> dict[str, NDArray[Any]]:
        """Return the means, once per item."""
        return {
            name: np.broadcast_to(self.typical[name], (int(rows.sum()), *self.typical[name].shape))
            for name, rows in targets.items()
        }


class _MatrixBaseline(Baseline):
    """An imputation of the matrix of the features of all modalities."""

    imputer: Any

    def __init__(self, maps: Mapping[str, FeatureMap]) -> None:
        self.maps = maps

    def impute(self, values: Values, present: Present, targets: Present) -> dict[str, NDArray[Any]]:
        """Impute the features that an item lacks, and return the values that belong to them."""
        completed = self.imputer.transform(join_features(self.maps, values, present))
        return {
            name: self.maps[name].decode(completed[rows][:, feature_slice(self.maps, name)])
            for name, rows in targets.items()
        }


class NeighborsBaseline(_MatrixBaseline):
    """The mean over the nearest training items that have the modality, by scikit-learn's ``KNNImputer``.

    Distances are Euclidean over the features that both items have, scaled up to all features, so that items that lack
    other modalities can be neighbours too.

    Args:
        maps: The features of each modality.
        values: Values of the training items `(item, *shape)`, by modality.
        present: True where a training item has the modality, `(item,)`, by modality.
        num_neighbors: Number of neighbours, 10 by default.
    """

    name = "k-nearest neighbours"

    def __init__(
        self, maps: Mapping[str, FeatureMap], values: Values, present: Present, num_neighbors: int = 10
    ) -> None:
        super().__init__(maps)
        self.imputer = KNNImputer(n_neighbors=num_neighbors, keep_empty_features=True)
        self.imputer.fit(join_features(maps, values, present))


class IterativeBaseline(_MatrixBaseline):
    """Regressions of each feature on all others, by scikit-learn's ``IterativeImputer`` with ``BayesianRidge``.

    The imputer stops after one round on complete items, and would do no more rounds on incomplete ones afterwards.
    Every other training item therefore lacks one modality, each in turn, if another one is left.

    Args:
        maps: The features of each modality.
        values: Values of the training items `(item, *shape)`, by modality.
        present: True where a training item has the modality, `(item,)`, by modality.
        num_rounds: Largest number of rounds, 10 by default.
        seed: Seed of the imputer, 0 by default.
    """

    name = "iterative imputation"

    def __init__(
        self, maps: Mapping[str, FeatureMap], values: Values, present: Present, num_rounds: int = 10, seed: int = 0
    ) -> None:
        super().__init__(maps)
        self.imputer = IterativeImputer(
            BayesianRidge(), max_iter=num_rounds, random_state=seed, keep_empty_features=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # tables name the number of rounds
            self.imputer.fit(join_features(maps, values, remove_in_turn(present)))


def remove_in_turn(present: Present) -> dict[str, NDArray[np.bool_]]:
    """Remove one modality of every other item, each in turn, unless it is the only one of the item.

    Args:
        present: True where an item has the modality, `(item,)`, by modality.
    """
    mask = np.stack(list(present.values()), -1)
    rows = np.arange(1, len(mask), 2)
    columns = np.arange(len(rows)) % mask.shape[1]
    removable = mask[rows].sum(-1) - mask[rows, columns] > 0
    mask[rows[removable], columns[removable]] = False
    return dict(zip(present, mask.T, strict=True))
