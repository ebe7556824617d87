"""Damaged files: a reader gives an array or says in one line what is wrong, whatever the bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyro_mmvae.data import load_data
from pyro_mmvae.data.own.folder import read_npy, read_npz
from pyro_mmvae.data.own.meta import read_meta

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
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


def survives(read: Callable[[], Any]) -> None:
    try:
        read()
        message = "fine"
    except (ValueError, OSError) as error:
        message = str(error)
    assert message
    assert "\n" not in message


def damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, a truncation, or a good file with some bytes changed."""
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
@example(NPY.replace(b"<f8", b"|O "))
@example(NPY.replace(b"<f8", b"|S0"))
@example(NPY.replace(b"(12, 3)", b"(-2, 3)"))
@example(NPY.replace(b"'shape': (12, 3)", b"'shape': (9**9**9,"))
@example(NPY.replace(b"{", b"[" * 60 + b"{"))
def test_npy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    survives(lambda: read_npy(tmp_path / "a.npy"))
    survives(lambda: load_data(str(tmp_path)))


@FUZZ
@given(damaged(NPZ) | damaged(DEFLATED))
def test_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    survives(lambda: read_npz(tmp_path / "a.npz"))
    survives(lambda: load_data(str(tmp_path / "a.npz")))


@FUZZ
@given(damaged(YAML) | st.text(max_size=60).map(str.encode))
@example(b"[" * 1500)
@example(b"&a [*a]")
@example(b"modalities: {a: &a {kind: *a}}")
@example(b"? {a: 1}\n: 2")
@example(b"a: !!timestamp x")
@example(b"a: 0b")
def test_meta(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meta.yaml").write_bytes(content)
    survives(lambda: read_meta(tmp_path / "meta.yaml"))


@pytest.mark.parametrize("name", ["labels", "present", "split"])
@FUZZ
@given(content=damaged(saved(lambda file: np.save(file, np.arange(12) % 3))))
def test_the_other_arrays(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(NPY)
    (tmp_path / f"{name}.npy").write_bytes(content)
    survives(lambda: load_data(str(tmp_path)))


def test_good_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(NPY)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), VALUES)
    for content in (NPZ, DEFLATED):
        (tmp_path / "a.npz").write_bytes(content)
        np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["a"], VALUES)
    (tmp_path / "meta.yaml").write_bytes(YAML)
    assert read_meta(tmp_path / "meta.yaml").of("a").scale == 0.5
    survives(lambda: read_npy(tmp_path))  # a folder
    survives(lambda: read_meta(tmp_path))
