"""Classifiers on images, texts and vectors that are easy to tell apart, and their cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import MultimodalDataset
from pyro_mmvae.data import IndexedTensor, ModalitySpec
from pyro_mmvae.data.text import ENGLISH, placements
from pyro_mmvae.evaluation import classifiers as module
from pyro_mmvae.evaluation.classifier_networks import Standardise, image_classifier, token_classifier
from pyro_mmvae.evaluation.classifiers import Classifiers, train_classifiers


def separable(size: int, split: str, seed: int = 0) -> MultimodalDataset:
    """A bright quarter tells the class; and a modality without any image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 4
    images = torch.randint(0, 60, (size, 1, 9, 11), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        y, x = 4 * (label // 2), 5 * (label % 2)
        images[row, :, y : y + 4, x : x + 5] += 150
    present = torch.tensor([True, False]).repeat(size, 1)
    values = {"image": images, "absent": images}
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


def words(size: int, split: str, seed: int) -> MultimodalDataset:
    """The names of digits at random places, and vectors, counts and tables that tell the digit to a mean's noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 10
    table, spans = placements(ENGLISH, 8, " efghinorstuvwxz")

    def place(epoch: int) -> Tensor:
        first, starts = torch.from_numpy(spans)[labels].unbind(-1)
        drawn = torch.rand(size, generator=torch.Generator().manual_seed(100 * seed + epoch))
        return first + (drawn * starts).long()

    loud = torch.nn.functional.one_hot(labels, 10).float()
    vector = torch.tensor([1e-3, 1e4]).repeat(5) * (loud + 0.1 * torch.randn(size, 10, generator=generator)) + 7
    values = {
        "text": IndexedTensor(table, place(0), place if split == "train" else None),
        "vector": torch.cat([vector, torch.full((size, 1), 3.0)], -1),
        "counts": torch.poisson(500 * loud + 2, generator=generator),
        "flags": loud.bool().reshape(size, 2, 5),
    }
    traits = {"text": ModalitySpec(data_type="tokens", classes=16), "counts": ModalitySpec(data_type="counts")}
    return MultimodalDataset(values, labels, torch.ones(size, 4, dtype=torch.bool), "words", split, {}, traits)


@pytest.fixture(scope="module")
def judges() -> Classifiers:
    return train_classifiers(words(1000, "train", 0), words(200, "test", 1))


def test_text_vectors_counts_and_flags_are_judged(judges: Classifiers) -> None:
    assert list(judges.networks) == ["text", "vector", "counts", "flags"]
    assert min(judges.accuracy.values()) == 1.0
    for name, values in words(40, "test", 2).tensors.items():
        assert judges.features(name, values).shape == (40, 128)


def test_of_probabilities_the_most_probable_tokens_are_read(judges: Classifiers) -> None:
    data = words(60, "test", 3)
    tokens = data.tensors["text"]
    unsure = torch.softmax(0.5 * torch.nn.functional.one_hot(tokens, 16) + 0.2 * torch.rand(60, 8, 16), -1)
    assert torch.equal(unsure.argmax(-1), tokens)
    found = judges.predict("text", unsure, batch_size=7)
    assert data.labels is not None
    assert torch.equal(found, data.labels)
    assert torch.equal(judges.features("text", unsure), judges.features("text", tokens))
    assert torch.equal(judges.predict("text", tokens.float()), found)


def test_a_token_that_the_training_data_never_had_is_none() -> None:
    network = token_classifier((8,), 16, 10)
    with torch.no_grad():
        strange, stranger = (network[0](torch.full((1, 8), token)) for token in (16, 99))
    assert strange.shape == (1, 16, 8)
    assert not strange.any()
    assert torch.equal(strange, stranger)
    more = torch.nn.functional.one_hot(torch.full((1, 8), 18), 20).float()  # a model of more classes
    assert not network[0](more).any()


@pytest.mark.parametrize("shape", [(1,), (3,), (40,), (2, 5)])
def test_any_length_of_text(shape: tuple[int, ...]) -> None:
    network = token_classifier(shape, 4, 3)
    tokens = torch.randint(4, (5, *shape))
    assert network(tokens).shape == (5, 3)
    torch.testing.assert_close(network(torch.nn.functional.one_hot(tokens, 4).float()), network(tokens))


def test_vectors_are_standardised_by_training_items() -> None:
    values = torch.randn(50, 2, 3, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.0]) + 5
    layer = Standardise(6).double()
    layer.fit(values)
    out = layer(values).reshape(50, 2, 3)
    torch.testing.assert_close(out[..., :2].mean(0), torch.zeros(2, 2).double())
    torch.testing.assert_close(out[..., :2].std(0, correction=0), torch.ones(2, 2).double())
    assert (out[..., 2] == 0).all()
    counts = Standardise(2, counts=True)
    assert torch.equal(counts.flat(torch.tensor([[0, 1]])), torch.tensor([[0.0, 1.0]]).log1p())


def test_paired_images_are_taken_once_and_text_anew_in_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    fit = module._fit

    def watch(network: Any, lessons: Any, epochs: int) -> None:
        seen.append((lessons.name, len(lessons.rows)))
        fit(network, lessons, epochs)

    monkeypatch.setattr(module, "_fit", watch)
    base = separable(40, "train")
    assert base.labels is not None
    rows = torch.arange(40).repeat(5)
    drawn: list[int] = []
    texts = torch.arange(8).reshape(4, 2)

    def redraw(epoch: int) -> Tensor:
        drawn.append(epoch)
        return base.labels[rows]  # type: ignore[index]

    values = {
        "image": IndexedTensor(base.tensors["image"], rows),
        "text": IndexedTensor(texts, base.labels[rows], redraw),
    }
    present = torch.ones(200, 2, dtype=torch.bool)
    present[3] = False
    traits = {"text": ModalitySpec(data_type="tokens", classes=8)}
    train = MultimodalDataset(values, base.labels[rows], present, "paired", "train", {}, traits)
    shown: list[int] = []
    plain = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional, "cross_entropy", lambda out, labels: (shown.append(len(labels)), plain(out, labels))[1]
    )
    found = train_classifiers(train, train, epochs=2)
    assert shown[:10] == [40] * 10  # 2 * 199 / 40 passes
    assert shown[10] == 128
    assert seen == [("image", 40), ("text", 199)]
    assert drawn[:4] == [0, 1, 2, 3]  # as many epochs as make 400 steps
    assert len(drawn) == 200
    assert set(found.accuracy) == {"image", "text"}
    rows = module._rows(train, "image")
    assert rows.tolist() == [*range(3), *range(4, 40), 43]


def test_a_large_set_is_not_run_through_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 50)
    steps: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: steps.append(1))
    trained(epochs=3)
    assert len(steps) == 3
