"""The older layout of the published PolyMNIST: folders `m0`, `m1`, … of files `{index}.{label}.png`.

In the published set the index counts the images of one digit, so `7.3.png` and `7.4.png` are two items, and an item is
known by index and label together. Which images belong together goes by these names alone, never by the order of files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.options import choose_modalities
from pyro_mmvae.data.sets.polymnist_recipe import SIDE

Item = tuple[int, int]
"""Index and label."""

_FILE = re.compile(r"(0|[1-9][0-9]*)\.([0-9])\.png")
_FOLDER = re.compile(r"m(0|[1-9][0-9]*)")
_CHUNK = 500  # files that a thread decodes before it looks for more
_THREADS = 8


@dataclass(frozen=True)
class Tree:
    """What the names in one split's folder say.

    Args:
        folder: of the split.
        modalities: names of the folders of modalities in it.
        items: which each of them holds, by index, then label.
        identity: SHA-256 of the names, sizes and times of change of all files.
    """

    folder: Path
    modalities: tuple[str, ...]
    items: tuple[Item, ...]
    identity: str


def read_names(folder: Path, modalities: int | None = None) -> Tree:
    """Read the names in one split's folder, and check that they make whole items.

    Args:
        folder: of the split.
        modalities: how many of them to read, the first so many; all by default.

    Raises:
        ValueError: if a file is of another kind, a modality is missing, or an item is not in all modalities; the
            message names file, modality, index and label.
    """
    with os.scandir(folder) as entries:
        found = [entry.name for entry in entries if _is_modality(entry)]
    names = choose_modalities(found, folder, modalities)
    items: dict[str, set[Item]] = {}
    lines: list[str] = []
    for name in names:
        with os.scandir(folder / name) as entries:
            files = {_item(entry, name): (entry.name, entry.stat()) for entry in entries}
        items[name] = set(files)
        lines += [f"{name}/{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in files.values()]
    _check_items(folder, items)
    identity = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return Tree(folder, names, tuple(sorted(items[names[0]])), identity)


def _is_modality(entry: os.DirEntry[str]) -> bool:
    if not _FOLDER.fullmatch(entry.name) or not entry.is_dir():
        raise ValueError(f"{entry.path}: found something else, expected only folders m0, m1, … beside it")
    return True


def _item(entry: os.DirEntry[str], modality: str) -> Item:
    match = _FILE.fullmatch(entry.name)
    if match is None or not entry.is_file():
        raise ValueError(f"{entry.path}: modality {modality}: found another file, expected {{index}}.{{label}}.png")
    return int(match[1]), int(match[2])


def decode(tree: Tree) -> dict[str, Tensor]:
    """Decode every image of a tree, in several threads.

    Returns:
        `m0`, `m1`, … to uint8 `(item, 3, 28, 28)`, and `labels`, int64 `(item,)`.

    Raises:
        ValueError: if a file is no PNG of 28 x 28 RGB pixels; the message names file, modality, index and label.
    """
    arrays = {name: np.empty((len(tree.items), 3, SIDE, SIDE), dtype=np.uint8) for name in tree.modalities}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        tasks = [
            pool.submit(_decode_some, tree.folder / name, tree.items[start : start + _CHUNK], array[start:])
            for name, array in arrays.items()
            for start in range(0, len(tree.items), _CHUNK)
        ]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {**tensors, "labels": torch.tensor([label for _, label in tree.items], dtype=torch.int64)}


def _decode_some(folder: Path, items: Sequence[Item], out: NDArray[np.uint8]) -> None:
    """Decode the images of some items into the beginning of ``out``."""
    from PIL import Image  # noqa: PLC0415

    wanted, pixels = ((SIDE, SIDE), "RGB"), []
    for index, label in items:
        path = f"{folder}{os.sep}{index}.{label}.png"
        try:
            with Image.open(path, formats=("PNG",)) as image:
                found = (image.size, image.mode)
                if found == wanted:
                    pixels.append(image.tobytes())
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            found = None
        if found != wanted:
            what = "a file that cannot be read as PNG"
            if found is not None:
                what = f"{found[0][0]} x {found[0][1]} {found[1]} pixels"
            raise ValueError(
                f"{path}: modality {folder.name}, index {index}, label {label}: found {what}, expected a PNG of "
                f"{SIDE} x {SIDE} RGB pixels"
            )
    block = np.frombuffer(b"".join(pixels), dtype=np.uint8).reshape(-1, SIDE, SIDE, 3)
    out[: len(block)] = np.moveaxis(block, -1, 1)


def _check_items(folder: Path, items: dict[str, set[Item]]) -> None:
    """Every item must be in every modality."""
    union, common = set.union(*items.values()), set.intersection(*items.values())
    if not union:
        raise ValueError(f"{folder}: found no images, expected {', '.join(items)} to hold {{index}}.{{label}}.png")
    if union == common:
        return
    broken = sorted(union - common)
    index, label = broken[0]
    has = [name for name, own in items.items() if (index, label) in own]
    lacks = [name for name in items if name not in has]
    more = f" ({len(broken)} items like it)" if len(broken) > 1 else ""
    for name in lacks:
        other = next((broke for broke in broken if broke[0] == index and broke in items[name]), None)
        if other is not None:
            raise ValueError(
                f"{folder}: index {index} has label {label} in {has[0]} ({has[0]}/{index}.{label}.png) and label "
                f"{other[1]} in {name} ({name}/{index}.{other[1]}.png), expected one label{more}"
            )
    raise ValueError(
        f"{folder}: index {index}, label {label}: {index}.{label}.png is in {', '.join(has)} and missing in "
        f"{', '.join(lacks)}, expected it in all modalities{more}"
    )
