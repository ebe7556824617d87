"""Tests of labels that are attributes, from files, arrays and items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import MultimodalDataset, from_arrays, from_items, load_data

N = 20
ATTRIBUTES = np.random.default_rng(0).random((N, 3)) < np.array([0.5, 0.3, 0.0])
VALUES = np.arange(N * 2, dtype=np.float64).reshape(N, 2)
NAMES = ("Old", "Rare, perhaps", "Never")


def write(folder: Path, labels: Any = ATTRIBUTES, meta: str = "label_names: [Old, 'Rare, perhaps', Never]\n") -> str:
    folder.mkdir(exist_ok=True)
    np.save(folder / "v.npy", VALUES)
    if labels is not None:
        np.save(folder / "labels.npy", labels)
    (folder / "meta.yaml").write_text(meta)
    return str(folder)


def assert_attributes(data: MultimodalDataset, names: tuple[str, ...] = NAMES) -> None:
    rows = (data.tensors["v"][:, 0] / 2).long().numpy()
    assert data.labels is not None
    assert (data.label_names, data.labels.dtype) == (names, torch.bool)
    np.testing.assert_array_equal(data.labels.numpy(), ATTRIBUTES[rows])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64])
def test_load_data_with_attributes_reads_values_and_names(dtype: Any, tmp_path: Path) -> None:
    where = write(tmp_path / "a", ATTRIBUTES.astype(dtype))
    np.savez(tmp_path / "b.npz", v=VALUES, labels=ATTRIBUTES.astype(dtype))
    (tmp_path / "b.yaml").write_text("label_names: [Old, 'Rare, perhaps', Never]\n")
    for split in ("train", "val", "test"):
        assert_attributes(load_data(where, split))
        assert_attributes(load_data(str(tmp_path / "b.npz"), split))
    first = load_data(where).fingerprint
    assert_attributes(load_data(write(tmp_path / "a", meta="")), ("attribute 0", "attribute 1", "attribute 2"))
    assert load_data(where).fingerprint != first


def test_from_arrays_with_attributes_keeps_values_and_names() -> None:
    for labels in (ATTRIBUTES, torch.from_numpy(ATTRIBUTES), ATTRIBUTES.astype(np.uint8).tolist()):
        assert_attributes(from_arrays({"v": VALUES}, labels, label_names=NAMES))
        assert_attributes(
            from_arrays({"v": VALUES}, labels, meta={"label_names": ["a", "b", "c"]}, label_names=list(NAMES))
        )
        assert_attributes(from_arrays({"v": VALUES}, labels, meta={"label_names": list(NAMES)}))
        assert_attributes(from_arrays({"v": VALUES}, labels), ("attribute 0", "attribute 1", "attribute 2"))
    assert from_arrays({"v": VALUES}, np.arange(N)).label_names == ()


def test_from_items_with_attributes_keeps_values_and_names() -> None:
    items = [{"v": v, "label": a} for v, a in zip(VALUES, ATTRIBUTES, strict=True)]
    assert_attributes(from_items(items, label_names=NAMES))
    assert_attributes(
        from_items([{**item, "label": torch.as_tensor(item["label"]).int()} for item in items], label_names=NAMES)
    )
    items[3] = {**items[3], "label": ATTRIBUTES[3, :2]}
    with pytest.raises(
        ValueError, match=r"items: item 3: label must be \(3,\) of bool as in item 0, got \(2,\) of bool"
    ):
        from_items(items)


WHERE = r"labels\.npy: "


@pytest.mark.parametrize(
    ("labels", "meta", "expected"),
    [
        (
            ATTRIBUTES[:9],
            "",
            WHERE + r"attributes must be \(item, attribute\) = \(20, …\) of bool, .* got \(9, 3\) of bool",
        ),
        (ATTRIBUTES[:, :0], "", WHERE + r"attributes must be .* got \(20, 0\) of bool"),
        (ATTRIBUTES.astype(float), "", WHERE + r"attributes must be .* of 0 and 1, got \(20, 3\) of float64"),
        (np.where(ATTRIBUTES, 1, -1), "", WHERE + r"item \d+: attribute \d must be 0 or 1, got -1"),
        (ATTRIBUTES * np.uint8(2), "", WHERE + r"item \d+: attribute [01] must be 0 or 1, got 2"),
        (
            ATTRIBUTES[..., None],
            "",
            WHERE + r"labels must be \(item,\) = \(20,\) of integers or strings, .* got \(20, 3, 1\) of bool",
        ),
        (
            ATTRIBUTES[:, 0],
            "",
            WHERE + r"labels must be \(item,\) = \(20,\) of integers or .* got \(20,\) of bool",
        ),
        (ATTRIBUTES, "label_names: [a, b]", WHERE + r"label_names must be 3, one per attribute, got 2"),
        (ATTRIBUTES, "label_names: [a, b, a]", r"meta\.yaml: label_names: names must differ, got 'a' twice"),
        (ATTRIBUTES, "label_names: [a, b, '']", r"meta\.yaml: label_names\.2: String should have at least 1 char"),
        (ATTRIBUTES, "label_names: [a, b, 3]", r"meta\.yaml: label_names\.2: Input should be a valid string, got 3"),
        (ATTRIBUTES, "label_names: abc", r"meta\.yaml: label_names: Input should be a valid tuple, got 'abc'"),
        (
            np.arange(N),
            "label_names: [a, b]",
            WHERE + r"labels must be .*, as there are 2 label_names, got one class per item",
        ),
        (None, "label_names: [a, b]", r"label_names must come with attributes as labels, got no labels"),
    ],
)
def test_load_folder_with_unfit_labels_raises_in_one_line(
    labels: Any, meta: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        load_data(write(tmp_path / "a", labels, meta))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
