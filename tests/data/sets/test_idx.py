"""MNIST's own files: where they are found, what is read, and what is refused."""

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

few = settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [".", "raw", "MNIST", "MNIST/raw"])
def test_the_files_are_read_wherever_torchvision_or_a_browser_put_them(
    packed: bool, place: str, tmp_path: Path
) -> None:
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


def test_torchvision_reads_what_the_tests_write_the_same(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    arrays = mnist_arrays(30, 12)
    write_mnist(tmp_path / "MNIST" / "raw", arrays)
    for part in ("train", "test"):
        theirs = datasets.MNIST(str(tmp_path), train=part == "train")
        ours = read_mnist(find_mnist(tmp_path), part)
        np.testing.assert_array_equal(ours.images, theirs.data.numpy())
        np.testing.assert_array_equal(ours.labels, theirs.targets.numpy())


def test_other_spellings_are_found_and_names_do_not_say_whether_a_file_is_packed(tmp_path: Path) -> None:
    arrays = mnist_arrays(20, 10)
    for name, array in arrays.items():
        (tmp_path / name.replace("-idx", ".idx")).write_bytes(gzip.compress(idx_bytes(array)))
    assert len(read_mnist(find_mnist(tmp_path), "train").images) == 20


def test_a_missing_file_is_answered_with_what_belongs_where(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", mnist_arrays(20, 10), packed=True)
    (tmp_path / "MNIST" / "raw" / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(ValueError, match="MNIST") as error:
        find_mnist(tmp_path)
    said = str(error.value)
    assert said.startswith(f"MNIST: {NAMES[3]} is not in {tmp_path}: put {NAMES[0]}.gz, ")
    assert all(f"{name}.gz" in said for name in NAMES)
    assert f"into {tmp_path / 'MNIST' / 'raw'}" in said
    assert "--download" in said
    assert "\n" not in said


def mnist_folder(tmp_path: Path, **changes: Bytes) -> dict[str, Path]:
    short = dict(zip(("images", "labels"), NAMES, strict=False))
    arrays = mnist_arrays(20, 10) | {short[key]: array for key, array in changes.items()}
    write_mnist(tmp_path, arrays)
    return find_mnist(tmp_path)


def test_arrays_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    labels = np.zeros(20, dtype=np.uint8)
    labels[7] = 11
    cases = {
        "label 7 is 11, expected 0 to 9": {"labels": labels},
        "found 19 labels, expected 20": {"labels": labels[:19] * 0},
        "found images of 28 x 27 pixels, expected 28 x 28": {"images": np.zeros((20, 28, 27), dtype=np.uint8)},
    }
    for said, changes in cases.items():
        files = mnist_folder(tmp_path, **changes)
        with pytest.raises(ValueError, match=said) as error:
            read_mnist(files, "train")
        assert str(tmp_path) in str(error.value)


LABELS = np.arange(10, dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found the magic number of an empty file, expected 00000801"),
        (b"\0\0", "found the magic number 0000, expected 00000801"),
        (b"\0\0\x09\1" + idx_bytes(LABELS)[4:], "found the magic number 00000901"),
        (idx_bytes(LABELS.reshape(2, 5)), "found the magic number 00000802, expected 00000801: unsigned bytes with 1"),
        (idx_bytes(LABELS)[:6], "ends after 6 bytes, within the lengths"),
        (idx_bytes(LABELS)[:-1], r"found 9 bytes of content, expected 10 for lengths \(10,\)"),
        (idx_bytes(LABELS) + b"\0", "found more than 10 bytes of content, expected 10"),
        (idx_bytes(LABELS)[:4] + struct.pack(">I", 2**32 - 1), "found 0 bytes of content, expected 4294967295"),
        (idx_bytes(LABELS[:0]), r"found lengths \(0,\), expected at least one item"),
        (gzip.compress(idx_bytes(LABELS))[:-9], "damaged gzip file"),
        (gzip.compress(idx_bytes(LABELS))[:-1], "damaged gzip file"),
        (b"\x1f\x8b\x07" + gzip.compress(idx_bytes(LABELS))[3:], "damaged gzip file"),
        (gzip.compress(idx_bytes(LABELS))[:-8] + b"\0" * 8, "damaged gzip file"),
        (gzip.compress(idx_bytes(LABELS)[:-1]), "found 9 bytes of content"),
        (b"<html>not found</html>", "found the magic number 3c68746d"),
    ],
    ids=range(15),
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / NAMES[1]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_idx(path, axes=1)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def refusal(path: Path, axes: int) -> tuple[str, Bytes]:
    """What is said of a file that is refused, or nothing, and the array."""
    try:
        return "", read_idx(path, axes)[0]
    except ValueError as error:
        return str(error), np.empty(0, dtype=np.uint8)


@few
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    packed=st.booleans(),
    cut=st.none() | st.floats(0, 1, exclude_max=True),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=3),
    tail=st.binary(max_size=4),
)
def test_any_damage_is_either_refused_or_leaves_the_lengths_right(
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
    refused, read = refusal(path, 3)
    if refused:
        assert bytes(content) != whole
        assert refused.startswith(f"{path}: ")
    else:
        raw = gzip.decompress(content) if bytes(content[:2]) == b"\x1f\x8b" else bytes(content)
        assert idx_bytes(read) == raw
        assert read_idx(path, 3)[1] == hashlib.md5(raw).hexdigest()


@few
@given(content=st.binary(max_size=64), axes=st.integers(1, 3))
def test_any_bytes_are_refused_unless_they_are_idx(content: bytes, axes: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    refused, read = refusal(path, axes)
    assert refused.startswith(f"{path}: ") if refused else idx_bytes(read) == content


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, mnist: object) -> None:
    module = types.ModuleType("torchvision.datasets")
    module.MNIST = mnist  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)


def test_a_download_goes_where_the_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def mnist(root: str, *, download: bool) -> None:
        calls.append(download)
        write_mnist(Path(root) / "MNIST" / "raw", mnist_arrays(20, 10))

    fake_torchvision(monkeypatch, mnist)
    assert download_mnist(tmp_path) == find_mnist(tmp_path)
    download_mnist(tmp_path)  # all there: nothing is asked for
    assert calls == [True]


@pytest.mark.parametrize("error", [RuntimeError("Error downloading train-images"), OSError("no network")])
def test_offline_says_which_files_belong_where(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mnist(root: str, *, download: bool) -> None:
        raise error

    fake_torchvision(monkeypatch, mnist)
    with pytest.raises(ValueError, match="MNIST cannot be downloaded") as found:
        download_mnist(tmp_path)
    said = str(found.value)
    assert str(error) in said
    assert all(f"{name}.gz" in said for name in NAMES)
    assert f"into {tmp_path / 'MNIST' / 'raw'} by other means" in said


def test_the_published_files_are_known_by_their_md5(tmp_path: Path) -> None:
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
