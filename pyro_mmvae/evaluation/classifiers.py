"""Classifiers of single modalities, trained on real items, by which generated items are judged."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_mmvae._seeding import seeded
from pyro_mmvae.data import IndexedTensor, MultimodalDataset, cache_folder, complete_specs, infer_specs
from pyro_mmvae.data.storage.cache_entries import keep_limit, mark_used
from pyro_mmvae.evaluation.attributes import mean_average_precision
from pyro_mmvae.evaluation.classifier_networks import (
    Standardise,
    image_classifier,
    token_classifier,
    vector_classifier,
)
from pyro_mmvae.locks import building
from pyro_mmvae.run_files import short_name
from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

_MAX_ITEMS = 60_000  # the largest number of items in one epoch
_MIN_STEPS = 400  # the smallest number of steps for modalities other than images, whose steps cost little
_MOMENT_ITEMS = 10_000  # the number of items from which vectors are standardised


@dataclass(frozen=True)
class Classifiers:
    """A set of classifiers, one per modality.

    Attributes:
        networks: A mapping from modality to a module from items to logits, whose last layer is the linear one. Images
            are floats in [0, 1]; a text is given as tokens or as their probabilities, of which the most probable ones
            are seen.
        accuracy: A mapping from modality to the share of test items classified correctly, or for attributes to the mean
            average precision. A coherence cannot be interpreted without it.
        seed: The seed of the training.
        label_names: The names of the attributes, each with one logit; empty for classes.
    """

    networks: Mapping[str, nn.Sequential]
    accuracy: Mapping[str, float]
    seed: int
    label_names: tuple[str, ...] = ()

    @property
    def figure(self) -> str:
        """The name of the figure in ``accuracy``."""
        return "mean average precision" if self.label_names else "accuracy"

    def predict(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """Return the predicted classes of items, or the attributes whose probability exceeds 1/2.

        Args:
            name: The name of the modality.
            images: Images `(item, channel, height, width)` as floats in [0, 1]; tokens `(item, position)` or their
                probabilities `(item, position, token)`; values `(item, …)` of any other modality.
            batch_size: The number of items to classify at once, 1,000 by default.

        Returns:
            Classes `(item,)` as int64 or attributes `(item, attribute)` as bool, on the device of ``images``.
        """
        scores = self.scores(name, images, batch_size=batch_size)
        return scores > 0 if self.label_names else scores.argmax(-1)

    def scores(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """Return the logits of items, of shape `(item, class)` or `(item, attribute)`; see :meth:`predict`."""
        return _batches(self.networks[name], images, batch_size)

    def scores_of_features(self, name: str, features: Tensor, *, batch_size: int = 1000) -> Tensor:
        """Return the logits of items whose :meth:`features` are known, `(item, class)` or `(item, attribute)`."""
        return _batches(self.networks[name][-1], features, batch_size)

    def features(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """Return the inputs of the last layer for items, of shape `(item, feature)`; see :meth:`predict`."""
        return _batches(self.networks[name][:-1], images, batch_size)


@torch.no_grad()
def _batches(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Apply a network batch by batch, on its device."""
    device = next(network.parameters(), images).device
    return torch.cat([network(part.to(device)) for part in images.split(batch_size)]).to(images.device)


def count_outputs(labels: Tensor) -> int:
    """Return the number of logits that a classifier of labels needs: one per class, or one per attribute."""
    return int(labels.max()) + 1 if labels.dim() == 1 else labels.shape[1]


@dataclass(frozen=True)
class _TrainingData:
    """The training data of one classifier: selected items of one modality of a data set."""

    train: MultimodalDataset
    name: str
    rows: Tensor
    labels: Tensor

    @property
    def items(self) -> int:
        """The number of items that have the modality; several of them may share an image."""
        return int(self.train.present[:, self.train.names.index(self.name)].sum())

    @property
    def origin(self) -> dict[str, Any]:
        """The training data that a cached classifier must match, in the form in which JSON returns it."""
        digest = hashlib.sha256(self.labels.cpu().numpy().tobytes()).hexdigest()
        train = self.train
        origin = {"name": train.name, "split": train.split, "provenance": train.provenance, "labels": digest}
        return cast("dict[str, Any]", json.loads(json.dumps(origin)))

    def network(self) -> nn.Sequential:
        """Build a new classifier for the type and shape of the modality."""
        values, classes = self.train.modalities[self.name], count_outputs(self.labels)
        shape, known = tuple(values.shape[1:]), infer_specs(self.train)
        kind = known[self.name].data_type
        if len(shape) == 3 and kind in {"image", "binary"}:
            return image_classifier(shape, classes).to(values.device)
        if kind == "tokens":
            tokens = complete_specs(self.train, {self.name: known[self.name]})[self.name].classes or 2
            return token_classifier(shape, tokens, classes).to(values.device)
        return vector_classifier(shape, classes, counts=kind == "counts").to(values.device)


