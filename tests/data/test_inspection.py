"""Tests of summaries, checks and contact sheets of data sets."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import (
    MultimodalDataset,
    find_data,
    load_polymnist_mini,
    register_data,
    register_format,
    registry,
)
from pyro_mmvae.data.contact_sheets import contact_sheet
from pyro_mmvae.data.inspection import ModalitySummary, check_data, summarise


def make(split: str = "train", *, items: int = 12, **changes: Any) -> MultimodalDataset:
    generator = torch.Generator().manual_seed(0)
    parts: dict[str, Any] = {
        "modalities": {
            "image": torch.randint(0, 256, (items, 3, 8, 8), generator=generator).to(torch.uint8),
            "vector": torch.randn(items, 4, generator=generator),
        },
        "labels": torch.arange(items) % 3,
        "present": torch.ones(items, 2, dtype=torch.bool),
    }
    return MultimodalDataset(**(parts | changes), name="toy", split=split, provenance={"seed": 0})


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Register ``toy``, and return its splits: data sets, or errors to raise."""
    monkeypatch.setattr(registry.DATA_SETS, "_parts", {})
    splits: dict[str, Any] = {"train": make(), "val": make("val"), "test": make("test")}

    @register_data("toy")
    def load_toy(split: str, *, cache: bool = True) -> MultimodalDataset:
        assert not cache  # a check must read the sources
        if isinstance(splits[split], Exception):
            raise splits[split]
        return splits[split]

    return splits


def test_summarise_counts_items_labels_and_missing_modalities() -> None:
    present = torch.ones(12, 2, dtype=torch.bool)
    present[:3, 1] = False
    summary = summarise(make(present=present))
    assert summary.modalities == (
        ModalitySummary("image", (3, 8, 8), "uint8", 0.0),
        ModalitySummary("vector", (4,), "float32", 0.25),
    )
    assert (summary.split, summary.items, summary.labels) == ("train", 12, {0: 4, 1: 4, 2: 4})
    assert summarise(make(labels=None)).labels == {}


def test_check_data_of_correct_splits_reports_nothing(sets: dict[str, Any]) -> None:
    assert list(check_data("toy")) == []
    assert {sets[split].split for split in sets} == {"train", "val", "test"}


def noise() -> torch.Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


def changed(**modalities: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**make().modalities, **modalities}


def absent(*slots: tuple[Any, int]) -> torch.Tensor:
    present = torch.ones(12, 2, dtype=torch.bool)
    for row, column in slots:
        present[row, column] = False
    return present


CONSTANT_BUT_ONE = torch.ones(12, 4).index_fill(0, torch.tensor(3), 2)
BROKEN = noise().index_fill(0, torch.tensor(7), torch.inf)


@pytest.mark.parametrize(
    ("changes", "findings"),
    [
        (
            {"labels": torch.arange(12) % 3 - 2},
            [
                "labels must be at least 0, or -1 for items without a label, got -2",
                "labels must be among those of train, got -2 as well",
            ],
        ),
        ({"labels": torch.arange(12) % 5}, ["labels must be among those of train, got 3, 4 as well"]),
        ({"labels": None}, ["labels must be present as in train, got none"]),
        (
            {"present": absent((4, 0), (4, 1))},
            ["every item must have a modality, got none for item 4"],
        ),
        ({"present": absent((slice(None), 1))}, ["modality 'vector' must be present in some item, got none"]),
        ({"modalities": changed(vector=BROKEN)}, ["modality 'vector': values must be finite, got others in item 7"]),
        (
            {"modalities": changed(vector=BROKEN), "present": absent((2, 1))},
            ["modality 'vector': values must be finite, got others in item 7"],
        ),
        ({"modalities": changed(vector=BROKEN), "present": absent((7, 1))}, []),
        (
            {"modalities": changed(vector=torch.ones(12, 4))},
            ["modality 'vector' must vary between items, got one value in all of them"],
        ),
        (
            {
                "modalities": changed(vector=torch.ones(12, 4).index_fill(0, torch.tensor(3), 2)),
                "present": absent((3, 1)),
            },
            ["modality 'vector' must vary between items, got one value in all of them"],
        ),
        (
            {"modalities": changed(vector=noise()[:, :3])},
            ["modality 'vector' must be (4,) of float32 as in train, got (3,) of float32"],
        ),
        (
            {"modalities": changed(vector=noise().double())},
            ["modality 'vector' must be (4,) of float32 as in train, got (4,) of float64"],
        ),
        (
            {"modalities": dict(reversed(changed().items()))},
            ["modalities must be image, vector as in train, got vector, image"],
        ),
    ],
    ids=range(13),
)
def test_check_data_of_a_faulty_split_reports_each_fault(
    changes: dict[str, Any], findings: list[str], sets: dict[str, Any]
) -> None:
    sets["test"] = make("test", **changes)
    lines = list(check_data("toy"))
    assert len(lines) == len(findings)
    for line, expected in zip(lines, findings, strict=True):
        assert line.startswith(f"test: {expected}")
        assert "\n" not in line


