"""The published PolyMNIST, Zenodo 4899160, in the two layouts in which it is about.

The published set has `train` and `test`. Here `val` is a share of its `train`, chosen by item and seed, and `train` is
the rest. `train` and `val` never open the files of `test`.
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
from pyro_mmvae.data.options import at_most, check_sizes, choose_val_size
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.sets.polymnist_build import NAME
from pyro_mmvae.data.sets.polymnist_png import decode, read_names
from pyro_mmvae.data.sets.polymnist_pt import read_tensors
from pyro_mmvae.data.storage.cache import cache_file, read_cache, write_cache

CACHE_VERSION = 1
"""Of the decoded images in the cache."""

Parts = tuple[dict[str, Tensor], dict[str, Any]]
"""Arrays by name with `labels` among them, and what they are."""


def find_root(path: Path, marks: tuple[str, ...]) -> Path | None:
    """The folder that holds `train/` and `test/`: ``path`` itself, its `MMNIST`, or the one folder in it that does.

    Args:
        path: what a user gave.
        marks: file or folder in `train/` or `test/` by which to know it.
    """

    def holds(folder: Path) -> bool:
        return any(os.path.exists(folder / part / mark) for part in ("train", "test") for mark in marks)

    if not path.is_dir():
        return None
    if holds(path):
        return path
    found = sorted(folder for folder in path.iterdir() if folder.is_dir() and holds(folder))
    preferred = [folder for folder in found if folder.name == "MMNIST"] or found
    return preferred[0] if len(preferred) == 1 else None


def _is_tensors(path: Path) -> bool:
    return find_root(path, ("m0.pt", "labels.pt")) is not None


def _is_tree(path: Path) -> bool:
    return find_root(path, ("m0",)) is not None


@register_format("polymnist-pt", detect=_is_tensors)
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
        path: the folder that holds `train` and `test`, or its parent.
        split: `train`, `val` or `test`.
        cache: makes no difference, since nothing takes time.
        modalities: how many, the first so many; all by default.
        train_size: how many items of what `val` leaves; all by default.
        val_size: how many items of the published `train`; 5,000 or a tenth by default, whichever is less.
        test_size: how many items, the first so many; all by default.
        seed: of the choice of `val`.

    Returns:
        The split.

    Raises:
        ValueError: if an option's value is not allowed, or a file is missing or not what it should be.
    """
    del cache
    folder = _part(path, ("m0.pt", "labels.pt"), split)
    sizes = check_sizes(NAME, modalities, train_size, val_size, test_size, seed)
    return _take(read_tensors(folder, modalities), split, sizes, seed)


@register_format("polymnist-png", detect=_is_tree)
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
        path: the folder that holds `train` and `test`, or its parent.
        split: `train`, `val` or `test`.
        cache: keep the decoded images on disk, and read them from there as long as no file's name, size or time of
            change is another one.
        modalities: how many, the first so many; all by default.
        train_size: how many items of what `val` leaves; all by default.
        val_size: how many items of the published `train`; 5,000 or a tenth by default, whichever is less.
        test_size: how many items, the first so many; all by default.
        seed: of the choice of `val`.

    Returns:
        The split.

    Raises:
        ValueError: if an option's value is not allowed, an item is not in all modalities, or a file is no PNG of
            28 x 28 RGB pixels.
    """
    folder = _part(path, ("m0",), split)
    sizes = check_sizes(NAME, modalities, train_size, val_size, test_size, seed)
    tree = read_names(folder, modalities)
    provenance = {"format": "polymnist-png", "files": tree.identity, "modalities": len(tree.modalities)}
    file = cache_file("polymnist-png", folder.name, CACHE_VERSION, provenance)
    tensors = read_cache(file, ["labels", *tree.modalities], provenance) if cache else None
    if tensors is None:
        tensors = decode(tree)
        if cache:
            write_cache(file, tensors, provenance)
    return _take((tensors, provenance), split, sizes, seed)


def _part(path: Path, marks: tuple[str, ...], split: str) -> Path:
    """The folder of the published set that a split comes from."""
    root = find_root(path, marks)
    folder = (root or path) / ("test" if split == "test" else "train")
    if not folder.is_dir():
        raise ValueError(f"{folder}: the folder is missing, expected it to hold {marks[0]}, …")
    return folder


def _take(parts: Parts, split: str, sizes: Mapping[str, int | None], seed: int) -> MultimodalDataset:
    """One split of a part of the published set; its arrays are let go of one by one."""
    tensors, provenance = parts
    labels = tensors.pop("labels")
    total, names = len(labels), list(tensors)
    if split == "test":
        chosen, drawn = np.arange(at_most(NAME, split, sizes["test"], total)), {}
    else:
        order = np.random.default_rng(seed).permutation(total)
        val = choose_val_size(NAME, total, sizes["val"])
        if split == "val" and not val:
            raise ValueError(f"val of {NAME!r}: {total} items of train are too few to set a tenth aside")
        chosen = order[:val] if split == "val" else order[val : val + at_most(NAME, split, sizes["train"], total - val)]
        drawn = {"seed": seed, "val_size": val}
    rows = torch.from_numpy(np.sort(chosen))
    kept = {name: tensors.pop(name)[rows] for name in names}
    about = {**provenance, **drawn, "modalities": len(names), "tuples": len(rows), "of": total}
    return complete_dataset(kept, labels[rows], NAME, split, about)