def train_classifiers(
    train: MultimodalDataset,
    test: MultimodalDataset,
    *,
    cache: Path | None = None,
    epochs: int = 4,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Classifiers:
    """Train one classifier per modality, or load those that were trained before from the cache.

    A classifier of classes minimises the cross-entropy, one of attributes the sum of logistic losses. An image that
    occurs in several pairs is used once per pass, in as many steps as all its pairs would make.

    Args:
        train: The labelled items to train on.
        test: The labelled items to measure the accuracy on.
        cache: A folder to keep the classifiers in; by default they are not kept. A file of other data, or a damaged
            one, is replaced.
        epochs: The number of epochs, 4 by default, of AdamW with a cosine schedule and batches of 128. An epoch holds
            at most 60,000 items, resampled each time. For modalities other than images there are at least 400 steps.
        seed: The seed of initial weights and order, 0 by default; the states of torch's generators are restored
            afterwards.
        progress: A callback that receives the name of each modality.

    Returns:
        The classifiers of the modalities of which both splits have items, in eval mode, on the device of ``train``,
        with their test accuracies.

    Raises:
        ValueError: If the data does not have labels, the splits have different label names, or the type of a modality
            is unknown.
    """
    if train.label_names != test.label_names:
        raise ValueError(
            f"the splits of data {train.name!r} must have the same label names, got {train.label_names} and "
            f"{test.label_names}"
        )
    if train.labels is None or test.labels is None:
        raise ValueError(f"data {train.name!r} must have labels in both splits to train classifiers for coherence")
    networks: dict[str, nn.Sequential] = {}
    accuracy: dict[str, float] = {}
    result = Classifiers(networks, accuracy, seed, train.label_names)
    for name in train.names:
        rows, test_rows = (_rows(data, name) for data in (train, test))
        if not len(rows) or not len(test_rows):
            continue
        labels, test_labels = train.labels[rows], test.labels[test_rows]
        if progress is not None:
            progress(name)
        file = None if cache is None else cache / f"classifier-{short_name(name)}-seed{seed}-epochs{epochs}.safetensors"
        networks[name] = _train(file, _TrainingData(train, name, rows, labels), epochs, seed).eval()
        parts = (_floats(test.modalities[name][part]) for part in test_rows.split(1000))
        if train.label_names:
            scores = torch.cat([result.scores(name, part) for part in parts])
            accuracy[name] = mean_average_precision(scores.cpu().numpy(), test_labels.cpu().numpy())
        else:
            predicted = torch.cat([result.predict(name, part) for part in parts])
            accuracy[name] = float((predicted == test_labels.to(predicted.device)).double().mean())
    return result


def _rows(data: MultimodalDataset, name: str) -> Tensor:
    """Return the items that have a modality and a label; of items that share an image only the first."""
    is_kept, values = data.present[:, data.names.index(name)] & data.labelled, data.modalities[name]
    rows = is_kept.nonzero()[:, 0]
    return values.first_of_each(rows) if isinstance(values, IndexedTensor) and values.dim() == 4 else rows


def _train(file: Path | None, data: _TrainingData, epochs: int, seed: int) -> nn.Sequential:
    """Restore a classifier from its file, or train it and write the file."""
    device, origin = data.labels.device, data.origin

    def restored() -> nn.Sequential | None:
        with seeded(seed, device):
            network = data.network()
            return network if file is not None and _restore(file, network, origin) else None

    found = restored()
    if found is not None:
        return found
    with building(file) as waited:
        found = restored() if waited else None
        if found is not None:
            return found
        with seeded(seed, device):  # a new network, since a failed restoration may have overwritten some of the weights
            network = data.network()
            _fit(network, data, epochs)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                save_checkpoint(file, network, origin=origin)
                keep_limit(cache_folder(), file)
            except OSError as error:
                warnings.warn(f"{file} cannot be written, continuing without a cache: {error}", stacklevel=4)
    return network


def _floats(images: Tensor) -> Tensor:
    """Return pixels as floats in [0, 1], and other values as floats."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _restore(file: Path, network: nn.Module, origin: dict[str, Any]) -> bool:
    """Load a classifier if its file is intact and stems from the same data, and return True on success."""
    try:
        is_known = load_checkpoint(file, network).get("origin") == origin
    except CheckpointError:
        return False
    if is_known:
        mark_used(file)
    return is_known


def _fit(network: nn.Sequential, data: _TrainingData, epochs: int) -> None:
    """Train a network on the selected items, which are read one batch at a time."""
    size, rows, labels = 128, data.rows, data.labels
    if isinstance(network[0], Standardise):
        sample = rows[:: max(len(rows) // _MOMENT_ITEMS, 1)]
        network[0].fit(_floats(data.train.modalities[data.name][sample]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    taken = min(len(rows), _MAX_ITEMS)
    per_epoch, epochs = -(-taken // size), -(-epochs * min(data.items, _MAX_ITEMS) // taken)
    if not isinstance(network[0], nn.Conv2d):
        epochs = max(epochs, -(-_MIN_STEPS // per_epoch))
    steps = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    network.train()
    for epoch in range(epochs):
        values = data.train.modalities[data.name]
        values = values.at_epoch(epoch) if isinstance(values, IndexedTensor) else values
        for index in torch.randperm(len(rows))[:_MAX_ITEMS].to(rows.device).split(size):
            logits, truth = network(_floats(values[rows[index]])), labels[index]
            if truth.dim() == 1:
                loss = nn.functional.cross_entropy(logits, truth)
            else:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
