"""The settings of training in the benchmarks: the PolyMNIST recipe and the shipped defaults, on random images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_mmvae import MultimodalVAE
from pyro_mmvae.data import MultimodalDataset, make_batch
from pyro_mmvae.device import resolve_precision
from pyro_mmvae.runs.config import Config, make_config
from pyro_mmvae.runs.run import build_vae
from pyro_mmvae.training import Trainer
from pyro_mmvae.training.trainer import batches

CPU = torch.device("cpu")
NAMES = tuple(f"m{i}" for i in range(5))
SHAPE = (3, 28, 28)
RECIPE = Path(__file__).parent.parent / "configs" / "polymnist.yaml"

SETTINGS: dict[str, Path | None] = {"recipe": RECIPE, "mini": None}
"""The recipe of PolyMNIST (latent 512, batches of 256) and the defaults of polymnist-mini (32 and 64)."""


def setting(name: str, aggregation: str, bound: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return a configuration of five modalities of 3 × 28 × 28.

    Args:
        name: The name of the setting, ``recipe`` or ``mini``.
        aggregation: The name of the aggregation.
        bound: The training bound, ``mixture`` or ``component``.
        overrides: Values that replace those of the setting, by dotted keys; none by default.
    """
    return make_config(SETTINGS[name], {"model.aggregation": aggregation, "model.bound": bound, **(overrides or {})})


def describe(config: Config) -> str:
    """Return the sizes of a configuration in words."""
    return f"batch {config.train.batch_size}, latent {config.model.latent_size}, {len(NAMES)} modalities"


def random_data(items: int, device: torch.device = CPU, missing: float = 0.0) -> MultimodalDataset:
    """Return images of uint8 noise with labels of ten classes.

    Args:
        items: The number of items.
        device: The device of the data, by default the CPU.
        missing: The probability that a modality of an item is missing, 0 by default; every item keeps at least one.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(NAMES), items, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (items,), generator=generator)
    present = torch.rand(items, len(NAMES), generator=generator) >= missing
    present[:, 0] |= ~present.any(-1)
    data = MultimodalDataset(dict(zip(NAMES, images.unbind(), strict=True)), labels, present, "noise", "train")
    return data.to(device)


def new_vae(config: Config, device: torch.device = CPU) -> MultimodalVAE:
    """Return a new model, always with identical initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_vae(config, dict.fromkeys(NAMES, SHAPE)).train().to(device)


def endless(config: Config, data: MultimodalDataset) -> Iterator[Tensor]:
    """Return an endless iterator over the indices of whole batches, on the device of the data."""
    size, device = config.train.batch_size, data.present.device
    return cycle([index.to(device) for index in batches(len(data), size, 0, 0) if len(index) == size])


def new_trainer(config: Config, precision: str = "fp32", steps: int = 1_000_000, device: torch.device = CPU) -> Trainer:
    """Return the trainer of the package on a new model."""
    precision = resolve_precision(precision, device)
    return Trainer(new_vae(config, device), config.train, total_steps=steps, precision=precision)


def our_step(config: Config, data: MultimodalDataset, precision: str = "fp32") -> Callable[[], Tensor]:
    """Return a step of the trainer on the device of the data, which includes the assembly of the next batch."""
    trainer, indices = new_trainer(config, precision, device=data.present.device), endless(config, data)
    return lambda: trainer.step(make_batch(data, next(indices)))
