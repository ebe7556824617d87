"""The newer layout of the published PolyMNIST: files `m0.pt`, `m1.pt`, … and `labels.pt` written by torch.save."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from pyro_mmvae._typing import Int, Tensor
from pyro_mmvae.data.options import choose_modalities
from pyro_mmvae.data.sets.polymnist_recipe import SIDE

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_tensors(folder: Path, modalities: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the folder of one part.

    Args:
        folder: Path of the folder of the part.
        modalities: Number of modalities to read, from the first; all by default.

    Returns:
        Images `m0`, `m1`, …, uint8 `(item, 3, 28, 28)`, and `labels`, int64 `(item,)`, by name; and everything that
        identifies the files.

    Raises:
        ValueError: If a file is missing, damaged, or malformed; the message names it.
    """
    names = choose_modalities([path.stem for path in folder.glob("m*.pt")], folder, modalities)
    labels = _read_labels(folder / "labels.pt")
    tensors = {"labels": labels}
    for name in names:
        tensors[name] = _read_images(folder / f"{name}.pt", name)
        if len(tensors[name]) != len(labels):
            raise ValueError(
                f"{folder / name}.pt: must hold {len(labels)} images, one per label, got {len(tensors[name])}"
            )
    about = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.pt"))]
    return tensors, {"format": "polymnist-pt", "files": hashlib.sha256(json.dumps(about).encode()).hexdigest()}


def _read_tensor(path: Path) -> Tensor:
    """Read one dense tensor."""
    if not path.is_file():
        raise ValueError(f"{path}: must be a tensor saved by torch.save, got no such file")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (a damaged file can raise anything)
        raise ValueError(
            f"{path}: must be a tensor saved by torch.save, got a file that cannot be read as one"
        ) from error
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise ValueError(f"{path}: must be a dense tensor, got a {type(tensor).__name__}")
    return tensor.detach()


def _read_labels(path: Path) -> Int[Tensor, " item"]:
    """Read labels and convert them to int64."""
    labels = _read_tensor(path)
    if labels.dim() != 1 or not len(labels) or labels.dtype == torch.bool or labels.is_complex():
        raise ValueError(f"{path}: must be (item,) of integers, got {tuple(labels.shape)} of {labels.dtype}")
    integers = labels.to(torch.int64)
    invalid = (integers < 0) | (integers > 9)
    if labels.is_floating_point():
        invalid |= integers != labels
    if invalid.any():
        index = int(invalid.nonzero()[0])
        raise ValueError(f"{path}: label {index} must be an integer from 0 to 9, got {labels[index].item()}")
    return integers


def _read_images(path: Path, name: str) -> Tensor:
    """Read images and convert them to uint8."""
    images = _read_tensor(path)
    where, shape = f"{path}: modality {name}", tuple(images.shape)
    if images.dim() != 4 or shape[1:] != (3, SIDE, SIDE):
        raise ValueError(f"{where}: must be (item, 3, {SIDE}, {SIDE}), got {shape}")
    if images.dtype == torch.uint8:
        return images.contiguous()
    if images.dtype not in _FLOATS:
        raise ValueError(f"{where}: must be uint8, or floats in [0, 1], got {images.dtype}")
    invalid = ~((images >= 0) & (images <= 1)).flatten(1).all(1)
    if invalid.any():
        index = int(invalid.nonzero()[0])
        least, most = images[index].min().item(), images[index].max().item()
        raise ValueError(f"{where}, index {index}: floats must be in [0, 1], got values from {least:g} to {most:g}")
    return images.mul(255).round_().to(torch.uint8)
