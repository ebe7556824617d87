"""Tests of MNIST's IDX files: search, reading, download, and messages."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_mmvae.data.sets import idx
from pyro_mmvae.data.sets.idx import download_mnist, find_mnist, read_idx, read_mnist
from tests.data.samples import NAMES, Bytes, idx_bytes, mnist_arrays, write_mnist

FUZZ = settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [".", "raw", "MNIST", "MNIST/raw"])
def test_find_mnist_in_any_usual_folder_finds_readable_files(packed: bool, place: str, tmp_path: Path) -> None:
    arrays = mnist_arrays(30, 12)
    write_mnist(tmp_path / place, arrays, packed=packed)
    files = find_mnist(tmp_path)
    for part, (images, labels) in {"train": NAMES[:2], "test": NAMES[2:]}.items():
        digits = read_mnist(files, part)
        np.testing.assert_array_equal(digits.images, arrays[images])
        np.testing.assert_array_equal(digits.labels, arrays[labels])
        assert digits.labels.dtype == np.int64
        for about, name in zip(digits.files, (images, labels), strict=True):
            assert about == {
                "file": name + ".gz" * packed,
                "md5_unpacked": hashlib.md5(idx_bytes(arrays[name])).hexdigest(),
                "published": False,
            }


def test_read_mnist_equals_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    arrays = mnist_arrays(30, 12)
    write_mnist(tmp_path / "MNIST" / "raw", arrays)
    for part in ("train", "test"):
        reference = datasets.MNIST(str(tmp_path), train=part == "train")
        digits = read_mnist(find_mnist(tmp_path), part)
        np.testing.assert_array_equal(digits.images, reference.data.numpy())
        np.testing.assert_array_equal(digits.labels, reference.targets.numpy())


def test_find_mnist_with_dotted_names_and_gzip_without_suffix_finds_the_files(tmp_path: Path) -> None:
    arrays = mnist_arrays(20, 10)
    for name, array in arrays.items():
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(gzip.compress(idx_bytes(array)))
    assert len(read_mnist(find_mnist(tmp_path), "train").images) == 20


def test_find_mnist_with_a_missing_file_says_what_belongs_where(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", mnist_arrays(20, 10), packed=True)
    (tmp_path / "MNIST" / "raw" / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(ValueError, match="MNIST") as error:
        find_mnist(tmp_path)
    message = str(error.value)
    assert message.startswith(f"MNIST: {tmp_path} must hold {NAMES[3]}, got no such file: put {NAMES[0]}.gz, ")
    assert all(f"{name}.gz" in message for name in NAMES)
    assert f"into {tmp_path / 'MNIST' / 'raw'}" in message
    assert "--download" in message
    assert "\n" not in message


def mnist_folder(tmp_path: Path, **changes: Bytes) -> dict[str, Path]:
    short = dict(zip(("images", "labels"), NAMES, strict=False))
    arrays = mnist_arrays(20, 10) | {short[key]: array for key, array in changes.items()}
    write_mnist(tmp_path, arrays)
    return find_mnist(tmp_path)


def test_read_mnist_of_unfit_arrays_raises(tmp_path: Path) -> None:
    labels = np.zeros(20, dtype=np.uint8)
    labels[7] = 11
    cases = {
        "label 7 must be from 0 to 9, got 11": {"labels": labels},
        "must hold 20 labels, one per image, got 19": {"labels": labels[:19] * 0},
        "images must have 28 x 28 pixels, got 28 x 27": {"images": np.zeros((20, 28, 27), dtype=np.uint8)},
    }
    for message, changes in cases.items():
        files = mnist_folder(tmp_path, **changes)
        with pytest.raises(ValueError, match=message) as error:
            read_mnist(files, "train")
        assert str(tmp_path) in str(error.value)


LABELS = np.arange(10, dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the magic number must be 00000801, .* got an empty file"),
        (b"\0\0", "the magic number must be 00000801, .* got 0000$"),
        (b"\0\0\x09\1" + idx_bytes(LABELS)[4:], "the magic number must be .* got 00000901"),
        (
            idx_bytes(LABELS.reshape(2, 5)),
            "the magic number must be 00000801, for unsigned bytes with 1 axes, got 00000802",
        ),
        (idx_bytes(LABELS)[:6], "the header must have 8 bytes, got 6"),
        (idx_bytes(LABELS)[:-1], r"must hold 10 bytes for lengths \(10,\), got 9"),
        (idx_bytes(LABELS) + b"\0", "must hold 10 bytes .* got more than 10"),
        (idx_bytes(LABELS)[:4] + struct.pack(">I", 2**32 - 1), "must hold 4294967295 bytes .* got 0"),
        (idx_bytes(LABELS[:0]), r"the lengths of the axes must be at least 1, got \(0,\)"),
        (gzip.compress(idx_bytes(LABELS))[:-9], "must be a readable gzip file"),
        (gzip.compress(idx_bytes(LABELS))[:-1], "must be a readable gzip file"),
        (b"\x1f\x8b\x07" + gzip.compress(idx_bytes(LABELS))[3:], "must be a readable gzip file"),
        (gzip.compress(idx_bytes(LABELS))[:-8] + b"\0" * 8, "must be a readable gzip file"),
        (gzip.compress(idx_bytes(LABELS)[:-1]), "must hold 10 bytes .* got 9"),
        (b"<html>not found</html>", "the magic number must be .* got 3c68746d"),
    ],
    ids=range(15),
)
def test_read_idx_of_a_damaged_file_raises_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / NAMES[1]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path, axes=1)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def read_or_message(path: Path, axes: int) -> tuple[str, Bytes]:
    """Return the message about an invalid file, or an empty one and the array of a valid file."""
    try:
        return "", read_idx(path, axes)[0]
    except ValueError as error:
        return str(error), np.empty(0, dtype=np.uint8)


@FUZZ
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    packed=st.booleans(),
    cut=st.none() | st.floats(0, 1, exclude_max=True),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
    tail=st.binary(max_size=4),
)
def test_read_idx_of_any_damaged_file_raises_or_returns_its_exact_content(
    shape: tuple[int, int, int],
    packed: bool,
    cut: float | None,
    flips: list[tuple[float, int]],
    tail: bytes,
    tmp_path: Path,
) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    whole = gzip.compress(idx_bytes(array)) if packed else idx_bytes(array)
    content = bytearray(whole if cut is None else whole[: int(cut * len(whole))])
    for place, bits in flips:
        if content:
            content[int(place * len(content))] ^= bits
    content += tail
    path = tmp_path / "file"
    path.write_bytes(content)
    error, read = read_or_message(path, 3)
    if error:
        assert bytes(content) != whole
        assert error.startswith(f"{path}: ")
    else:
        raw = gzip.decompress(content) if bytes(content[:2]) == b"\x1f\x8b" else bytes(content)
        assert idx_bytes(read) == raw
        assert read_idx(path, 3)[1] == hashlib.md5(raw).hexdigest()


@FUZZ
@given(content=st.binary(max_size=64), axes=st.integers(1, 3))
def test_read_idx_of_any_bytes_raises_unless_they_are_idx(content: bytes, axes: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    error, read = read_or_message(path, axes)
    assert error.startswith(f"{path}: ") if error else idx_bytes(read) == content


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, mnist: object) -> None:
    module = types.ModuleType("torchvision.datasets")
    module.MNIST = mnist  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


def test_download_mnist_stores_files_where_find_mnist_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def mnist(root: str, *, download: bool) -> None:
        calls.append(download)
        write_mnist(Path(root) / "MNIST" / "raw", mnist_arrays(20, 10))

    fake_torchvision(monkeypatch, mnist)
    assert download_mnist(tmp_path) == find_mnist(tmp_path)
    download_mnist(tmp_path)  # nothing is missing
    assert calls == [True]


@pytest.mark.parametrize("error", [RuntimeError("Error downloading train-images"), OSError("no network")])
def test_download_mnist_offline_says_which_files_belong_where(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mnist(root: str, *, download: bool) -> None:
        raise error

    fake_torchvision(monkeypatch, mnist)
    with pytest.raises(ValueError, match="MNIST cannot be downloaded") as caught:
        download_mnist(tmp_path)
    message = str(caught.value)
    assert str(error) in message
    assert all(f"{name}.gz" in message for name in NAMES)
    assert message.endswith(f"by other means and put them into {tmp_path / 'MNIST' / 'raw'}")


def test_read_mnist_of_published_files_recognises_their_md5(tmp_path: Path) -> None:
    shared = Path(os.environ.get("MMVAE_SHARED_DATA", "../shared/data")) / "mnist.npz"
    if not shared.exists():
        pytest.skip(f"no {shared}: set MMVAE_SHARED_DATA to a folder with the whole of MNIST")
    with np.load(shared, allow_pickle=False) as file:
        arrays = {name: file[key] for name, key in zip(NAMES, ("x_train", "y_train", "x_test", "y_test"), strict=True)}
    write_mnist(tmp_path, {name: array.astype(np.uint8) for name, array in arrays.items()})
    files = find_mnist(tmp_path)
    train, test = read_mnist(files, "train"), read_mnist(files, "test")
    assert (len(train.images), len(test.images)) == (60_000, 10_000)
    assert [about["md5_unpacked"] for about in (*train.files, *test.files)] == list(idx.MD5.values())
    assert all(about["published"] for about in (*train.files, *test.files))
