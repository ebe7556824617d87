"""Prediction of labels from latents by logistic regressions, with their calibration."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pyro_mmvae._bounded import load_json
from pyro_mmvae.files import read_npz, write_npz
from pyro_mmvae.inference.tables import ItemTable

BINS = 15
"""The number of bins of the expected calibration error."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A logistic regression from latents to classes, or one regression per attribute.

    Args:
        center: The mean of each latent dimension over the training items, `(latent,)`.
        spread: The standard deviation of each latent dimension over the training items, `(latent,)`.
        weights: The weights of the standardised latents, `(target, latent)`.
        bias: The intercepts of the regressions, `(target,)`.
        targets: The names of the classes or attributes, one per target.
        codes: The code of each class in the labels, `(target,)`; None for attributes.
        about: How the predictor was fitted, and its figures on test items, by name.
    """

    center: NDArray[np.float64]
    spread: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    targets: tuple[str, ...]
    codes: NDArray[np.int64] | None
    about: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, z: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of each class, with rows that sum to 1, or of each attribute, `(item, target)`.

        Args:
            z: The latents of the items, `(item, latent)`.
        """
        logits = ((z.astype(np.float64) - self.center) / self.spread) @ self.weights.T + self.bias
        result: NDArray[np.float64] = expit(logits) if self.codes is None else softmax(logits, -1)
        return result

    def figures(self, z: NDArray[Any], labels: NDArray[Any]) -> dict[str, Any]:
        """Return accuracy, expected calibration error, Brier score and number of the labelled items.

        Args:
            z: The latents of the items, `(item, latent)`.
            labels: Classes `(item,)`, negative for items without a label; or attributes `(item, attribute)`, bool.

        Returns:
            The figures by name. Attributes have them by the name of the attribute.
        """
        probabilities = self.probabilities(z)
        if self.codes is None:
            pairs = zip(self.targets, probabilities.T, labels.T, strict=True)
            return {name: _binary_figures(column, truth.astype(float)) for name, column, truth in pairs}
        kept = labels >= 0
        if not kept.any():
            return {}
        probabilities, labels = probabilities[kept], labels[kept]
        predicted, confidence = self.codes[probabilities.argmax(-1)], probabilities.max(-1)
        correct, truth = (predicted == labels).astype(float), labels[:, None] == self.codes
        unseen = ~truth.any(-1)  # a class that no training item has contributes its whole probability of 1
        return {
            "accuracy": float(correct.mean()),
            "ece": calibration_error(confidence, correct),
            "brier": float(((probabilities - truth) ** 2).sum(-1).mean() + unseen.mean()),
            "items": len(labels),
        }

    def table(
        self, latents: ItemTable, labels: NDArray[Any] | None = None, class_names: Sequence[str] = ()
    ) -> ItemTable:
        """Return the predictions of items as a table.

        Args:
            latents: The latents of the items, an array ``z``.
            labels: The labels of the items: classes `(item,)`, or attributes `(item, attribute)`; None if there are
                none.
            class_names: The names of the classes in ``labels``, by which they are matched; their codes by default.

        Returns:
            A table with ``probability`` `(item, target)`; for classes also ``predicted`` and, if there are labels,
            ``label``, as names. Its summary holds :meth:`figures` of the items.
        """
        probabilities = self.probabilities(latents["z"])
        columns = {"probability": tuple(f"p_{name}" for name in self.targets)}
        arrays: dict[str, NDArray[Any]] = {}
        if self.codes is not None:
            arrays["predicted"] = np.array(self.targets, dtype=np.str_)[probabilities.argmax(-1)]
            if labels is not None:
                arrays["label"] = _names_of(labels, class_names)
                labels = self._match(labels, arrays["label"], class_names)
        arrays["probability"] = probabilities.astype(np.float32)
        figures = {} if labels is None else self.figures(latents["z"], labels)
        return ItemTable(latents.ids, arrays, columns, {**latents.summary, "figures": figures})

    def _match(self, labels: NDArray[Any], names: NDArray[np.str_], class_names: Sequence[str]) -> NDArray[Any]:
        """Return classes in the codes of the predictor, by their names if they have names."""
        if self.codes is None or not class_names:
            return labels
        code = dict(zip(self.targets, self.codes.tolist(), strict=True))
        unseen = int(self.codes.max()) + 1  # a class that no training item has
        return np.array([code.get(name, unseen) if name else -1 for name in names.tolist()], dtype=np.int64)

    def save(self, path: Path) -> None:
        """Write the predictor to an ``.npz`` file without pickles, atomically.

        Args:
            path: The path of the file, whose folder is made if it does not exist.
        """
        about = json.dumps({"targets": self.targets, **self.about})
        codes = np.zeros(0, dtype=np.int64) if self.codes is None else self.codes
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = {"center": self.center, "spread": self.spread, "weights": self.weights, "bias": self.bias}
        write_npz(path, {**parts, "codes": codes, "about": np.array(about)})


