"""Classifiers of single modalities, trained on real items of the training split, to judge generated ones by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_mmvae.data import IndexedTensor, MultimodalDataset, complete_specs, infer_specs
from pyro_mmvae.evaluation.attributes import mean_average_precision
from pyro_mmvae.evaluation.classifier_networks import (
    Standardise,
    image_classifier,
    token_classifier,
    vector_classifier,
)
from pyro_mmvae.evaluation.posteriors import seeded
from pyro_mmvae.runs.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

_MOST = 60_000  # items trained on in one epoch
_LEAST_STEPS = 400  # of what is no image, which costs nearly nothing
_MOMENTS_OF = 10_000  # items that vectors are standardised by


@dataclass(frozen=True)
class Classifiers:
    """One classifier a modality.

    Attributes:
        networks: modality name to a module from items to logits, its last layer the linear one. Images are floats in
            [0, 1]; of text it takes tokens, or their probabilities, of which it sees the most probable ones.
        accuracy: modality name to the share of test items classified rightly; for attributes to the mean average
            precision on them. A coherence without it means nothing.
        seed: of the training.
        label_names: of attributes, each with a logit of its own; none for classes.
    """

    networks: Mapping[str, nn.Sequential]
    accuracy: Mapping[str, float]
    seed: int
    label_names: tuple[str, ...] = ()

    @property
    def figure(self) -> str:
        """What ``accuracy`` is."""
        return "mean average precision" if self.label_names else "accuracy"

    def predict(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """Classes of items; of attributes those that are likelier than not.

        Args:
            name: of the modality.
            images: `(item, channel, height, width)`, float in [0, 1]; of text tokens `(item, position)` or their
                probabilities `(item, position, token)`; of anything else its values `(item, …)`.
            batch_size: items at once.

        Returns:
            `(item,)`, int64, or `(item, attribute)`, bool, on the device of ``images``.
        """
        scores = self.scores(name, images, batch_size=batch_size)
        return scores > 0 if self.label_names else scores.argmax(-1)

    def scores(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """Logits of images: `(item, class)` or `(item, attribute)`; arguments as in :meth:`predict`."""
        return _batches(self.networks[name], images, batch_size)

    def features(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """What the last layer sees of items: `(item, feature)`; arguments as in :meth:`predict`."""
        return _batches(self.networks[name][:-1], images, batch_size)


@torch.no_grad()
def _batches(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    device = next(network.parameters(), images).device
    return torch.cat([network(part.to(device)) for part in images.split(batch_size)]).to(images.device)


def count_outputs(labels: Tensor) -> int:
    """How many logits a classifier of labels has: one a class, or one an attribute."""
    return int(labels.max()) + 1 if labels.dim() == 1 else labels.shape[1]


@dataclass(frozen=True)
class _Lessons:
    """What one classifier is trained on: some items of one modality of a data set."""

    train: MultimodalDataset
    name: str
    rows: Tensor
    labels: Tensor

    @property
    def items(self) -> int:
        """How many items have the modality; several of them may show the same image."""
        return int(self.train.present[:, self.train.names.index(self.name)].sum())

    @property
    def origin(self) -> dict[str, Any]:
        """What a cached classifier must have been trained on, as JSON gives it back."""
        digest = hashlib.sha256(self.labels.cpu().numpy().tobytes()).hexdigest()
        train = self.train
        origin = {"name": train.name, "split": train.split, "provenance": train.provenance, "labels": digest}
        return cast("dict[str, Any]", json.loads(json.dumps(origin)))

    def network(self) -> nn.Sequential:
        """A new classifier, by kind and shape."""
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
    """A classifier for every modality, from the cache where it was trained before.

    Images that are paired several times are taken once a pass, in as many steps as all their pairs would make.

    Of classes it learns one of several; of attributes each by itself, with a logistic loss.

    Args:
        train: labelled items; only these are trained on.
        test: to measure the accuracy on.
        cache: a folder to keep them in. One trained on other data, or damaged, is trained again.
        epochs: of AdamW with a cosine schedule, batches of 128, and 60,000 items at the most, others in each. Of what
            is no image there are more where they would make less than 400 steps.
        seed: of weights and order; torch's generators are put back after.
        progress: called with each modality's name.

    Returns:
        The classifiers of those modalities that both splits have items of, in eval mode, on the device of ``train``,
        with their test accuracies.

    Raises:
        ValueError: if the data has no labels, the splits have different ones, or a modality is of no known kind.
    """
    if train.label_names != test.label_names:
        raise ValueError(f"the splits of data {train.name!r} have labels of different names")
    if train.labels is None or test.labels is None:
        raise ValueError(f"data {train.name!r} has no labels, so there is no classifier and no coherence")
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
        file = None if cache is None else cache / f"classifier-{name}-seed{seed}-epochs{epochs}.safetensors"
        networks[name] = _train(file, _Lessons(train, name, rows, labels), epochs, seed).eval()
        parts = (_floats(test.modalities[name][part]) for part in test_rows.split(1000))
        if train.label_names:
            scores = torch.cat([result.scores(name, part) for part in parts])
            accuracy[name] = mean_average_precision(scores.cpu().numpy(), test_labels.cpu().numpy())
        else:
            found = torch.cat([result.predict(name, part) for part in parts])
            accuracy[name] = float((found == test_labels.to(found.device)).double().mean())
    return result


def _rows(data: MultimodalDataset, name: str) -> Tensor:
    """The items that have a modality; of images that are paired several times the first of each."""
    rows, values = data.present[:, data.names.index(name)].nonzero()[:, 0], data.modalities[name]
    return values.first_of_each(rows) if isinstance(values, IndexedTensor) and values.dim() == 4 else rows


def _train(file: Path | None, lessons: _Lessons, epochs: int, seed: int) -> nn.Sequential:
    device, origin = lessons.labels.device, lessons.origin
    with seeded(seed, device):
        network = lessons.network()
        if file is not None and _restore(file, network, origin):
            return network
    with seeded(seed, device):  # anew: a failed restoring may have left its marks
        network = lessons.network()
        _fit(network, lessons, epochs)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(file, network, origin=origin)
    return network


def _floats(images: Tensor) -> Tensor:
    """Pixels in [0, 1]; everything else as it is, as floats."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _restore(file: Path, network: nn.Module, origin: dict[str, Any]) -> bool:
    try:
        return load_checkpoint(file, network).get("origin") == origin
    except CheckpointError:
        return False


def _fit(network: nn.Sequential, lessons: _Lessons, epochs: int) -> None:
    """Train on those items that are there, which are read a batch at a time."""
    size, rows, labels = 128, lessons.rows, lessons.labels
    if isinstance(network[0], Standardise):
        some = rows[:: max(len(rows) // _MOMENTS_OF, 1)]
        network[0].fit(_floats(lessons.train.modalities[lessons.name][some]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    taken = min(len(rows), _MOST)
    per_epoch, epochs = -(-taken // size), -(-epochs * min(lessons.items, _MOST) // taken)
    if not isinstance(network[0], nn.Conv2d):
        epochs = max(epochs, -(-_LEAST_STEPS // per_epoch))
    steps = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    network.train()
    for epoch in range(epochs):
        values = lessons.train.modalities[lessons.name]
        values = values.at_epoch(epoch) if isinstance(values, IndexedTensor) else values
        for index in torch.randperm(len(rows))[:_MOST].to(rows.device).split(size):
            logits, truth = network(_floats(values[rows[index]])), labels[index]
            if truth.dim() == 1:
                loss = nn.functional.cross_entropy(logits, truth)
            else:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
