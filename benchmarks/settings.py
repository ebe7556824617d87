"""What is trained in the benchmarks: the PolyMNIST recipe and the shipped defaults, on random images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

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
"""The recipe of PolyMNIST, latent 512 and batches of 256; polymnist-mini as it is shipped, 32 and 64."""


def setting(name: str, aggregation: str, bound: str) -> Config:
    """A configuration of five modalities of 3 × 28 × 28."""
    return make_config(SETTINGS[name], {"model.aggregation": aggregation, "model.bound": bound})


def describe(config: Config) -> str:
    """Sizes in words."""
    return f"batch {config.train.batch_size}, latent {config.model.latent_size}, {len(NAMES)} modalities"


def random_data(items: int) -> MultimodalDataset:
    """Images of uint8 noise, complete, with labels of ten classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(NAMES), items, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (items,), generator=generator)
    present = torch.ones(items, len(NAMES), dtype=torch.bool)
    return MultimodalDataset(dict(zip(NAMES, images.unbind(), strict=True)), labels, present, "noise", "train")


def new_vae(config: Config) -> MultimodalVAE:
    """A model with weights that are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_vae(config, dict.fromkeys(NAMES, SHAPE)).train()


def endless(config: Config, data: MultimodalDataset) -> Iterator[Tensor]:
    """Indices of whole batches, round and round."""
    size = config.train.batch_size
    return cycle(index for index in batches(len(data), size, 0, 0) if len(index) == size)


def new_trainer(config: Config, precision: str = "fp32", steps: int = 1_000_000) -> Trainer:
    """Ours, on a new model."""
    return Trainer(new_vae(config), config.train, total_steps=steps, precision=resolve_precision(precision, CPU))


def our_step(config: Config, data: MultimodalDataset, precision: str = "fp32") -> Callable[[], Tensor]:
    """A step of our trainer on the next batch, which is taken from the data in it."""
    trainer, indices = new_trainer(config, precision), endless(config, data)
    return lambda: trainer.step(make_batch(data, next(indices)))
