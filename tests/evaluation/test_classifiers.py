"""Classifiers of images, texts and vectors that are easy to tell apart, and their cache."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_mmvae import MultimodalDataset
from pyro_mmvae.data import IndexedTensor, ModalitySpec
from pyro_mmvae.data.text import ENGLISH_DIGITS, placements
from pyro_mmvae.evaluation import classifiers as module
from pyro_mmvae.evaluation.classifier_networks import Standardise, image_classifier, token_classifier
from pyro_mmvae.evaluation.classifiers import Classifiers, train_classifiers


def separable(size: int, split: str, seed: int = 0) -> MultimodalDataset:
    """Return images in which a bright quarter tells the class, and a modality without any image."""
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


def weights(classifiers: Classifiers) -> Tensor:
    return torch.cat([p.detach().flatten() for p in classifiers.networks["image"].parameters()])


def test_train_classifiers_separable_images_reach_full_accuracy() -> None:
    seen: list[str] = []
    classifiers = trained(progress=seen.append)
    assert seen == ["image"]
    assert dict(classifiers.accuracy) == {"image": 1.0}
    assert list(classifiers.networks) == ["image"]
    assert not classifiers.networks["image"].training
    images = TEST.modalities["image"].float() / 255
    assert TEST.labels is not None
    assert torch.equal(classifiers.predict("image", images, batch_size=7), TEST.labels)
    features = classifiers.features("image", images, batch_size=7)
    assert features.shape == (60, 128)
    assert torch.equal(classifiers.networks["image"][-1](features).argmax(-1), TEST.labels)
    assert not features.requires_grad


def test_train_classifiers_absent_items_equal_a_subset() -> None:
    present = TRAIN.present.clone()
    present[::3, 0] = False
    kept = torch.arange(200)[present[:, 0]]
    without = train_classifiers(TRAIN.subset(kept), TEST, epochs=1)
    assert torch.equal(weights(train_classifiers(replace(TRAIN, present=present), TEST, epochs=1)), weights(without))


def test_train_classifiers_accuracy_counts_present_test_items_only() -> None:
    labels = torch.where(torch.arange(60) < 30, TEST.labels, (torch.arange(60) + 1) % 4)
    wrong = replace(TEST, labels=labels)
    assert train_classifiers(TRAIN, wrong, epochs=3).accuracy["image"] == 0.5
    present = TEST.present.clone()
    present[30:, 0] = False
    assert train_classifiers(TRAIN, replace(wrong, present=present), epochs=3).accuracy["image"] == 1.0


def test_train_classifiers_absent_images_are_not_seen() -> None:
    garbage = torch.cat([TRAIN.modalities["image"], TRAIN.modalities["image"].flip(-1, -2)])
    values = {"image": garbage}
    labels = torch.cat([TRAIN.labels, TRAIN.labels])  # type: ignore[list-item]
    present = (torch.arange(400) < 200)[:, None]
    train = MultimodalDataset(values, labels, present, "separable", "train")
    assert torch.equal(weights(train_classifiers(train, TEST, epochs=1)), weights(trained(epochs=1)))


def test_train_classifiers_seed_is_reproducible_and_local() -> None:
    before = torch.get_rng_state()
    first = trained(epochs=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(weights(first), weights(trained(epochs=1)))
    assert not torch.equal(weights(first), weights(trained(epochs=1, seed=1)))


def test_train_classifiers_cache_is_reused_and_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    flipped = bytearray(file.read_bytes())
    flipped[-100] ^= 1
    for damage in (b"nonsense", file.read_bytes()[:-100], b"", bytes(flipped)):
        file.write_bytes(damage)
        assert torch.equal(weights(trained(cache=cache, epochs=1)), weights(first))
    assert len(fits) == 5
    trained(cache=cache, epochs=1)
    assert len(fits) == 5  # the repaired file is reused
    trained(cache=cache, epochs=1, seed=1)
    trained(cache=cache, epochs=2)
    assert len(fits) == 7


def test_train_classifiers_with_a_cache_that_cannot_be_written_warns_and_goes_on() -> None:
    cache = Path(os.devnull, "cache")
    with pytest.warns(
        UserWarning, match=r"/dev/null/cache/classifier-.* cannot be written, continuing without a cache"
    ):
        classifiers = trained(cache=cache, epochs=1)
    assert torch.equal(weights(classifiers), weights(trained(epochs=1)))


def test_train_classifiers_cache_of_other_data_is_ignored(tmp_path: Path) -> None:
    trained(cache=tmp_path, epochs=1)
    other = separable(200, "train", 5)
    classifiers = train_classifiers(other, TEST, cache=tmp_path, epochs=1)
    assert torch.equal(weights(classifiers), weights(train_classifiers(other, TEST, epochs=1)))
    # The last layer for further classes has another shape: none of the restored weights may stay in the new network.
    assert TRAIN.labels is not None
    shifted = replace(TRAIN, labels=TRAIN.labels + 1)
    train_classifiers(shifted, TEST, cache=tmp_path, epochs=1)
    assert torch.equal(weights(trained(cache=tmp_path, epochs=1)), weights(trained(epochs=1)))


def test_train_classifiers_without_labels_raises() -> None:
    with pytest.raises(ValueError, match="'separable' must have labels in both splits"):
        train_classifiers(replace(TRAIN, labels=None), TEST)
    with pytest.raises(ValueError, match="must have labels in both splits"):
        train_classifiers(TRAIN, replace(TEST, labels=None))


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 8, 8), (3, 33, 17)])
def test_image_classifier_any_size_returns_logits(shape: tuple[int, ...]) -> None:
    assert image_classifier(shape, 10)(torch.rand(2, *shape)).shape == (2, 10)


def digit_names(size: int, split: str, seed: int) -> MultimodalDataset:
    """Return names of digits at random places, and vectors, counts and flags that tell the digit up to noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 10
    table, spans = placements(ENGLISH_DIGITS, 8, " efghinorstuvwxz")

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
    specs = {"text": ModalitySpec(data_type="tokens", classes=16), "counts": ModalitySpec(data_type="counts")}
    return MultimodalDataset(values, labels, torch.ones(size, 4, dtype=torch.bool), "digits", split, {}, specs)


