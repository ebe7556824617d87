"""The newer layout of the published PolyMNIST: files `m0.pt`, `m1.pt`, … and `labels.pt` that torch.save wrote."""

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
    """Read one split's folder.

    Args:
        folder: of the split.
        modalities: how many of them to read, the first so many; all by default.

    Returns:
        `m0`, `m1`, … to uint8 `(item, 3, 28, 28)`, and `labels`, int64 `(item,)`; and what identifies the files.

    Raises:
        ValueError: if a file is missing, damaged, or not what it should be; the message names it.
    """
    names = choose_modalities([path.stem for path in folder.glob("m*.pt")], folder, modalities)
    labels = _labels(folder / "labels.pt")
    tensors = {"labels": labels}
    for name in names:
        tensors[name] = _images(folder / f"{name}.pt", name)
        if len(tensors[name]) != len(labels):
            raise ValueError(
                f"{folder / name}.pt: found {len(tensors[name])} images, expected {len(labels)}, one a label"
            )
    about = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.pt"))]
    return tensors, {"format": "polymnist-pt", "files": hashlib.sha256(json.dumps(about).encode()).hexdigest()}


def _open(path: Path) -> Tensor:
    if not path.is_file():
        raise ValueError(f"{path}: the file is missing")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (a damaged file can raise anything)
        raise ValueError(f"{path}: cannot be read as a tensor, expected one saved by torch.save") from error
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise ValueError(f"{path}: found a {type(tensor).__name__}, expected a tensor")
    return tensor.detach()


def _labels(path: Path) -> Int[Tensor, " item"]:
    labels = _open(path)
    if labels.dim() != 1 or not len(labels) or labels.dtype == torch.bool or labels.is_complex():
        raise ValueError(f"{path}: found {tuple(labels.shape)} of {labels.dtype}, expected whole numbers (item,)")
    whole = labels.to(torch.int64)
    wrong = (whole < 0) | (whole > 9)
    if labels.is_floating_point():
        wrong |= whole != labels
    if wrong.any():
        index = int(wrong.nonzero()[0])
        raise ValueError(f"{path}: label {index} is {labels[index].item()}, expected a whole number from 0 to 9")
    return whole


def _images(path: Path, name: str) -> Tensor:
    images = _open(path)
    where, shape = f"{path}: modality {name}", tuple(images.shape)
    if images.dim() != 4 or shape[1:] != (3, SIDE, SIDE):
        raise ValueError(f"{where}: found shape {shape}, expected (item, 3, {SIDE}, {SIDE})")
    if images.dtype == torch.uint8:
        return images.contiguous()
    if images.dtype not in _FLOATS:
        raise ValueError(f"{where}: found {images.dtype}, expected uint8, or floats in [0, 1]")
    wrong = ~((images >= 0) & (images <= 1)).flatten(1).all(1)
    if wrong.any():
        index = int(wrong.nonzero()[0])
        least, most = images[index].min().item(), images[index].max().item()
        raise ValueError(f"{where}, index {index}: found values from {least:g} to {most:g}, expected floats in [0, 1]")
    return images.mul(255).round_().to(torch.uint8)
