"""Data that are converted without being told: grey and deep images, strings, and labels with names or without any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae.data import from_arrays, from_items, load_data
from pyro_mmvae.data.inspection import check_data, summarise
from pyro_mmvae.data.text import decode_texts

GENERATOR = np.random.default_rng(0)
WORDS = np.array(["a red bird", "a small grey bird", "blue"])[np.arange(30) % 3]
PIXELS = GENERATOR.integers(0, 255, (30, 3, 9, 10), dtype=np.uint8)


def test_from_arrays_of_grey_bytes_adds_a_channel_axis() -> None:
    data = from_arrays({"scan": PIXELS[:, 0]})
    assert data.modality_specs["scan"].data_type == "image"
    assert torch.equal(data.tensors["scan"], torch.from_numpy(PIXELS[:, :1]))


@pytest.mark.parametrize("memory_map", [False, True])
def test_load_data_with_channels_last_moves_them_first(memory_map: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", PIXELS.transpose(0, 2, 3, 1))
    np.save(tmp_path / "split.npy", np.arange(30) % 3)
    data = load_data(str(tmp_path), "val", memory_map=memory_map)
    assert torch.equal(data.tensors["scan"], torch.from_numpy(PIXELS[1::3]))


def test_from_arrays_of_uint16_images_scales_them_to_one() -> None:
    deep = (PIXELS.astype(np.uint16) * 257)[:, :1]
    data = from_arrays({"scan": deep})
    torch.testing.assert_close(data.tensors["scan"], torch.from_numpy(deep / 65535).float())
    assert data.modality_specs["scan"].pixels is True


def test_from_arrays_of_strings_makes_tokens_with_an_alphabet() -> None:
    data = from_arrays({"caption": WORDS, "list": list(WORDS)})
    for name in ("caption", "list"):
        spec, tokens = data.modality_specs[name], data.tensors[name]
        assert (spec.data_type, spec.padding, tuple(tokens.shape)) == ("tokens", "*", (30, 20))
        assert spec.alphabet == "* abdegilmrsuy"
        assert decode_texts(tokens, spec.padding, spec.alphabet) == list(WORDS)


def test_from_items_of_strings_of_different_lengths_makes_tokens() -> None:
    items = [{"caption": word, "label": word.split()[0], "v": float(i)} for i, word in enumerate(WORDS.tolist())]
    data = from_items(items)
    spec = data.modality_specs["caption"]
    assert decode_texts(data.tensors["caption"], spec.padding, spec.alphabet or "") == list(WORDS)
    assert data.class_names == ("a", "blue")


def test_load_data_with_labels_of_strings_names_the_classes(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", GENERATOR.normal(size=(30, 2)))
    np.save(tmp_path / "labels.npy", np.array(["T", "B", ""])[np.arange(30) % 3])
    np.save(tmp_path / "split.npy", np.arange(30) // 10)
    data = load_data(str(tmp_path), "train")
    assert data.class_names == ("B", "T")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, -1, 1, 0, -1, 1, 0, -1, 1]
    assert data.labelled.tolist() == [True, True, False, True, True, False, True, True, False, True]
    assert summarise(data).labels == {"B": 3, "T": 4, "unlabelled": 3}
    assert list(check_data(str(tmp_path))) == []


def test_from_arrays_of_float_labels_with_nan_leaves_items_unlabelled() -> None:
    labels = np.array([0.0, np.nan, 2.0])
    data = from_arrays({"v": np.arange(6.0).reshape(3, 2)}, labels)
    assert data.labels is not None
    assert data.labels.tolist() == [0, -1, 2]
