"""The registry of loaders."""

from __future__ import annotations

from pathlib import Path

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


def test_a_registered_loader_gets_split_cache_and_options(calls: list[tuple[str, bool, int]]) -> None:
    assert data_names() == ("celeba", "mnist-svhn-text", "polymnist-mini", "toy")
    assert len(load_data("toy")) == 2
    assert load_data("toy", "test", cache=False, items=5).split == "test"
    assert calls == [("train", True, 2), ("test", False, 5)]


@pytest.mark.usefixtures("calls")
def test_a_taken_name_is_refused_and_keeps_its_loader() -> None:
    before = registry._ENTRIES["toy"]
    with pytest.raises(ValueError, match="data 'toy' is registered already"):
        register_data("toy")(lambda split: load_data("toy", split))
    assert registry._ENTRIES["toy"] is before


def message(*args: str, **options: int) -> str:
    with pytest.raises(ValueError, match="unknown") as error:
        load_data(*args, **options)  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.usefixtures("calls")
def test_an_unknown_name_split_or_option_is_answered_in_one_line_with_what_is_allowed() -> None:
    assert message("polymnist") == (
        "unknown data 'polymnist', expected a path or one of: celeba, mnist-svhn-text, polymnist-mini, toy "
        "(add your own with pyro_mmvae.data.register_data)"
    )
    assert message("toy", "val") == "unknown split 'val' of 'toy', expected one of: train, test"
    assert message("toy", "test", item=3) == f"unknown option 'item' of 'toy', expected one of: items, {SHARED}"


def test_the_embedded_set_names_its_splits_and_options() -> None:
    assert message("polymnist-mini", "dev").endswith("expected one of: train, val, test")
    assert message("polymnist-mini", size=3).endswith(
        f"expected one of: modalities, train_size, val_size, test_size, photographs, seed, {SHARED}"
    )


def test_a_path_is_read_by_the_first_format_that_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.FORMATS, "_parts", {})

    @register_format("dots", detect=lambda path: path.suffix == ".dots", splits=("train",))
    def load_dots(path: Path, split: str, *, cache: bool = True, scale: float = 1.0) -> MultimodalDataset:
        values = torch.full((len(path.read_text()), 1), scale)
        return MultimodalDataset({"x": values}, None, torch.ones(len(values), 1, dtype=torch.bool), str(path), split)

    assert format_names() == ("dots",)
    (tmp_path / "a.dots").write_text("...")
    data = load_data(str(tmp_path / "a.dots"), scale=2.0)
    assert (len(data), float(data.modalities["x"].sum())) == (3, 6.0)
    assert message(str(tmp_path / "a.dots"), "val").startswith("unknown split 'val'")
    assert message(str(tmp_path / "a.dots"), size=3).endswith(f"expected one of: scale, {SHARED}")
    assert "expected a path or one of" in message(str(tmp_path / "missing.dots"))
    (tmp_path / "a.dashes").write_text("---")
    with pytest.raises(ValueError, match="in none of the known formats: dots"):
        load_data(str(tmp_path / "a.dashes"))
    with pytest.raises(ValueError, match="data format 'dots' is registered already"):
        register_format("dots", detect=Path.is_dir)(load_dots)


def test_a_special_case_is_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.FORMATS, "_parts", {})
    for name, first in (("files", False), ("special", True)):

        @register_format(name, detect=Path.is_file, first=first)
        def load_file(path: Path, split: str) -> MultimodalDataset:
            raise NotImplementedError

    assert format_names() == ("special", "files")


def test_paths_among_the_options_are_made_absolute(
    calls: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @register_data("rooted")
    def load_rooted(split: str, *, cache: bool = True, root: Path | None = None) -> MultimodalDataset:
        raise NotImplementedError

    monkeypatch.chdir(tmp_path)
    assert registry.resolve_options("rooted", {"root": "a/b"})["root"] == str(tmp_path / "a" / "b")
    assert registry.resolve_options("rooted")["root"] is None
