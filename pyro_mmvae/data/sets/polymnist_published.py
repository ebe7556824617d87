"""Loading the published PolyMNIST, Zenodo 4899160, in either of its two layouts.

The published set has `train` and `test`. Here `val` is a random part of its `train`, chosen by item and seed, and
`train` is the rest. `train` and `val` never open the files of `test`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset, complete_dataset
from pyro_mmvae.data.options import check_sizes, resolve_split_size, resolve_val_size
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.sets.polymnist_build import NAME
from pyro_mmvae.data.sets.polymnist_png import decode_images, read_names
from pyro_mmvae.data.sets.polymnist_pt import read_tensors
from pyro_mmvae.data.storage.cache import cache_file, read_cache, write_cache
from pyro_mmvae.locks import building

CACHE_VERSION = 1
"""The version of the decoded images in the cache."""

Part = tuple[dict[str, Tensor], dict[str, Any]]
"""The tensors of a published part by name, with `labels` among them, and their provenance."""


def find_root(path: Path, marks: tuple[str, ...]) -> Path | None:
    """Return the folder that holds `train/` and `test/`.

    It is the path itself, `MMNIST` in it, or the only folder in it that holds them.

    Args:
        path: The path that the user passed.
        marks: Names of files or folders in `train/` or `test/` by which the layout is recognised.

    Returns:
        The folder, or None if there is no such folder or more than one.
    """

    def is_root(folder: Path) -> bool:
        return any(os.path.exists(folder / part / mark) for part in ("train", "test") for mark in marks)

    if not path.is_dir():
        return None
    if is_root(path):
        return path
    roots = sorted(folder for folder in path.iterdir() if folder.is_dir() and is_root(folder))
    preferred = [folder for folder in roots if folder.name == "MMNIST"] or roots
    return preferred[0] if len(preferred) == 1 else None


def _has_tensor_files(path: Path) -> bool:
    return find_root(path, ("m0.pt", "labels.pt")) is not None


def _has_png_folders(path: Path) -> bool:
    return find_root(path, ("m0",)) is not None


@register_format("polymnist-pt", detect=_has_tensor_files)
def load_polymnist_pt(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    modalities: int | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
) -> MultimodalDataset:
    """Load one split of the published PolyMNIST in its newer layout: `m0.pt`, … and `labels.pt` in `train` and `test`.

    Images are uint8, or floats in [0, 1], which are rounded to the nearest of 256 values.

    Args:
        path: Path of the folder that holds `train` and `test`, or of its parent.
        split: Name of the split: `train`, `val` or `test`.
        cache: Accepted for the common interface and ignored, since nothing is built.
        modalities: Number of modalities, from the first; all by default.
        train_size: Number of items of the published `train` without `val`; all by default.
        val_size: Number of items of the published `train` set aside for `val`; by default 5,000 or a tenth, whichever
            is less.
        test_size: Number of items of `test`, from the first; all by default.
        seed: Seed of the random choice of `val`; 0 by default.

    Returns:
        The items of the split.

    Raises:
        ValueError: If the value of an option is not allowed, or a file is missing or malformed.
    """
    del cache
    folder = _find_part(path, ("m0.pt", "labels.pt"), split)
    sizes = check_sizes(NAME, modalities, train_size, val_size, test_size, seed)
    return _select_split(read_tensors(folder, modalities), split, sizes, seed)


@register_format("polymnist-png", detect=_has_png_folders)
def load_polymnist_png(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    modalities: int | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
) -> MultimodalDataset:
    """Load one split of the published PolyMNIST in its older layout: `train/m0/7.3.png` is item 7 of the threes.

    Args:
        path: Path of the folder that holds `train` and `test`, or of its parent.
        split: Name of the split: `train`, `val` or `test`.
        cache: If True, the decoded images are kept on disk, and read from there as long as no file changes its name,
            size or time of modification.
        modalities: Number of modalities, from the first; all by default.
        train_size: Number of items of the published `train` without `val`; all by default.
        val_size: Number of items of the published `train` set aside for `val`; by default 5,000 or a tenth, whichever
            is less.
        test_size: Number of items of `test`, from the first; all by default.
        seed: Seed of the random choice of `val`; 0 by default.

    Returns:
        The items of the split.

    Raises:
        ValueError: If the value of an option is not allowed, an item is not in all modalities, or a file is not a PNG
            of 28 x 28 RGB pixels.
    """
    folder = _find_part(path, ("m0",), split)
    sizes = check_sizes(NAME, modalities, train_size, val_size, test_size, seed)
    tree = read_names(folder, modalities)
    provenance = {"format": "polymnist-png", "files": tree.identity, "modalities": len(tree.modalities)}
    file = cache_file("polymnist-png", folder.name, CACHE_VERSION, provenance)
    tensors = read_cache(file, ["labels", *tree.modalities], provenance) if cache else None
    if tensors is None:
        with building(file if cache else None) as waited:
            tensors = read_cache(file, ["labels", *tree.modalities], provenance) if waited else None
            if tensors is None:
                tensors = decode_images(tree)
                if cache:
                    write_cache(file, tensors, provenance)
    return _select_split((tensors, provenance), split, sizes, seed)


def _find_part(path: Path, marks: tuple[str, ...], split: str) -> Path:
    """Return the folder of the published part that a split is taken from."""
    root = find_root(path, marks)
    folder = (root or path) / ("test" if split == "test" else "train")
    if not folder.is_dir():
        raise ValueError(f"{folder}: must be a folder that holds {marks[0]}, …, got no such folder")
    return folder


def _select_split(part: Part, split: str, sizes: Mapping[str, int | None], seed: int) -> MultimodalDataset:
    """Select the items of a split from a published part, and release the part's tensors one by one."""
    tensors, provenance = part
    labels = tensors.pop("labels")
    num_items, names = len(labels), list(tensors)
    if split == "test":
        chosen, choice = np.arange(resolve_split_size(NAME, split, sizes["test"], num_items)), {}
    else:
        order = np.random.default_rng(seed).permutation(num_items)
        val = resolve_val_size(NAME, num_items, sizes["val"])
        if split == "val" and not val:
            raise ValueError(
                f"{NAME!r}: train must have at least 10 items to set a tenth aside for val, got {num_items}"
            )
        train = resolve_split_size(NAME, split, sizes["train"], num_items - val) if split == "train" else 0
        chosen = order[:val] if split == "val" else order[val : val + train]
        choice = {"seed": seed, "val_size": val}
    rows = torch.from_numpy(np.sort(chosen))
    selected = {name: tensors.pop(name)[rows] for name in names}
    about = {**provenance, **choice, "modalities": len(names), "tuples": len(rows), "of": num_items}
    return complete_dataset(selected, labels[rows], NAME, split, about)