def test_check_data_with_unreadable_splits_opens_the_others(sets: dict[str, Any]) -> None:
    sets["train"] = ValueError("cannot\n be read")
    sets["val"] = OSError("gone")
    assert list(check_data("toy")) == ["train: cannot be read", "val: gone"]


def test_find_data_describes_a_source_without_opening_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.FORMATS, "_parts", {})

    @register_format("dots", detect=lambda path: path.suffix == ".dots", splits=("train",))
    def load_dots(path: Any, split: str, *, cache: bool = True, scale: float = 1.0) -> MultimodalDataset:
        raise AssertionError

    (tmp_path / "a.dots").touch()
    source = find_data(str(tmp_path / "a.dots"))
    assert (source.format, source.splits, source.options[:1]) == ("dots", ("train",), ("scale",))
    mini = find_data("polymnist-mini")
    assert (mini.format, mini.splits) == (None, ("train", "val", "test"))
    assert "photographs" in mini.options
    with pytest.raises(ValueError, match="unknown data set 'nothing'"):
        find_data("nothing")


def test_attributes_are_counted_and_compared_but_do_not_order_a_contact_sheet(sets: dict[str, Any]) -> None:
    labels = torch.tensor([[True, False], [True, True], [False, False]]).repeat(4, 1)
    marked = make(labels=labels, label_names=("Old", "Never"))
    summary = summarise(marked)
    assert (summary.labels, summary.has_attributes) == ({"Old": 8, "Never": 4}, True)
    assert not summarise(make()).has_attributes
    np.testing.assert_array_equal(contact_sheet(marked, 3)[0][1], marked.modalities["image"][:3].numpy())
    sets["train"] = marked
    sets["val"] = make("val", labels=labels, label_names=("Old", "Never"))
    sets["test"] = make("test", labels=labels, label_names=("Old", "New"))
    assert list(check_data("toy")) == [
        "test: labels must be attributes Old, Never as in train, got attributes Old, New"
    ]
    sets["test"] = make("test")
    assert list(check_data("toy")) == ["test: labels must be attributes Old, Never as in train, got classes 0, 1, 2"]


def test_check_data_of_polymnist_mini_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.DATA_SETS, "_parts", {})
    # The default sizes would take seconds to build.
    register_data("mini")(partial(load_polymnist_mini, train_size=600, val_size=100, test_size=200))
    assert list(check_data("mini")) == []


@pytest.mark.parametrize(("factor", "offset"), [(255.0, 0.0), (8.0, -1000.0), (1.0, 0.01)])
def test_check_data_of_float_images_outside_the_unit_interval_reports_their_range(
    sets: dict[str, Any], factor: float, offset: float
) -> None:
    for split, size in zip(sets, (20, 7, 7), strict=True):
        images = torch.linspace(0, 1, size * 64).reshape(size, 1, 8, 8) * factor + offset
        sets[split] = make(split, items=size, modalities={"scan": images, "vector": 99 * torch.randn(size, 4)})
    low, high = offset, factor + offset
    assert list(check_data("toy")) == [
        f"{', '.join(sets)}: modality 'scan': images of floats must have values in [0, 1], "
        f"got values from {low:g} to {high:g}: "
        "pictures show them cut off, and ssim has no meaning; rescale them to [0, 1], or store values from 0 to 255 as "
        "uint8"
    ]


def test_check_data_of_splits_with_other_categories_names_them(sets: dict[str, Any]) -> None:
    codes = {"donor": torch.tensor([0, 1, -1] * 4)}
    for split, names in (("train", ("A", "B")), ("val", ("A", "C")), ("test", ("A", "C"))):
        sets[split] = make(split, covariates=codes, covariate_names={"donor": names})
    assert list(check_data("toy")) == [
        "val, test: covariates must have the categories {'donor': ['A', 'B']} as in train, got {'donor': ['A', 'C']}"
    ]


def test_summarise_counts_categories_and_unknown_ones() -> None:
    codes = {"donor": torch.tensor([1, -1, 0, 1] * 3)}
    summary = summarise(make(covariates=codes, covariate_names={"donor": ("A", "B")}))
    assert summary.covariates == {"donor": {"A": 3, "B": 6, "(unknown)": 3}}
