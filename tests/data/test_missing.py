"""Modalities taken away: how many, from whom, and always the same."""

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


def lost(missing: Missing, **options: Any) -> torch.Tensor:
    return ~missing.apply(make(**options)).present


def test_nothing_is_changed_unless_asked_for() -> None:
    data = make(8)
    for missing in (Missing(), Missing(missing_rate={"a": 0.0}), Missing(missing_rate=0.0, missing_seed=3)):
        assert missing.apply(data) is data
    assert Missing(missing_rate=0.5).apply(make(8, "test")).complete
    assert not Missing(missing_rate=0.5, missing_splits=("test",)).apply(make(8, "test")).complete
    assert Missing(missing_rate=0.5, missing_splits=("test",)).apply(data) is data


def test_the_rate_is_what_was_asked_for_and_modalities_are_independent() -> None:
    away = lost(Missing(missing_rate=0.3, allow_empty=True)).double()
    assert (away.mean(0) - 0.3).abs().max() < 5 * (0.21 / 4000) ** 0.5
    assert (torch.corrcoef(away.T) - torch.eye(3)).abs().max() < 5 / 4000**0.5
    by_name = lost(Missing(missing_rate={"b": 0.5})).double().mean(0)
    assert by_name[0] == by_name[2] == 0
    assert abs(by_name[1] - 0.5) < 5 * (0.25 / 4000) ** 0.5


def test_rates_by_label_stand_in_place_of_the_rate() -> None:
    labels = make().labels
    assert labels is not None
    away = lost(Missing(missing_rate=0.2, missing_by_label={3: 0.9}, allow_empty=True)).double()
    assert abs(away[labels == 3].mean() - 0.9) < 0.03
    assert abs(away[labels != 3].mean() - 0.2) < 0.03
    away = lost(Missing(missing_by_label={"b": {0: 1.0, 1: 0.5}})).double()
    assert (away[labels == 0, 1] == 1).all()
    assert abs(away[labels == 1, 1].mean() - 0.5) < 0.08
    assert away[labels > 1].sum() == away[:, [0, 2]].sum() == 0


@given(st.integers(0, 5), st.floats(0, 1), st.integers(0, 2**31))
def test_an_item_keeps_something_of_what_it_had_and_gets_nothing_that_it_had_not(
    seed: int, rate: float, mask: int
) -> None:
    had = torch.from_numpy(np.random.default_rng(mask).random((60, 3)) < 0.5)
    rates = {"a": rate, "b": rate / 2, "c": 0.9}
    missing = Missing(missing_rate=rates, missing_seed=seed)
    if rate == 1 and bool((had == torch.tensor([True, False, False])).all(-1).any()):
        with pytest.raises(ValueError, match="would be left without any modality: the rate of all it has is 1"):
            missing.apply(make(60, present=had))
        return
    left = missing.apply(make(60, present=had)).present
    assert not (left & ~had).any()
    assert torch.equal(left.any(-1), had.any(-1))


def test_what_is_kept_of_an_item_that_would_lose_everything_is_any_of_it() -> None:
    rates = {"a": 0.5, "b": 0.9, "c": 0.7}
    some, all_of = lost(Missing(missing_rate=rates)), lost(Missing(missing_rate=rates, allow_empty=True))
    empty = all_of.all(-1)
    assert torch.equal(some[~empty], all_of[~empty])
    kept = (~some[empty]).double()
    assert (kept.sum(-1) == 1).all()
    assert (kept.mean(0) - 1 / 3).abs().max() < 5 * (2 / 9 / len(kept)) ** 0.5
    never = lost(Missing(missing_rate={"a": 1.0, "b": 0.9, "c": 0.9}))
    assert never[:, 0].all()


def test_the_same_seed_is_the_same_and_a_higher_rate_takes_more_of_the_same() -> None:
    less, more = (lost(Missing(missing_rate=rate, missing_seed=1, allow_empty=True)) for rate in (0.2, 0.6))
    assert torch.equal(less, lost(Missing(missing_rate=0.2, missing_seed=1, allow_empty=True)))
    assert (more | ~less).all()
    assert not torch.equal(less, lost(Missing(missing_rate=0.2, missing_seed=2, allow_empty=True)))
    assert not torch.equal(less, lost(Missing(missing_rate=0.2, missing_seed=1, allow_empty=True), split="val"))
    fewer = lost(Missing(missing_rate=0.2, missing_seed=1, allow_empty=True), items=100)
    assert torch.equal(fewer, less[:100])
    before = torch.get_rng_state()
    lost(Missing(missing_rate=0.5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing_rate": 1.5}, "missing_rate: found 1.5, expected a share from 0 to 1"),
        ({"missing_rate": {"a": -0.1}}, "missing_rate of 'a': found -0.1, expected a share from 0 to 1"),
        ({"missing_rate": float("nan")}, "missing_rate: found nan, expected a share from 0 to 1"),
        ({"missing_rate": {"z": 0.1}}, "missing_rate: unknown modality 'z', the data has a, b, c"),
        ({"missing_by_label": {3: 2.0}}, "missing_by_label of 3: found 2.0, expected a share from 0 to 1"),
        ({"missing_by_label": {"z": {3: 0.1}}}, "missing_by_label: unknown modality 'z', the data has a, b, c"),
        ({"missing_seed": -1}, "missing_seed: found -1, expected a whole number of at least 0"),
        ({"missing_rate": 0.1, "missing_splits": ("trian",)}, "missing_splits: unknown split 'trian'"),
        (
            {"missing_rate": 1.0},
            "item 0 of 'train' would be left without any modality: the rate of all it has is 1 (allow_empty: true lets",
        ),
    ],
)
def test_what_cannot_be_is_answered_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="found|unknown|would be") as error:
        Missing(**options).apply(make(8))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_are_needed_for_rates_by_label() -> None:
    data = make(4)
    bare = MultimodalDataset(data.modalities, None, data.present, "bare", "train")
    with pytest.raises(ValueError, match="missing_by_label: data 'bare' has no labels"):
        Missing(missing_by_label={0: 0.5}).apply(bare)


def test_every_source_has_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.DATA_SETS, "_parts", registry.DATA_SETS.snapshot())
    register_data("toy")(lambda split, *, cache=True: make(50, split))
    full, gaps = load_data("toy"), load_data("toy", missing_rate={"b": 1.0})
    assert full.complete
    assert gaps.present.all(0).tolist() == [True, False, True]
    assert not gaps.present[:, 1].any()
    assert gaps.fingerprint != full.fingerprint
    assert load_data("toy", missing_seed=7).fingerprint == full.fingerprint
    assert load_data("toy", "test", missing_rate={"b": 1.0}).complete
    with pytest.raises(ValueError, match="data 'own': the option 'missing_rate' is taken"):
        register_data("own")(lambda split, *, missing_rate=0.0: make(50, split))
