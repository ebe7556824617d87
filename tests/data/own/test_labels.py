"""Labels of a user's own data that are attributes: from files, arrays and items, and what is refused."""

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


def expect(data: MultimodalDataset, names: tuple[str, ...] = NAMES) -> None:
    rows = (data.tensors["v"][:, 0] / 2).long().numpy()
    assert data.labels is not None
    assert (data.label_names, data.labels.dtype) == (names, torch.bool)
    np.testing.assert_array_equal(data.labels.numpy(), ATTRIBUTES[rows])


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64])
def test_attributes_of_a_folder_and_of_an_npz(dtype: Any, tmp_path: Path) -> None:
    where = write(tmp_path / "a", ATTRIBUTES.astype(dtype))
    np.savez(tmp_path / "b.npz", v=VALUES, labels=ATTRIBUTES.astype(dtype))
    (tmp_path / "b.yaml").write_text("label_names: [Old, 'Rare, perhaps', Never]\n")
    for split in ("train", "val", "test"):
        expect(load_data(where, split))
        expect(load_data(str(tmp_path / "b.npz"), split))
    first = load_data(where).fingerprint
    expect(load_data(write(tmp_path / "a", meta="")), ("attribute 0", "attribute 1", "attribute 2"))
    assert load_data(where).fingerprint != first


def test_attributes_of_arrays() -> None:
    for labels in (ATTRIBUTES, torch.from_numpy(ATTRIBUTES), ATTRIBUTES.astype(np.uint8).tolist()):
        expect(from_arrays({"v": VALUES}, labels, label_names=NAMES))
        expect(from_arrays({"v": VALUES}, labels, meta={"label_names": ["a", "b", "c"]}, label_names=list(NAMES)))
        expect(from_arrays({"v": VALUES}, labels, meta={"label_names": list(NAMES)}))
        expect(from_arrays({"v": VALUES}, labels), ("attribute 0", "attribute 1", "attribute 2"))
    assert from_arrays({"v": VALUES}, np.arange(N)).label_names == ()


def test_attributes_of_items() -> None:
    items = [{"v": v, "label": a} for v, a in zip(VALUES, ATTRIBUTES, strict=True)]
    expect(from_items(items, label_names=NAMES))
    expect(from_items([{**item, "label": torch.as_tensor(item["label"]).int()} for item in items], label_names=NAMES))
    items[3] = {**items[3], "label": ATTRIBUTES[3, :2]}
    with pytest.raises(ValueError, match=r"items: item 3: found a label \(2,\) of bool, expected \(3,\) of bool as in"):
        from_items(items)


WHERE = r"labels\.npy: "


@pytest.mark.parametrize(
    ("labels", "meta", "expected"),
    [
        (ATTRIBUTES[:9], "", WHERE + r"found \(9, 3\) of bool, expected attributes \(item, attribute\) = \(20, …\) of"),
        (ATTRIBUTES[:, :0], "", WHERE + r"found \(20, 0\) of bool, expected attributes"),
        (ATTRIBUTES.astype(float), "", WHERE + r"found \(20, 3\) of float64, expected attributes .* of 0 and 1"),
        (np.where(ATTRIBUTES, 1, -1), "", WHERE + r"item \d+: found -1 as attribute \d, expected 0 or 1"),
        (ATTRIBUTES * np.uint8(2), "", WHERE + r"item \d+: found 2 as attribute [01], expected 0 or 1"),
        (ATTRIBUTES[..., None], "", WHERE + r"found \(20, 3, 1\) of bool, expected labels \(item,\) = \(20,\) of int"),
        (ATTRIBUTES[:, 0], "", WHERE + r"found \(20,\) of bool, expected labels \(item,\) = \(20,\) of integers, or"),
        (ATTRIBUTES, "label_names: [a, b]", WHERE + r"found 3 attributes and 2 label_names, expected as many"),
        (ATTRIBUTES, "label_names: [a, b, a]", r"meta\.yaml: label_names: names must differ, got 'a' twice"),
        (ATTRIBUTES, "label_names: [a, b, '']", r"meta\.yaml: label_names\.2: String should have at least 1 char"),
        (ATTRIBUTES, "label_names: [a, b, 3]", r"meta\.yaml: label_names\.2: Input should be a valid string, got 3"),
        (ATTRIBUTES, "label_names: abc", r"meta\.yaml: label_names: Input should be a valid tuple, got 'abc'"),
        (np.arange(N), "label_names: [a, b]", WHERE + r"found one class an item and 2 label_names, which are of attri"),
        (None, "label_names: [a, b]", r"found label_names, but no labels that they could be of"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(labels: Any, meta: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        load_data(write(tmp_path / "a", labels, meta))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
