"""Tests of match_data: features, modalities, text and labels matched by name, and messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_mmvae.data import (
    DataDescription,
    IndexedTensor,
    ModalitySpec,
    MultimodalDataset,
    SelectedFeatures,
    describe_data,
    from_arrays,
    load_data,
    match_data,
)

RNA = np.array([[1, 2, 6], [3, 4, 8]])
TABLE = np.array([[0.5, -1.0], [2.0, 4.0]])


def make(
    modalities: dict[str, Any] | None = None,
    features: dict[str, tuple[str, ...]] | None = None,
    labels: Any = None,  # noqa: ANN401
    **options: Any,  # noqa: ANN401
) -> MultimodalDataset:
    modalities = {"rna": RNA, "table": TABLE} if modalities is None else modalities
    options.setdefault("meta", {"modalities": {"rna": {"data_type": "counts"}}} if "rna" in modalities else {})
    data = from_arrays(modalities, labels, name="new", **options)
    return replace(data, feature_names={"rna": ("g1", "g2", "g3")} if features is None else features)


def trained_on(**options: Any) -> DataDescription:  # noqa: ANN401
    return describe_data(make(**options))


def test_describe_data_returns_names_shapes_and_means() -> None:
    description = trained_on(labels=["cat", "dog"])
    assert description.names == ("rna", "table")
    assert description.shapes == {"rna": (3,), "table": (2,)}
    assert description.feature_means == {"rna": (2.0, 3.0, 7.0)}
    assert description.class_names == ("cat", "dog")
    assert description.modality_specs["rna"].data_type == "counts"


def test_match_data_equal_data_returns_no_notes() -> None:
    matched, notes = match_data(make(), trained_on())
    assert notes == ()
    assert matched.tensors["rna"].tolist() == RNA.tolist()
    assert "matched" not in matched.provenance


def test_match_data_reordered_features_returns_training_order() -> None:
    new = make({"table": TABLE, "rna": RNA[:, [2, 0, 1]]}, {"rna": ("g3", "g1", "g2")})
    matched, notes = match_data(new, trained_on())
    assert matched.names == ("rna", "table")
    assert matched.tensors["rna"].tolist() == RNA.tolist()
    assert matched.tensors["table"].tolist() == TABLE.tolist()
    assert matched.feature_names["rna"] == ("g1", "g2", "g3")
    assert notes == ("modality 'rna': the features were put in the order of the training data",)


@pytest.mark.parametrize(
    ("new", "options", "message"),
    [
        (
            lambda: make({"rna": RNA[:, :2]}, {"rna": ("g2", "g3")}),
            {},
            "new: modality 'rna' must have the 3 features that the model was trained on, got none of the name 'g1': "
            "add them, or fill them with their training means (--missing-features fill, in Python "
            "missing_features='fill')",
        ),
        (
            lambda: make({"rna": RNA}, {"rna": ("h1", "h2", "h3")}),
            {"missing_features": "fill", "surplus_features": "drop"},
            "new: modality 'rna' must have the 3 features that the model was trained on ('g1', 'g2', 'g3'), got none "
            "of them",
        ),
        (
            lambda: make({"rna": np.tile(RNA, 2)}, {"rna": ("g1", "g2", "g3", "a", "b", "c")}),
            {},
            "new: modality 'rna' must have only features that the model was trained on, got 'a', 'b', 'c' as well: "
            "remove them, or drop them (--surplus-features drop, in Python surplus_features='drop')",
        ),
        (
            lambda: make({"rna": RNA[:, :2]}, {}),
            {},
            "new: modality 'rna' must have items of shape (3,), got (2,)",
        ),
        (
            lambda: make({"rna": RNA.astype(float)}, meta={}),
            {},
            "new: modality 'rna' must have the data type 'counts', got 'vector': set the data_type of the new data",
        ),
        (
            lambda: make({"other": TABLE}, {}),
            {},
            "new: must have a modality that the model was trained on (rna, table), got other",
        ),
        (
            lambda: make({"rna": RNA, "other": TABLE}),
            {"surplus_modalities": "error"},
            "new: modalities must be those that the model was trained on (rna, table), got 'other' as well: leave it "
            "out, or pass surplus_modalities='drop'",
        ),
        (make, {"missing_features": "mean"}, "missing_features must be 'error' or 'fill', got 'mean'"),
    ],
)
def test_match_data_unfit_data_raises_one_line(
    new: Callable[[], MultimodalDataset], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        match_data(new(), trained_on(), **options)
    assert str(error.value) == message


def test_match_data_missing_features_filled_with_training_means() -> None:
    train = make(
        {"rna": np.array([[1, 2, 6], [4, 4, 8]]), "table": TABLE}, {"rna": ("a", "b", "c"), "table": ("x", "y")}
    )
    new = make({"rna": np.array([[5, 9]]), "table": np.array([[7.0]])}, {"rna": ("c", "z"), "table": ("y",)})
    matched, notes = match_data(new, describe_data(train), missing_features="fill", surplus_features="drop")
    assert matched.tensors["rna"].tolist() == [[2, 3, 5]]  # 2.5, the mean of a count, is rounded to the even number
    assert matched.tensors["table"].tolist() == [[1.25, 7.0]]
    assert notes == (
        "modality 'rna': 2 of 3 features filled with their training means: 'a', 'b'",
        "modality 'rna': features left out, since the model was not trained on them: 'z'",
        "modality 'table': 1 of 2 features filled with their training means: 'x'",
    )
    assert matched.provenance["matched"] == list(notes)


def test_match_data_names_on_one_side_matches_by_position_and_says_so() -> None:
    matched, notes = match_data(make(features={}), trained_on())
    assert matched.tensors["rna"].tolist() == RNA.tolist()
    assert notes == ("modality 'rna': features matched by position, since the new data have no names",)


def test_match_data_missing_modality_becomes_absent() -> None:
    new = make({"other": TABLE, "rna": RNA}, present=np.array([[True, True], [True, False]]))
    matched, notes = match_data(new, trained_on())
    assert isinstance(matched.modalities["table"], IndexedTensor)
    assert matched.tensors["table"].tolist() == [[0, 0], [0, 0]]
    assert matched.present.tolist() == [[True, False], [False, False]]
    assert notes == (
        "modality 'other': left out, since the model was not trained on it",
        "modality 'table': absent from all items",
        "1 of 2 items have none of the modalities that the model was trained on",
    )


def test_match_data_mapped_folder_stays_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.arange(40.0).reshape(20, 2))
    data = load_data(str(tmp_path), "train", memory_map=True)
    new = replace(data, feature_names={"table": ("b", "a")})
    matched, _ = match_data(new, trained_on(modalities={"table": TABLE}, features={"table": ("a", "b")}))
    assert isinstance(matched.modalities["table"], SelectedFeatures)
    assert matched.tensors["table"].tolist() == data.tensors["table"].flip(1).tolist()
    assert matched.subset([1]).tensors["table"].tolist() == data.tensors["table"][[1]].flip(1).tolist()


def test_match_data_text_is_encoded_in_the_training_alphabet() -> None:
    train = make({"words": np.array(["cab", "abacus"])}, {})
    new = make({"words": np.array(["sub", "bus", "a" * 9])}, {})
    matched, notes = match_data(new, describe_data(train))
    assert matched.modality_specs["words"].alphabet == "*abcsu"
    assert matched.tensors["words"].tolist() == [[4, 5, 2, 0, 0, 0, 0, 0], [2, 5, 4, 0, 0, 0, 0, 0], [1] * 8]
    assert notes == ("modality 'words': texts cut to the 8 characters of the model: 1 of 3",)


def test_match_data_unknown_character_raises_with_item_id() -> None:
    new = replace(make({"words": np.array(["cab", "cob"])}, {}), item_ids=np.array(["x1", "x2"]))
    with pytest.raises(ValueError, match=r"item 'x2' must be written in the characters of .*, got 'o' in 'cob'"):
        match_data(new, trained_on(modalities={"words": np.array(["cab"])}, features={}))


def test_match_data_token_beyond_classes_raises() -> None:
    meta = {"modalities": {"code": {"data_type": "tokens"}}}
    train = make({"code": np.array([[0, 1], [2, 1]])}, {}, meta=meta)
    new = make({"code": np.array([[0, 1], [2, 3]])}, {}, meta=meta)
    with pytest.raises(ValueError, match=r"modality 'code': item 1 must have tokens from 0 to 2, got 3"):
        match_data(new, describe_data(train))


def test_match_data_bytes_for_floats_raises() -> None:
    image = np.linspace(0, 1, 2 * 16, dtype=np.float32).reshape(2, 1, 4, 4)
    train = replace(make({"photo": image}, {}), modality_specs={"photo": ModalitySpec(data_type="image", pixels=False)})
    new = make({"photo": (image * 255).astype(np.uint8)}, {})
    with pytest.raises(ValueError, match=r"must hold floats .* got uint8, which would be divided by 255"):
        match_data(new, describe_data(train))


@pytest.mark.parametrize(
    ("trained", "new", "expected", "notes"),
    [
        (["cat", "dog"], ["dog", "cat"], [1, 0], ()),
        (
            ["cat", "dog"],
            ["emu", "dog"],
            [-1, 1],
            (
                "labels: the classes were matched to those of the training data by name",
                "labels: 1 of 2 items have an unknown class and are taken as unlabelled",
            ),
        ),
        (["bee", "dog"], ["dog", "ant"], [1, -1], None),
        (["cat", "dog"], [1, 0], [1, 0], ()),
        ([0, 1], ["dog", "cat"], [1, 0], ()),
        (["cat", "dog"], None, None, ()),
        (
            ["cat", "dog"],
            np.array([[0, 1], [1, 1]]),
            None,
            ("labels left out, since they are attributes and not classes as in training",),
        ),
    ],
)
def test_match_data_classes_receive_training_numbers(
    trained: Any,  # noqa: ANN401
    new: Any,  # noqa: ANN401
    expected: list[int] | None,
    notes: tuple[str, ...] | None,
) -> None:
    matched, received = match_data(make(labels=new), trained_on(labels=trained))
    assert (None if matched.labels is None else matched.labels.tolist()) == expected
    assert notes is None or received == notes


def test_match_data_attributes_are_selected_by_name() -> None:
    attributes = np.array([[1, 0, 1], [0, 0, 1]])
    new = make(labels=attributes, label_names=["a", "b", "c"])
    matched, notes = match_data(new, trained_on(labels=attributes[:, :2], label_names=["c", "a"]))
    assert matched.label_names == ("c", "a")
    assert torch.equal(matched.labels, torch.tensor([[True, True], [True, False]]))
    assert notes == ("labels: the attributes were matched to those of the training data by name",)
    lacking, notes = match_data(new, trained_on(labels=attributes[:, :2], label_names=["c", "d"]))
    assert lacking.labels is None
    assert notes == ("labels left out, since the attribute 'd' of the training data is missing",)
