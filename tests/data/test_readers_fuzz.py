"""Fuzz tests: for any bytes a reader returns, or raises an error of one line."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_mmvae.data import load_data
from pyro_mmvae.data.own.folder import read_npy, read_npz
from pyro_mmvae.data.own.meta import read_meta

FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def saved(write: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


VALUES = np.random.default_rng(0).normal(size=(12, 3))
NPY = saved(lambda file: np.save(file, VALUES))
NPZ = saved(lambda file: np.savez(file, a=VALUES, labels=np.arange(12) % 2))
DEFLATED = saved(lambda file: np.savez_compressed(file, a=VALUES, labels=np.arange(12) % 2))
YAML = b"modalities:\n  a: {kind: vector, scale: 0.5, missing_nan: true}\nallow_constant: false\n"


def returns_or_raises_in_one_line(read: Callable[[], Any]) -> None:
    try:
        read()
        message = "fine"
    except (ValueError, OSError) as error:
        message = str(error)
    assert message
    assert "\n" not in message


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of random bytes, truncations, and intact files with some bytes changed."""
    positions = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))

    def change(edits: list[tuple[int, int]]) -> bytes:
        content = bytearray(good)
        for position, value in edits:
            content[position] = value
        return bytes(content)

    return (
        st.binary(max_size=200)
        | st.integers(0, len(good)).map(lambda size: good[:size])
        | st.lists(positions, min_size=1, max_size=6).map(change)
        | st.binary(max_size=40).map(lambda tail: good[:6] + tail)
    )


@FUZZ
@given(damaged(NPY))
def test_read_npy_of_any_bytes_returns_or_raises_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    returns_or_raises_in_one_line(lambda: read_npy(tmp_path / "a.npy"))
    returns_or_raises_in_one_line(lambda: load_data(str(tmp_path)))


@pytest.mark.parametrize(
    "content",
    [
        NPY.replace(b"<f8", b"|O "),
        NPY.replace(b"<f8", b"|S0"),
        NPY.replace(b"(12, 3)", b"(-2, 3)"),
        NPY.replace(b"'shape': (12, 3)", b"'shape': (9**9**9,"),
        NPY.replace(b"{", b"[" * 60 + b"{"),
    ],
    ids=["objects", "empty strings", "negative shape", "huge shape", "nested header"],
)
def test_read_npy_of_a_malicious_header_raises_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    for read in (lambda: read_npy(tmp_path / "a.npy"), lambda: load_data(str(tmp_path))):
        with pytest.raises(ValueError, match=r"a\.npy: must be a readable \.npy file") as error:
            read()
        assert "\n" not in str(error.value)


@FUZZ
@given(damaged(NPZ) | damaged(DEFLATED))
def test_read_npz_of_any_bytes_returns_or_raises_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    returns_or_raises_in_one_line(lambda: read_npz(tmp_path / "a.npz"))
    returns_or_raises_in_one_line(lambda: load_data(str(tmp_path / "a.npz")))


@FUZZ
@given(damaged(YAML) | st.text(max_size=60).map(str.encode))
def test_read_meta_of_any_bytes_returns_or_raises_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meta.yaml").write_bytes(content)
    returns_or_raises_in_one_line(lambda: read_meta(tmp_path / "meta.yaml"))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 500,
        b"&a [*a]",
        b"modalities: {a: &a {kind: *a}}",
        b"? {a: 1}\n: 2",
        b"a: !!timestamp x",
        b"a: 0b",
    ],
    ids=["nested", "recursive list", "recursive mapping", "mapping as key", "timestamp", "binary"],
)
def test_read_meta_of_malicious_yaml_raises_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meta.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"meta\.yaml") as error:
        read_meta(tmp_path / "meta.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["labels", "present", "split"])
@settings(FUZZ, max_examples=50)
@given(content=damaged(saved(lambda file: np.save(file, np.arange(12) % 3))))
def test_load_folder_with_damaged_auxiliary_arrays_returns_or_raises_in_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "a.npy").write_bytes(NPY)
    (tmp_path / f"{name}.npy").write_bytes(content)
    returns_or_raises_in_one_line(lambda: load_data(str(tmp_path)))


def test_readers_of_intact_files_return_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(NPY)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), VALUES)
    for content in (NPZ, DEFLATED):
        (tmp_path / "a.npz").write_bytes(content)
        np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["a"], VALUES)
    (tmp_path / "meta.yaml").write_bytes(YAML)
    assert read_meta(tmp_path / "meta.yaml").spec("a").scale == 0.5
    returns_or_raises_in_one_line(lambda: read_npy(tmp_path))  # a folder
    returns_or_raises_in_one_line(lambda: read_meta(tmp_path))
