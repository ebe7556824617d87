"""Classifiers of single modalities, trained on real images of the training split, to judge generated ones by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_mmvae.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from pyro_mmvae.data import MappedTensor, MultimodalDataset
from pyro_mmvae.evaluation.attributes import mean_average_precision
from pyro_mmvae.evaluation.posteriors import seeded

_WIDTH = 32


@dataclass(frozen=True)
class Classifiers:
    """One classifier a modality.

    Attributes:
        networks: modality name to a module from float images in [0, 1] to logits, its last layer the linear one.
        accuracy: modality name to the share of test images classified rightly; for attributes to the mean average
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
        """Classes of images; of attributes those that are likelier than not.

        Args:
            name: of the modality.
            images: `(item, channel, height, width)`, float in [0, 1].
            batch_size: images at once.

        Returns:
            `(item,)`, int64, or `(item, attribute)`, bool, on the device of ``images``.
        """
        scores = self.scores(name, images, batch_size=batch_size)
        return scores > 0 if self.label_names else scores.argmax(-1)

    def scores(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """Logits of images: `(item, class)` or `(item, attribute)`; arguments as in :meth:`predict`."""
        return _batches(self.networks[name], images, batch_size)

    def features(self, name: str, images: Tensor, *, batch_size: int = 1000) -> Tensor:
        """What the last layer sees of images: `(item, feature)`; arguments as in :meth:`predict`."""
        return _batches(self.networks[name][:-1], images, batch_size)


@torch.no_grad()
def _batches(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    device = next(network.parameters(), images).device
    return torch.cat([network(part.to(device)) for part in images.split(batch_size)]).to(images.device)


def image_classifier(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Three strided convolutions with group normalisation and two linear layers.

    Args:
        shape: `(channel, height, width)` of one image.
        classes: how many, or how many attributes.
    """
    layers: list[nn.Module] = []
    channels = shape[0]
    for i in range(3):
        width = _WIDTH * 2**i
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
        channels = width
    side = [-(-s // 8) for s in shape[1:]]
    flat = channels * side[0] * side[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 128), nn.SiLU(), nn.Linear(128, classes))


def train_classifiers(
    train: MultimodalDataset,
    test: MultimodalDataset,
    *,
    cache: Path | None = None,
    epochs: int = 4,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Classifiers:
    """A classifier for every image modality, from the cache where it was trained before.

    Of classes it learns one of several; of attributes each by itself, with a logistic loss.

    Args:
        train: labelled images; only these are trained on.
        test: to measure the accuracy on.
        cache: a folder to keep them in. One trained on other data, or damaged, is trained again.
        epochs: of AdamW with a cosine schedule, batches of 128.
        seed: of weights and order; torch's generators are put back after.
        progress: called with each modality's name.

    Returns:
        The classifiers of those modalities that both splits have images of, in eval mode, on the device of ``train``,
        with their test accuracies.

    Raises:
        ValueError: if the data has no labels, or the splits have different ones.
    """
    if train.label_names != test.label_names:
        raise ValueError(f"the splits of data {train.name!r} have labels of different names")
    if train.labels is None or test.labels is None:
        raise ValueError(f"data {train.name!r} has no labels, so there is no classifier and no coherence")
    networks: dict[str, nn.Sequential] = {}
    accuracy: dict[str, float] = {}
    result = Classifiers(networks, accuracy, seed, train.label_names)
    for name in train.names:
        if train.modalities[name].dim() != 4:
            continue
        rows, test_rows = (data.present[:, data.names.index(name)].nonzero()[:, 0] for data in (train, test))
        if not len(rows) or not len(test_rows):
            continue
        labels, test_labels = train.labels[rows], test.labels[test_rows]
        if progress is not None:
            progress(name)
        file = None if cache is None else cache / f"classifier-{name}-seed{seed}-epochs{epochs}.safetensors"
        networks[name] = _train(file, _origin(train, labels), train.modalities[name], rows, labels, epochs, seed).eval()
        parts = (_floats(test.modalities[name][part]) for part in test_rows.split(1000))
        if train.label_names:
            scores = torch.cat([result.scores(name, part) for part in parts])
            accuracy[name] = mean_average_precision(scores.cpu().numpy(), test_labels.cpu().numpy())
        else:
            found = torch.cat([result.predict(name, part) for part in parts])
            accuracy[name] = float((found == test_labels.to(found.device)).double().mean())
    return result


def _train(
    file: Path | None,
    origin: dict[str, Any],
    images: Tensor | MappedTensor,
    rows: Tensor,
    labels: Tensor,
    epochs: int,
    seed: int,
) -> nn.Sequential:
    shape = tuple(images.shape[1:])
    classes = int(labels.max()) + 1 if labels.dim() == 1 else labels.shape[1]
    with seeded(seed, images.device):
        network = image_classifier(shape, classes).to(images.device)
        if file is not None and _restore(file, network, origin):
            return network
    with seeded(seed, images.device):  # anew: a failed restoring may have left its marks
        network = image_classifier(shape, classes).to(images.device)
        _fit(network, images, rows, labels, epochs)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(file, network, origin=origin)
    return network


def _origin(train: MultimodalDataset, labels: Tensor) -> dict[str, Any]:
    """What a cached classifier must have been trained on, as JSON gives it back."""
    digest = hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest()
    origin = {"name": train.name, "split": train.split, "provenance": train.provenance, "labels": digest}
    return cast("dict[str, Any]", json.loads(json.dumps(origin)))


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _restore(file: Path, network: nn.Module, origin: dict[str, Any]) -> bool:
    try:
        return load_checkpoint(file, network).get("origin") == origin
    except CheckpointError:
        return False


def _fit(network: nn.Module, images: Tensor | MappedTensor, rows: Tensor, labels: Tensor, epochs: int) -> None:
    """Train on those images that are there, which are read a batch at a time."""
    size = 128
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    steps = epochs * -(-len(rows) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    network.train()
    for _ in range(epochs):
        for index in torch.randperm(len(rows)).to(rows.device).split(size):
            logits, truth = network(_floats(images[rows[index]])), labels[index]
            if truth.dim() == 1:
                loss = nn.functional.cross_entropy(logits, truth)
            else:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
