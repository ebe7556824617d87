"""Tests of the registry of loaders and formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_mmvae.data import (
    MultimodalDataset,
    data_names,
    format_names,
    load_data,
    register_data,
    register_format,
    registry,
    shared_observations,
)

SHARED = "missing_rate, missing_by_label, missing_seed, missing_splits, allow_empty"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, int]]:
    monkeypatch.setattr(registry.DATA_SETS, "_parts", registry.DATA_SETS.snapshot())
    seen: list[tuple[str, bool, int]] = []

    @register_data("toy", splits=("train", "test"))
    def load_toy(split: str, *, cache: bool = True, items: int = 2) -> MultimodalDataset:
        seen.append((split, cache, items))
        return MultimodalDataset(
            {"m0": torch.zeros(items, 1)}, None, torch.ones(items, 1, dtype=torch.bool), "toy", split
        )

    return seen


def test_load_data_of_a_registered_loader_passes_split_cache_and_options(calls: list[tuple[str, bool, int]]) -> None:
    assert data_names() == ("celeba", "mnist-svhn-text", "polymnist-mini", "toy")
    assert len(load_data("toy")) == 2
    assert load_data("toy", "test", cache=False, items=5).split == "test"
    assert calls == [("train", True, 2), ("test", False, 5)]


@pytest.mark.usefixtures("calls")
def test_register_data_with_a_taken_name_raises_and_keeps_the_loader() -> None:
    before = registry.DATA_SETS["toy"]
    with pytest.raises(ValueError, match="data set 'toy' is already registered"):
        register_data("toy")(lambda split: load_data("toy", split))
    assert registry.DATA_SETS["toy"] is before


def message(*args: str, **options: int) -> str:
    with pytest.raises(ValueError, match="unknown|must be one of|must be an existing") as error:
        load_data(*args, **options)  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("path", ["nowhere.csv", "no/where", "/no"])
def test_load_data_with_a_path_that_does_not_exist_says_so(path: str) -> None:
    assert message(path).startswith(f"{path!r} must be an existing file or folder, or the name of a data set, got")


@pytest.mark.usefixtures("calls")
def test_load_data_with_an_unknown_name_split_or_option_lists_the_allowed_ones() -> None:
    assert message("polymnist") == (
        "unknown data set 'polymnist', did you mean 'polymnist-mini'? Available: celeba, mnist-svhn-text, "
        "polymnist-mini, toy. A path to existing files works too, and pyro_mmvae.data.register_data adds a custom data "
        "set."
    )
    assert message("toy", "val") == "split of 'toy' must be one of train, test, got 'val'"
    unknown = f"option of 'toy' must be one of items, {SHARED}, got 'item'; did you mean 'items'?"
    assert message("toy", "test", item=3) == unknown


def test_load_data_of_polymnist_mini_lists_its_splits_and_options() -> None:
    assert message("polymnist-mini", "dev") == "split of 'polymnist-mini' must be one of train, val, test, got 'dev'"
    assert message("polymnist-mini", size=3) == (
        "option of 'polymnist-mini' must be one of modalities, train_size, val_size, test_size, photographs, seed, "
        f"{SHARED}, got 'size'"
    )


def test_load_data_of_a_path_uses_the_first_format_that_detects_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.FORMATS, "_parts", {})

    @register_format("dots", detect=lambda path: path.suffix == ".dots", splits=("train",))
    def load_dots(path: Path, split: str, *, cache: bool = True, scale: float = 1.0) -> MultimodalDataset:
        values = torch.full((len(path.read_text()), 1), scale)
        return MultimodalDataset({"x": values}, None, torch.ones(len(values), 1, dtype=torch.bool), str(path), split)

    assert format_names() == ("dots",)
    (tmp_path / "a.dots").write_text("...")
    data = load_data(str(tmp_path / "a.dots"), scale=2.0)
    assert (len(data), float(data.modalities["x"].sum())) == (3, 6.0)
    assert message(str(tmp_path / "a.dots"), "val").endswith("must be one of train, got 'val'")
    assert message(str(tmp_path / "a.dots"), size=3).endswith(f"must be one of scale, {SHARED}, got 'size'")
    assert "must be an existing file or folder" in message(str(tmp_path / "missing.dots"))
    (tmp_path / "a.dashes").write_text("---")
    with pytest.raises(ValueError, match="the files must be in one of the formats dots, got none of them"):
        load_data(str(tmp_path / "a.dashes"))
    with pytest.raises(ValueError, match="data format 'dots' is already registered"):
        register_format("dots", detect=Path.is_dir)(load_dots)


def test_register_format_with_first_is_tried_before_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.FORMATS, "_parts", {})
    for name, first in (("files", False), ("special", True)):

        @register_format(name, detect=Path.is_file, first=first)
        def load_file(path: Path, split: str) -> MultimodalDataset:
            raise NotImplementedError

    assert format_names() == ("special", "files")


def test_resolve_options_makes_paths_absolute(calls: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @register_data("rooted")
    def load_rooted(split: str, *, cache: bool = True, root: Path | None = None) -> MultimodalDataset:
        raise NotImplementedError

    monkeypatch.chdir(tmp_path)
    assert registry.resolve_options("rooted", {"root": "a/b"})["root"] == str(tmp_path / "a" / "b")
    assert registry.resolve_options("rooted")["root"] is None


@pytest.mark.usefixtures("calls")
def test_register_data_sources_tell_which_items_share_observations() -> None:
    @register_data("paired", sources=lambda data: {"m0": np.arange(len(data)) // 2})
    def load_paired(split: str, *, cache: bool = True) -> MultimodalDataset:
        return MultimodalDataset({"m0": torch.zeros(5, 1)}, None, torch.ones(5, 1, dtype=torch.bool), "paired", split)

    assert shared_observations(load_data("paired"))["m0"].tolist() == [0, 0, 1, 1, 2]
    assert shared_observations(load_data("toy")) == {}
