"""Small genuine files: MNIST in IDX, photographs, and PolyMNIST in the layouts it is published in."""

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
    """Digit images whose ink spells their number in binary, so that an image tells which one it was."""
    digits = np.zeros((count, 28, 28), dtype=np.uint8)
    digits[:, 0, :16] = (((start + np.arange(count))[:, np.newaxis] >> np.arange(16)) & 1) * 255
    return digits


def read_numbers(images: torch.Tensor, colour: int) -> NDArray[np.int64]:
    """Numbers of the digits on a photograph of one colour."""
    ink = images[:, 0, 0, :16].numpy() == 255 - colour
    numbers: NDArray[np.int64] = (ink << np.arange(16)).sum(axis=1)
    return numbers


def mnist_arrays(train: int = 200, test: int = 50) -> dict[str, Bytes]:
    """Arrays of the four files: classes of unequal sizes, every digit image with a number of its own."""
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
    """Photographs of one colour each, of different sizes and kinds of files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, colour in enumerate(colours):
        picture = Image.fromarray(np.full((30 + number, 40, 3), colour, dtype=np.uint8))
        picture.save(folder / f"{chr(97 + number)}.{('png', 'bmp', 'PNG')[number % 3]}")
    return folder


def random_set(items: int, modalities: int = 3, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Images of noise by modality, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = {
        f"m{m}": torch.randint(0, 256, (items, 3, 28, 28), generator=generator).to(torch.uint8)
        for m in range(modalities)
    }
    return images, torch.randint(0, 10, (items,), generator=generator)


def tree_keys(labels: torch.Tensor) -> list[tuple[int, int]]:
    """Index within its class and label of each item, as the published set numbers its files."""
    seen: dict[int, int] = {}
    keys = []
    for label in labels.tolist():
        seen[label] = seen.get(label, -1) + 1
        keys.append((seen[label], label))
    return keys


def write_tree(folder: Path, images: dict[str, torch.Tensor], labels: torch.Tensor, seed: int = 0) -> Path:
    """Files ``{index}.{label}.png`` in ``m0``, …, written in another order in each."""
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
