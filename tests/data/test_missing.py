"""Tests of the random removal of modalities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.data import Missing, MultimodalDataset, load_data, register_data, registry

NAMES = ("a", "b", "c")


def make(items: int = 4000, split: str = "train", present: torch.Tensor | None = None) -> MultimodalDataset:
    values = {name: torch.arange(items, dtype=torch.float32).reshape(-1, 1) for name in NAMES}
    present = torch.ones(items, 3, dtype=torch.bool) if present is None else present
    return MultimodalDataset(values, torch.arange(items) % 4, present, "toy", split, {"seed": 0})


def removed(missing: Missing, **options: Any) -> torch.Tensor:
    return ~missing.apply(make(**options)).present


def test_missing_without_rates_changes_nothing() -> None:
    data = make(8)
    for missing in (Missing(), Missing(missing_rate={"a": 0.0}), Missing(missing_rate=0.0, missing_seed=3)):
        assert missing.apply(data) is data
    assert Missing(missing_rate=0.5).apply(make(8, "test")).complete
    assert not Missing(missing_rate=0.5, missing_splits=("test",)).apply(make(8, "test")).complete
    assert Missing(missing_rate=0.5, missing_splits=("test",)).apply(data) is data


def test_missing_with_a_rate_removes_that_fraction_independently_per_modality() -> None:
    absent = removed(Missing(missing_rate=0.3, allow_empty=True)).double()
    assert (absent.mean(0) - 0.3).abs().max() < 5 * (0.21 / 4000) ** 0.5
    assert (torch.corrcoef(absent.T) - torch.eye(3)).abs().max() < 5 / 4000**0.5
    by_name = removed(Missing(missing_rate={"b": 0.5})).double().mean(0)
    assert by_name[0] == by_name[2] == 0
    assert abs(by_name[1] - 0.5) < 5 * (0.25 / 4000) ** 0.5


def test_missing_with_rates_by_label_replaces_the_rate() -> None:
    labels = make().labels
    assert labels is not None
    absent = removed(Missing(missing_rate=0.2, missing_by_label={3: 0.9}, allow_empty=True)).double()
    assert abs(absent[labels == 3].mean() - 0.9) < 0.03
    assert abs(absent[labels != 3].mean() - 0.2) < 0.03
    absent = removed(Missing(missing_by_label={"b": {0: 1.0, 1: 0.5}})).double()
    assert (absent[labels == 0, 1] == 1).all()
    assert abs(absent[labels == 1, 1].mean() - 0.5) < 0.08
    assert absent[labels > 1].sum() == absent[:, [0, 2]].sum() == 0


@given(st.integers(0, 5), st.floats(0, 1), st.integers(0, 2**31))
def test_missing_keeps_one_modality_per_item_and_adds_none(seed: int, rate: float, mask: int) -> None:
    present = torch.from_numpy(np.random.default_rng(mask).random((60, 3)) < 0.5)
    rates = {"a": rate, "b": rate / 2, "c": 0.9}
    missing = Missing(missing_rate=rates, missing_seed=seed)
    if rate == 1 and bool((present == torch.tensor([True, False, False])).all(-1).any()):
        with pytest.raises(ValueError, match="must keep at least one modality, got rate 1 for all that it has"):
            missing.apply(make(60, present=present))
        return
    kept = missing.apply(make(60, present=present)).present
    assert not (kept & ~present).any()
    assert torch.equal(kept.any(-1), present.any(-1))


def test_missing_chooses_the_kept_modality_uniformly() -> None:
    rates = {"a": 0.5, "b": 0.9, "c": 0.7}
    partly, entirely = removed(Missing(missing_rate=rates)), removed(Missing(missing_rate=rates, allow_empty=True))
    empty = entirely.all(-1)
    assert torch.equal(partly[~empty], entirely[~empty])
    kept = (~partly[empty]).double()
    assert (kept.sum(-1) == 1).all()
    assert (kept.mean(0) - 1 / 3).abs().max() < 5 * (2 / 9 / len(kept)) ** 0.5
    never = removed(Missing(missing_rate={"a": 1.0, "b": 0.9, "c": 0.9}))
    assert never[:, 0].all()


def test_missing_depends_on_the_seed_alone_and_is_monotone_in_the_rate() -> None:
    less, more = (removed(Missing(missing_rate=rate, missing_seed=1, allow_empty=True)) for rate in (0.2, 0.6))
    assert torch.equal(less, removed(Missing(missing_rate=0.2, missing_seed=1, allow_empty=True)))
    assert (more | ~less).all()
    assert not torch.equal(less, removed(Missing(missing_rate=0.2, missing_seed=2, allow_empty=True)))
    assert not torch.equal(less, removed(Missing(missing_rate=0.2, missing_seed=1, allow_empty=True), split="val"))
    fewer = removed(Missing(missing_rate=0.2, missing_seed=1, allow_empty=True), items=100)
    assert torch.equal(fewer, less[:100])
    before = torch.get_rng_state()
    removed(Missing(missing_rate=0.5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing_rate": 1.5}, "missing_rate must be a number from 0 to 1, got 1.5"),
        ({"missing_rate": {"a": -0.1}}, "missing_rate of 'a' must be a number from 0 to 1, got -0.1"),
        ({"missing_rate": float("nan")}, "missing_rate must be a number from 0 to 1, got nan"),
        ({"missing_rate": {"z": 0.1}}, "missing_rate: modality must be one of a, b, c, got 'z'"),
        ({"missing_by_label": {3: 2.0}}, "missing_by_label of 3 must be a number from 0 to 1, got 2.0"),
        ({"missing_by_label": {"z": {3: 0.1}}}, "missing_by_label: modality must be one of a, b, c, got 'z'"),
        ({"missing_seed": -1}, "missing_seed must be an integer of at least 0, got -1"),
        (
            {"missing_rate": 0.1, "missing_splits": ("trian",)},
            "missing_splits must be some of train, val, test, got 'trian'",
        ),
        (
            {"missing_rate": 1.0},
            "item 0 of 'train' must keep at least one modality, got rate 1 for all that it has: lower one of the rates",
        ),
    ],
)
def test_missing_with_invalid_options_raises_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        Missing(**options).apply(make(8))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_by_label_without_labels_raises() -> None:
    data = make(4)
    bare = MultimodalDataset(data.modalities, None, data.present, "bare", "train")
    with pytest.raises(ValueError, match="missing_by_label: data 'bare' must have one class per item, got no labels"):
        Missing(missing_by_label={0: 0.5}).apply(bare)


def test_load_data_of_any_source_accepts_the_options_of_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.DATA_SETS, "_parts", registry.DATA_SETS.snapshot())
    register_data("toy")(lambda split, *, cache=True: make(50, split))
    full, gaps = load_data("toy"), load_data("toy", missing_rate={"b": 1.0})
    assert full.complete
    assert gaps.present.all(0).tolist() == [True, False, True]
    assert not gaps.present[:, 1].any()
    assert gaps.fingerprint != full.fingerprint
    assert load_data("toy", missing_seed=7).fingerprint == full.fingerprint
    assert load_data("toy", "test", missing_rate={"b": 1.0}).complete
    with pytest.raises(
        ValueError, match="data 'own': the name of an option must be none of name, missing_rate, .* got 'missing_rate'"
    ):
        register_data("own")(lambda split, *, missing_rate=0.0: make(50, split))
