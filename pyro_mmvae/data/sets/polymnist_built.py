"""Loading PolyMNIST from the folders that `build_polymnist` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pyro_mmvae._bounded import read_json
from pyro_mmvae._typing import Tensor
from pyro_mmvae.data.dataset import MultimodalDataset, complete_dataset
from pyro_mmvae.data.options import check_sizes, choose_modalities, resolve_split_size
from pyro_mmvae.data.registry import register_format
from pyro_mmvae.data.sets.polymnist_build import NAME, PROVENANCE, VERSION
from pyro_mmvae.data.sets.polymnist_recipe import SIDE
from pyro_mmvae.data.storage.safetensors_file import checksums


def _is_built(path: Path) -> bool:
    """Return True if a folder holds the provenance of a built PolyMNIST."""
    try:
        return read_json(path / PROVENANCE)["format"] == NAME
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
    """Load one split of a folder that :func:`build_polymnist` wrote.

    Args:
        path: Path of the folder.
        split: Name of the split: `train`, `val` or `test`.
        cache: Accepted for the common interface and ignored, since nothing is built.
        modalities: Number of modalities, from the first; all by default.
        train_size: Number of items of `train`, from the first; all by default.
        val_size: Number of items of `val`, from the first; all by default.
        test_size: Number of items of `test`, from the first; all by default.

    Returns:
        The items of the split.

    Raises:
        ValueError: If the value of an option is not allowed, or a file is missing, damaged, or differs from
            `provenance.json`.
    """
    del cache
    sizes = check_sizes(NAME, modalities, train_size, val_size, test_size)
    tensors, provenance = _read_split(path, split, modalities)
    labels = tensors.pop("labels")
    count = resolve_split_size(NAME, split, sizes[split], len(labels))
    kept = {name: tensor if count == len(tensor) else tensor[:count].clone() for name, tensor in tensors.items()}
    return complete_dataset(kept, labels[:count], NAME, split, {**provenance, "modalities": len(kept), "tuples": count})


def _read_split(path: Path, split: str, modalities: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a split, checked against the provenance, and the provenance."""
    provenance = read_json(path / PROVENANCE)
    file = path / f"{split}.safetensors"
    try:
        version, sums = provenance["version"], provenance["crc32"][split]
        shape = (provenance["sizes"][split], 3, SIDE, SIDE)
        names = choose_modalities([name for name in sums if name != "labels"], path / PROVENANCE, modalities)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path / PROVENANCE}: must hold version, sizes and crc32 of split {split!r}, got an error: {error}"
        ) from error
    if version != VERSION:
        raise ValueError(f"{path / PROVENANCE}: version must be {VERSION}, got {version!r}")
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in ("labels", *names)}
    except FileNotFoundError:
        raise ValueError(f"{file}: must be the file of split {split!r}, got no such file") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{file}: must be a readable safetensors file, got an error: {error}") from error
    for name, tensor in tensors.items():
        expected_shape, expected_dtype = (shape[:1], torch.int64) if name == "labels" else (shape, torch.uint8)
        if (tuple(tensor.shape), tensor.dtype) != (expected_shape, expected_dtype):
            raise ValueError(
                f"{file}: {name} must be {expected_shape} of {expected_dtype}, got {tuple(tensor.shape)} of "
                f"{tensor.dtype}"
            )
    for name, crc32 in checksums(tensors).items():
        if crc32 != sums.get(name):
            raise ValueError(
                f"{file}: CRC-32 of {name} must be {sums.get(name)} as in {PROVENANCE}, got {crc32}: the file is "
                "damaged or was replaced"
            )
    return tensors, {**provenance, "crc32": {name: sums[name] for name in tensors}}
