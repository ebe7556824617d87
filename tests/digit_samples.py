"""Small files in the formats of MNIST and SVHN (IDX, ``.mat`` and ``.npz``), whose images encode their numbers."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SIZES = {"train": 240, "test": 60}
IDX = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def numbered(labels: Bytes, side: int, start: int) -> Bytes:
    """Return images `(item, side, side)` with their number in the first row and a bright bar at a row for the digit."""
    images = np.zeros((len(labels), side, side), dtype=np.uint8)
    images[:, 0, :16] = ((start + np.arange(len(labels)))[:, np.newaxis] >> np.arange(16) & 1) * 255
    for image, label in zip(images, labels, strict=True):
        image[4 + 2 * label : 6 + 2 * label] = 200
    return images


def numbers(images: Any) -> list[int]:
    """Return the numbers encoded in images `(item, channel, height, width)`."""
    return [int(n) for n in ((np.asarray(images)[:, 0, 0, :16] > 128) << np.arange(16)).sum(-1)]


def arrays(side: int, part: str, seed: int) -> tuple[Bytes, Bytes]:
    """Return images and labels of one part, with all digits in random order."""
    labels = np.random.default_rng(seed).permutation(np.resize(np.arange(10), SIZES[part])).astype(np.uint8)
    return numbered(labels, side, 0 if part == "train" else SIZES["train"]), labels


def write_idx(folder: Path) -> Path:
    """Write MNIST into the folders that torchvision uses, one file compressed, and return the folder."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, (part, names) in enumerate(IDX.items()):
        for name, array in zip(names, arrays(28, part, seed), strict=True):
            content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            (raw / name).write_bytes(content)
    images = raw / IDX["train"][0]
    (raw / f"{images.name}.gz").write_bytes(gzip.compress(images.read_bytes()))
    images.unlink()
    return folder


def write_mat(folder: Path) -> Path:
    """Write SVHN in its published form, images `(height, width, channel, item)` and labels 1 to 10."""
    for seed, part in enumerate(SIZES, 2):
        images, labels = arrays(32, part, seed)
        values = {
            "X": np.repeat(images[..., np.newaxis], 3, -1).transpose(1, 2, 3, 0),
            "y": np.where(labels == 0, 10, labels)[:, np.newaxis],
        }
        scipy.io.savemat(folder / f"{part}_32x32.mat", values)
    return folder


def write_npz(folder: Path) -> Path:
    """Write MNIST with its split, and SVHN in one file without a split, as ``.npz``."""
    parts = {part: arrays(28, part, seed) for seed, part in enumerate(SIZES)}
    mnist = {
        f"{letter}_{part}": array for part, both in parts.items() for letter, array in zip("xy", both, strict=True)
    }
    np.savez(folder / "mnist.npz", allow_pickle=False, **mnist)
    images, labels = (
        np.concatenate(both) for both in zip(*(arrays(32, p, s) for s, p in enumerate(SIZES, 2)), strict=True)
    )
    images = numbered(labels, 32, 0)
    np.savez(
        folder / "svhn_some.npz", allow_pickle=False, images=np.repeat(images[..., np.newaxis], 3, -1), labels=labels
    )
    return folder
