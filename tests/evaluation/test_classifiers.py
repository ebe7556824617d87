"""Classifiers on images that are easy to tell apart, and their cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyro_mmvae import MultimodalDataset
from pyro_mmvae.evaluation import classifiers as module
from pyro_mmvae.evaluation.classifiers import Classifiers, image_classifier, train_classifiers


def separable(size: int, split: str, seed: int = 0) -> MultimodalDataset:
    """A bright quarter tells the class; a modality without any image, and one that is no image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 4
    images = torch.randint(0, 60, (size, 1, 9, 11), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        y, x = 4 * (label // 2), 5 * (label % 2)
        images[row, :, y : y + 4, x : x + 5] += 150
    text = torch.zeros(size, 3)
    present = torch.tensor([True, True, False]).repeat(size, 1)
    values = {"image": images, "text": text, "absent": images}
    return MultimodalDataset(values, labels, present, "separable", split, {"seed": seed, "sizes": (1, 2)})


TRAIN, TEST = separable(200, "train"), separable(60, "test", 1)


def trained(**options: object) -> Classifiers:
    return train_classifiers(TRAIN, TEST, **{"epochs": 3, **options})  # type: ignore[arg-type]


def weights(found: Classifiers) -> Tensor:
    return torch.cat([p.detach().flatten() for p in found.networks["image"].parameters()])


def test_separable_images_are_learned_and_the_accuracy_is_told() -> None:
    seen: list[str] = []
    found = trained(progress=seen.append)
    assert seen == ["image"]
    assert dict(found.accuracy) == {"image": 1.0}
    assert list(found.networks) == ["image"]
    assert not found.networks["image"].training
    images = TEST.modalities["image"].float() / 255
    assert TEST.labels is not None
    assert torch.equal(found.predict("image", images, batch_size=7), TEST.labels)
    features = found.features("image", images, batch_size=7)
    assert features.shape == (60, 128)
    assert torch.equal(found.networks["image"][-1](features).argmax(-1), TEST.labels)
    assert not features.requires_grad


def test_what_is_absent_is_not_trained_on() -> None:
    present = TRAIN.present.clone()
    present[::3, 0] = False
    there = torch.arange(200)[present[:, 0]]
    without = train_classifiers(TRAIN.subset(there), TEST, epochs=1)
    assert torch.equal(weights(train_classifiers(replace(TRAIN, present=present), TEST, epochs=1)), weights(without))


def test_accuracy_is_of_test_images_that_are_there() -> None:
    labels = torch.where(torch.arange(60) < 30, TEST.labels, (torch.arange(60) + 1) % 4)
    wrong = replace(TEST, labels=labels)
    assert train_classifiers(TRAIN, wrong, epochs=3).accuracy["image"] == 0.5
    present = TEST.present.clone()
    present[30:, 0] = False
    assert train_classifiers(TRAIN, replace(wrong, present=present), epochs=3).accuracy["image"] == 1.0


def test_images_that_are_absent_are_not_trained_on() -> None:
    garbage = torch.cat([TRAIN.modalities["image"], TRAIN.modalities["image"].flip(-1, -2)])
    values = {"image": garbage}
    labels = torch.cat([TRAIN.labels, TRAIN.labels])  # type: ignore[list-item]
    present = (torch.arange(400) < 200)[:, None]
    train = MultimodalDataset(values, labels, present, "separable", "train")
    assert torch.equal(weights(train_classifiers(train, TEST, epochs=1)), weights(trained(epochs=1)))


def test_the_same_seed_gives_the_same_network_and_leaves_the_generators_alone() -> None:
    before = torch.get_rng_state()
    first = trained(epochs=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(weights(first), weights(trained(epochs=1)))
    assert not torch.equal(weights(first), weights(trained(epochs=1, seed=1)))


def test_the_cache_is_used_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    fit = module._fit
    monkeypatch.setattr(module, "_fit", lambda *arguments: (fits.append(1), fit(*arguments)))
    cache = tmp_path / "deep" / "cache"
    first = trained(cache=cache, epochs=1)
    again = trained(cache=cache, epochs=1)
    assert len(fits) == 1
    assert torch.equal(weights(first), weights(again))
    assert again.accuracy == first.accuracy
    (file,) = cache.iterdir()
    for damage in (b"nonsense", file.read_bytes()[:-100], b""):
        file.write_bytes(damage)
        assert torch.equal(weights(trained(cache=cache, epochs=1)), weights(first))
    assert len(fits) == 4
    trained(cache=cache, epochs=1)
    assert len(fits) == 4  # each was written anew
    trained(cache=cache, epochs=1, seed=1)
    trained(cache=cache, epochs=2)
    assert len(fits) == 6


def test_a_cache_of_other_data_is_not_used(tmp_path: Path) -> None:
    trained(cache=tmp_path, epochs=1)
    other = separable(200, "train", 5)
    found = train_classifiers(other, TEST, cache=tmp_path, epochs=1)
    assert torch.equal(weights(found), weights(train_classifiers(other, TEST, epochs=1)))
    # One for more classes has a last layer of another shape: nothing of it may stay in the new network.
    assert TRAIN.labels is not None
    more = replace(TRAIN, labels=TRAIN.labels + 1)
    train_classifiers(more, TEST, cache=tmp_path, epochs=1)
    assert torch.equal(weights(trained(cache=tmp_path, epochs=1)), weights(trained(epochs=1)))


def test_without_labels_there_is_no_classifier() -> None:
    with pytest.raises(ValueError, match="'separable' has no labels"):
        train_classifiers(replace(TRAIN, labels=None), TEST)
    with pytest.raises(ValueError, match="no labels"):
        train_classifiers(TRAIN, replace(TEST, labels=None))


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 8, 8), (3, 33, 17)])
def test_any_size_of_image(shape: tuple[int, ...]) -> None:
    assert image_classifier(shape, 10)(torch.rand(2, *shape)).shape == (2, 10)
