"""Tests of the files of MNIST and SVHN: search, reading, splits, and messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from hypothesis import given
from hypothesis import strategies as st

from pyro_mmvae.data.sets.digit_files import choose_fraction, find_digits, has_digits, read_digits, read_svhn
from tests.digit_samples import SIZES, arrays, numbers, write_idx, write_mat, write_npz


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_mat(write_idx(tmp_path))


@pytest.mark.parametrize("part", ["train", "test"])
def test_read_digits_of_published_files_returns_images_and_labels(published: Path, part: str) -> None:
    files = find_digits(published)
    for name, side, seed in (("mnist", 28, 0), ("svhn", 32, 2)):
        digits = read_digits(name, files[name], part)
        images, labels = arrays(side, part, seed + (part == "test"))
        assert digits.images.shape == (SIZES[part], 1 if name == "mnist" else 3, side, side)
        for channel in np.moveaxis(digits.images, 1, 0):
            assert np.array_equal(channel, images)
        assert np.array_equal(digits.labels, labels)  # the label 10 stands for 0
        assert digits.labels.dtype == np.int64
        assert digits.about["part"] == part
        assert not any(file["published"] for file in digits.about["files"])


def test_read_svhn_equals_torchvision(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torchvision.datasets.SVHN, "_check_integrity", lambda self: True
    )  # the MD5 of the published file
    reference = torchvision.datasets.SVHN(str(published), split="train")
    digits = read_svhn(published / "train_32x32.mat", "train")
    assert np.array_equal(digits.images, reference.data)
    assert np.array_equal(digits.labels, reference.labels)


def test_read_digits_of_npz_uses_its_split_or_a_random_one(tmp_path: Path) -> None:
    files = find_digits(write_npz(tmp_path))
    parts = {part: {name: read_digits(name, files[name], part, seed=3) for name in files} for part in SIZES}
    for part, digits in parts.items():
        assert np.array_equal(digits["mnist"].images[:, 0], arrays(28, part, int(part == "test"))[0])
        assert digits["mnist"].about["part"] == part
        assert (
            digits["svhn"].about["part"]
            == f"{part}, {SIZES[part]} of 300 images, split at random by seed 3: not the set's own split"
        )
    shown = [numbers(parts[part]["svhn"].images) for part in SIZES]
    assert sorted(shown[0] + shown[1]) == list(range(300))  # every image in one part
    counts = np.bincount(parts["test"]["svhn"].labels, minlength=10)
    assert counts.min() >= 5
    assert numbers(read_digits("svhn", files["svhn"], "test", seed=3).images) == shown[1]
    assert numbers(read_digits("svhn", files["svhn"], "test", seed=4).images) != shown[1]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_choose_fraction_is_stratified_by_class(labels: list[int], part: float, seed: int) -> None:
    given = np.array(labels)
    chosen = choose_fraction(given, part, np.random.default_rng(seed))
    assert abs(chosen.sum() - part * len(given)) < 1
    for label in range(4):
        assert abs(chosen[given == label].sum() - part * (given == label).sum()) <= 1 + 1e-6


def test_find_digits_with_missing_files_says_where_they_belong(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"MNIST is missing: put train-images-idx3-ubyte.gz, .*SVHN is missing"
    ) as error:
        find_digits(tmp_path)
    for word in ("train_32x32.mat and test_32x32.mat", "mnist.npz", "svhn*.npz", "data.download=true", str(tmp_path)):
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    write_idx(tmp_path)
    with pytest.raises(ValueError, match="SVHN is missing") as error:
        find_digits(tmp_path)
    assert "MNIST is missing" not in str(error.value)
    assert not has_digits(tmp_path)
    write_mat(tmp_path)
    assert has_digits(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(ValueError, match="SVHN is missing"):
        find_digits(tmp_path)


def test_find_digits_with_an_npz_overrides_the_folder(published: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_npz(other)
    files = find_digits(published, npz={"svhn": str(other / "svhn_some.npz"), "mnist": None})
    assert files["svhn"] == other / "svhn_some.npz"
    assert isinstance(files["mnist"], dict)
    with pytest.raises(ValueError, match=r"gone.npz: must be an \.npz archive of SVHN, got no such file"):
        find_digits(published, npz={"svhn": str(other / "gone.npz")})
    (other / "svhn_more.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="must hold one archive svhn.*, got svhn_more.npz, svhn_some.npz: choose one"):
        find_digits(other)


def test_find_digits_downloads_only_if_download_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []

    def fetch(name: str) -> Any:
        def run(root: str, **options: Any) -> None:
            downloads.append(f"{name} {options.get('split', '')}".strip())
            if name == "SVHN" and len(downloads) > 2:
                raise URLError("no network")
            (write_idx if name == "MNIST" else lambda folder: folder)(Path(root))

        return run

    for name in ("MNIST", "SVHN"):
        monkeypatch.setattr(torchvision.datasets, name, fetch(name))
    with pytest.raises(ValueError, match="SVHN is missing"):
        find_digits(tmp_path)
    assert downloads == []
    with pytest.raises(ValueError, match=r"SVHN cannot be downloaded \(.*no network.*\): download train_32x32.mat and"):
        find_digits(tmp_path, download=True)
    assert downloads == ["MNIST", "SVHN train", "SVHN test"]
    write_mat(tmp_path)
    find_digits(tmp_path, download=True)  # nothing is missing
    assert len(downloads) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, r"must be a readable \.mat file, got an error: 'y'"),
        (
            {"X": np.zeros((32, 32, 2), np.uint8), "y": [[1], [2]]},
            r"X must be \(32, 32, 3, item\) of uint8, got \(32, 32, 2\) of uint8",
        ),
        ({"X": np.zeros((32, 32, 3, 2)), "y": [[1], [2]]}, r"X must be .* of float64"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, r"labels must be \(2,\) of integers, got \(1,\)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [11]]}, "label 1 must be from 0 to 9, got 11"),
        (
            {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1.5], [2.0]]},
            r"labels must be \(2,\) of integers, got \(2,\) of float64",
        ),
    ],
)
def test_read_svhn_of_unfit_arrays_raises(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    scipy.io.savemat(tmp_path / "train_32x32.mat", values)
    with pytest.raises(ValueError, match=message) as error:
        read_svhn(tmp_path / "train_32x32.mat", "train")
    assert "train_32x32.mat" in str(error.value)


def test_read_svhn_of_a_damaged_file_raises(published: Path) -> None:
    file = published / "train_32x32.mat"
    whole = file.read_bytes()
    for content in (b"", b"nonsense" * 40, whole[: len(whole) // 2], whole[:150] + bytes(50) + whole[200:]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="train_32x32.mat"):
            read_svhn(file, "train")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"images": np.zeros((2, 28, 28, 3), np.uint8), "labels": [0, 1]},
            r"images must be \(item, 3, 32, 32\) of uint8, .* got \(2, 3, 28, 28\) of uint8",
        ),
        ({"images": np.zeros((2, 32, 32, 3)), "labels": [0, 1]}, "images must be .* of float64"),
        (
            {"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": [0]},
            r"labels must be \(2,\) of integers, got \(1,\) of int64",
        ),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": [0, 10]}, "label 1 must be from 0 to 9, got 10"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8)}, "must hold images and labels, or x_train.* got images"),
    ],
)
def test_read_digits_of_unfit_npz_raises(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "svhn.npz", **values)
    with pytest.raises(ValueError, match=message):
        read_digits("svhn", tmp_path / "svhn.npz", "train")
    np.savez(tmp_path / "svhn.npz", images=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="svhn.npz: must be a readable .npz file"):
        read_digits("svhn", tmp_path / "svhn.npz", "train")
