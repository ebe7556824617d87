"""Small files in published formats: MNIST in IDX, photographs, and PolyMNIST in both layouts."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pyro_mmvae.data import MultimodalDataset

Bytes = NDArray[np.uint8]
NAMES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip


def idx_bytes(array: Bytes) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def numbered_digits(count: int, start: int = 0) -> Bytes:
    """Return digit images whose ink encodes their number in binary, so that images can be identified."""
    digits = np.zeros((count, 28, 28), dtype=np.uint8)
    digits[:, 0, :16] = (((start + np.arange(count))[:, np.newaxis] >> np.arange(16)) & 1) * 255
    return digits


def read_numbers(images: torch.Tensor, colour: int) -> NDArray[np.int64]:
    """Return the numbers of the digits on a photograph of one colour."""
    ink = images[:, 0, 0, :16].numpy() == 255 - colour
    numbers: NDArray[np.int64] = (ink << np.arange(16)).sum(axis=1)
    return numbers


def mnist_arrays(train: int = 200, test: int = 50) -> dict[str, Bytes]:
    """Return the arrays of the four files: classes of unequal sizes, and numbered digit images."""
    generator = np.random.default_rng(0)
    train_labels = np.minimum(generator.integers(0, 12, train), 9).astype(np.uint8)
    test_labels = generator.integers(0, 10, test).astype(np.uint8)
    arrays = (numbered_digits(train), train_labels, numbered_digits(test, start=train), test_labels)
    return dict(zip(NAMES, arrays, strict=True))


def write_mnist(folder: Path, arrays: dict[str, Bytes], *, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def write_photographs(folder: Path, colours: Sequence[int]) -> Path:
    """Write photographs of one colour each, of different sizes and file formats."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, colour in enumerate(colours):
        picture = Image.fromarray(np.full((30 + number, 40, 3), colour, dtype=np.uint8))
        picture.save(folder / f"{chr(97 + number)}.{('png', 'bmp', 'PNG')[number % 3]}")
    return folder


def random_set(items: int, modalities: int = 3, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return images of noise by modality, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = {
        f"m{m}": torch.randint(0, 256, (items, 3, 28, 28), generator=generator).to(torch.uint8)
        for m in range(modalities)
    }
    return images, torch.randint(0, 10, (items,), generator=generator)


def tree_keys(labels: torch.Tensor) -> list[tuple[int, int]]:
    """Return each item's index within its class and its label, as the published set numbers its files."""
    counts: dict[int, int] = {}
    keys = []
    for label in labels.tolist():
        counts[label] = counts.get(label, -1) + 1
        keys.append((counts[label], label))
    return keys


def write_tree(folder: Path, images: dict[str, torch.Tensor], labels: torch.Tensor, seed: int = 0) -> Path:
    """Write files ``{index}.{label}.png`` in ``m0``, …, in a random order per modality."""
    generator = np.random.default_rng(seed)
    keys = tree_keys(labels)
    for name, tensor in images.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row in generator.permutation(len(labels)).tolist():
            index, label = keys[row]
            picture = Image.fromarray(tensor[row].permute(1, 2, 0).numpy())
            picture.save(folder / name / f"{index}.{label}.png", compress_level=1)
    return folder


def write_tensors(folder: Path, images: dict[str, torch.Tensor], labels: torch.Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in images.items():
        torch.save(tensor, folder / f"{name}.pt")
    torch.save(labels, folder / "labels.pt")
    return folder


def same(one: MultimodalDataset, other: MultimodalDataset) -> bool:
    assert one.labels is not None
    assert other.labels is not None
    return (
        one.names == other.names
        and torch.equal(one.labels, other.labels)
        and all(torch.equal(images, other.modalities[name]) for name, images in one.modalities.items())
    )
