"""Tests of fingerprints: what they do not depend on, and the line that names each change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import IndexedTensor, MappedTensor, MultimodalDataset, from_arrays, load_data
from pyro_mmvae.data.fingerprint import find_changes, take_fingerprint
from pyro_mmvae.data.storage.mapped import Column

N = 40


def arrays() -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return {
        "photo": generator.integers(0, 256, (N, 3, 8, 8), dtype=np.uint8),
        "table": generator.normal(size=(N, 4)).astype(np.float32),
    }


def make(**changes: Any) -> MultimodalDataset:  # noqa: ANN401
    present = np.ones((N, 2), dtype=bool)
    present[:5, 1] = False
    options: dict[str, Any] = {
        "modalities": arrays(),
        "labels": np.array(["cat", "dog", "emu", "cat"] * (N // 4)),
        "present": present,
        "item_ids": [f"i{number}" for number in range(N)],
        "feature_names": {"table": list("abcd")},
    }
    return from_arrays(**{**options, **changes})


def with_table(change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> MultimodalDataset:
    values = arrays()
    return make(modalities={**values, "table": change(values["table"])})


def moved(*names: str) -> dict[str, Any]:
    """Return the data with items of some modalities, all of them if none is named, in reverse order."""
    values, everything = arrays(), not names
    result: dict[str, Any] = {"present": np.ones((N, 2), dtype=bool)}
    result["modalities"] = {name: v[::-1].copy() if everything or name in names else v for name, v in values.items()}
    return result


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (make, ()),
        (lambda: with_table(lambda x: x[:, [1, 0, 2, 3]]), ("modality 'table': the columns are in another order",)),
        (
            lambda: make(
                modalities={**arrays(), "table": arrays()["table"][:, ::-1]}, feature_names={"table": list("dcba")}
            ),
            ("modality 'table': the columns are in another order",),
        ),
        (lambda: make(feature_names={"table": list("abce")}), ("modality 'table': the features have other names",)),
        (lambda: make(feature_names={}), ()),
        (lambda: with_table(np.exp), ("modality 'table': the values differ",)),
        (
            lambda: with_table(lambda x: 0.001 * x),
            ("modality 'table': the values are 0.001 times what they were",),
        ),
        (lambda: with_table(lambda x: x - 273.15), ("modality 'table': the values are shifted by -273.15",)),
        (lambda: with_table(lambda x: 1.8 * x + 32), ("modality 'table': the values differ",)),
        (lambda: with_table(lambda x: x * [1, 1, 100, 1]), ("modality 'table': the values of column 'c' differ",)),
        (lambda: with_table(lambda x: x + [1, 1, 0, 0]), ("modality 'table': the values of 2 of 4 columns differ",)),
        (
            lambda: make(
                modalities={**arrays(), "table": arrays()["table"][:, :3]}, feature_names={}
            ),
            ("modality 'table': items were of shape (4,) and are of shape (3,)",),
        ),
        (
            lambda: make(modalities={**arrays(), "photo": arrays()["photo"][:, ::-1].copy()}),
            ("modality 'photo': the channels are in another order",),
        ),
        (
            lambda: make(modalities={**arrays(), "photo": (arrays()["photo"] / 255).astype(np.float32)}),
            ("modality 'photo': the values were uint8 and are float32",),
        ),
        (
            lambda: make(present=np.ones((N, 2), dtype=bool)),
            ("modality 'table': it was present in 35 items and is in 40",),
        ),
        (
            lambda: make(present=np.roll(np.ones((N, 2), dtype=bool) * (np.arange(N) > 4)[:, None], 3) | [True, False]),
            ("modality 'table': it is present in other items",),
        ),
        (
            lambda: make(labels=np.array(["cat", "dog", "emu", "cat"] * (N // 4))[::-1]),
            ("the labels belong to other items",),
        ),
        (lambda: make(labels=np.array(["cat", "dog", "emu", "emu"] * (N // 4))), ("the labels differ",)),
        (
            lambda: make(labels=np.array(["cat", "dog", "gnu", "cat"] * (N // 4))),
            ("labels: the classes or attributes have other names or another order",),
        ),
        (lambda: make(labels=None), ("the labels are missing",)),
        (lambda: make(item_ids=[f"i{number}" for number in range(N)][::-1]), ("the item ids are in another order",)),
        (lambda: make(item_ids=range(N)), ("the item ids differ",)),
        (lambda: make(item_ids=None), ()),
        (
            lambda: make().subset(range(N - 2)),
            ("the number of items was 40 and is 38",),
        ),
    ],
)  # fmt: skip
def test_find_changes_one_change_returns_the_line_that_names_it(
    after: Callable[[], MultimodalDataset], lines: tuple[str, ...]
) -> None:
    data = after()
    assert find_changes(take_fingerprint(make()), take_fingerprint(data), data.feature_names) == lines


@pytest.mark.parametrize(
    ("names", "lines"),
    [(("table",), ("modality 'table' now pairs with other items",)), ((), ("the items are in another order",))],
)
def test_find_changes_moved_items_returns_lost_pairing_or_order(names: tuple[str, ...], lines: tuple[str, ...]) -> None:
    before, after = make(present=moved()["present"]), make(**moved(*names))
    assert find_changes(take_fingerprint(before), take_fingerprint(after)) == lines


def test_find_changes_other_modalities_returns_their_names() -> None:
    values = arrays()
    renamed = make(modalities={"photo": values["photo"], "tab": values["table"]}, feature_names={}, present=None)
    before = take_fingerprint(make(present=None))
    assert find_changes(before, take_fingerprint(renamed)) == ("modality 'table' is missing", "modality 'tab' is new")


def test_find_changes_labels_and_ids_added_later_returns_nothing() -> None:
    before = take_fingerprint(make(labels=None, item_ids=None, feature_names={}))
    assert find_changes(before, take_fingerprint(make())) == ()


def test_take_fingerprint_of_mapped_copied_and_moved_files_is_equal(tmp_path: Path) -> None:
    prints = []
    for name, dtype in (("one", np.float32), ("two", ">f8")):
        (tmp_path / name).mkdir()
        for key, array in arrays().items():
            np.save(tmp_path / name / f"{key}.npy", array if key == "photo" else array.astype(dtype))
        for memory_map in (False, True):
            data = load_data(str(tmp_path / name), "train", memory_map=memory_map)
            assert isinstance(data.modalities["table"], MappedTensor) == memory_map
            prints.append(take_fingerprint(data))
    assert all(other == prints[0] for other in prints[1:])


def test_take_fingerprint_of_indexed_values_is_that_of_a_tensor() -> None:
    data = make()
    rows = torch.arange(N - 1, -1, -1)
    lazy = IndexedTensor(data.tensors["table"].flip(0), rows)
    indexed = replace(data, modalities={**data.modalities, "table": lazy})
    assert take_fingerprint(indexed) == take_fingerprint(data)


def test_take_fingerprint_of_absent_values_ignores_them() -> None:
    data = make()
    changed = data.tensors["table"].clone()
    changed[:5] = 7.0
    assert take_fingerprint(replace(data, modalities={**data.modalities, "table": changed})) == take_fingerprint(data)


@pytest.mark.parametrize(("features", "most"), [(3, 1024), (2**16, 64)])
def test_take_fingerprint_of_many_or_large_items_reads_some_of_them_only(features: int, most: int) -> None:
    read = []

    class Recorded(MappedTensor):
        def __getitem__(self, index: Any) -> torch.Tensor:  # noqa: ANN401
            read.append(torch.as_tensor(index))
            return super().__getitem__(index)

    count = 5000
    array = np.broadcast_to(np.float32(1.0), (count, features))  # one number in memory
    values = Recorded(Column("big", array, "vector", np.ones(count, dtype=bool)), np.arange(count))
    data = MultimodalDataset({"big": values}, None, torch.ones(count, 1, dtype=torch.bool), "big", "train")
    assert take_fingerprint(data).num_items == count
    (rows,) = read
    assert (len(rows), int(rows[0]), int(rows[-1])) == (most, 0, count - 1)


def test_find_changes_of_covariates_returns_what_changed() -> None:
    donors = ["A", "B", "A", "C"] * (N // 4)
    before = take_fingerprint(make(covariates={"donor": donors}))
    assert find_changes(before, take_fingerprint(make(covariates={"donor": donors}))) == ()
    assert find_changes(before, take_fingerprint(make())) == ("covariate 'donor' is missing",)
    assert find_changes(take_fingerprint(make()), before) == ("covariate 'donor' is new",)
    others = take_fingerprint(make(covariates={"donor": donors[::-1]}))
    assert find_changes(before, others) == ("covariate 'donor': the categories of the items differ",)


def test_take_fingerprint_of_a_covariate_does_not_depend_on_its_codes() -> None:
    data = make(covariates={"donor": ["A", "B", "A", "C"] * (N // 4)})
    recoded = replace(
        data, covariates={"donor": 2 - data.covariates["donor"]}, covariate_names={"donor": ("C", "B", "A")}
    )
    assert take_fingerprint(recoded) == take_fingerprint(data)
    assert take_fingerprint(make()).covariates == {}
