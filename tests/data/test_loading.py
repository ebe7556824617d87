"""The registry of loaders."""

from __future__ import annotations

import pytest
import torch

from pyro_mmvae.data import MultimodalDataset, data_names, load_data, loading, register_data


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, int]]:
    monkeypatch.setattr(loading, "_ENTRIES", dict(loading._ENTRIES))
    seen: list[tuple[str, bool, int]] = []

    @register_data("toy", splits=("train", "test"))
    def load_toy(split: str, *, cache: bool = True, items: int = 2) -> MultimodalDataset:
        seen.append((split, cache, items))
        return MultimodalDataset(
            {"m0": torch.zeros(items, 1)}, None, torch.ones(items, 1, dtype=torch.bool), "toy", split
        )

    return seen


def test_a_registered_loader_gets_split_cache_and_options(calls: list[tuple[str, bool, int]]) -> None:
    assert data_names() == ("polymnist-mini", "toy")
    assert len(load_data("toy")) == 2
    assert load_data("toy", "test", cache=False, items=5).split == "test"
    assert calls == [("train", True, 2), ("test", False, 5)]


@pytest.mark.usefixtures("calls")
def test_a_taken_name_is_refused_and_keeps_its_loader() -> None:
    before = loading._ENTRIES["toy"]
    with pytest.raises(ValueError, match="data 'toy' is registered already"):
        register_data("toy")(lambda split: load_data("toy", split))
    assert loading._ENTRIES["toy"] is before


def message(*args: str, **options: int) -> str:
    with pytest.raises(ValueError, match="unknown") as error:
        load_data(*args, **options)  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.usefixtures("calls")
def test_an_unknown_name_split_or_option_is_answered_in_one_line_with_what_is_allowed() -> None:
    assert message("polymnist") == (
        "unknown data 'polymnist', expected one of: polymnist-mini, toy "
        "(add your own with pyro_mmvae.data.register_data)"
    )
    assert message("toy", "val") == "unknown split 'val' of 'toy', expected one of: train, test"
    assert message("toy", "test", item=3) == "unknown option 'item' of 'toy', expected one of: items"


def test_the_embedded_set_names_its_splits_and_options() -> None:
    assert message("polymnist-mini", "dev").endswith("expected one of: train, val, test")
    assert message("polymnist-mini", size=3).endswith(
        "expected one of: modalities, train_size, val_size, test_size, photographs, seed"
    )
