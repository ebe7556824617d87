"""Imputations of held-out observations, compared with the observed values and with simple baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae.data import MultimodalDataset
from pyro_mmvae.data.missing import Missing
from pyro_mmvae.evaluation.baselines import (
    Baseline,
    IterativeBaseline,
    MeanBaseline,
    NeighborsBaseline,
)
from pyro_mmvae.evaluation.classifiers import Classifiers
from pyro_mmvae.evaluation.masked_features import FeatureMap
from pyro_mmvae.evaluation.masked_result import MaskedEvaluation, MaskedMetric, MaskOptions
from pyro_mmvae.evaluation.masked_scores import Imputed, ModalityScale, score_items, summarise_scores
from pyro_mmvae.inference import impute
from pyro_mmvae.vae.vae import MultimodalVAE

_ELEMENTS = 2**25
"""The largest number of features of a modality of all training items of the baselines together, 256 MiB in float64."""

_FEATURES = 150
"""The largest number of features of all modalities in iterative imputation, whose time grows with its fourth power."""

_NEIGHBOR_FEATURES = 1000
"""The largest number of features of all modalities by which neighbours are found."""

_OBSERVED = "observed"  # the method of the held-out values themselves, whose classes are the best to be reached

_LEVELS = (50, 90)
"""The nominal coverages of predictive intervals, in percent."""


@dataclass(frozen=True, eq=False)
class _Table:
    """The values of some items in memory, and which of them were observed."""

    values: dict[str, NDArray[Any]]
    present: dict[str, NDArray[np.bool_]]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(next(iter(self.present.values())))

    def select(self, names: tuple[str, ...]) -> _Table:
        """Return some modalities."""
        return _Table({n: self.values[n] for n in names}, {n: self.present[n] for n in names})

    def head(self, count: int) -> _Table:
        """Return the first items."""
        return _Table({n: v[:count] for n, v in self.values.items()}, {n: v[:count] for n, v in self.present.items()})


@dataclass(frozen=True, eq=False)
class _Pattern:
    """A choice of what is given and what is held out, each `(item, modality)`."""

    label: str
    given: NDArray[np.bool_]
    held_out: NDArray[np.bool_]

    def targets(self, names: tuple[str, ...]) -> dict[str, NDArray[np.bool_]]:
        """Return the items of which each modality is held out, `(item,)`, by modality."""
        return {n: self.held_out[:, m] for m, n in enumerate(names) if self.held_out[:, m].any()}


def evaluate_masked(
    vae: MultimodalVAE,
    train: MultimodalDataset,
    test: MultimodalDataset,
    *,
    options: MaskOptions | None = None,
    classifiers: Classifiers | None = None,
) -> MaskedEvaluation:
    """Hold out observed modalities of test items, impute them from what is left, and compare them with the truth.

    One modality is left out at a time, each in turn, of the items that have it and another one. With a rate, modalities
    are also held out at random. The model's imputation is the posterior predictive mean, or the most probable token;
    its intervals are quantiles of draws of the observations. The ranks of the draws are chosen so that intervals of a
    calibrated model have the nominal coverage for any number of draws. The baselines are fitted to training items,
    with the modalities that these lack.

    Args:
        vae: The model, in eval mode.
        train: Training items, to which baselines and standard deviations are fitted.
        test: Test items with observed modalities to hold out.
        options: The extent of the comparison; the defaults of :class:`MaskOptions` if left out.
        classifiers: Classifiers of the modalities, whose accuracy on imputed items is measured; none by default.

    Returns:
        One row per pattern, modality, number of modalities given, method and metric.

    Raises:
        ValueError: If no test item has two modalities that are known from training.
    """
    return _Comparison(vae, train, test, options or MaskOptions(), classifiers).run()


def check_maskable(names: Sequence[str], train: MultimodalDataset, test: MultimodalDataset) -> None:
    """Check that a modality can be held out of some test item and imputed from another one.

    Args:
        names: The modalities of the model.
        train: The items that baselines are fitted to.
        test: The items to hold modalities out of.

    Raises:
        ValueError: If no test item has two modalities that training items have.
    """
    seen = {name for m, name in enumerate(train.names) if bool(train.present[:, m].any())}
    columns = [m for m, name in enumerate(test.names) if name in seen and name in names]
    if not bool((test.present[:, columns].sum(-1) > 1).any()):
        raise ValueError(
            f"mask: test items must have at least two modalities that training items have, so that one can be held "
            f"out, got none among {len(test)} items of data {test.name!r}"
        )


class _Comparison:
    """The state that the parts of one comparison share."""

    def __init__(
        self,
        vae: MultimodalVAE,
        train: MultimodalDataset,
        test: MultimodalDataset,
        options: MaskOptions,
        classifiers: Classifiers | None,
    ) -> None:
        self.vae, self.options, self.classifiers = vae, options, classifiers
        self.specs = {modality.name: modality for modality in vae.modalities}
        shared = tuple(name for name in vae.names if name in test.names and name in train.names)
        widths = [int(np.prod(self.specs[n].shape)) * (self._num_classes(n) or 1) for n in shared]
        limit = max(min(options.train_items, _ELEMENTS // max(widths, default=1)), 2)
        self.training = _read(_choose(train, limit, options.seed), shared)
        self.names = tuple(name for name in shared if self.training.present[name].any())
        self.training = self.training.select(self.names)
        self.test = _choose(test, options.items, options.seed)
        self.truth = _read(self.test, self.names)
        self.present = np.array([self.truth.present[name] for name in self.names], dtype=bool).T
        check_maskable(self.names, train, self.test)
        self.scales = {name: self._scale(name) for name in self.names}

    def run(self) -> MaskedEvaluation:
        """Compare all methods on all patterns."""
        baselines, used = self._fit_baselines()
        scores: dict[tuple[str, str, int, str, str], list[NDArray[np.float64]]] = {}
        for number, pattern in enumerate(self._patterns()):
            if not pattern.held_out.any():
                continue
            targets, views = pattern.targets(self.names), pattern.given.sum(-1)
            for method, imputed in self._impute_by_all(baselines, pattern, number).items():
                for name, rows in targets.items():
                    for metric, values in self._score(name, rows, imputed[name], method).items():
                        for count in np.unique(views[rows]):
                            key = (pattern.label, name, int(count), method, metric)
                            scores.setdefault(key, []).append(values[views[rows] == count])
        rows_found = []
        for key, parts in scores.items():
            value, error, items = summarise_scores(key[-1], np.concatenate(parts))
            if items:
                rows_found.append(MaskedMetric(*key, value, error, items, self.options.seed))
        return MaskedEvaluation(tuple(rows_found), self.options, used)

    def _impute_by_all(
        self, baselines: list[Baseline], pattern: _Pattern, number: int
    ) -> dict[str, dict[str, Imputed]]:
        """Return the imputed values by method and modality, and the held-out ones for comparison."""
        targets = pattern.targets(self.names)
        results = {"model": self._impute(pattern, targets, number)}
        given = {name: pattern.given[:, m] for m, name in enumerate(self.names)}
        for baseline in baselines:
            found = baseline.impute(self.truth.values, given, targets)
            results[baseline.name] = {name: Imputed(values) for name, values in found.items()}
        results[_OBSERVED] = {name: Imputed(self.truth.values[name][rows]) for name, rows in targets.items()}
        return results

    def _patterns(self) -> Iterator[_Pattern]:
        """Yield the choices of what is held out."""
        for m in range(len(self.names)):
            given = self.present.copy()
            given[:, m] = False
            held_out = np.zeros_like(given)
            held_out[:, m] = self.present[:, m] & given.any(-1)
            yield _Pattern("leave one out", given, held_out)
        if self.options.rate > 0:
            missing = Missing(
                missing_rate=self.options.rate, missing_seed=self.options.seed, missing_splits=(self.test.split,)
            )
            kept = missing.apply(self.test, (self.test.split,)).present.cpu().numpy()
            given = kept[:, [self.test.names.index(name) for name in self.names]]
            held_out = self.present & ~given & given.any(-1, keepdims=True)
            yield _Pattern(f"at random, rate {self.options.rate:g}", given, held_out)

    def _impute(self, pattern: _Pattern, targets: dict[str, NDArray[np.bool_]], number: int) -> dict[str, Imputed]:
        """Impute the held-out modalities by the model."""
        present = self.test.present.clone()
        for m, name in enumerate(self.names):
            present[:, self.test.names.index(name)] = torch.from_numpy(pattern.given[:, m]).to(present.device)
        rows = pattern.held_out.any(-1)
        levels = {level: _quantile_levels(level, self.options.draws) for level in _LEVELS}
        found = impute(
            self.vae, replace(self.test, present=present), items=np.flatnonzero(rows), targets=list(targets),
            draws=self.options.draws, quantiles=[q for pair in levels.values() for q in pair],
            seed=self.options.seed + number,
        )  # fmt: skip
        result = {}
        for name, held_out in targets.items():
            kept = held_out[rows]
            if f"mode/{name}" in found.arrays:
                result[name] = Imputed(found.arrays[f"mode/{name}"]).select(kept)
                continue
            ends = {
                level: (found.arrays[f"quantile-{low:g}/{name}"], found.arrays[f"quantile-{high:g}/{name}"])
                for level, (low, high) in levels.items()
            }
            result[name] = Imputed(found.mean[name], ends).select(kept)
        return result

    def _score(
        self, name: str, rows: NDArray[np.bool_], imputed: Imputed, method: str
    ) -> dict[str, NDArray[np.float64]]:
        """Return the score of each item by metric, NaN for items that a metric does not apply to."""
        truth = self.truth.values[name][rows]
        scores = {} if method == _OBSERVED else score_items(truth, imputed, self.scales[name])
        judges, labels = self.classifiers, self.test.labels
        if judges is None or labels is None or judges.label_names or name not in judges.networks:
            return scores
        classes = labels.cpu().numpy()[rows]
        values = torch.from_numpy(np.array(imputed.values))
        values = values.long() if self.specs[name].data_type == "tokens" else values.float()
        right = (judges.predict(name, values).cpu().numpy() == classes).astype(np.float64)
        return scores | {"class_accuracy": np.where(classes >= 0, right, np.nan)}

    def _fit_baselines(self) -> tuple[list[Baseline], dict[str, Any]]:
        """Fit all baselines to the training items, and return them with the sizes that were used."""
        options, training = self.options, self.training
        few = training.head(options.iterative_items)
        most = min(options.iterative_components, max(_FEATURES // len(self.names), 1))
        components = min(options.components, max(_NEIGHBOR_FEATURES // len(self.names), 1))
        maps = {name: self._feature_map(name, components) for name in self.names}
        few_maps = {name: self._feature_map(name, most, rotate=True) for name in self.names}
        types = {name: str(self.specs[name].data_type) for name in self.names}
        used = {
            "test_items": len(self.test), "train_items": len(training), "iterative_items": len(few),
            "features": {name: found.num_features for name, found in maps.items()},
            "iterative_features": {name: found.num_features for name, found in few_maps.items()},
        }  # fmt: skip
        baselines = [
            MeanBaseline(training.values, training.present, types),
            NeighborsBaseline(maps, training.values, training.present, options.neighbors),
            IterativeBaseline(few_maps, few.values, few.present, options.rounds, options.seed),
        ]
        return baselines, used

    def _feature_map(self, name: str, most: int, rotate: bool = False) -> FeatureMap:
        spec, observed = self.specs[name], self.training.values[name][self.training.present[name]]
        # Regressions on correlated features of a modality that is absent as a whole hardly move from the initial means.
        return FeatureMap.fit(observed, str(spec.data_type), self._num_classes(name), most, self.options.seed, rotate)

    def _num_classes(self, name: str) -> int:
        return int(self.specs[name].classes or 0) if self.specs[name].data_type == "tokens" else 0

    def _scale(self, name: str) -> ModalityScale:
        return ModalityScale.fit(self.training.values[name][self.training.present[name]], self.specs[name])


def _quantile_levels(coverage: int, draws: int) -> tuple[float, float]:
    r"""Return levels of sample quantiles between which a new draw falls with a given probability.

    A new draw is below the r-th of n order statistics with probability r / (n + 1). The level l is interpolated at
    r = 1 + l (n - 1), so that :math:`l = (q (n + 1) - 1) / (n - 1)` has the probability q.

    Args:
        coverage: Probability of the interval between both levels, in percent.
        draws: Number n of draws.
    """
    tail = (1 - coverage / 100) / 2
    lower = max((tail * (draws + 1) - 1) / (draws - 1), 1e-6)
    return lower, 1 - lower


def _choose(data: MultimodalDataset, limit: int, seed: int) -> MultimodalDataset:
    """Return randomly chosen items in a random order, so that the first ones are a random choice, too."""
    order = np.random.default_rng(seed).permutation(len(data))
    return data.subset(order[:limit].tolist())


def _read(data: MultimodalDataset, names: tuple[str, ...]) -> _Table:
    """Return values as the model sees them, and masks."""
    values, tensors = {}, data.tensors
    for name in names:
        tensor = tensors[name].cpu()
        array = tensor.numpy()
        if tensor.dtype == torch.uint8:
            array = array.astype(np.float32) / 255
        values[name] = array
    present = data.present.cpu().numpy()
    return _Table(values, {name: present[:, data.names.index(name)] for name in names})
