"""Tests of MNIST-SVHN-TEXT: pairings by label, splits by image, and words at random positions."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae import MultimodalDataset, load_data
from pyro_mmvae.data import IndexedTensor, resolve_options
from pyro_mmvae.data.text import ENGLISH_DIGITS, decode_texts
from pyro_mmvae.runs.config import make_config
from pyro_mmvae.runs.resolution import resolve
from tests.digit_samples import numbers, write_idx, write_mat, write_npz

NAME = "mnist-svhn-text"
SPLITS = ("train", "val", "test")
GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mat(write_idx(tmp_path))


def load(root: Path, split: str = "train", **options: Any) -> MultimodalDataset:
    return load_data(NAME, split, root=str(root), **{"pairings": 3, "val_share": 0.25, **options})


def texts(data: MultimodalDataset) -> list[str]:
    return decode_texts(data.tensors["text"], None)


def test_load_mnist_svhn_text_items_share_only_their_label(root: Path) -> None:
    data = load(root)
    assert repr(data) == (
        f"MultimodalDataset('{NAME}', 'train', 540 items: mnist (1, 28, 28), svhn (3, 32, 32), text (8,))"
    )
    assert data.labels is not None
    assert data.complete
    for name in ("mnist", "svhn"):  # the position of the samples' bright bar is the digit
        bars = data.tensors[name][:, 0, 4::2].amax(-1).int().eq(200)[:, :10].int().argmax(-1)
        assert torch.equal(bars, data.labels)
    assert [text.strip() for text in texts(data)] == [ENGLISH_DIGITS[label] for label in data.labels.tolist()]
    pairs = set(zip(numbers(data.tensors["mnist"]), numbers(data.tensors["svhn"]), strict=True))
    assert len(pairs) > 400  # of 540: pairings differ
    assert data.modality_specs["text"].classes == 71
    assert data.modalities["text"].dtype == torch.int64


def test_load_mnist_svhn_text_pairing_has_each_mnist_image_once_and_svhn_images_evenly(root: Path) -> None:
    data = load(root)
    shown = numbers(data.tensors["mnist"])
    for pairing in range(3):
        part = shown[180 * pairing : 180 * (pairing + 1)]
        assert len(set(part)) == 180
        others = Counter(numbers(data.tensors["svhn"])[180 * pairing : 180 * (pairing + 1)])
        assert set(others.values()) <= {1, 2}  # within a label, none is repeated before all are used
    assert len({tuple(numbers(data.tensors["svhn"])[180 * p : 180 * (p + 1)]) for p in range(3)}) == 3


def test_load_mnist_svhn_text_with_many_pairings_holds_images_once(root: Path) -> None:
    data = load(root, pairings=50)
    assert len(data) == 9000
    for name in ("mnist", "svhn"):
        values = data.modalities[name]
        assert isinstance(values, IndexedTensor)
        assert len(values.base) == 180
    assert isinstance(data.modalities["text"], IndexedTensor)
    assert len(data.modalities["text"].base) == sum(8 - len(word) + 1 for word in ENGLISH_DIGITS)


def test_load_mnist_svhn_text_splits_share_no_image(root: Path) -> None:
    shown = {split: load(root, split, seed=2) for split in SPLITS}
    for name in ("mnist", "svhn"):
        parts = [set(numbers(data.tensors[name])) for data in shown.values()]
        assert [len(part) for part in parts] == [180, 60, 60]
        assert len(set.union(*parts)) == 300
        assert parts[2] == set(range(240, 300))  # the test images of the files
    assert len(load(root, "val", test_pairings=2)) == 120


def test_load_mnist_svhn_text_depends_on_the_seed_alone(root: Path) -> None:
    def content(**options: Any) -> list[bytes]:
        return [tensor.numpy().tobytes() for tensor in load(root, **options).tensors.values()]

    assert content() == content()
    assert all(one != other for one, other in zip(content(), content(seed=1), strict=True))
    assert load(root).fingerprint == load(root).fingerprint
    assert load(root).fingerprint != load(root, seed=1).fingerprint


def test_at_epoch_of_train_draws_uniform_independent_positions_of_the_word(root: Path) -> None:
    data = load(root, pairings=20)
    epochs = [texts(data.at_epoch(epoch)) for epoch in range(3)]
    assert epochs[0] == texts(data)
    assert epochs[1] == texts(load(root, pairings=20).at_epoch(1))  # independent of earlier epochs
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # The starts of a word are uniform, and those of two epochs independent: chi-square with its quantile at 1e-4.
    for digit, word in ((6, "six"), (3, "three")):
        chosen = [i for i, text in enumerate(epochs[0]) if text.strip() == word]
        places = 8 - len(word) + 1
        starts = [np.array([epochs[e][i].index(word) for i in chosen]) for e in range(2)]
        counts = np.bincount(places * starts[0] + starts[1], minlength=places**2)
        expected = len(chosen) / places**2
        bound = {36: 76.0, 16: 45.0}[places**2]
        assert ((counts - expected) ** 2 / expected).sum() < bound, digit


@pytest.mark.parametrize("split", ["val", "test"])
def test_at_epoch_of_val_and_test_changes_nothing(root: Path, split: str) -> None:
    data = load(root, split)
    assert data.at_epoch(7) is data
    assert len({text.index(text.strip()) for text in texts(data)}) > 1


def test_load_mnist_svhn_text_with_custom_vocabulary_alphabet_and_length_uses_them(root: Path) -> None:
    data = load(root, vocabulary=GERMAN, length=12)
    assert {text.strip() for text in texts(data)} == set(GERMAN)
    assert data.modalities["text"].shape[1:] == (12,)
    roman = [chr(ord("a") + digit) for digit in range(10)]
    letters = load(root, vocabulary=roman, alphabet=" abcdefghij", length=1)
    assert letters.modality_specs["text"].classes == 11
    assert letters.labels is not None
    assert torch.equal(letters.tensors["text"][:, 0], letters.labels + 1)


def test_load_mnist_svhn_text_with_a_vocabulary_in_yaml_reads_null_as_a_word(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "german.yaml"
    file.write_text(f"data:\n  name: {NAME}\n  root: {root}\n  vocabulary: [{', '.join(GERMAN)}]\n", encoding="utf-8")
    config = resolve(make_config(file))  # YAML reads an unquoted null as None
    options = resolve_options(NAME, config.data.options())
    data = load_data(NAME, "val", **options)
    assert {text.strip() for text in texts(data)} <= set(GERMAN)
    assert options["pairings"] == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairings": 0}, "pairings of 'mnist-svhn-text' must be an integer of at least 1, got 0"),
        ({"test_pairings": True}, "test_pairings .* must be an integer of at least 1, got True"),
        ({"val_share": 1.0}, "val_share .* must be a number above 0 and below 1, got 1.0"),
        (
            {"val_share": 1e-6, "split": "val"},
            "split 'val' must have an image of 'mnist', got none: choose another val_share",
        ),
        ({"vocabulary": ("Null", *GERMAN[1:])}, "must be written in the 71 characters .* got 'N' in 'Null'"),
        ({"length": 4}, "must have at most 4 characters, got 'three', which has 5"),
        ({"alphabet": "abc"}, "alphabet must contain the space"),
        ({"seed": -1}, "seed .* must be an integer of at least 0, got -1"),
        ({"split": "extra"}, "split of 'mnist-svhn-text' must be one of train, val, test, got 'extra'"),
    ],
)
def test_load_mnist_svhn_text_with_an_invalid_option_raises(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(root, **options)


def test_load_mnist_svhn_text_with_a_digit_in_one_set_only_raises(root: Path) -> None:
    with np.load(write_npz(root) / "svhn_some.npz") as file:
        kept = file["labels"] != 7
        np.savez(root / "svhn_some.npz", images=file["images"][kept], labels=file["labels"][kept])
    with pytest.raises(
        ValueError, match="split 'train' must have images of 7 in 'svhn', as it has in 'mnist', got none"
    ):
        load(root, svhn=str(root / "svhn_some.npz"))


def test_load_data_of_the_folder_equals_loading_by_name(root: Path) -> None:
    by_path = load_data(str(root), "val", val_share=0.25)
    by_name = load(root, "val")
    assert by_path.provenance == by_name.provenance
    for name in by_name.names:
        assert torch.equal(by_path.tensors[name], by_name.tensors[name])
    with pytest.raises(ValueError, match="MNIST is missing"):
        load(root / "nowhere")


def test_load_mnist_svhn_text_with_missing_rates_removes_modalities_of_train_alone(root: Path) -> None:
    data = load(root, missing_rate={"text": 0.5, "svhn": 0.2}, missing_seed=3)
    shares = (~data.present).double().mean(0).tolist()
    assert data.names == ("mnist", "svhn", "text")
    assert shares[0] == 0
    assert 0.1 < shares[1] < 0.3
    assert 0.4 < shares[2] < 0.6
    assert isinstance(data.at_epoch(1).modalities["svhn"], IndexedTensor)
    assert load(root, "test", missing_rate=0.5).complete


SHARED = Path(os.environ.get("MMVAE_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.mark.skipif(
    not all((SHARED / file).is_file() for file in ("mnist.npz", "svhn_test10k.npz")),
    reason=f"no mnist.npz and svhn_test10k.npz in {SHARED} (MMVAE_SHARED_DATA)",
)
def test_load_mnist_svhn_text_of_the_real_files_splits_svhn() -> None:
    data = load_data(NAME, "test", root=str(SHARED))
    assert repr(data).startswith(f"MultimodalDataset('{NAME}', 'test', 10000 items")
    assert data.provenance["sources"]["svhn"]["part"].startswith("test, 2000 of 10000 images, split at random")
