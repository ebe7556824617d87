"""Building PolyMNIST from MNIST's published files and a folder of photographs, in the sizes of the published set.

The recipe is that of `pyro_mmvae.data.sets.polymnist_recipe`. The pairing and the positions of the crops are drawn
anew, and the user provides the photographs, so the result is not the published set: reports name the photographs.

The result is a folder of four files, which `load_data` reads by its path:

- `train.safetensors`, `val.safetensors`, `test.safetensors`: `labels` int64 `(item,)`, and `m0`, `m1`, … uint8
  `(item, 3, 28, 28)`, items in random order.
- `provenance.json`: seed, sizes, photographs with their SHA-256, files of MNIST with their MD5, versions, warnings, and
  the CRC-32 of every array.

The published set has no validation split. Here the digit images of MNIST's training part are divided between `train`
and `val` before any tuple is made, so that no digit image is in two splits; `test` is made from MNIST's test part.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pyro_mmvae._version import __version__
from pyro_mmvae.data.options import check_integer, resolve_val_size
from pyro_mmvae.data.sets.idx import Digits, download_mnist, find_mnist, read_mnist
from pyro_mmvae.data.sets.photographs import list_photographs, read_photograph
from pyro_mmvae.data.sets.polymnist_recipe import SIDE, check_photograph, child_seed, draw_labels, draw_modalities
from pyro_mmvae.data.storage.safetensors_file import write_arrays
from pyro_mmvae.files import write_text

NAME = "polymnist"

VERSION = 1
"""The version of the folder's format."""

SPLITS = ("train", "val", "test")

PROVENANCE = "provenance.json"


def build_polymnist(
    out: str | Path,
    *,
    mnist: str | Path,
    photographs: str | Path,
    modalities: int = 5,
    train_size: int = 60_000,
    val_size: int | None = None,
    test_size: int = 10_000,
    seed: int = 0,
    download: bool = False,
) -> dict[str, Any]:
    """Build PolyMNIST into a new folder, which appears once it is complete.

    Memory holds one modality of one split at a time. Classes are as frequent as in MNIST; with the default sizes every
    digit image is in every modality exactly once.

    Args:
        out: Path of the new folder.
        mnist: Path of the folder with MNIST's files, at one of torchvision's places in it, compressed or not.
        photographs: Path of a folder of image files, of which the first by name are used, one per modality.
        modalities: Number of modalities; 5 by default.
        train_size: Number of tuples of `train` and `val` together; 60,000 by default.
        val_size: Number of these tuples in `val`; by default 5,000 or a tenth, whichever is less.
        test_size: Number of tuples of `test`; 10,000 by default.
        seed: Seed of the division of the digit images and of all draws; 0 by default.
        download: If True, torchvision downloads missing files of MNIST; False by default.

    Returns:
        The content of `provenance.json`.

    Raises:
        ValueError: If the value of an option is not allowed, MNIST is missing or damaged, or a photograph is missing,
            unreadable or too small.
        FileExistsError: If ``out`` exists.
    """
    out, mnist, photographs = Path(out), Path(mnist).expanduser(), Path(photographs).expanduser()
    counts = {"modalities": (modalities, 1), "train_size": (train_size, 10), "test_size": (test_size, 1)}
    for option, (value, minimum) in {**counts, "seed": (seed, 0)}.items():
        check_integer(option, NAME, value, minimum)
    val = resolve_val_size(NAME, train_size, val_size)
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} must not exist yet: choose another folder")
    sources = list_photographs(photographs, modalities)
    pixels = [read_photograph(path) for path in sources]
    for path, photograph in zip(sources, pixels, strict=True):
        check_photograph(path.name, photograph)
    files = download_mnist(mnist) if download else find_mnist(mnist)
    sizes = {"train": train_size - val, "val": val, "test": test_size}
    digits = _divide_digits({part: read_mnist(files, part) for part in ("train", "test")}, val / train_size, seed)
    provenance = _provenance(digits, sizes, sources, pixels, seed)
    temporary = out.with_name(f".{out.name}.{uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        provenance["crc32"] = _write_splits(temporary, digits, pixels, sizes, seed)
        write_text(temporary / PROVENANCE, json.dumps(provenance, indent=2) + "\n")
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return provenance


def pick_evenly(labels: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Choose digit images at random, as many of each class as its share, up to 1.

    Args:
        labels: Class of each digit image, `(digit,)`.
        count: Number of digit images to choose.
        generator: Source of the random choice.

    Returns:
        Sorted indices, `(count,)`.
    """
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    places = (np.arange(count) + generator.random()) * (len(labels) / count)
    return np.sort(order[places.astype(np.int64)])


def _divide_digits(parts: dict[str, Digits], fraction: float, seed: int) -> dict[str, Digits]:
    """Divide MNIST's training part: a fraction of its digit images for `val`, the rest for `train`."""
    whole = parts["train"]
    count = round(fraction * len(whole.labels))
    if count < 1:
        raise ValueError(
            f"MNIST must have enough training images to set {fraction:.0%} of them aside for val, got "
            f"{len(whole.labels)}"
        )
    chosen = pick_evenly(whole.labels, count, np.random.default_rng(child_seed(seed, 0)))
    rest = np.setdiff1d(np.arange(len(whole.labels)), chosen)
    train, val = (Digits(whole.images[rows], whole.labels[rows], whole.files) for rows in (rest, chosen))
    return {"train": train, "val": val, "test": parts["test"]}


def _write_splits(
    folder: Path, digits: dict[str, Digits], photographs: Sequence[NDArray[np.uint8]], sizes: dict[str, int], seed: int
) -> dict[str, dict[str, int]]:
    """Write the files of all splits, and return their checksums by split and array."""
    sums = {}
    for key, split in enumerate(SPLITS):
        images, labels = digits[split].images, digits[split].labels
        num_items, source = sizes[split], child_seed(seed, 1 + key)
        tuple_labels = draw_labels(labels, num_items, np.random.default_rng(child_seed(source, 0)), balanced=False)
        modalities = draw_modalities(images, labels, photographs, tuple_labels, source)
        layout = {f"m{modality}": (np.uint8, (num_items, 3, SIDE, SIDE)) for modality in range(len(photographs))}
        sums[split] = write_arrays(
            folder / f"{split}.safetensors",
            {"labels": (np.int64, (num_items,)), **layout},
            chain([("labels", tuple_labels)], modalities),
        )
    return sums


def _provenance(
    digits: dict[str, Digits],
    sizes: dict[str, int],
    sources: Sequence[Path],
    photographs: Sequence[NDArray[np.uint8]],
    seed: int,
) -> dict[str, Any]:
    """Return everything that the files are made from, serialisable as JSON."""
    mnist = [file for split in ("train", "test") for file in digits[split].files]
    return {
        "format": NAME,
        "version": VERSION,
        "seed": seed,
        "sizes": sizes,
        "digit_images": {split: len(part.labels) for split, part in digits.items()},
        "photographs": [
            {
                "modality": f"m{modality}",
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "pixels": list(photograph.shape[:2]),
            }
            for modality, (path, photograph) in enumerate(zip(sources, photographs, strict=True))
        ],
        "mnist": mnist,
        "versions": {
            "python": platform.python_version(),
            "pyro_mmvae": __version__,
            **{name: importlib.metadata.version(name) for name in ("numpy", "pillow")},
        },
        "warnings": [
            f"{file['file']} is not the published file: MD5 {file['md5_unpacked']} of its decompressed content"
            for file in mnist
            if not file["published"]
        ],
    }
