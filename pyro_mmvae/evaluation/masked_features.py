"""The features of modalities in which the baselines of imputation compare items, and the way back to values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from pyro_mmvae.likelihoods.standardized import LEAST_RELATIVE_SPREAD


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A map from the values of a modality to few features of total variance 1, and back.

    Vectors are standardised per feature, counts after log(1 + x). Images and binary values are centred, and tokens are
    one-hot vectors, centred. The result is projected onto its principal components if it has too many features.

    Args:
        data_type: Data type of the modality, such as ``"vector"`` or ``"tokens"``.
        shape: Shape of one item.
        num_classes: Number of classes of tokens; 0 for other data types.
        center: Mean of each value, `(value,)`.
        spread: Standard deviation of each value by which it is divided, `(value,)`; ones if it is not.
        pca: Principal components of the standardised values; None to keep these as they are.
        scale: Square root of the total variance, by which all features are divided.
        bounds: Smallest and largest training value to which results are clipped: of all values of images and binary
            modalities, of each feature of counts after log(1 + x), and infinite for others.
    """

    data_type: str
    shape: tuple[int, ...]
    num_classes: int
    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    pca: PCA | None
    scale: float
    bounds: tuple[Any, Any]

    @classmethod
    def fit(
        cls,
        values: NDArray[Any],
        data_type: str,
        num_classes: int,
        num_components: int,
        seed: int,
        rotate: bool = False,
    ) -> FeatureMap:
        """Fit the map to the observed values of training items.

        Args:
            values: Values `(item, *shape)` in the units of the model.
            data_type: Data type of the modality, such as ``"vector"`` or ``"tokens"``.
            num_classes: Number of classes of tokens; 0 for other data types.
            num_components: Largest number of features, beyond which principal components are used.
            seed: Seed of the solver of principal components.
            rotate: If True, features are principal components even if they are few; False by default.
        """
        flat = _flatten(values, data_type, num_classes)
        center, spread = flat.mean(0), np.ones(flat.shape[1])
        if data_type in {"vector", "counts"}:
            deviation = flat.std(0)
            spread = np.where(deviation > LEAST_RELATIVE_SPREAD * np.abs(center), deviation, 1.0)
        standard = (flat - center) / spread
        scale = float(np.sqrt(standard.var(0).sum()))
        pca = None
        most = min(num_components, standard.shape[1], len(standard) - 1)
        if (rotate or standard.shape[1] > num_components) and most > 0:
            pca = PCA(most, random_state=seed).fit(standard)
        bounds = (-np.inf, np.inf)
        if data_type in {"image", "binary", "counts"}:
            # A regression that extrapolates logarithms of counts would give counts beyond all measure.
            axis = 0 if data_type == "counts" else None
            bounds = (flat.min(axis), flat.max(axis))
        return cls(data_type, values.shape[1:], num_classes, center, spread, pca, scale if scale > 0 else 1.0, bounds)

    @property
    def num_features(self) -> int:
        """The number of features of an item."""
        return len(self.center) if self.pca is None else int(self.pca.n_components_)

    def encode(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the features of items, `(item, feature)`.

        Args:
            values: Values `(item, *shape)` in the units of the model.
        """
        standard = (_flatten(values, self.data_type, self.num_classes) - self.center) / self.spread
        features: NDArray[np.float64] = standard if self.pca is None else self.pca.transform(standard)
        return features / self.scale

    def decode(self, features: NDArray[np.float64]) -> NDArray[Any]:
        """Return the values that belong to features, `(item, *shape)`: the most probable tokens, otherwise floats.

        Args:
            features: Features `(item, feature)`, such as means of those of several items.
        """
        scaled = features * self.scale
        standard = scaled if self.pca is None else self.pca.inverse_transform(scaled)
        values = standard * self.spread + self.center
        if self.data_type == "tokens":
            return values.reshape(-1, *self.shape, self.num_classes).argmax(-1)
        values = np.clip(values, *self.bounds).reshape(-1, *self.shape)
        return np.expm1(values) if self.data_type == "counts" else values


def _flatten(values: NDArray[Any], data_type: str, num_classes: int) -> NDArray[np.float64]:
    """Return one row of numbers per item."""
    if data_type == "tokens":
        values = np.eye(num_classes)[values.astype(np.int64)]
    flat = values.reshape(len(values), -1).astype(np.float64)
    return np.log1p(flat) if data_type == "counts" else flat


def join_features(
    maps: Mapping[str, FeatureMap], values: Mapping[str, NDArray[Any]], present: Mapping[str, NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """Return the features of all modalities side by side, NaN where an item lacks a modality.

    Args:
        maps: The map of each modality, whose order is that of the columns.
        values: Values `(item, *shape)` by modality; those of absent modalities do not matter.
        present: True where an item has the modality, `(item,)`, by modality.

    Returns:
        An array `(item, feature)`.
    """
    count = len(next(iter(present.values())))
    blocks = []
    for name, feature_map in maps.items():
        block = np.full((count, feature_map.num_features), np.nan)
        rows = present[name]
        if rows.any():
            block[rows] = feature_map.encode(values[name][rows])
        blocks.append(block)
    return np.concatenate(blocks, 1)


def feature_slice(maps: Mapping[str, FeatureMap], name: str) -> slice:
    """Return the columns of a modality in the array of :func:`join_features`.

    Args:
        maps: The map of each modality.
        name: The name of the modality.
    """
    start = 0
    for other, feature_map in maps.items():
        if other == name:
            return slice(start, start + feature_map.num_features)
        start += feature_map.num_features
    raise KeyError(name)
