"""The entries of the cache: the list, their removal, and the limit of the size of all together."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pyro_mmvae.cli.data import data
from pyro_mmvae.data.storage.cache import read_cache, write_cache
from pyro_mmvae.data.storage.cache_entries import clear_cache, keep_limit, limit_cache, list_entries, parse_size
from pyro_mmvae.locks import building

A, B = "toy-train-v1-0123456789abcdef.safetensors", "other-val-v2-aaaaaaaaaaaaaaaa.safetensors"
C = "toy-0123456789ab/classifier-m0-seed0-epochs4.safetensors"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache with three entries, of which B was used first and C last, and files that are not its own."""
    folder = tmp_path / "cache"
    for age, (name, size) in enumerate([(C, 100), (A, 1000), (B, 2000)]):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size))
        os.utime(file, (time.time() - 100 * age - 50,) * 2)
    for name in ("notes.txt", "weights.safetensors", "photos/classifier-a-seed0-epochs1.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    (tmp_path / "outside.safetensors").write_text("mine")
    (folder / "link-val-v2-aaaaaaaaaaaaaaaa.safetensors").symlink_to(tmp_path / "outside.safetensors")
    monkeypatch.setenv("PYRO_MMVAE_CACHE", str(folder))
    monkeypatch.delenv("PYRO_MMVAE_CACHE_LIMIT", raising=False)
    return folder


def names(folder: Path) -> list[str]:
    return [entry.name for entry in list_entries(folder)]


def test_list_entries_has_its_own_files_only_last_used_first(folder: Path) -> None:
    assert [(entry.name, entry.size) for entry in list_entries(folder)] == [(C, 100), (A, 1000), (B, 2000)]
    assert list_entries(folder / "missing") == []


def test_clear_cache_removes_entries_and_nothing_else(folder: Path) -> None:
    removed, kept = clear_cache(folder)
    assert ({entry.name for entry in removed}, kept) == ({A, B, C}, [])
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["link-val-v2-aaaaaaaaaaaaaaaa.safetensors", "notes.txt", "photos", "weights.safetensors"]
    assert (folder / "photos" / "classifier-a-seed0-epochs1.safetensors").exists()
    assert (folder.parent / "outside.safetensors").exists()


def test_clear_cache_by_name_keeps_the_others(folder: Path) -> None:
    clear_cache(folder, "toy-train")
    assert names(folder) == [C, B]
    with pytest.raises(ValueError, match=r"must begin with 'toy-train', got toy-0123456789ab/classifier-m0"):
        clear_cache(folder, "toy-train")


def test_clear_cache_keeps_an_entry_that_is_built(folder: Path) -> None:
    with building(folder / A):
        removed, kept = clear_cache(folder)
        assert ([entry.name for entry in removed], [entry.name for entry in kept]) == ([C, B], [A])
    assert names(folder) == [A]
    assert len(clear_cache(folder)[0]) == 1


def test_clear_cache_removes_what_killed_builds_left(folder: Path) -> None:
    old, young = folder / f".{A}.{'0' * 32}.tmp", folder / f".{B}.{'1' * 32}.tmp"
    other = folder / f".gone-val-v1-{'2' * 16}.safetensors.lock"
    for file in (old, young, other):
        file.write_bytes(b"x")
    os.utime(old, (0, 0))
    clear_cache(folder)
    assert (old.exists(), young.exists(), other.exists()) == (False, True, False)


def test_limit_cache_removes_what_was_not_used_for_longest(folder: Path) -> None:
    assert limit_cache(folder, 3100) == ([], [])
    removed, _ = limit_cache(folder, 3099)
    assert [entry.name for entry in removed] == [B]
    removed, _ = limit_cache(folder, 0, keep=folder / A)
    assert [entry.name for entry in removed] == [C]
    assert names(folder) == [A]


def test_read_cache_counts_as_a_use(folder: Path) -> None:
    path = folder / A
    write_cache(path, {"a": torch.zeros(3, dtype=torch.uint8)}, {})
    os.utime(path, (0, 0))
    assert names(folder)[-1] == A
    assert read_cache(path, ["a"], {}) is not None
    assert names(folder)[0] == A


def test_write_cache_keeps_the_limit_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_MMVAE_CACHE_LIMIT", "1.5kB")
    write_cache(folder / A, {"a": torch.zeros(3, dtype=torch.uint8)}, {})
    assert names(folder) == [A, C]
    monkeypatch.setenv("PYRO_MMVAE_CACHE_LIMIT", "much")
    with pytest.warns(UserWarning, match=r"PYRO_MMVAE_CACHE_LIMIT must be a size such as 500MB, .*, got 'much'"):
        keep_limit(folder, folder / A)


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "1 XB", "nan", "1 000", "9" * 50])
def test_parse_size_of_other_words_raises(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a size such as 500MB, 20GB or 1\.5GiB, got"):
        parse_size(text)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(data, ["cache", *words])
    return result.exit_code, result.output


def test_data_cache_lists_limits_and_clears(folder: Path) -> None:
    status, text = run()
    assert status == 0
    assert text.startswith(f"{folder}: 3 entries, 3.1 kB\n")
    assert text.splitlines()[3].endswith(f"  {B}")
    assert run("--limit", "2kB") == (0, f"removed {B}\n{folder}: 1 removed, 2.0 kB; 1.1 kB left\n")
    assert run("--clear", "toy-t") == (0, f"removed {A}\n{folder}: 1 removed, 1.0 kB; 100 B left\n")
    assert run("--clear")[0] == 0
    assert run() == (0, f"{folder}: 0 entries, 0 B\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--limit", "much"), "error: --limit must be a size such as 500MB, 20GB or 1.5GiB, got 'much'"),
        (("--clear", "x"), "error: the name of an entry of the cache"),
        (("--clear", "toy", "--limit", "1GB"), "error: --clear and --limit must not be given together"),
    ],
)
def test_data_cache_with_wrong_options_fails_in_one_line_and_removes_nothing(
    folder: Path, words: tuple[str, ...], expected: str
) -> None:
    status, text = run(*words)
    assert status == 2
    assert text.startswith(expected)
    assert text.count("\n") == 1
    assert len(names(folder)) == 3
