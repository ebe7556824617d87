"""Files of MNIST and SVHN: found, read, split, refused."""

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

from pyro_mmvae.data.sets.digit_files import find_digits, has_digits, read_digits, read_svhn, share
from tests.digit_samples import SIZES, arrays, numbers, write_idx, write_mat, write_npz


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return write_mat(write_idx(tmp_path))


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_published_files(published: Path, part: str) -> None:
    files = find_digits(published)
    for name, side, seed in (("mnist", 28, 0), ("svhn", 32, 2)):
        found = read_digits(name, files[name], part)
        images, labels = arrays(side, part, seed + (part == "test"))
        assert found.images.shape == (SIZES[part], 1 if name == "mnist" else 3, side, side)
        for channel in np.moveaxis(found.images, 1, 0):
            assert np.array_equal(channel, images)
        assert np.array_equal(found.labels, labels)  # 10 is 0
        assert found.labels.dtype == np.int64
        assert found.about["part"] == part
        assert not any(file["published"] for file in found.about["files"])


def test_torchvision_reads_the_same_from_the_same_file(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)  # of the published sum
    theirs = torchvision.datasets.SVHN(str(published), split="train")
    ours = read_svhn(published / "train_32x32.mat", "train")
    assert np.array_equal(ours.images, theirs.data)
    assert np.array_equal(ours.labels, theirs.labels)


def test_npz_with_a_split_and_without(tmp_path: Path) -> None:
    files = find_digits(write_npz(tmp_path))
    parts = {part: {name: read_digits(name, files[name], part, seed=3) for name in files} for part in SIZES}
    for part, found in parts.items():
        assert np.array_equal(found["mnist"].images[:, 0], arrays(28, part, int(part == "test"))[0])
        assert found["mnist"].about["part"] == part
        how = found["svhn"].about["part"]
        assert how == f"{part}, {SIZES[part]} of 300 images, split at random by seed 3: not the set's own split"
    shown = [numbers(parts[part]["svhn"].images) for part in SIZES]
    assert sorted(shown[0] + shown[1]) == list(range(300))  # every image in one part
    counts = np.bincount(parts["test"]["svhn"].labels, minlength=10)
    assert counts.min() >= 5
    assert numbers(read_digits("svhn", files["svhn"], "test", seed=3).images) == shown[1]
    assert numbers(read_digits("svhn", files["svhn"], "test", seed=4).images) != shown[1]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_share_is_of_each_class(labels: list[int], part: float, seed: int) -> None:
    given = np.array(labels)
    chosen = share(given, part, np.random.default_rng(seed))
    assert abs(chosen.sum() - part * len(given)) < 1
    for label in range(4):
        assert abs(chosen[given == label].sum() - part * (given == label).sum()) <= 1 + 1e-6


def test_what_goes_where_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"MNIST is not there: put train-images-idx3-ubyte.gz, .*SVHN is not there"
    ) as error:
        find_digits(tmp_path)
    for word in ("train_32x32.mat and test_32x32.mat", "mnist.npz", "svhn*.npz", "data.download=true", str(tmp_path)):
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    write_idx(tmp_path)
    with pytest.raises(ValueError, match="SVHN is not there") as error:
        find_digits(tmp_path)
    assert "MNIST is not there" not in str(error.value)
    assert not has_digits(tmp_path)
    write_mat(tmp_path)
    assert has_digits(tmp_path)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(ValueError, match="SVHN is not there"):
        find_digits(tmp_path)


def test_an_npz_of_its_own_goes_before_the_folder(published: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_npz(other)
    files = find_digits(published, npz={"svhn": str(other / "svhn_some.npz"), "mnist": None})
    assert files["svhn"] == other / "svhn_some.npz"
    assert isinstance(files["mnist"], dict)
    with pytest.raises(ValueError, match=r"gone.npz: no such file, expected an \.npz of SVHN"):
        find_digits(published, npz={"svhn": str(other / "gone.npz")})
    (other / "svhn_more.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="found svhn_more.npz, svhn_some.npz, expected one"):
        find_digits(other)


def test_nothing_is_downloaded_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(name: str) -> Any:
        def run(root: str, **options: Any) -> None:
            asked.append(f"{name} {options.get('split', '')}".strip())
            if name == "SVHN" and len(asked) > 2:
                raise URLError("no network")
            (write_idx if name == "MNIST" else lambda folder: folder)(Path(root))

        return run

    for name in ("MNIST", "SVHN"):
        monkeypatch.setattr(torchvision.datasets, name, fetch(name))
    with pytest.raises(ValueError, match="SVHN is not there"):
        find_digits(tmp_path)
    assert asked == []
    with pytest.raises(ValueError, match=r"SVHN cannot be downloaded \(.*no network.*\): put train_32x32.mat and"):
        find_digits(tmp_path, download=True)
    assert asked == ["MNIST", "SVHN train", "SVHN test"]
    write_mat(tmp_path)
    find_digits(tmp_path, download=True)  # all is there
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, r"no readable \.mat file \('y'\)"),
        ({"X": np.zeros((32, 32, 2), np.uint8), "y": [[1], [2]]}, r"found X of \(32, 32, 2\) of uint8"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": [[1], [2]]}, "of float64, expected"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, r"labels \(1,\) of \w+, expected \(2,\) of integers"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [11]]}, "label 1 is 11, expected 0 to 9"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1.5], [2.0]]}, r"of float64, expected \(2,\) of integers"),
    ],
)
def test_a_mat_file_of_something_else_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    scipy.io.savemat(tmp_path / "train_32x32.mat", values)
    with pytest.raises(ValueError, match=message) as error:
        read_svhn(tmp_path / "train_32x32.mat", "train")
    assert "train_32x32.mat" in str(error.value)


def test_a_damaged_mat_file_is_refused(published: Path) -> None:
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
            r"found images of \(2, 3, 28, 28\) of uint8, expected \(item, 3, 32, 32\) of uint8",
        ),
        ({"images": np.zeros((2, 32, 32, 3)), "labels": [0, 1]}, "of float64"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": [0]}, r"labels \(1,\) of int64"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": [0, 10]}, "label 1 is 10, expected 0 to 9"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8)}, "found images, expected images and labels, or x_train"),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "svhn.npz", **values)
    with pytest.raises(ValueError, match=message):
        read_digits("svhn", tmp_path / "svhn.npz", "train")
    np.savez(tmp_path / "svhn.npz", images=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="svhn.npz: no readable .npz file"):
        read_digits("svhn", tmp_path / "svhn.npz", "train")
