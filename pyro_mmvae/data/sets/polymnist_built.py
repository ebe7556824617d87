"""PolyMNIST from the folders that `build_polymnist` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset, complete_dataset
from pyro_mmvae.data.options import at_most, check_sizes, choose_modalities
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.sets.polymnist_build import NAME, PROVENANCE, VERSION
from pyro_mmvae.data.sets.polymnist_recipe import SIDE
from pyro_mmvae.data.storage.safetensors_file import checksums


def _is_built(path: Path) -> bool:
    try:
        return json.loads((path / PROVENANCE).read_text(encoding="utf-8"))["format"] == NAME
    except (OSError, ValueError, KeyError, TypeError):
        return False


@register_format("polymnist-built", detect=_is_built)
def load_polymnist_built(
    path: Path,
    split: str,
    *,
    cache: bool = True,
    modalities: int | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    test_size: int | None = None,
) -> MultimodalDataset:
    """Load one split of a folder that `build_polymnist` wrote.

    Args:
        path: the folder.
        split: `train`, `val` or `test`.
        cache: makes no difference, since nothing takes time.
        modalities: how many, the first so many; all by default.
        train_size: how many items of `train`, the first so many; all by default.
        val_size: the same of `val`.
        test_size: the same of `test`.

    Returns:
        The split.

    Raises:
        ValueError: if an option's value is not allowed, or a file is missing, damaged, or not what `provenance.json`
            says.
    """
    del cache
    sizes = check_sizes(NAME, modalities, train_size, val_size, test_size)
    tensors, provenance = _read(path, split, modalities)
    labels = tensors.pop("labels")
    count = at_most(NAME, split, sizes[split], len(labels))
    kept = {name: tensor if count == len(tensor) else tensor[:count].clone() for name, tensor in tensors.items()}
    return complete_dataset(kept, labels[:count], NAME, split, {**provenance, "modalities": len(kept), "tuples": count})


def _read(path: Path, split: str, modalities: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    provenance = json.loads((path / PROVENANCE).read_text(encoding="utf-8"))
    file = path / f"{split}.safetensors"
    try:
        version, sums = provenance["version"], provenance["crc32"][split]
        shape = (provenance["sizes"][split], 3, SIDE, SIDE)
        names = choose_modalities([name for name in sums if name != "labels"], path / PROVENANCE, modalities)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path / PROVENANCE}: {error} is missing or damaged") from error
    if version != VERSION:
        raise ValueError(f"{path / PROVENANCE}: found version {version}, expected {VERSION}")
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in ("labels", *names)}
    except FileNotFoundError:
        raise ValueError(f"{file}: the file is missing") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{file}: damaged: {error}") from error
    for name, tensor in tensors.items():
        expected = (shape[:1], torch.int64) if name == "labels" else (shape, torch.uint8)
        if (tuple(tensor.shape), tensor.dtype) != expected:
            raise ValueError(f"{file}: {name}: found {tuple(tensor.shape)} of {tensor.dtype}, expected {expected}")
    for name, found in checksums(tensors).items():
        if found != sums.get(name):
            raise ValueError(f"{file}: {name}: found CRC-32 {found}, expected {sums.get(name)}: damaged or replaced")
    return tensors, {**provenance, "crc32": {name: sums[name] for name in tensors}}
