"""The older layout of the published PolyMNIST: folders `m0`, `m1`, … of files `{index}.{label}.png`.

In the published set the index counts the images of one digit, so `7.3.png` and `7.4.png` are two items, and an item is
identified by index and label together. Images are paired by these names alone, never by the order of files.
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
"""The index and label of an item."""

_FILE = re.compile(r"(0|[1-9][0-9]*)\.([0-9])\.png")
_FOLDER = re.compile(r"m(0|[1-9][0-9]*)")
_CHUNK_SIZE = 500  # files decoded per task of a thread
_MAX_THREADS = 8


@dataclass(frozen=True)
class Tree:
    """The files of one part, as far as their names tell.

    Args:
        folder: Path of the folder of the part.
        modalities: Names of the folders of modalities in it.
        items: The items, which every modality holds, sorted by index, then label.
        identity: SHA-256 of the names, sizes and times of modification of all files.
    """

    folder: Path
    modalities: tuple[str, ...]
    items: tuple[Item, ...]
    identity: str


def read_names(folder: Path, modalities: int | None = None) -> Tree:
    """Read the names of the files of one part, and check that every item is in all modalities.

    Args:
        folder: Path of the folder of the part.
        modalities: Number of modalities to read, from the first; all by default.

    Raises:
        ValueError: If a file has another name, a modality is missing, or an item is not in all modalities; the message
            names file, modality, index and label.
    """
    with os.scandir(folder) as entries:
        available = [_modality_name(entry) for entry in entries]
    names = choose_modalities(available, folder, modalities)
    items: dict[str, set[Item]] = {}
    lines: list[str] = []
    for name in names:
        with os.scandir(folder / name) as entries:
            files = {_parse_item(entry, name): (entry.name, entry.stat()) for entry in entries}
        items[name] = set(files)
        lines += [f"{name}/{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in files.values()]
    _check_items(folder, items)
    identity = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return Tree(folder, names, tuple(sorted(items[names[0]])), identity)


def _modality_name(entry: os.DirEntry[str]) -> str:
    """Return the name of the folder of a modality, and check that it is one."""
    if not _FOLDER.fullmatch(entry.name) or not entry.is_dir():
        raise ValueError(
            f"{entry.path}: the folder of a part must hold nothing but folders m0, m1, …, got {entry.name!r}"
        )
    return entry.name


def _parse_item(entry: os.DirEntry[str], modality: str) -> Item:
    """Return index and label of the item that a file belongs to."""
    match = _FILE.fullmatch(entry.name)
    if match is None or not entry.is_file():
        raise ValueError(
            f"{entry.path}: files of modality {modality} must be named {{index}}.{{label}}.png, got {entry.name!r}"
        )
    return int(match[1]), int(match[2])


def decode_images(tree: Tree) -> dict[str, Tensor]:
    """Decode every image of a tree, in several threads.

    Args:
        tree: The files, as :func:`read_names` returns them.

    Returns:
        Images `m0`, `m1`, …, uint8 `(item, 3, 28, 28)`, and `labels`, int64 `(item,)`, by name.

    Raises:
        ValueError: If a file is not a PNG of 28 x 28 RGB pixels; the message names file, modality, index and label.
    """
    arrays = {name: np.empty((len(tree.items), 3, SIDE, SIDE), dtype=np.uint8) for name in tree.modalities}
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        tasks = [
            pool.submit(_decode_chunk, tree.folder / name, tree.items[start : start + _CHUNK_SIZE], array[start:])
            for name, array in arrays.items()
            for start in range(0, len(tree.items), _CHUNK_SIZE)
        ]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {**tensors, "labels": torch.tensor([label for _, label in tree.items], dtype=torch.int64)}


def _decode_chunk(folder: Path, items: Sequence[Item], out: NDArray[np.uint8]) -> None:
    """Decode the images of some items into the beginning of ``out``."""
    from PIL import Image  # noqa: PLC0415  (Pillow is in an extra)

    expected, pixels = ((SIDE, SIDE), "RGB"), []
    for index, label in items:
        path = f"{folder}{os.sep}{index}.{label}.png"
        try:
            with Image.open(path, formats=("PNG",)) as image:
                properties = (image.size, image.mode)
                if properties == expected:
                    pixels.append(image.tobytes())
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            properties = None
        if properties != expected:
            received = "a file that cannot be read as PNG"
            if properties is not None:
                received = f"{properties[0][0]} x {properties[0][1]} {properties[1]} pixels"
            raise ValueError(
                f"{path}: modality {folder.name}, index {index}, label {label}: must be a PNG of {SIDE} x {SIDE} RGB "
                f"pixels, got {received}"
            )
    block = np.frombuffer(b"".join(pixels), dtype=np.uint8).reshape(-1, SIDE, SIDE, 3)
    out[: len(block)] = np.moveaxis(block, -1, 1)


def _check_items(folder: Path, items: dict[str, set[Item]]) -> None:
    """Check that every item is in every modality."""
    union, common = set.union(*items.values()), set.intersection(*items.values())
    if not union:
        raise ValueError(f"{folder}: {', '.join(items)} must hold images {{index}}.{{label}}.png, got none")
    if union == common:
        return
    incomplete = sorted(union - common)
    index, label = incomplete[0]
    holders = [name for name in items if (index, label) in items[name]]
    others = [name for name in items if name not in holders]
    more = f" ({len(incomplete)} such items)" if len(incomplete) > 1 else ""
    for name in others:
        # If the other modality has the index with another label, one of the two files is probably misnamed.
        other = next((item for item in incomplete if item[0] == index and item in items[name]), None)
        if other is not None:
            raise ValueError(
                f"{folder}: index {index} must have one label, got {label} in {holders[0]} "
                f"({holders[0]}/{index}.{label}.png) and {other[1]} in {name} ({name}/{index}.{other[1]}.png){more}"
            )
    raise ValueError(
        f"{folder}: index {index}, label {label}: {index}.{label}.png must be in all modalities, got it in "
        f"{', '.join(holders)} and not in {', '.join(others)}{more}"
    )