def load_predictor(path: Path) -> Predictor:
    """Read a predictor from a file.

    Args:
        path: The path of the file that :meth:`Predictor.save` wrote.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        arrays = read_npz(path)
        about = load_json(str(arrays["about"]))
        codes = arrays["codes"] if len(arrays["codes"]) else None
        targets = tuple(map(str, about.pop("targets")))
        parts = {name: arrays[name] for name in ("center", "spread", "weights", "bias")}
        return Predictor(**parts, targets=targets, codes=codes, about=about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: must be a predictor of pyro_mmvae, got {error}: delete it to fit again") from None


def fit_predictor(
    z: NDArray[Any],
    labels: NDArray[Any],
    *,
    class_names: Sequence[str] = (),
    label_names: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> Predictor:
    """Fit logistic regressions with scikit-learn's default penalty to standardised latents.

    Args:
        z: The latents of the training items, `(item, latent)`.
        labels: Classes `(item,)`, negative for items without a label; or attributes `(item, attribute)`, bool.
        class_names: The names of the classes; their codes by default.
        label_names: The names of the attributes; empty for classes.
        about: What else to store with the predictor, as JSON can hold it; nothing by default.

    Returns:
        The fitted predictor.

    Raises:
        ValueError: If no item has a label.
    """
    z = z.astype(np.float64)
    kept = np.ones(len(z), dtype=bool) if labels.ndim == 2 else labels >= 0
    if not kept.any():
        raise ValueError("labels must exist for some training item, got none")
    z, labels = z[kept], labels[kept]
    center, spread = z.mean(0), z.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    standardised, extra = (z - center) / spread, {"train_items": len(z), **(about or {})}
    if labels.ndim == 2:
        rows = [_fit_binary(standardised, column) for column in labels.T]
        weights, bias = (np.stack(parts) for parts in zip(*rows, strict=True))
        return Predictor(center, spread, weights, bias, tuple(label_names), None, extra)
    codes = np.unique(labels)
    names = tuple(str(name) for name in _names_of(codes, class_names))
    weights, bias = np.zeros((len(codes), z.shape[1])), np.zeros(len(codes))
    if len(codes) == 2:
        weights[1], bias[1] = _fit_binary(standardised, labels == codes[1])
    elif len(codes) > 2:
        model = _fit(standardised, labels)
        weights, bias = model.coef_, model.intercept_
    return Predictor(center, spread, weights, bias, names, codes, extra)


def calibration_error(probabilities: NDArray[Any], outcomes: NDArray[Any], bins: int = BINS) -> float:
    r"""Return the expected calibration error over bins of equally many items.

    .. math:: \sum_b \frac{n_b}{n} \left| \bar y_b - \bar p_b \right|

    References:
        Nguyen and O'Connor, 2015. Posterior calibration and exploratory analysis for natural language processing
        models. EMNLP. Equal-mass bins.

    Args:
        probabilities: The predicted probabilities, `(item,)`.
        outcomes: The outcomes, 0 or 1, `(item,)`.
        bins: The number of bins, 15 by default; at most one per item.
    """
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [len(part) * abs(float(outcomes[part].mean() - probabilities[part].mean())) for part in parts]
    return float(sum(gaps) / len(order))


def _fit(z: NDArray[np.float64], labels: NDArray[Any]) -> LogisticRegression:
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 steps leave differences far below the noise
        return LogisticRegression(max_iter=1000).fit(z, labels)


def _fit_binary(z: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Return weights and intercept of a binary label; a label that never varies has its smoothed frequency."""
    if labels.all() or not labels.any():
        share = (labels.sum() + 0.5) / (len(labels) + 1)
        return np.zeros(z.shape[1]), float(np.log(share / (1 - share)))
    model = _fit(z, labels)
    return model.coef_[0], float(model.intercept_[0])


def _binary_figures(probabilities: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    return {
        "accuracy": float(((probabilities > 0.5) == truth).mean()),
        "ece": calibration_error(probabilities, truth),
        "brier": float(((probabilities - truth) ** 2).mean()),
        "items": len(truth),
    }


def _names_of(labels: NDArray[Any], class_names: Sequence[str]) -> NDArray[np.str_]:
    """Return the name of each class, its code if it has no name, and an empty string for items without a label."""
    names = [class_names[k] if 0 <= k < len(class_names) else str(k) if k >= 0 else "" for k in labels.tolist()]
    return np.array(names, dtype=np.str_)
