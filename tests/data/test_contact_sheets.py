"""Tests of contact sheets of data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_mmvae.data import ModalitySpec, MultimodalDataset, load_data
from pyro_mmvae.data.contact_sheets import contact_sheet


def make(*, items: int = 12, **changes: Any) -> MultimodalDataset:
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, Any] = {
        "modalities": {
            "image": torch.randint(0, 256, (items, 3, 8, 8), generator=generator).to(torch.uint8),
            "vector": torch.randn(items, 4, generator=generator),
        },
        "labels": torch.arange(items) % 3,
        "present": torch.ones(items, 2, dtype=torch.bool),
    }
    return MultimodalDataset(**(parts | changes), name="toy", split="train", provenance={"seed": 0})


def test_contact_sheet_with_classes_shows_each_in_turn() -> None:
    labels = torch.tensor([2, 2, 2, 0, 0, 1, 1, 1, 1, 0, 2, 1])
    data = make(labels=labels)
    ((name, images), (other, vectors)) = contact_sheet(data, 5)
    assert vectors is not None
    assert (other, np.shape(vectors)) == ("vector", (5, *data.modalities["vector"].shape[1:]))
    assert name == "image"
    expected = data.modalities["image"][[3, 4, 5, 6, 0]]  # two zeros, two ones, the first two
    assert images is not None
    np.testing.assert_array_equal(images, expected.numpy())
    assert len(contact_sheet(data, 99)[0][1]) == 12  # type: ignore[arg-type]
    np.testing.assert_array_equal(contact_sheet(make(labels=None), 4)[0][1], data.modalities["image"][:4].numpy())


def test_contact_sheet_of_absent_items_is_masked_and_accepts_floats() -> None:
    grey = torch.linspace(0, 1, 12).reshape(12, 1, 1, 1).expand(12, 1, 8, 8)
    present = torch.ones(12, 2, dtype=torch.bool)
    present[1, 0] = False
    data = make(modalities={"grey": grey, "vector": torch.randn(12, 4)}, present=present, labels=None)
    ((_, images), _) = contact_sheet(data, 12)
    assert images is not None
    assert images.dtype == np.uint8
    assert images[:, 0, 0, 0].tolist() == [0, None, *[round(255 * i / 11) for i in range(2, 12)]]


def test_contact_sheet_of_vectors_shows_numbers_and_nan_where_absent() -> None:
    vectors, present = torch.randn(12, 4), torch.ones(12, 1, dtype=torch.bool)
    present[1] = False
    ((name, numbers),) = contact_sheet(make(modalities={"vector": vectors}, present=present, labels=None), 3)
    assert name == "vector"
    assert numbers is not None
    np.testing.assert_array_equal(numbers[[0, 2]], vectors[[0, 2]].double().numpy())
    assert np.isnan(numbers[1]).all()


def test_contact_sheet_of_tokens_shows_texts() -> None:
    tokens = torch.tensor([[1, 2, 0, 0], [2, 0, 1, 0], [0, 0, 0, 0]])
    specs = {
        "words": ModalitySpec(data_type="tokens", alphabet="*ab", padding="*"),
        "other": ModalitySpec(data_type="tokens"),
    }
    parts: dict[str, Any] = {"modalities": {"words": tokens, "other": tokens}, "modality_specs": specs, "labels": None}
    data = make(present=torch.tensor([[True, True], [False, True], [True, True]]), **parts)
    ((name, texts), (_, codes)) = contact_sheet(data)
    np.testing.assert_array_equal(codes, tokens.double().numpy())
    assert texts is not None
    assert (name, texts.tolist()) == ("words", ["ab", None, ""])
    assert contact_sheet(replace(data, present=torch.ones(3, 2, dtype=torch.bool)))[0][1].tolist() == ["ab", "b*a", ""]  # type: ignore[union-attr]


def test_contact_sheet_of_features_in_different_units_is_in_standard_deviations() -> None:
    noise = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    units = torch.tensor([101_325.0, 290.0, 2.5]) + noise * torch.tensor([800.0, 5.0, 0.0])
    present = torch.ones(12, 1, dtype=torch.bool)
    present[4] = False
    ((name, numbers),) = contact_sheet(make(modalities={"sensors": units}, present=present, labels=None))
    assert name == "sensors (s.d.)"
    assert numbers is not None
    assert np.isnan(numbers[4]).all()
    others = np.delete(numbers, 4, axis=0)
    np.testing.assert_allclose(others[:, :2].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(others[:, :2].std(0), 1, rtol=1e-4)
    assert (others[:, 2] == 0).all()  # a constant feature


def test_contact_sheet_of_counts_of_different_sizes_shows_the_counts() -> None:
    counts = torch.tensor([[1.0, 5000.0]]).repeat(12, 1)
    specs = {"rna": ModalitySpec(data_type="counts")}
    present = torch.ones(12, 1, dtype=torch.bool)
    data = make(modalities={"rna": counts}, present=present, labels=None, modality_specs=specs)
    ((name, numbers),) = contact_sheet(data)
    assert name == "rna"
    np.testing.assert_array_equal(numbers, counts.double().numpy())


def test_contact_sheet_of_memory_mapped_vectors_is_that_of_vectors_in_memory(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(12, 2)) * [1.0, 1000.0]
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    ((name, mapped),) = contact_sheet(load_data(str(tmp_path), "all", memory_map=True))
    ((_, expected),) = contact_sheet(load_data(str(tmp_path), "all"))
    assert name == "x (s.d.)"
    np.testing.assert_array_equal(mapped, expected)