@pytest.fixture(scope="module")
def judges() -> Classifiers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MIN_STEPS", 120)
        return train_classifiers(digit_names(1000, "train", 0), digit_names(200, "test", 1))


def test_train_classifiers_text_vectors_counts_and_flags_reach_full_accuracy(judges: Classifiers) -> None:
    assert list(judges.networks) == ["text", "vector", "counts", "flags"]
    assert min(judges.accuracy.values()) == 1.0
    for name, values in digit_names(40, "test", 2).tensors.items():
        assert judges.features(name, values).shape == (40, 128)


def test_predict_probabilities_equals_most_probable_tokens(judges: Classifiers) -> None:
    data = digit_names(60, "test", 3)
    tokens = data.tensors["text"]
    unsure = torch.softmax(0.5 * torch.nn.functional.one_hot(tokens, 16) + 0.2 * torch.rand(60, 8, 16), -1)
    assert torch.equal(unsure.argmax(-1), tokens)
    predicted = judges.predict("text", unsure, batch_size=7)
    assert data.labels is not None
    assert torch.equal(predicted, data.labels)
    assert torch.equal(judges.features("text", unsure), judges.features("text", tokens))
    assert torch.equal(judges.predict("text", tokens.float()), predicted)


def test_most_probable_unknown_token_is_zero() -> None:
    network = token_classifier((8,), 16, 10)
    with torch.no_grad():
        first, second = (network[0](torch.full((1, 8), token)) for token in (16, 99))
    assert first.shape == (1, 16, 8)
    assert not first.any()
    assert torch.equal(first, second)
    probabilities = torch.nn.functional.one_hot(
        torch.full((1, 8), 18), 20
    ).float()  # probabilities of a model with further classes
    assert not network[0](probabilities).any()


@pytest.mark.parametrize("shape", [(1,), (3,), (40,), (2, 5)])
def test_token_classifier_any_length_returns_logits(shape: tuple[int, ...]) -> None:
    network = token_classifier(shape, 4, 3)
    tokens = torch.randint(4, (5, *shape))
    assert network(tokens).shape == (5, 3)
    torch.testing.assert_close(network(torch.nn.functional.one_hot(tokens, 4).float()), network(tokens))


def test_standardise_fit_gives_zero_mean_and_unit_variance() -> None:
    values = torch.randn(50, 2, 3, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.0]) + 5
    layer = Standardise(6).double()
    layer.fit(values)
    out = layer(values).reshape(50, 2, 3)
    torch.testing.assert_close(out[..., :2].mean(0), torch.zeros(2, 2).double())
    torch.testing.assert_close(out[..., :2].std(0, correction=0), torch.ones(2, 2).double())
    assert (out[..., 2] == 0).all()
    counts = Standardise(2, counts=True)
    assert torch.equal(counts.flat(torch.tensor([[0, 1]])), torch.tensor([[0.0, 1.0]]).log1p())


def test_train_classifiers_paired_images_used_once_and_text_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[str, int]] = []
    fit = module._fit

    def record(network: Any, lessons: Any, epochs: int) -> None:
        fitted.append((lessons.name, len(lessons.rows)))
        fit(network, lessons, epochs)

    monkeypatch.setattr(module, "_fit", record)
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
    specs = {"text": ModalitySpec(data_type="tokens", classes=8)}
    train = MultimodalDataset(values, base.labels[rows], present, "paired", "train", {}, specs)
    batch_sizes: list[int] = []
    plain = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda out, labels: (batch_sizes.append(len(labels)), plain(out, labels))[1],
    )
    classifiers = train_classifiers(train, train, epochs=2)
    assert batch_sizes[:10] == [40] * 10  # 2 * 199 / 40 passes
    assert batch_sizes[10] == 128
    assert fitted == [("image", 40), ("text", 199)]
    assert drawn[:4] == [0, 1, 2, 3]  # as many epochs as make 400 steps
    assert len(drawn) == 200
    assert set(classifiers.accuracy) == {"image", "text"}
    rows = module._rows(train, "image")
    assert rows.tolist() == [*range(3), *range(4, 40), 43]


def test_train_classifiers_large_set_is_limited_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ITEMS", 50)
    steps: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: steps.append(1))
    trained(epochs=3)
    assert len(steps) == 3
